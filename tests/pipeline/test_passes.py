"""A question set that changes: only what is new is asked, and what was answered stays as it is stored."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.config.job import load_job
from pipeline.runs.maintenance import rebuild_results
from pipeline.runs.run import run_job
from tests.robustness.crash.rows import difference, state_of
from tests.support.small_jobs import Silent, cli, run, select
from workers.model.answerer import Answerer
from workers.records import ClipFailure

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


def write_set(job, *questions):
    lines = "".join(f"  - {one}\n" for one in questions)
    (job.parent / "questions.yaml").write_text(f"name: small\nversion: '1'\nquestions:\n{lines}")


def ask(job, *questions, **more):
    write_set(job, *questions)
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
    plan = cli("plan", job)
    assert re.search(
        "note: clips in several passes: .* TFLOP, .* TFLOP in one pass: `omnidrop plan --together`", plan.output
    )
    summary = ask(job, SHAPE, HEARD, MANY)
    assert [note in plan.output for note in summary.notes if "several passes" in note] == [True]
    assert [sorted(groups) for _, *groups in asked] == [[("many",), ("shape", "heard")]]
    (passes,) = select(job, "SELECT passes FROM clips WHERE media_key = 'new.mp4'")
    assert passes == (1,)
    asked.clear()
    ask(job, SHAPE, HEARD, MANY, RED)
    assert {tuple(groups) for _, *groups in asked} == {(("red",),)}


def test_two_runs_at_once_leave_each_answer_once(job):
    ask(job, SHAPE, HEARD)
    before = rows(job, "shape", "heard")
    write_set(job, MANY, SHAPE, HEARD)
    with ThreadPoolExecutor(2) as two:
        for done in [two.submit(run, job) for _ in range(2)]:
            done.result()
    assert rows(job, "shape", "heard") == before
    assert len(rows(job, "many")) == len(before) // 2
    assert cli("verify", job).exit_code == 0


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


POOL = {
    "shape": (SHAPE, SHAPE.replace("is shown", "do you see")),
    "heard": (HEARD, HEARD.replace("a tone", "a beep")),
    "many": (MANY, MANY.replace("many shapes", "many things")),
    "red": (RED, RED.replace("it red", "anything red")),
}


class StopsAtOnce(Silent):
    """Takes the run's stop flag, and raises it when a first unit is done."""

    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def unit_done(self, result):
        self.stop.set()


@pytest.mark.parametrize("seed", range(int(os.environ.get("OMNIDROP_PASSES_SEEDS", "1"))))
def test_any_history_of_a_question_set(job, monkeypatch, seed):
    """Whatever is added, removed, reworded, reordered, taken back or stopped: rows as the set wants them, each once,
    and no question twice of one clip in one pass."""
    chance = random.Random(seed)
    asked = collections.Counter()
    answer = Answerer.answer

    def counted(self, decoded, questions, *args, **more):
        content = hashlib.sha256(decoded.frames.tobytes()).hexdigest() if decoded.frames is not None else ""
        for question in questions:
            mates = sorted(other.text for other in questions if other.group == question.group)
            asked[content, decoded.clip.start_s, question.text, *mates] += 1
        return answer(self, decoded, questions, *args, **more)

    monkeypatch.setattr(Answerer, "answer", counted)
    (job.parent / "archive" / "short.mp4").unlink()  # it begins as the other one does
    wanted = {"shape": 0, "heard": 0}
    states, stored = [dict(wanted)], {}
    for _ in range(8):
        match chance.choice(["add", "remove", "reword", "back", "stop"]):
            case "add":
                wanted[chance.choice(sorted(POOL))] = 0
            case "remove" if len(wanted) > 1:
                del wanted[chance.choice(sorted(wanted))]
            case "reword":
                name = chance.choice(sorted(wanted))
                wanted[name] = 1 - wanted[name]
            case "back":
                wanted = dict(chance.choice(states))
            case "stop":
                wanted[chance.choice(sorted(POOL))] = 0
                write_shuffled(job, wanted, chance)
                stop = threading.Event()
                run_job(load_job(job), StopsAtOnce(stop), stop)
        states.append(dict(wanted))
        write_shuffled(job, wanted, chance)
        run(job)
        found = collections.Counter((row[0], row[1], row[2]) for row in select(job, ROWS))
        clips = {row[:2] for row in found}
        assert len(clips) == 3
        assert found == collections.Counter((*clip, name) for clip in clips for name in wanted)
        for row in select(job, ROWS):
            # An answer that stays is the one that was stored: by clip, what was asked, and the run that asked.
            assert stored.setdefault((row[0], row[1], row[3], row[7]), row[4:7]) == row[4:7]
    assert {key: count for key, count in asked.items() if count > 1} == {}


