"""What a model reads about a whole recording: a line a clip, in one text or in two levels.

Promises: clips come in order of time, with how sure each answer is, and those without an answer named as such; where
that is more than `MOST_TOKENS`, the model is asked about stretches of so many, and then about what it concluded about
them: two levels, never more; whatever goes wrong is named, with what was spent until then. Knows nothing about
pictures, sound, files or stores; whether the answers are worth anything is the model's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from omnidrop.answers import Answer, ClipAnswers, Cost
from omnidrop.errors import ModelError, QuestionError
from omnidrop.questions import Question
from workers.errors import DeviceBroken

MOST_TOKENS = 8_192
"""Of one text: some 100 clips of five short answers. The models read four times as much, the worse the longer it is."""
FORM = 1
"""Raised when the same answers become another text: what was concluded from the old one is asked again."""
UNANSWERED = "could not be answered"

OF_CLIPS = "What was answered about the parts of a recording, in order of time, with how sure each answer is:"
OF_STRETCHES = "What was concluded about the stretches of a recording, in order of time, with how sure each answer is:"


class Reader(Protocol):
    """A model that reads texts, as `workers.model.answerer.Answerer`."""

    def answer_text(self, text: str, questions: Sequence[Question]) -> ClipAnswers:
        """Answer all questions about a text. Raises QuestionError and ModelError."""
        ...

    def text_tokens(self, text: str) -> int:
        """How many tokens a text is."""
        ...


@dataclass(frozen=True)
class Line:
    """What the model reads about one span."""

    start_s: float
    end_s: float
    text: str

    def __str__(self) -> str:
        return f"{clock(self.start_s)} to {clock(self.end_s)}: {self.text}"


@dataclass(frozen=True)
class Read:
    """What came of a recording's questions."""

    answers: tuple[Answer, ...] = ()
    """One a question; none where there is an `error_class`."""
    costs: tuple[Cost, ...] = ()
    """Of each text that was read: one, or one a stretch and one for what was concluded about them."""
    error_class: str | None = None
    message: str = ""


def read_whole(
    model: Reader,
    lines: Sequence[Line],
    questions: Sequence[Question],
    *,
    most_tokens: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> Read:
    """Answer `questions` about the recording of which these `lines` tell, in texts of `MOST_TOKENS` at most where
    nobody says otherwise; `between` is called between two levels. Raises DeviceBroken."""
    most_tokens = MOST_TOKENS if most_tokens is None else most_tokens
    costs: list[Cost] = []

    def read(introduction: str, of: Sequence[Line]) -> ClipAnswers:
        given = model.answer_text("\n".join([introduction, *map(str, of)]), questions)
        costs.append(given.cost)
        return given

    try:
        stretches = stretched([model.text_tokens(str(line)) for line in lines], most_tokens)
        if len(stretches) == 1:
            return Read(read(OF_CLIPS, lines).answers, tuple(costs))
        parts = [[lines[n] for n in numbers] for numbers in stretches]
        concluded = [Line(of[0].start_s, of[-1].end_s, told(questions, read(OF_CLIPS, of))) for of in parts]
        between()
        if len(stretched([model.text_tokens(str(line)) for line in concluded], most_tokens)) > 1:
            raise QuestionError(
                f"what was concluded about {len(concluded)} stretches is more than {most_tokens} tokens: ask about a "
                "part of the recording, fewer questions, or for shorter answers"
            )
        return Read(read(OF_STRETCHES, concluded).answers, tuple(costs))
    except DeviceBroken:
        raise
    except (QuestionError, ModelError) as error:
        return Read((), tuple(costs), error.error_class, str(error))


def stretched(tokens: Sequence[int], most_tokens: int = MOST_TOKENS) -> list[list[int]]:
    """Numbers of lines of so many tokens each, one after the other, as many as fit into a text; one that does not fit
    is a text of its own."""
    stretches: list[list[int]] = []
    room = 0
    for number, of_line in enumerate(tokens):
        needed = of_line + 1  # a line ends
        if needed > room:
            stretches.append([])
            room = most_tokens
        stretches[-1].append(number)
        room -= needed
    return stretches


def told(questions: Sequence[Question], given: ClipAnswers) -> str:
    """Answers as a part of a line."""
    return "; ".join(
        one_told(q.text, a.text, getattr(q.answer, "unit", None), a.probability, is_read=not a.error_class)
        for q, a in zip(questions, given.answers, strict=True)
    )


def one_told(question: str, answer: str, unit: str | None, probability: float | None, *, is_read: bool = True) -> str:
    """One answer as a part of a line."""
    said = " ".join(f"{answer} {unit or ''}".split()) if is_read else "(not readable)"
    sure = "" if probability is None else f" ({100 * probability:.0f} %)"
    return f"{question} {said}{sure}"


def heard(text: str, said: str) -> str:
    """A clip's part of a line with what is said in it, if that is known."""
    words = " ".join(said.split())
    return f"{text}; said: {words}" if words else text


def clock(seconds: float) -> str:
    """A time in a file: 1:05, or 1:05.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    whole, tenth = divmod(round(rest * 10), 10)
    return f"{int(minutes)}:{whole:02d}{f'.{tenth}' if tenth else ''}"
