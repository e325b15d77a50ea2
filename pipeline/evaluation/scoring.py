"""Whether an answer is right: options and yes/no by text, numbers within a tolerance, text and letters as written.

Promises: an answer that cannot be read as what was asked for is wrong and said to be unparsable; nothing is drawn by
chance. Knows nothing about models, files or figures.
"""

from __future__ import annotations

import re
import unicodedata

from omnidrop.answers import Answer
from omnidrop.questions import Boolean, Choice, Json, Number, Question, Text
from pipeline.evaluation.dataset import EvaluationError, Target

YES_NO = {
    "yes": "yes",
    "no": "no",
    "true": "yes",
    "false": "no",
    "1": "yes",
    "0": "no",
    "y": "yes",
    "n": "no",
    "1.0": "yes",
    "0.0": "no",
}
"""How people write yes and no in tables."""

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
    if isinstance(question.answer, Number):
        off = min(abs(float(str(answer.value)) - float(right)) for right in target.right)
        return off <= target.tolerance + 1e-9, None
    given = normalised(answer.text)
    return any(given == normalised(right) for right in target.right), None


def normalised(text: str) -> str:
    """Compatibility forms, case, outer punctuation and repeated space do not matter."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"^[\W_]+|[\W_]+$", "", re.sub(r"\s+", " ", folded.strip())) or folded.strip()


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
    cell, answer = written.strip(), question.answer
    if not cell:
        raise EvaluationError("the right answer is empty")
    match answer:
        case Boolean():
            if (found := YES_NO.get(cell.casefold())) is None:
                raise EvaluationError(f"the right answer must be yes or no (or true, false, 1, 0), got {cell!r}")
            return (found,)
        case Choice(options=options):
            same = [option for option in options if normalised(option) == normalised(cell)]
            exact = [option for option in same if option == cell]
            if not same:
                raise EvaluationError(f"the right answer must be one of {', '.join(options)}, got {cell!r}")
            return tuple(exact or same[:1])
        case Number():
            try:
                value = float(cell)
            except ValueError as error:
                raise EvaluationError(f"the right answer must be a number, got {cell!r}") from error
            if not answer.minimum <= value <= answer.maximum:
                raise EvaluationError(f"the right answer must be {answer.minimum:g} to {answer.maximum:g}, got {cell}")
            return (f"{value:g}",)
        case Text():
            return tuple(part.strip() for part in cell.split("|") if part.strip())
        case Json():
            raise EvaluationError("a json answer cannot be scored against a table; label other questions of the set")


def guess_of(question: Question) -> float:
    """The chance of guessing right among the answers allowed; 0 for text."""
    match question.answer:
        case Choice(options=options):
            return 1 / len(options)
        case Boolean():
            return 0.5
        case Number() as number:
            return 1 / number.count
        case _:
            return 0.0
