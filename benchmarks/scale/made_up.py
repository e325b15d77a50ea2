"""Made-up work for the parts: units of clips with questions, and answers of the size that a real model gives.

Promises: everything follows from numbers, so that two measurements of one size do the same. Knows no part.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace

from omnidrop.answers import Answer, ClipAnswers, Cost, LayerCount, PassCost, TraceCounts
from omnidrop.questions import Boolean, Choice, Number, Question
from pipeline.identity import clip_id, content_id, earlier_version_id, unit_id
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import Asked, UnitMeta
from workers.records import Clip, ClipResult, Media, MediaInfo, WorkUnit

CLIPS_PER_UNIT = 32
CLIP_S = 30.0
COLLECTIONS = 50
"""Folders at the top of the made-up archive."""
INFO = MediaInfo("mov,mp4", 95.0, video_codec="h264", width=1280, height=720, frame_rate=25.0, audio_codec="aac")
QUESTIONS = (
    Question("setting", "Where is this?", Choice(("indoors", "outdoors", "studio", "unclear"))),
    Question("speech", "Is anybody speaking?", Boolean()),
    Question("slides", "Are slides shown?", Boolean()),
    Question("people", "How many people are seen?", Number(0, 20, unit="people")),
    Question("mood", "What is the mood?", Choice(("calm", "tense", "joyful"))),
)
LAYERS = tuple(LayerCount(layer, 700 - 20 * layer, 2600 - 80 * layer) for layer in range(28))
"""Of a decoder with 28 layers; a clip of 30 s has 750 audio and 2,700 video tokens."""


def asked(job: str = "scale", retained_ratio: float = 0.3) -> Asked:
    """How the made-up questions were asked."""
    return Asked(job, "recipe-1", "scale", "1", "made-up 7B", "0" * 64, "set_guided", "omnidrop", retained_ratio)


def units(clips: int) -> Iterator[WorkUnit]:
    """Units of `CLIPS_PER_UNIT` clips, each of one media item, until there are so many clips."""
    for number, first in enumerate(range(0, clips, CLIPS_PER_UNIT)):
        key = f"collection {number % COLLECTIONS:02d}/recording {number:08d}.mp4"
        item = Media(content_id("made up", number), key, f"/nowhere/{key}", f"{number}-1", 50_000_000)
        version = earlier_version_id("scale", item.media_id, item.etag, "recipe-1")
        count = min(CLIPS_PER_UNIT, clips - first)
        spans = [(CLIP_S * i, CLIP_S * (i + 1)) for i in range(count)]
        made = tuple(Clip(clip_id(version, a, b), i, a, b) for i, (a, b) in enumerate(spans))
        name = unit_id(version, [clip.clip_id for clip in made])
        yield WorkUnit(name, version, item, INFO, made, QUESTIONS, "Look and listen.")


def meta(unit: WorkUnit, run_id: str) -> UnitMeta:
    """What the unit's object says of it."""
    return UnitMeta(asked(), unit.media, unit.info, unit.version_id, unit.unit_id, run_id)


def head(unit: WorkUnit) -> Head:
    """The declaration that the unit's version counts."""
    m = unit.media
    of_media = (m.media_id, m.key, m.uri, m.etag, m.size_bytes)
    return Head("scale", *of_media, unit.version_id, "recipe-1", 1, len(unit.clips))


def result(clip: Clip) -> ClipResult:
    """A clip's answers; costs are those of a 7B decoder in their order of magnitude."""
    dense = PassCost(17_000, 240 * 10**12, 0, 30 * 10**12, 10**9, 190_000_000)
    shared = replace(dense, tokens=3_500, prefill_flops=50 * 10**12)
    ran = replace(shared, prefill_flops=17 * 10**12 + clip.index, selection_flops=10**10, kv_bytes=60_000_000)
    answers = (
        Answer("setting", *(("indoors", "outdoors", "studio")[clip.index % 3],) * 2, 0.8, 0.6),
        Answer("speech", clip.index % 2 == 0, "yes" if clip.index % 2 == 0 else "no", 0.9, 0.8),
        Answer("slides", clip.index % 5 == 0, "yes" if clip.index % 5 == 0 else "no", 0.7, 0.4),
        Answer("people", float(clip.index % 7), str(clip.index % 7), 0.5, 0.2),
        Answer("mood", "calm", "calm", 0.6, 0.3),
    )
    made = ClipAnswers(answers, Cost(ran, dense, shared, 1.7, 20_000_000_000), TraceCounts(750, 2_700, LAYERS))
    return ClipResult(clip, made, 2.0, 60, 480_000, 1.0, 0.9, 1.8)


def peak_rss_bytes() -> int:
    """The most that this process ever held resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
