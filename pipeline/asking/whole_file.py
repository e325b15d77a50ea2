"""Questions about a whole recording, answered from what was answered about its clips.

Promises: the model reads one text, a line a clip in order of time (what was answered, and what was said where that is
known), clips without an answer named as such; where that is more than `MOST_TOKENS`, it is asked about stretches of so
many, and then about what it concluded about them: two levels, never more. Knows nothing about pictures, sound or files;
whether the answers are worth anything is the model's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omnidrop.answers import ClipAnswers, Cost
from omnidrop.errors import ModelError, QuestionError
from omnidrop.questions import Question
from pipeline.asking.answered_file import WholeFile, clock, shown
from workers.model.answerer import Answerer
from workers.records import Clip, ClipFailure, ClipOutcome

MOST_TOKENS = 8_192
"""Of one text: some 100 clips of five short answers. The models read four times as much, the worse the longer it is."""

_OF_CLIPS = "What was answered about the parts of a recording, in order of time, with how sure each answer is:"
_OF_STRETCHES = "What was concluded about the stretches of a recording, in order of time, with how sure each answer is:"


@dataclass(frozen=True)
class Line:
    """What the model reads about one span."""

    start_s: float
    end_s: float
    text: str

    def __str__(self) -> str:
        return f"{clock(self.start_s)} to {clock(self.end_s)}: {self.text}"


def ask_whole(
    model: Answerer,
    questions: Sequence[Question],
    outcomes: Sequence[ClipOutcome],
    asked_of: Callable[[Clip], Sequence[Question]],
    said: Mapping[str, str] = {},
    *,
    most_tokens: int = MOST_TOKENS,
) -> WholeFile:
    """Answer `questions` about the recording whose clips have these `outcomes`, to the questions that `asked_of` gives.

    `said` are transcripts by clip id. What cannot be asked (no clip has an answer, too long for two levels, a text that
    the model cannot hold) is the result's `failure`: the clips' answers are there all the same.
    """
    missing = sum(isinstance(one, ClipFailure) for one in outcomes)
    found = WholeFile(tuple(questions), clips=len(outcomes) - missing, clips_missing=missing)
    if not found.clips:
        return found.failed("no clip has an answer to read")
    lines = [_of_clip(one, asked_of, said) for one in outcomes]
    costs: list[Cost] = []

    def read(introduction: str, of: Sequence[Line]) -> ClipAnswers:
        given = model.answer_text("\n".join([introduction, *map(str, of)]), questions)
        costs.append(given.cost)
        return given

    try:
        stretches = _stretches(model, lines, most_tokens)
        if len(stretches) > 1:
            lines = [Line(of[0].start_s, of[-1].end_s, _answers(questions, read(_OF_CLIPS, of))) for of in stretches]
            if len(_stretches(model, lines, most_tokens)) > 1:
                return found.failed(
                    f"what was concluded about {len(lines)} stretches is more than {most_tokens} tokens: ask about a "
                    "part of the recording, fewer questions, or for shorter answers",
                    tuple(costs),
                )
        last = read(_OF_CLIPS if len(stretches) == 1 else _OF_STRETCHES, lines)
    except (QuestionError, ModelError) as error:
        return found.failed(str(error), tuple(costs))
    return found.answered(last.answers, tuple(costs))


def _of_clip(outcome: ClipOutcome, asked_of: Callable[[Clip], Sequence[Question]], said: Mapping[str, str]) -> Line:
    clip = outcome.clip
    assert clip is not None
    text = "could not be answered" if isinstance(outcome, ClipFailure) else _answers(asked_of(clip), outcome.answers)
    heard = " ".join(said.get(clip.clip_id, "").split())
    return Line(clip.start_s, clip.end_s, f"{text}; said: {heard}" if heard else text)


def _answers(questions: Sequence[Question], given: ClipAnswers) -> str:
    parts = []
    for question, answer in zip(questions, given.answers, strict=True):
        said = "(not readable)" if answer.error_class else " ".join(shown(question, answer).split())
        sure = "" if answer.probability is None else f" ({100 * answer.probability:.0f} %)"
        parts.append(f"{question.text} {said}{sure}")
    return "; ".join(parts)


def _stretches(model: Answerer, lines: Sequence[Line], most_tokens: int) -> list[list[Line]]:
    """Lines one after the other, as many as fit into a text; one that does not fit is a text of its own."""
    stretches: list[list[Line]] = []
    room = 0
    for line in lines:
        tokens = model.text_tokens(str(line)) + 1  # a line ends
        if tokens > room:
            stretches.append([])
            room = most_tokens
        stretches[-1].append(line)
        room -= tokens
    return stretches
