"""What a report says, as values: sums, shares and examples, ready to be shown.

Promises: frozen, plain, and nothing in it is guessed: a number that was not measured or counted is None. Knows nothing
about SQL, files or HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Spent:
    """Sums over the clips of some group: as run, and what the two unpruned ways would have taken. Not of those of exact
    copies, which cost nothing."""

    clips: int
    as_run_flops: int
    dense_shared_flops: int
    dense_flops: int
    model_s: float
    """Measured wall seconds in the model, as run."""

    @property
    def saved(self) -> float | None:
        """Share of FLOPs saved against dense with prefix reuse, negative where pruning cost more."""
        return 1 - self.as_run_flops / self.dense_shared_flops if self.dense_shared_flops else None

    @property
    def saved_against_dense(self) -> float | None:
        """Share of FLOPs saved against dense per question."""
        return 1 - self.as_run_flops / self.dense_flops if self.dense_flops else None


@dataclass(frozen=True)
class Way:
    """One way of asking the question set: as run, dense with prefix reuse, or dense per question. FLOPs are counted."""

    name: Literal["as_run", "dense_shared", "dense"]
    tokens: int
    """Token rows that entered decoder layer 0."""
    encoder_flops: int
    prefill_flops: int
    selection_flops: int
    decode_flops: int
    kv_bytes: int
    model_s: float | None
    """Seconds in the model: measured for what was run; None for what was neither run nor audited."""

    @property
    def flops(self) -> int:
        """All of it."""
        return self.encoder_flops + self.prefill_flops + self.selection_flops + self.decode_flops


@dataclass(frozen=True)
class Asked:
    """One way in which the clips that count were asked."""

    model: str
    mode: str
    policy: str
    retained_ratio_target: float | None
    question_set: str
    question_set_version: str
    clips: int


@dataclass(frozen=True)
class Run:
    """One run of the job, with what the clips it answered cost (those that still count)."""

    run_id: str
    started_at: str
    status: str
    wall_s: float
    decode_s: float
    """Summed over decode processes."""
    answer_s: float
    """Summed over model actors: wall seconds inside the actor, the model included."""
    actors: tuple[str, ...]
    spent: Spent
    bytes_fetched: int = 0
    """Read from stores."""

    @property
    def on_gpu(self) -> bool:
        """Whether all model actors said that they ran on a GPU; on a CPU they say so."""
        return bool(self.actors) and not any(" on cpu (" in actor for actor in self.actors)


@dataclass(frozen=True)
class Collection:
    """One top-level folder of the archive."""

    name: str
    """Empty for files that lie in no folder."""
    spent: Spent


@dataclass(frozen=True)
class Kept:
    """Which audio and video tokens survived, weighted by tokens over all clips."""

    audio_tokens: int
    video_tokens: int
    ratio: float | None
    """Mean over decoder layers of (tokens entering the layer) / (tokens before any pruning)."""
    audio: float | None
    video: float | None
    layers: tuple[tuple[float | None, float | None], ...]
    """Per decoder layer, the shares of audio and video tokens that entered it."""
    cells_encoded: int | None = None
    """Of `cells`, those of clips whose picture was encoded in part; None without such clips."""
    cells: int | None = None


@dataclass(frozen=True)
class QuestionFacts:
    """One question, over all clips."""

    question_id: str
    text: str
    """The most frequent wording."""
    wordings: int
    kind: str
    unit: str | None
    asked: int
    unreadable: int
    mean_probability: float | None
    counts: tuple[tuple[str, int], ...]
    """The most frequent answers, numbers in their own order; empty for text and JSON."""
    others: int
    """Readable answers that are not among `counts`."""
    lowest: float | None
    mean: float | None
    highest: float | None
    """Of number answers."""


@dataclass(frozen=True)
class WholeQuestion:
    """One question of whole videos."""

    question_id: str
    text: str
    """The most frequent wording."""
    videos: int
    unreadable: int
    partial: int
    """Videos of which some clips have no answer."""
    most: tuple[tuple[str, str, float | None, int], ...]
    """(media_key, answer, probability, clips missing) of the first ones."""


@dataclass(frozen=True)
class Failures:
    """What is in quarantine under one error class."""

    error_class: str
    stages: tuple[str, ...]
    media: int
    videos: int
    """Asked about as wholes."""
    clips: int
    answers: int
    example_key: str
    example_message: str

    @property
    def count(self) -> int:
        """Rows in quarantine."""
        return self.media + self.videos + self.clips + self.answers


@dataclass(frozen=True)
class NoticedKind:
    """One kind of what was noticed about clips and files beside their answers."""

    kind: str
    says: str
    most: tuple[tuple[str, float, float, float], ...]
    """(media key, start, end, amount) of the cases with the most, most first."""


@dataclass(frozen=True)
class Stages:
    """Where the time of the runs that answered something went, and what held them up."""

    wall_s: float
    decode_s: float
    answer_s: float
    actors: int
    """Most model actors of one run."""
    model_busy: float
    """Share of the wall time that the model actors were answering, mean over actors."""
    bytes_fetched: int = 0
    """Read from stores."""

    @property
    def bottleneck(self) -> Literal["model", "decoding", "overhead"]:
        """What most of the wall time went to.

        `overhead` (listing, starting, loading, publishing) only where it must be: even if decoding and answering had
        never overlapped and decoding had used one core, they would fill less than half of the time. Otherwise the
        model where it was busy at least half of the time, and else decoding, which it waited for.
        """
        if self.wall_s and (self.decode_s / self.wall_s + self.model_busy) < 0.5:
            return "overhead"
        return "model" if self.model_busy >= 0.5 else "decoding"


def stages(runs: Sequence[Run]) -> Stages | None:
    """Sums over the runs that answered something, None where there is none."""
    done = [run for run in runs if run.answer_s > 0]
    wall = sum(run.wall_s for run in done)
    if not wall:
        return None
    actor_s = sum(run.wall_s * max(1, len(run.actors)) for run in done)
    answer_s = sum(run.answer_s for run in done)
    return Stages(
        wall_s=wall,
        decode_s=sum(run.decode_s for run in done),
        answer_s=answer_s,
        bytes_fetched=sum(run.bytes_fetched for run in done),
        actors=max(max(1, len(run.actors)) for run in done),
        model_busy=answer_s / actor_s,
    )


@dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Audit:
    """A sample of clips that was also run dense with prefix reuse: what that showed."""

    clips: int
    saved_s: Interval
    """Share of model seconds saved against dense with prefix reuse, measured on the sample."""
    agreement: tuple[tuple[str, int, Interval], ...]
    """(question id, answers compared, share that agreed)."""


@dataclass(frozen=True)
class Explorer:
    """The answers that travel inside the page, compressed."""

    data: bytes
    """gzip of JSON; see `pipeline.report.explorer`."""
    media: int
    media_of: int
    answers: int
    answers_of: int


@dataclass(frozen=True)
class Report:
    """Everything that the page of one job shows."""

    job: str
    uri: str
    generation: int
    published_at: str
    asked: tuple[Asked, ...]
    """Most clips first; more than one while a changed job has not been over everything."""
    media: int
    media_complete: int
    media_failed: int
    answered_s: float
    """Seconds of media in answered clips, where clips overlap counted once."""
    clips: int
    clips_asked: int
    """Without those of exact copies, which cost nothing."""
    clips_partial: int
    answers: int
    ways: tuple[Way, Way, Way]
    """as_run, dense_shared, dense."""
    runs: tuple[Run, ...]
    """Oldest first."""
    collections: tuple[Collection, ...]
    kept: Kept
    questions: tuple[QuestionFacts, ...]
    whole: tuple[WholeQuestion, ...]
    failures: tuple[Failures, ...]
    """Most frequent first."""
    noticed: tuple[NoticedKind, ...]
    explorer: Explorer
    audit: Audit | None

    @property
    def stages(self) -> Stages | None:
        """See `stages`."""
        return stages(self.runs)

    @property
    def spent(self) -> Spent:
        """Over all clips."""
        run, shared, dense = self.ways
        return Spent(self.clips_asked, run.flops, shared.flops, dense.flops, run.model_s or 0.0)

    @property
    def gpu_s(self) -> float | None:
        """Seconds in the model on GPUs, None where any run that answered was not on one."""
        done = [run for run in self.runs if run.spent.clips]
        return self.ways[0].model_s if done and all(run.on_gpu for run in done) else None
