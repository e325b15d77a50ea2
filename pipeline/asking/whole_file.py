"""Questions about a whole file, answered from what was answered about its clips here and now.

Promises: the model reads what it would read in a job (`workers.whole_text`), with what was said in each clip
where that is known. Knows nothing about pictures, sound or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from omnidrop.questions import Question
from pipeline.asking.answered_file import WholeFile
from workers.records import Clip, ClipFailure, ClipOutcome
from workers.whole_text import MOST_TOKENS, UNANSWERED, Line, Reader, heard, read_whole, told


def ask_whole(
    model: Reader,
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
    read = read_whole(model, [_of_clip(one, asked_of, said) for one in outcomes], questions, most_tokens=most_tokens)
    return found.failed(read.message, read.costs) if read.error_class else found.answered(read.answers, read.costs)


def _of_clip(outcome: ClipOutcome, asked_of: Callable[[Clip], Sequence[Question]], said: Mapping[str, str]) -> Line:
    clip = outcome.clip
    assert clip is not None
    text = UNANSWERED if isinstance(outcome, ClipFailure) else told(asked_of(clip), outcome.answers)
    return Line(clip.start_s, clip.end_s, heard(text, said.get(clip.clip_id, "")))
