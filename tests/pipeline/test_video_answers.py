"""What holds for a whole video: the rules of a question set, made from published answers."""

from __future__ import annotations

import json

import pytest

from pipeline.config.job import load_job
from pipeline.journal import recipes
from pipeline.questions.question_set import QuestionSetError, load_question_set
from pipeline.storage.store import open_store
from pipeline.tables.query import open_results, query
from tests.support.published_tables import publish
from tests.support.small_jobs import cli

BOOLEAN = ("any", "all", "majority", "first", "last", "longest", "count", "total_s", "mean")
CHOICE = ("majority", "first", "last", "longest")
NUMBER = ("first", "last", "longest", "mean")
TYPES = {"boolean": "{type: boolean}", "choice": "{type: choice, options: [a, b]}",
         "number": "{type: number, minimum: 0, maximum: 9}"}  # fmt: skip
RULES = {"boolean": BOOLEAN, "choice": CHOICE, "number": NUMBER}


def question_set(path, questions):
    lines = [f"  - {{id: {one}, text: 'What?', answer: {TYPES[kind]}, video: {rule}}}" for one, kind, rule in questions]
    path.write_text("name: small\nversion: 1\nquestions:\n" + "\n".join(lines) + "\n")
    return load_question_set(path)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """question id (type_rule) -> its row for v.mp4: yes, no, yes, yes; a, b, a, a; 1, 2, 3, 3 at 0, 10, 20 and 30 s."""
    folder = tmp_path_factory.mktemp("video")
    questions = [(f"{kind}_{rule}", kind, rule) for kind, rules in RULES.items() for rule in rules]
    asked = question_set(folder / "questions.yaml", questions)
    (folder / "archive").mkdir()
    (folder / "job.yaml").write_text("name: test\narchive: {uri: archive}\noutput: r\nquestion_set: questions.yaml\n")
    given = {"boolean": [("yes", 0.6), ("no", 0.9), ("yes", 0.7), ("yes", 0.8)],
             "choice": [("a", 0.4), ("b", 0.9), ("a", 0.4), ("a", 0.4)],
             "number": [("1", 0.5), ("2", 0.5), ("3", 0.5), ("3", 0.7)]}  # fmt: skip
    spans = [(10.0 * n, 10.0 * n + 10, {one: (kind, *given[kind][n]) for one, kind, _ in questions}) for n in range(4)]
    spans.append((40.0, 50.0, {}))
    publish(folder / "r", {"v.mp4": spans}, {"v.mp4": {"recipe_hash": "0" * 32, "clips": 5}})
    recipes.keep(open_store(str(folder / "r")), "0" * 32, recipes.Kept.of(load_job(folder / "job.yaml"), asked))
    with open_results(str(folder / "r")) as connection:
        found = query(connection, "SELECT * FROM video_answers")
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    assert len(rows) == len(questions)
    return {row["question_id"]: row for row in rows}


@pytest.mark.parametrize(
    ("question", "answer", "probability"),
    [
        ("boolean_any", "yes", 0.8),  # the surest yes
        ("boolean_all", "no", 0.9),  # the surest no
        ("boolean_majority", "yes", 0.55),  # the mean of 0.6, 0.1, 0.7 and 0.8
        ("choice_majority", "a", 1.2 / 2.1),
    ],
)
def test_one_answer_for_all_clips(answers, question, answer, probability):
    row = answers[question]
    assert (row["answer"], row["probability"]) == (answer, pytest.approx(probability))
    assert (row["clips"], row["clips_missing"]) == (4, 1)


@pytest.mark.parametrize(
    ("question", "answer", "start_s", "end_s"),
    [
        ("boolean_first", "yes", 0, 10),
        ("boolean_last", "yes", 20, 40),
        ("boolean_longest", "yes", 20, 40),
        ("choice_first", "a", 0, 10),
        ("choice_last", "a", 20, 40),
        ("number_longest", "3", 20, 40),
    ],
)
def test_one_range_of_the_video(answers, question, answer, start_s, end_s):
    row = answers[question]
    assert (row["answer"], row["start_s"], row["end_s"]) == (answer, start_s, end_s)


@pytest.mark.parametrize(
    ("question", "number"),
    [("boolean_count", 2), ("boolean_total_s", 30), ("boolean_mean", 0.55), ("number_mean", 2.25)],
)
def test_one_number_for_the_video(answers, question, number):
    assert answers[question]["answer_number"] == pytest.approx(number)
    assert answers[question]["answer"] is None


def test_a_rule_is_no_part_of_what_is_asked_and_may_change(tmp_path):
    before = question_set(tmp_path / "a.yaml", [("q", "boolean", "any")])
    after = question_set(tmp_path / "a.yaml", [("q", "boolean", "all")])
    assert before.fingerprint({}) == after.fingerprint({})
    (tmp_path / "archive").mkdir()
    (tmp_path / "job.yaml").write_text("name: test\narchive: {uri: archive}\noutput: r\nquestion_set: a.yaml\n")
    store, job = open_store(str(tmp_path / "r")), load_job(tmp_path / "job.yaml")
    for asked in (before, after, after):
        recipes.keep(store, "0" * 32, recipes.Kept.of(job, asked))
        assert recipes.recall(store, "0" * 32).question_set.questions == asked.questions


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        ("choice", "any", "video: any is not for choice answers; allowed: majority, first, last, longest"),
        ("number", "count", "video: count is not for number answers; allowed: first, last, longest, mean"),
        ("boolean", "most", "any, all, majority"),
    ],
)
def test_rules_fit_the_type(tmp_path, kind, rule, message):
    with pytest.raises(QuestionSetError) as raised:
        question_set(tmp_path / "a.yaml", [("q", kind, rule)])
    assert message in str(raised.value).replace("'", "")


def test_results_without_rules_have_no_rows(demo):
    done = cli("query", demo / "results", "SELECT count(*) AS n FROM video_answers", "--format", "json")
    assert json.loads(done.stdout) == [{"n": 0}]
