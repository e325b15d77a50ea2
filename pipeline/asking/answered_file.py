"""One file's answers as a person or a notebook wants them: tables of several libraries, HTML, and what they cost.

Promises: a column has the name and meaning it has in a job's published table `answers`; whatever came from the file or
the model is escaped in HTML. Knows nothing about how the answers were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

from omnidrop.answers import Answer, Cost
from omnidrop.errors import UserError
from omnidrop.pruning import Pruning
from omnidrop.questions import Question, Scored
from pipeline.counted import counted
from workers.model.answerer import Answerer
from workers.records import Clip, ClipFailure, ClipOutcome, ClipResult, Media, MediaInfo
from workers.whole_text import clock

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    *("media_key", "start_s", "end_s", "status", "question_id", "question", "answer_type", "answer"),
    *("answer_boolean", "answer_number", "unit", "text", "probability", "margin", "error_class"),
    *("model", "mode", "policy", "retained_ratio_target"),
)
"""Of the published table `answers`: the ids of a job mean nothing here."""
MOST_OPTIONS = 3
"""Probabilities shown beside an answer."""


class PackageMissing(UserError):
    """An optional package is not installed."""


@dataclass(frozen=True)
class WholeFile:
    """What was asked about the file as a whole, and answered from its clips' answers."""

    questions: tuple[Question, ...]
    answers: tuple[Answer, ...] = ()
    """One a question; none where there is a `failure`."""
    clips: int = 0
    """Whose answers were read."""
    clips_missing: int = 0
    """That have none: the answers are without them."""
    costs: tuple[Cost, ...] = ()
    """Of each text that was read: one, or one a stretch and one for what was said of them."""
    failure: str | None = None

    def answered(self, answers: tuple[Answer, ...], costs: tuple[Cost, ...]) -> WholeFile:
        """With its answers."""
        return replace(self, answers=answers, costs=costs)

    def failed(self, message: str, costs: tuple[Cost, ...] = ()) -> WholeFile:
        """Without any, and why."""
        return replace(self, failure=message, costs=costs)

    @property
    def cost_line(self) -> str:
        """What was read, and what that took."""
        spent = sum(one.as_run.flops for one in self.costs)
        seconds = sum(one.seconds for one in self.costs)
        tokens = sum(one.as_run.tokens for one in self.costs)
        missing = f" ({self.clips_missing} more have none)" if self.clips_missing else ""
        return (
            f"whole file: from the answers of {counted(self.clips, 'clip')}{missing}, {counted(tokens, 'token')} in "
            f"{counted(len(self.costs), 'text')}, {spent / 1e12:.3g} TFLOP, {seconds:.2f} s in the model"
        )


