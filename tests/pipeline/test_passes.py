"""A question set that changes: only what is new is asked, and what was answered stays as it is stored."""

from __future__ import annotations

import pytest

from tests.support.small_jobs import run, select
from workers.model.answerer import Answerer

SHAPE = "{id: shape, text: 'Which shape is shown?', answer: {type: choice, options: [circle, square]}}"
HEARD = "{id: heard, text: 'Is a tone heard?', answer: {type: boolean}}"
MANY = "{id: many, text: 'How many shapes are there?', answer: {type: number, minimum: 0, maximum: 9}}"
RED = "{id: red, text: 'Is it red?', answer: {type: boolean}}"
ROWS = """
    SELECT media_key, start_s, question_id, question, answer, probability, margin, run_id FROM answers
    ORDER BY media_key, start_s, question_id
"""


@pytest.fixture
def asked(monkeypatch):
    """Every asking of a clip: (start, the ids in each pass)."""
    calls = []
    answer = Answerer.answer

    def counted(self, decoded, questions, *args, **more):
        groups = {}
        for question in questions:
            groups.setdefault(question.group, []).append(question.id)
        calls.append((decoded.clip.start_s, *map(tuple, groups.values())))
        return answer(self, decoded, questions, *args, **more)

    monkeypatch.setattr(Answerer, "answer", counted)
    return calls


def ask(job, *questions, **more):
    lines = "".join(f"  - {one}\n" for one in questions)
    (job.parent / "questions.yaml").write_text(f"name: small\nversion: '1'\nquestions:\n{lines}")
    return run(job, **more)


def rows(job, *ids):
    return [row for row in select(job, ROWS) if row[2] in ids]


@pytest.mark.parametrize("mode", ["set_guided", "dense"])
def test_a_question_that_is_added_is_all_that_is_asked(job, asked, mode):
    off = {"pruning": {"mode": mode, **({"policy": "none"} if mode == "dense" else {"retained_ratio": 0.4})}}
    ask(job, SHAPE, HEARD, **off)
    clips, before = len(asked), rows(job, "shape", "heard")
    assert clips == 4
    asked.clear()
    ask(job, SHAPE, MANY, HEARD, **off)
    assert [groups for _, *groups in asked] == [[("many",)]] * clips
    assert rows(job, "shape", "heard") == before
    assert len(rows(job, "many")) == clips
    asked.clear()
    ask(job, SHAPE, MANY, HEARD, **off)
    assert not asked


def test_removing_reordering_and_renaming_ask_nothing(job, asked):
    ask(job, SHAPE, HEARD, MANY)
    before = rows(job, "shape", "heard", "many")
    asked.clear()
    ask(job, MANY, HEARD, SHAPE)
    assert rows(job, "shape", "heard", "many") == before
    ask(job, SHAPE, HEARD)
    assert select(job, ROWS) == [row for row in before if row[2] != "many"]
    ask(job, SHAPE.replace("id: shape", "id: form"), HEARD)
    assert rows(job, "form") == [(*row[:2], "form", *row[3:]) for row in before if row[2] == "shape"]
    ask(job, SHAPE, HEARD, MANY)
    assert rows(job, "shape", "heard", "many") == before
    assert not asked


def test_a_question_worded_otherwise_is_asked_alone(job, asked):
    ask(job, SHAPE, HEARD)
    before = rows(job, "heard")
    asked.clear()
    ask(job, SHAPE.replace("is shown", "do you see"), HEARD)
    assert {groups for _, *groups in map(tuple, asked) for groups in [tuple(groups)]} == {(("shape",),)}
    assert rows(job, "heard") == before
    assert {row[3] for row in rows(job, "shape")} == {"Which shape do you see?"}


def test_a_new_video_is_asked_in_the_passes_that_were_recorded(job, asked, tmp_path):
    ask(job, SHAPE, HEARD)
    ask(job, SHAPE, HEARD, MANY)
    asked.clear()
    other = tmp_path / "archive" / "new.mkv"
    content = (tmp_path / "archive" / "short.mp4").read_bytes()
    other.with_suffix(".mp4").write_bytes(content + b"\0\0\0\x10free12345678")
    ask(job, SHAPE, HEARD, MANY)
    assert [sorted(groups) for _, *groups in asked] == [[("many",), ("shape", "heard")]]
    (passes,) = select(job, "SELECT passes FROM clips WHERE media_key = 'new.mp4'")
    assert passes == (1,)
    asked.clear()
    ask(job, SHAPE, HEARD, MANY, RED)
    assert {tuple(groups) for _, *groups in asked} == {(("red",),)}


def test_costs_are_those_of_all_passes_each_once(job):
    ask(job, SHAPE, HEARD)
    sums = "SELECT sum(as_run_flops), sum(dense_flops), sum(dense_shared_flops), max(passes) FROM clips"
    ((ran, dense, shared, _),) = select(job, sums)
    ask(job, SHAPE, HEARD, MANY)
    ((ran2, dense2, shared2, passes),) = select(job, sums)
    assert (ran2 > ran, dense2 > dense, shared2 > shared, passes) == (True, True, True, 2)
    ask(job, SHAPE, MANY)
    assert select(job, sums) == [(ran2, dense2, shared2, 2)]
    ask(job, SHAPE)
    assert select(job, sums) == [(ran, dense, shared, 1)]
