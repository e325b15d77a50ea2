"""One line of text as a question: `What colour is the circle? [red|green|blue]`.

Promises: what stands in the brackets at the end says what the answer may be; without brackets a question that begins
with a verb such as "is" or "does" is answered yes or no, any other in free text. Knows no question set files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set

from omnidrop.answer_types import all_types
from omnidrop.errors import QuestionError
from omnidrop.questions import AnswerType, Boolean, Question, Text

_BRACKETS = re.compile(r"(?P<text>.*?)\s*\[(?P<answer>[^\[\]]*)\]\s*", re.DOTALL)
_YES_OR_NO = re.compile(
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must)\b", re.IGNORECASE
)
_ALTERNATIVES = re.compile(r"\bor\b", re.IGNORECASE)


def forms() -> str:
    """What may stand in the brackets, for messages and help."""
    return ", ".join(answer_type.form for answer_type in all_types() if answer_type.form)


def as_questions(given: Iterable[str | Question]) -> tuple[Question, ...]:
    """Questions as they are, and texts read as such; a text's id is `q` and its place, counted from 1.

    Raises QuestionError, naming the text, for a text alone, whose letters would be questions, and for what has no order
    or keys beside its questions.
    """
    if isinstance(given, str):
        raise QuestionError(f"questions are a list, got one text; write [{given!r}]")
    if isinstance(given, Mapping | Set) or not isinstance(given, Iterable):
        raise QuestionError(f"questions are a list, answered in its order, got {type(given).__name__}")
    return tuple(_as_question(one, f"q{place}") for place, one in enumerate(given, 1))


def _as_question(given: object, question_id: str) -> Question:
    if isinstance(given, Question):
        return given
    if isinstance(given, str):
        return read_question(given, question_id)
    raise QuestionError(f'a question is a text such as "Is a circle shown? [yes/no]" or a Question, got {given!r}')


def read_question(line: str, question_id: str) -> Question:
    """One line as a question. Raises QuestionError for brackets that say nothing we know, and for no question."""
    found = _BRACKETS.fullmatch(line)
    text = (found["text"] if found else line).strip()
    if not text:
        raise QuestionError(f'the question {line!r} has no text; write it as in "Is a circle shown? [yes/no]"')
    if found is None and line.count("[") != line.count("]"):
        raise QuestionError(f"{line!r}: a bracket is missing; the answer's type stands at the end: {forms()}")
    try:
        return Question(question_id, text, _answer(found["answer"].strip()) if found else _guessed(text))
    except QuestionError as error:
        raise QuestionError(f"{line!r}: {error}") from error


def _guessed(text: str) -> AnswerType:
    # "Is the circle red or blue?" is no yes/no question.
    return Boolean() if _YES_OR_NO.match(text) and not _ALTERNATIVES.search(text) else Text()


def _answer(given: str) -> AnswerType:
    # The newest type comes first; a choice, the oldest, takes whatever holds a separator.
    for answer_type in reversed(all_types()):
        if (found := answer_type.in_brackets(given)) is not None:
            return found
    raise QuestionError(f"[{given}] is no type of answer; write {forms()}")
