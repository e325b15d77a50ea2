"""Questions from toy clips: rendered here and cached as files, or rendered by anyone and described by a truth file.

Promises: the same world, seed and count give the same files and questions, so that ways of pruning are compared on
equal terms, and no clip is one that the embedded checkpoint was trained on. Knows nothing about models or scores.
"""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from omnidrop.user_cache import user_cache
from pipeline import toy_world
from pipeline.archive.listing import list_media
from pipeline.config.sections import ArchiveConfig
from pipeline.evaluation.dataset import EvaluatedClip, EvaluationError, Target
from pipeline.identity import content_id
from pipeline.toy_world import AskedQuestion, Event, Format, Truth, events_of, format_of, questions_of, render_clip
from pipeline.toy_world.truth import TruthError, read_truth
from workers.media.opening import etag_of
from workers.media.probing import ProbePool
from workers.records import ClipFailure, Media, MediaInfo

FIRST_SEED = 7_000_000_000_000
"""Training draws seeds below 2^31 and from 5 * 10^12 on: these clips are never trained on."""
SEEDS_APART = 1_000_000
"""Clips of two evaluation seeds differ up to this many clips."""
MOST_PIXELS, MOST_RATE = 320 * 240, 12
"""Files are kept this small: a model that sees 2 frames a second of at most 100,352 pixels would not see more."""
LONGEST_S = 40.0
"""A longer file is cut: a set of questions is about one clip, as in an archive job."""
NO_FOLDER = "no folder for the clips that are drawn: {}; set XDG_CACHE_HOME to one that you may write to"
PIECE_S = 30.0
BORDER_S = 1.0
"""A truth may end so much after its file does: containers round, encoders pad."""

Rendered = Callable[[], object]


CHECKPOINTS = {"v1": "tiny", "v2": "tiny-v2", "v3": "tiny-v3"}
"""The embedded checkpoint that was trained for each world."""


def toy_clips(
    world: str,
    clips: int,
    seed: int,
    *,
    folder: Path | None = None,
    questions: int | None = 8,
    rendered: Rendered = lambda: None,
) -> list[EvaluatedClip]:
    """`clips` clips of a frozen world with at most `questions` questions each, rendered into `folder` where not there.

    `folder` is the user's cache where None. `rendered` is called for each file. Raises UserError for an unknown world
    or count, RenderError where ffmpeg fails.
    """
    if clips < 1 or clips > SEEDS_APART or seed < 0:
        raise EvaluationError(f"--clips must be 1 to {SEEDS_APART} and --seed at least 0, got {clips} and {seed}")
    events_of(world, 0)
    place = (folder or cache_folder()) / f"{world}-{renderer_version()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(NO_FOLDER.format(error)) from error
    seeds = [FIRST_SEED + seed * SEEDS_APART + number for number in range(clips)]

    def made(number: int) -> tuple[Path, Truth, int]:
        format = small_format(world, number)
        path = place / f"{number}.{format.container}"
        if not path.exists():
            render_clip(path, world, number, format=format)
        rendered()
        return path, Truth(events_of(world, number)[1], world), number

    pool = ThreadPoolExecutor(max(1, min(2, os.cpu_count() or 1)), thread_name_prefix="render")
    try:
        files = list(pool.map(made, seeds))
    finally:
        # Ctrl-C must not wait for a thousand clips that are no longer needed.
        pool.shutdown(cancel_futures=True)
    with ProbePool(1) as probes:
        infos = dict(probes.probe_many((path, str(path)) for path, _, _ in files))
    evaluated = []
    for path, truth, number in files:
        media = _local_media(path)
        asked = questions_of(truth, seed=number, most=questions)
        evaluated.append(_clip(media, infos[path], 0.0, None, asked))
    return [clip for clip in evaluated if clip.targets]


def archive_clips(
    archive: Path, truth_file: Path, *, seed: int = 0, questions: int | None = 8, probed: Rendered = lambda: None
) -> tuple[list[EvaluatedClip], tuple[str, ...]]:
    """Clips of the files that a truth file describes, and notes about what was left out.

    Files longer than 40 s are cut, where possible between events. Raises TruthError and ArchiveError, naming file and
    field.
    """
    truths = read_truth(truth_file)
    if not truths:
        raise TruthError(f"{truth_file} describes no file")
    found = {media.key: media for media in list_media(ArchiveConfig(uri=str(Path(archive).absolute())))}
    chosen = {name: _file_of(name, found, truth_file, archive) for name in truths}
    notes = [f"{len(found) - len(set(chosen.values()))} files of {archive} are not in {truth_file}"]
    clips: list[EvaluatedClip] = []
    with ProbePool(2) as probes:
        infos = {}
        for name, info in probes.probe_many((name, media.uri) for name, media in chosen.items()):
            infos[name] = info
            probed()
    for name, truth in truths.items():
        media, info = chosen[name], infos[name]
        asked_seed = seed + zlib.crc32(name.encode())
        if isinstance(info, ClipFailure):
            clips.append(_clip(media, info, 0.0, None, questions_of(truth, seed=asked_seed, most=questions)))
            continue
        checked = _checked(truth, info, f"{truth_file}: {name!r}")
        if not info.has_audio and any(event.sound or event.word for event in checked.events):
            notes.append(f"{name} has no sound, but its truth names what is heard: those answers cannot be found")
        is_tangled = checked.world == "v1" and overlaps(checked.events)
        if is_tangled:
            notes.append(f"{name}: events overlap, so nothing is asked about what is seen while something is heard")
        for start, end in pieces(info.duration_s, checked.events):
            part = checked if not start and end >= _length_s(info.duration_s) else checked.within(start, end)
            asked = questions_of(part, seed=asked_seed + round(start), most=None if is_tangled else questions)
            if is_tangled:
                asked = tuple(one for one in asked if one.task != "audio-visual matching")[:questions]
            clips.append(_clip(media, info, start, end, asked))
    return [clip for clip in clips if clip.targets], tuple(note for note in notes if not note.startswith("0 "))


