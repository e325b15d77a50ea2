"""A type of answer, a pruning policy and a model family, each added from this one file: nothing else knows of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from omnidrop import OmniModel, Pruning, Request, policies
from omnidrop.answer_types import Scored, Setting, registered
from omnidrop.answers import Answer
from omnidrop.errors import PolicyError, QuestionError
from omnidrop.models import families
from omnidrop.policies.none import Nothing
from omnidrop.question_text import forms, read_question
from omnidrop.questions import Question, question_from_dict
from pipeline.evaluation.scoring import right_answers
from pipeline.questions.question_set import QuestionSetError, load_question_set
from pipeline.records.unit import answer_row
from tests.support.small_jobs import cli, run, select


@dataclass(frozen=True)
class Grade(Scored):
    """A school grade from A to `worst`."""

    worst: str = "F"
    kind: ClassVar[str] = "grade"
    settings = (Setting("worst", str, "The last grade.", "F", (("max_length", 1),)),)
    form = "[grade to F]"
    video_rules = ("majority",)
    column = "answer_number"

    def rendered(self) -> tuple[str, ...]:
        return tuple("ABCDEF"[: "ABCDEF".index(self.worst) + 1])

    def value(self, index: int) -> float:
        return float(index + 1)

    @classmethod
    def in_brackets(cls, given: str) -> Grade | None:
        return cls(given[-1]) if given.startswith("grade to ") else None

    def right_answers(self, cell: str) -> tuple[str, ...]:
        if cell.upper() not in self.rendered():
            raise QuestionError(f"a grade is one of {', '.join(self.rendered())}, got {cell!r}")
        return (cell.upper(),)


SET = """
name: mine
version: 1
questions:
  - id: light
    text: How good is the light?
    answer: {type: grade, worst: C}
    video: majority
"""


def test_an_answer_type_is_one_file(tmp_path: Path):
    file = tmp_path / "set.yaml"
    file.write_text(SET)
    with pytest.raises(QuestionSetError, match="there is no type 'grade'"):
        load_question_set(file)
    with registered(Grade):
        question = load_question_set(file).questions[0].as_written
        assert question_from_dict(question.to_dict()) == question
        assert read_question("How good is the light? [grade to C]", "light") == question
        assert "[grade to F]" in forms()
        assert right_answers(question, "b") == ("B",)
        file.write_text(SET.replace("majority", "mean"))
        with pytest.raises(QuestionSetError, match="mean is not for grade answers; allowed: majority"):
            load_question_set(file)
        file.write_text(SET.replace("worst: C", "worst: none"))
        with pytest.raises(QuestionSetError, match=r"at most 1 character.*The last grade"):
            load_question_set(file)

        frames = np.zeros((2, 56, 56, 3), dtype=np.uint8)
        answer = OmniModel.load("tiny").answer(frames, None, Request((question,), fps=2.0)).answers[0]
        assert answer.text in ("A", "B", "C")
        assert answer.probabilities is not None
        assert len(answer.probabilities) == 3
        row = answer_row(answer, question)
        assert (row["answer_type"], row["answer_number"]) == ("grade", answer.value)
    with pytest.raises(QuestionError, match="unknown answer type 'grade'"):
        question_from_dict(question.to_dict())


def test_a_job_publishes_and_shows_an_answer_type_of_one_file(job):
    (job.parent / "questions.yaml").write_text(SET)
    with registered(Grade):
        run(job)
        rows = select(job, "SELECT DISTINCT answer_type, answer = chr(64 + CAST(answer_number AS INT)) FROM answers")
        assert rows == [("grade", True)]
        assert {answer for (answer,) in select(job, "SELECT answer FROM video_answers")} <= set("ABC")
        page = cli("report", job, "-o", job.with_name("report.html"))
        assert page.exit_code == 0, page.output
    assert "How good is the light?" in job.with_name("report.html").read_text()


def test_what_an_answer_type_stores_is_its_typed_column():
    """A number in a column of numbers, a truth in one of truths; what could not be read in neither."""
    with registered(Grade):
        row = answer_row(Answer("q", None, "Z", error_class="json_invalid"), Question("q", "?", Grade()))
    assert (row["answer_boolean"], row["answer_number"]) == (None, None)


@dataclass(frozen=True)
class KeepsAll(Nothing):
    """Drops nothing, under a name of its own."""

    name: ClassVar[str] = "keeps_all"


def test_a_policy_is_one_file():
    with pytest.raises(PolicyError, match="unknown policy 'keeps_all'"):
        policies.policy_class("keeps_all")
    with policies.registered(KeepsAll):
        assert "keeps_all" in policies.names()
        assert isinstance(Pruning(policy="keeps_all", retained_ratio=None).build(), KeepsAll)


def test_a_model_family_is_one_file():
    class Stub:
        """A geometry and an adapter that are only looked up."""

    assert "stub" not in families.titles()
    with families.registered("stub", families.Family("A stub", Stub, Stub)):
        assert families.titles()["stub"] == "A stub"
        assert families.geometry_of("stub") is families.adapter_of("stub") is Stub