def write_shuffled(job, wanted, chance):
    order = chance.sample(sorted(wanted), len(wanted))
    write_set(job, *(POOL[name][wanted[name]] for name in order))


def test_much_that_would_be_asked_again_needs_a_word(job):
    ask(job, SHAPE, HEARD)
    other = ["--pruning-retained-ratio", "0.3", "--execution-max-asked-again", "3"]
    refused = cli("index", job, *other)
    assert refused.exit_code == 2
    assert "pruning.retained_ratio 0.4 -> 0.3: 4 answered clips" in refused.output
    planned = cli("plan", job, *other)
    assert "pruning.retained_ratio 0.4 -> 0.3" in planned.output
    assert "4 clips" in planned.output
    assert cli("index", job, *other, "--yes").exit_code == 0
    assert cli("index", job, *other[:2], "--execution-max-asked-again", "0").exit_code == 0  # nothing is asked again
    # Taken back: its answers count again, and nothing is asked.
    assert cli("index", job, "--execution-max-asked-again", "0").exit_code == 0


def test_a_plan_says_why(job, tmp_path):
    ask(job, SHAPE, HEARD)
    new = (tmp_path / "archive" / "short.mp4").read_bytes() + b"\0\0\0\x10free12345678"
    (tmp_path / "archive" / "new.mp4").write_bytes(new)
    (tmp_path / "questions.yaml").write_text(f"name: small\nversion: '1'\nquestions: [{SHAPE}, {HEARD}, {MANY}]\n")
    said = cli("plan", job, "--json", tmp_path / "plan.json").output
    why = json.loads((tmp_path / "plan.json").read_text())["reasons"]
    assert {reason: of["clips"] for reason, of in why.items()} == {"questions added: many": 4, "new files": 1}
    assert "questions added: many" in said
    asked = cli("index", job)
    assert "4 clips to ask: questions added: many" in asked.output
    assert "1 clip to ask: new files" in asked.output


def test_what_fails_now_costs_the_answers_that_are_kept_nothing(job, monkeypatch):
    ask(job, SHAPE, HEARD)
    before = rows(job, "shape", "heard")
    answer = Answerer.answer

    def failing(self, decoded, questions, *args, **more):
        if [question.id for question in questions] == ["many"] and decoded.clip.start_s > 0:
            return ClipFailure(decoded.clip, "answer", "model_error", "the model failed")
        return answer(self, decoded, questions, *args, **more)

    monkeypatch.setattr(Answerer, "answer", failing)
    ask(job, SHAPE, HEARD, MANY)
    assert rows(job, "shape", "heard") == before
    failed = "SELECT question_id, error_class, message FROM quarantine WHERE clip_id IS NOT NULL"
    assert select(job, failed) == [("many", "model_error", "the model failed")] * 2
    assert [row[4] is None for row in rows(job, "many")].count(True) == 2
    monkeypatch.setattr(Answerer, "answer", answer)
    assert cli("retry", job, "--error-class", "model_error").exit_code == 0
    assert not select(job, failed)
    assert all(row[4] is not None for row in rows(job, "many"))


def test_a_clip_that_failed_before_stays_as_it_failed(job, monkeypatch, asked):
    answer = Answerer.answer

    def failing(self, decoded, questions, *args, **more):
        if decoded.clip.start_s > 0:
            return ClipFailure(decoded.clip, "answer", "json_invalid", "no")
        return answer(self, decoded, questions, *args, **more)

    monkeypatch.setattr(Answerer, "answer", failing)
    ask(job, SHAPE, HEARD)
    monkeypatch.setattr(Answerer, "answer", answer)
    asked.clear()
    ask(job, SHAPE, HEARD, MANY)
    assert {start for start, *_ in asked} == {0.0}
    failed = "SELECT error_class FROM quarantine WHERE clip_id IS NOT NULL"
    assert select(job, failed) == [("json_invalid",)] * 2
    assert len(select(job, ROWS)) == 2 * 3


def test_a_rebuild_gives_the_same_and_forgetting_leaves_nothing(job, index_url):
    more = {"index_url": index_url}
    ask(job, SHAPE, HEARD, **more)
    ask(job, HEARD, MANY, **more)
    config = load_job(job, more)
    should = state_of(config)
    rebuild_results(config)
    assert not difference(should, state_of(config))
    assert cli("verify", job, "--index-url", index_url).exit_code == 0
    assert cli("forget", job, "--media", "long.mkv", "--index-url", index_url).exit_code == 0
    assert {row[0] for row in select(job, ROWS)} == {"short.mp4"}
    kept = [path for path in (job.parent / "results").rglob("*") if path.is_file() and b"long.mkv" in path.read_bytes()]
    assert not kept
