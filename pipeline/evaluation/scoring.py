"""Whether an answer is right: options and yes/no by text, numbers within a tolerance, text and letters as written.

Promises: an answer that cannot be read as what was asked for is wrong and said to be unparsable; nothing is drawn by
chance. Knows nothing about models, files or figures.
"""

from __future__ import annotations

import re

from omnidrop.answer_types import normalised
from omnidrop.answers import Answer
from omnidrop.errors import QuestionError
from omnidrop.questions import Question
from pipeline.evaluation.dataset import EvaluationError, Target

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALONE = re.compile(r"^\W*([A-Z])(?:\W*$|[.:)\]]|\s*\n)", re.IGNORECASE)
"""The letter alone, or followed by what ends a label: "B", "(b)", "B. a dog" - but not the article of "A dog"."""
_NAMED = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?\s*[:=]?\s*\W{0,3}([A-Z])\b(?!['’])", re.IGNORECASE)


def score(question: Question, answer: Answer, target: Target) -> tuple[bool, str | None]:
    """(right, `unparsable` where the answer could not be read as what was asked for)."""
    if target.options:
        letter = letter_of(answer.text, target.options)
        return (False, "unparsable") if letter is None else (letter in target.right, None)
    if answer.error_class is not None or answer.value is None:
        return False, "unparsable"
    kind, value = question.answer, answer.value
    return any(kind.is_right(value, answer.text, right, target.tolerance) for right in target.right), None


def letter_of(text: str, options: tuple[str, ...]) -> str | None:
    """The option's letter that a model's text names, None where it names none or one that is not offered.

    Read in this order: the letter alone or as a label, "the answer is C", the option's own words.
    """
    allowed = LETTERS[: len(options)]
    text = text.strip()
    alone = _ALONE.match(text)
    if alone and str(alone[1]).upper() in allowed:
        return str(alone[1]).upper()
    named = {str(letter).upper() for letter in _NAMED.findall(text)} & set(allowed)
    if len(named) == 1:
        return named.pop()
    words = [letter for letter, option in zip(allowed, options, strict=False) if normalised(option) == normalised(text)]
    return words[0] if len(words) == 1 else None


def right_answers(question: Question, written: str) -> tuple[str, ...]:
    """What a table's cell says is right, spelt as the question spells its answers.

    Text may give several, separated by `|`. Raises EvaluationError for what can never be answered.
    """
    cell = written.strip()
    if not cell:
        raise EvaluationError("the right answer is empty")
    try:
        return question.answer.right_answers(cell)
    except QuestionError as error:
        raise EvaluationError(str(error)) from error
