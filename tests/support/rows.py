"""Small made-up media, units and outcomes for tests of what stores and counts them, without model or media file.

Their contents are not known, as in a journal of format 3: a unit lies where its job and label say."""

from __future__ import annotations

from dataclasses import replace

from omnidrop.answers import Answer, ClipAnswers, Cost, LayerCount, PassCost, TraceCounts
from omnidrop.questions import Boolean, Choice, Json, Number, Question
from pipeline.identity import clip_id, earlier_version_id, unit_id
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import Asked, UnitMeta
from workers.records import Clip, ClipFailure, ClipOutcome, ClipResult, Media, MediaInfo, WorkUnit

QUESTIONS = (
    Question("shape", "Which shape?", Choice(("circle", "square"))),
    Question("heard", "Is a sweep heard?", Boolean()),
    Question("count", "How many?", Number(0, 6, unit="shapes")),
    Question("all", "Describe as JSON", Json('{"type": "object"}')),
)
INFO = MediaInfo("mov,mp4", 60.0, video_codec="h264", width=640, height=360, frame_rate=25.0, tags=(("title", "A"),))
ASKED = Asked("job", "recipe-1", "set", "1", "tiny", "w" * 64, "set_guided", "omnidrop", 0.3)


def media(number: int = 0, etag: str = "e1") -> Media:
    """A media item; its id follows from `number`."""
    return Media(f"{number:032x}", f"folder/video {number}.mp4", f"/archive/folder/video {number}.mp4", etag, 1000)


def unit(item: Media, first: int = 0, clips: int = 2, recipe: str = "recipe-1", job: str = "job") -> WorkUnit:
    """Clips `first`.. of an item, 10 s each."""
    version = earlier_version_id(job, item.media_id, item.etag, recipe)
    spans = [(10.0 * i, 10.0 * i + 10) for i in range(first, first + clips)]
    made = tuple(Clip(clip_id(version, a, b), first + i, a, b) for i, (a, b) in enumerate(spans))
    return WorkUnit(
        unit_id(version, [c.clip_id for c in made]), version, item, INFO, made, QUESTIONS, "Look and listen."
    )


def meta(of: WorkUnit, run_id: str = "run-1", asked: Asked = ASKED) -> UnitMeta:
    """Identity of a unit's object."""
    return UnitMeta(asked, of.media, of.info, of.version_id, of.unit_id, run_id)


def head(of: WorkUnit, units: int = 1, asked: Asked = ASKED) -> Head:
    """The declaration that a unit's version counts."""
    m = of.media
    clips = len(of.clips) * units
    return Head(
        asked.job, m.media_id, m.key, m.uri, m.etag, m.size_bytes, of.version_id, asked.recipe_hash, units, clips
    )


def result(clip: Clip, answer: str = "circle") -> ClipResult:
    """An answered clip; its numbers follow from the clip's index."""
    dense = PassCost(400, 4_000, 0, 500, 0, 400)
    shared = replace(dense, tokens=130, prefill_flops=1_200, kv_bytes=100)
    ran = replace(shared, prefill_flops=500, selection_flops=5, kv_bytes=40)
    answers = (
        Answer("shape", answer, answer, 0.9, 0.8),
        Answer("heard", clip.index % 2 == 0, "yes" if clip.index % 2 == 0 else "no", 0.7, 0.4),
        Answer("count", float(clip.index), str(clip.index), 0.6, 0.1),
        Answer("all", None, "not json", error_class="json_invalid"),
    )
    layers = (LayerCount(0, 10, 30), LayerCount(1, 5, 15))
    cost = Cost(ran, dense, shared, 0.25, None)
    return ClipResult(clip, ClipAnswers(answers, cost, TraceCounts(20, 60, layers)), 2.0, 20, 160_000, 1.0, 0.1, 0.3)


def commit(journal, index, of, *, fail=None, run_id="run-1", asked=ASKED, units=1, attempt=0):
    """What a run does with one finished unit, or a retry with the clips that failed (then `of` holds no others)."""
    stored = journal.commit(replace(meta(of, run_id, asked), attempt=attempt), outcomes(of, fail), of.questions)
    if not attempt:
        journal.write_heads([head(of, units, asked)], run_id)
        index.apply_heads([head(of, units, asked)])
    if stored is not None:
        index.apply_units([stored])
    return stored


def outcomes(of: WorkUnit, fail: int | None = None) -> tuple[ClipOutcome, ...]:
    """One outcome per clip; clip number `fail` failed."""
    return tuple(
        ClipFailure(c, "decode", "decode_failed", "no frames\x00 at all") if i == fail else result(c)
        for i, c in enumerate(of.clips)
    )


def first(unit, *clips):
    """The unit as a retry gets it: only these clips."""
    return replace(unit, clips=tuple(unit.clips[i] for i in clips))