@dataclass(frozen=True, eq=False)
class AnsweredFile:
    """A file's clips, each with all its answers or the reason why it has none."""

    media: Media
    info: MediaInfo
    questions: tuple[Question, ...]
    outcomes: tuple[ClipOutcome, ...]
    pruning: Pruning
    answerer: Answerer = field(repr=False)
    """The loaded model, for further calls."""
    context_notes: tuple[str, ...] = ()
    """What the model was told beside pictures and sound, and what it could not be told."""
    own: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    """By clip id, the questions as they were asked of it, where its sidecars' words are in them."""
    whole: WholeFile | None = None
    """What was asked about all of it at once."""

    def questions_of(self, clip: Clip) -> tuple[Question, ...]:
        """As they were asked of a clip."""
        return self.own.get(clip.clip_id, self.questions)

    @property
    def clips(self) -> tuple[ClipResult, ...]:
        """The clips that were answered."""
        return tuple(one for one in self.outcomes if isinstance(one, ClipResult))

    @property
    def failures(self) -> tuple[ClipFailure, ...]:
        """The clips that were not."""
        return tuple(one for one in self.outcomes if isinstance(one, ClipFailure))

    @property
    def flops(self) -> tuple[int, int]:
        """Spent, and what dense with prefix reuse would have spent on the same clips; see `omnidrop/cost.py`."""
        costs = [one.answers.cost for one in self.clips]
        return sum(c.as_run.flops for c in costs), sum(c.dense_shared.flops for c in costs)

    @property
    def retained_ratio(self) -> float | None:
        """Mean over clips."""
        ratios = [r for one in self.clips if (r := one.answers.trace.retained_ratio()) is not None]
        return sum(ratios) / len(ratios) if ratios else None

    @property
    def cost_line(self) -> str:
        """What was kept, and saved against dense with prefix reuse."""
        spent, dense = self.flops
        if self.retained_ratio is None or not dense:
            return "no clip was answered"
        seconds = sum(one.answers.cost.seconds for one in self.clips)
        return (
            f"retained ratio {100 * self.retained_ratio:.1f} %; saved {100 * (1 - spent / dense):.1f} % of FLOPs "
            f"against dense with prefix reuse; {counted(len(self.clips), 'clip')}, "
            f"{counted(len(self.questions), 'question')}, {seconds:.2f} s in the model"
        )

    def to_arrow(self) -> pa.Table:
        """One row per clip and question: `COLUMNS` of the published table `answers`."""
        from pipeline.records.rows import answers_table
        from pipeline.records.unit import Asked, UnitMeta, decode_unit, encode_unit

        described, pruning = self.answerer.describe(), self.pruning
        asked = Asked(
            job="ask",
            recipe_hash="",
            question_set="",
            question_set_version="",
            model=described.model,
            weights_hash=described.weights_hash,
            mode=pruning.mode,
            policy=pruning.policy,
            retained_ratio_target=pruning.retained_ratio,
        )
        meta = UnitMeta(asked, self.media, self.info, "", "", "")
        # The bytes that a job's journal would hold, and the rows that it would publish.
        unit = decode_unit(encode_unit(meta, self.outcomes, self.questions, own=self.own), where=self.media.key)
        return answers_table(unit).select(COLUMNS)

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`. Raises PackageMissing."""
        _wanted("pandas")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """The same as a `polars.DataFrame`. Raises PackageMissing."""
        return _wanted("polars").from_arrow(self.to_arrow())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = []
        for one in self.outcomes:
            span = f"{clock(one.clip.start_s)} – {clock(one.clip.end_s)}" if one.clip else ""
            if isinstance(one, ClipFailure):
                rows.append(
                    f'<tr><th>{span}</th><td colspan="3">{escape(f"{one.error_class}: {one.message}")}</td></tr>'
                )
                continue
            rows += _html_rows(span, self.questions_of(one.clip), one.answers.answers)
        lines = [self.cost_line]
        if self.whole is not None and self.whole.failure is not None:
            rows.append(f'<tr><th>whole file</th><td colspan="3">{escape(self.whole.failure)}</td></tr>')
        elif self.whole is not None:
            rows += _html_rows("whole file", self.whole.questions, self.whole.answers)
            lines.append(self.whole.cost_line)
        return (
            f"<table><caption>{escape(self.media.key)}</caption><tbody>{''.join(rows)}</tbody></table>"
            f"<p>{'<br>'.join(map(escape, lines))}</p>"
        )


def _html_rows(head: str, questions: Sequence[Question], answers: Sequence[Answer]) -> list[str]:
    """A row a question; `head` stands in the first."""
    rows = []
    for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        share = "" if answer.probability is None else f"{100 * answer.probability:.0f} %"
        bar = "" if answer.probability is None else _BAR.format(width=f"{4 * answer.probability:.2f}")
        others = escape(", ".join(f"{name} {100 * p:.0f} %" for name, p in options(question, answer)))
        cells = (escape(question.text), f"<b>{escape(shown(question, answer))}</b>", bar + share)
        row = "".join(f'<td style="text-align:left" title="{others}">{cell}</td>' for cell in cells)
        rows.append(f"<tr><th>{head if not place else ''}</th>{row}</tr>")
    return rows


_BAR = (
    '<span style="display:inline-block;width:4em;margin-right:.5em;background:#8884"><span style="display:block;'
    'width:{width}em;height:.6em;background:#0b6a73"></span></span>'
)


def shown(question: Question, answer: Answer) -> str:
    """An answer as people read it: with its unit, and the model's own words where they could not be read as asked."""
    if answer.error_class is not None:
        return f"({answer.error_class}) {answer.text}"
    unit = getattr(question.answer, "unit", None)
    return f"{answer.text} {unit}" if unit else answer.text


def options(question: Question, answer: Answer, most: int = MOST_OPTIONS) -> list[tuple[str, float]]:
    """The most probable answers with their probabilities, none for text and json."""
    if answer.probabilities is None or not isinstance(question.answer, Scored):
        return []
    ranked = sorted(zip(question.answer.rendered(), answer.probabilities, strict=True), key=lambda pair: -pair[1])
    return ranked[:most]


def _wanted(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise PackageMissing(
            f"{package} is not installed; `pip install {package}` (or 'omnidrop[notebook]'), or use to_arrow()"
        ) from None
