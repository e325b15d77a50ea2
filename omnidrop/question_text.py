"""One line of text as a question: `What colour is the circle? [red|green|blue]`.

Promises: what stands in the brackets at the end says what the answer may be; without brackets a question that begins
with a verb such as "is" or "does" is answered yes or no, any other in free text. Knows no question set files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from omnidrop.errors import QuestionError
from omnidrop.questions import AnswerType, Boolean, Choice, Number, Question, Text

FORMS = "[yes/no], [red|green|blue], [0-6], [0-100 step 10 percent], [text] or [text 200] (tokens)"
"""What may stand in the brackets, for messages and help."""

_BRACKETS = re.compile(r"(?P<text>.*?)\s*\[(?P<answer>[^\[\]]*)\]\s*", re.DOTALL)
_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(
    rf"(?P<low>{_NUMBER})\s*(?:-|–|\.\.|to)\s*(?P<high>{_NUMBER})(?:\s+step\s+(?P<step>{_NUMBER}))?(?:\s+(?P<unit>\D.*))?"
)
_TEXT = re.compile(r"text(?:\s+(?P<tokens>\d+))?")
_YES_OR_NO = re.compile(
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must)\b", re.IGNORECASE
)
_ALTERNATIVES = re.compile(r"\bor\b", re.IGNORECASE)


def as_questions(given: Iterable[str | Question]) -> tuple[Question, ...]:
    """Questions as they are, and texts read as such; a text's id is `q` and its place, counted from 1.

    Raises QuestionError, naming the text.
    """
    return tuple(
        one if isinstance(one, Question) else read_question(one, f"q{place}") for place, one in enumerate(given, 1)
    )


def read_question(line: str, question_id: str) -> Question:
    """One line as a question. Raises QuestionError for brackets that say nothing we know, and for no question."""
    found = _BRACKETS.fullmatch(line)
    text = (found["text"] if found else line).strip()
    if not text:
        raise QuestionError(f'the question {line!r} has no text; write it as in "Is a circle shown? [yes/no]"')
    if found is None and line.count("[") != line.count("]"):
        raise QuestionError(f"{line!r}: a bracket is missing; the answer's type stands at the end: {FORMS}")
    try:
        return Question(question_id, text, _answer(found["answer"].strip()) if found else _guessed(text))
    except QuestionError as error:
        raise QuestionError(f"{line!r}: {error}") from error


def _guessed(text: str) -> AnswerType:
    # "Is the circle red or blue?" is no yes/no question.
    return Boolean() if _YES_OR_NO.match(text) and not _ALTERNATIVES.search(text) else Text()


def _answer(given: str) -> AnswerType:
    if {word.strip().lower() for word in re.split(r"[|/]", given)} == {"yes", "no"}:
        return Boolean()
    if found := _RANGE.fullmatch(given):
        return Number(float(found["low"]), float(found["high"]), float(found["step"] or 1), found["unit"])
    if found := _TEXT.fullmatch(given):
        return Text(int(found["tokens"])) if found["tokens"] else Text()
    for separator in "|/":
        if separator in given:
            return Choice(tuple(option.strip() for option in given.split(separator)))
    raise QuestionError(f"[{given}] is no type of answer; write {FORMS}")