def pieces(duration_s: float, events: Sequence[Event]) -> list[tuple[float, float]]:
    """Spans of at most about 30 s that cover a long file, cut between events where one ends nearby; all of a short."""
    if duration_s <= LONGEST_S:
        return [(0.0, _length_s(duration_s))]
    free = sorted({t for e in events for t in (e.start, e.end) if not any(o.start < t < o.end for o in events)})
    edges = [0.0]
    while duration_s - edges[-1] > LONGEST_S:
        ideal = edges[-1] + PIECE_S
        near = [t for t in free if edges[-1] + PIECE_S / 2 <= t <= edges[-1] + LONGEST_S]
        edges.append(min(near, key=lambda t: abs(t - ideal), default=ideal))
    return list(zip(edges, [*edges[1:], _length_s(duration_s)], strict=True))


def _length_s(duration_s: float) -> float:
    """Without the few milliseconds that codecs pad: they would be one more, repeated picture."""
    whole = math.floor(duration_s * 2) / 2
    return whole if whole > 0 and duration_s - whole < 0.1 else duration_s


def joined(events: Sequence[Event]) -> tuple[Event, ...]:
    """Events where a shape and a sound of the same span, listed separately by their author, count as one."""
    result: list[Event] = []
    for event in sorted(events, key=lambda e: (e.start, e.end)):
        for at, other in enumerate(result):
            same = abs(other.start - event.start) < 0.1 and abs(other.end - event.end) < 0.1
            if (
                same
                and (other.shape is None) != (event.shape is None)
                and (other.sound is None) != (event.sound is None)
            ):
                shown, heard = (other, event) if other.shape else (event, other)
                result[at] = replace(shown, sound=heard.sound)
                break
        else:
            result.append(event)
    return tuple(result)


def overlaps(events: Sequence[Event]) -> bool:
    """Whether any two events share more than a moment."""
    latest = 0.0
    for event in sorted(events, key=lambda e: e.start):
        if event.start < latest - 0.05:
            return True
        latest = max(latest, event.end)
    return False


def small_format(world: str, seed: int) -> Format:
    """The container and codecs drawn for the clip at a size and frame rate that are quick to encode."""
    drawn = format_of(world, seed)
    shrink = min(1.0, (MOST_PIXELS / (drawn.width * drawn.height)) ** 0.5)
    width, height = (max(2, int(side * shrink) // 2 * 2) for side in (drawn.width, drawn.height))
    return replace(drawn, width=width, height=height, frame_rate=min(MOST_RATE, drawn.frame_rate))


def cache_folder() -> Path:
    """Where rendered clips are kept between runs. Raises EvaluationError where this user has no home."""
    folder = user_cache()
    if folder is None:
        raise EvaluationError(NO_FOLDER.format("this user has no home"))
    return folder / "toy-world"


def renderer_version() -> str:
    """Changes with the code that draws and encodes, so that files of another version are never used."""
    package = Path(toy_world.__file__).parent
    names = (
        "truth.py",
        "world.py",
        "render.py",
        "speech.py",
        "writing.py",
        "takes/held_out.opus",
        "takes/held_out.json",
        "takes/held_out_faces.png",
        "takes/held_out_faces.json",
        "encode.py",
    )
    content = b"".join((package / name).read_bytes() for name in names)
    return hashlib.blake2b(content + f"{MOST_PIXELS} {MOST_RATE}".encode(), digest_size=6).hexdigest()


def _checked(truth: Truth, info: MediaInfo, where: str) -> Truth:
    for number, event in enumerate(truth.events, 1):
        if event.end > info.duration_s + BORDER_S:
            raise TruthError(
                f"{where}, event {number}: 'end' is {event.end:g} s, but the file ends at {info.duration_s:g} s"
            )
    return Truth(joined(truth.events), truth.world) if truth.world == "v1" else truth


def _file_of(name: str, found: Mapping[str, Media], truth_file: Path, archive: Path) -> Media:
    """By path within the archive, else by a file name or stem that only one file has."""
    if name in found:
        return found[name]
    for part in ("name", "stem"):
        same = [media for key, media in found.items() if getattr(Path(key), part) == Path(name).name]
        if len(same) == 1:
            return same[0]
        if len(same) > 1:
            raise TruthError(f"{truth_file}: {name!r} fits {len(same)} files of {archive}; give the path within it")
    raise TruthError(f"{truth_file}: there is no file {name!r} in {archive}; it has: {', '.join(list(found)[:5])}")


def _local_media(path: Path) -> Media:
    status = path.stat()
    # The file's date is no part of what is asked: the etag only guards against changes while it is read.
    return Media(path.stem, path.name, str(path.absolute()), etag_of(status), status.st_size)


def _clip(
    media: Media,
    probed: MediaInfo | ClipFailure,
    start_s: float,
    end_s: float | None,
    asked: Sequence[AskedQuestion],
) -> EvaluatedClip:
    info = None if isinstance(probed, ClipFailure) else probed
    end = end_s if end_s is not None else _length_s(info.duration_s) if info else start_s
    return EvaluatedClip(
        clip_id=content_id("toy", media.key, round(start_s * 1e6), round(end * 1e6)),
        media=media,
        info=info,
        start_s=start_s,
        end_s=end,
        questions=tuple(one.question for one in asked),
        targets=tuple(Target(one.question.id, (one.right,), one.task, one.guess) for one in asked),
        failure=probed if isinstance(probed, ClipFailure) else None,
    )
