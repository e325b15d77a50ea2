"""Runs hostile files through the whole job (probe, plan, decode, answer, journal, tables) and counts how each ended.

Promises: what is counted is read back from the published tables, not from what the run says of itself; whatever is not
as promised is a violation with its file's name. Knows nothing about how the files came to be hostile.

Every file goes through `run_job` with the in-process backend and the embedded checkpoint, in batches, each an archive
of its own. Before that each is probed once alone, for its time; the job must come to the same end.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from omnidrop.errors import OmniDropError
from pipeline.archive.listing import list_media
from pipeline.archive.probing import prober, source
from pipeline.config.job import JobConfig, make_job
from pipeline.execution.clip_state import UnitResult
from pipeline.planning.media_plan import plan_media
from pipeline.planning.recipe import make_recipe
from pipeline.questions.question_set import load_question_set
from pipeline.runs.run import run_job
from pipeline.tables.query import open_results, query
from tests.robustness.fuzz_media.seeds import make_seeds
from tests.robustness.fuzz_media.trials import Trial, trials
from tests.robustness.fuzz_media.watching import BaitWatch, ChildWatch, confined_children, listing
from workers.media.decode import decode_unit
from workers.media.probing import ProbePool
from workers.records import ClipFailure, DecodeSettings

log = logging.getLogger(__name__)

BATCH = 60
GRACE_S = 10.0
"""On a machine that does other things too, a child is killed and reaped this long after its limit at the latest."""

CACHES = ("torchinductor_", "omnidrop-media-")
"""What may stay among temporary files: torch's cache, and the node's of fetched objects, which has its own bound."""

UNNAMED = frozenset({"internal", "media_error", "model_error", "error"})
"""Classes that say only that nobody thought of it."""

QUESTIONS = """\
name: hostile
version: "1"
questions:
  - {id: shape, text: 'Which shape is shown in {{ media.name }}?', answer: {type: choice, options: [circle, square]}}
  - {id: heard, text: 'Is a tone heard?', answer: {type: boolean}}
"""


@dataclass(frozen=True)
class Settings:
    """What is run."""

    files: int
    seed: int = 0
    kinds: tuple[str, ...] = ()
    """All where empty."""
    part: int = 0
    parts: int = 1
    """Only file `part`, `part + parts`, ... of the list."""
    is_answering: bool = True
    """Otherwise nothing is asked: the way ends after decoding, without journal and tables."""
    seconds: float = math.inf
    """No batch is begun after this."""
    probe_timeout_s: float = 15.0
    decode_timeout_s: float = 25.0
    s3_endpoint: str | None = None
    """Put every batch into a bucket of this server instead of a folder."""


@dataclass
class Report:
    """How it ended."""

    files: int = 0
    clips: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By kind: how many files ended how."""
    worst_probe_s: tuple[float, str] = (0.0, "")
    worst_unit_s: tuple[float, str] = (0.0, "")
    """A unit's decoding and answering, up to 8 clips."""
    worst_decode_s: float = 0.0
    """Life of one ffmpeg process."""
    peak_ffmpeg_bytes: int = 0
    peak_probe_bytes: int = 0
    violations: list[str] = field(default_factory=list)
    bait_looks: int = 0

    @property
    def outcomes(self) -> Counter[str]:
        """Over all kinds."""
        return sum(self.counts.values(), Counter())


class _Timer:
    """An observer that notes how long each unit took."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.worst: tuple[float, str] = (0.0, "")
        self.clips = 0

    def stage(self, name: str) -> None:
        self._last = time.monotonic()

    def planned(self, clips: int, finished: int) -> None:
        pass

    def unit_done(self, result: UnitResult) -> None:
        self.decoded(result.unit.media.key, len(result.outcomes))

    def decoded(self, key: str, clips: int) -> None:
        """A unit without a result."""
        now = time.monotonic()
        self.worst = max(self.worst, (now - self._last, key))
        self.clips += clips
        self._last = now


def fuzz(settings: Settings, folder: Path) -> Report:
    """Run it in `folder`, which may be deleted afterwards."""
    report = Report()
    seeds = make_seeds(folder / "seeds")
    (folder / "questions.yaml").write_text(QUESTIONS)
    with BaitWatch(folder) as bait, ChildWatch() as watch, _own_temporary_folder(folder) as temporary:
        waiting = islice(
            trials(seeds, settings.seed, bait.bait, settings.kinds), settings.part, settings.files, settings.parts
        )
        number = 0
        until = time.monotonic() + settings.seconds
        while time.monotonic() < until and (batch := list(islice(waiting, BATCH))):
            _run_batch(batch, settings, folder, number, report)
            log.info("%d files: %s", report.files, dict(report.outcomes))
            number += 1
            files = (path for path in temporary.iterdir() if not path.name.startswith(CACHES))
            for left in (*confined_children(), *files):
                report.violations.append(f"batch {number} left {left}")
        report.violations += bait.taken
        report.bait_looks = bait.looks
    report.worst_decode_s = watch.longest_decode_s
    report.peak_ffmpeg_bytes = watch.peak_bytes(is_probe=False)
    report.peak_probe_bytes = watch.peak_bytes(is_probe=True)
    for name, seconds, limit in (
        ("decode", report.worst_decode_s, settings.decode_timeout_s),
        ("probe", report.worst_probe_s[0], settings.probe_timeout_s),
    ):
        if seconds > limit + GRACE_S:
            report.violations.append(f"a {name} took {seconds:.1f} s; its limit is {limit:g} s")
    return report


@contextlib.contextmanager
def _own_temporary_folder(folder: Path) -> Iterator[Path]:
    """Whatever makes a temporary file makes it where it is seen."""
    temporary = folder / "tmp"
    temporary.mkdir()
    before, os.environ["TMPDIR"], tempfile.tempdir = os.environ.get("TMPDIR"), str(temporary), str(temporary)
    try:
        yield temporary
    finally:
        tempfile.tempdir = None
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _run_batch(batch: Sequence[Trial], settings: Settings, folder: Path, number: int, report: Report) -> None:
    place = folder / f"batch-{number}"
    archive = place / "archive"
    by_key = _write(batch, archive)
    before = listing(archive)
    probed = _probe_alone(by_key, archive, settings, report)
    job = _job(settings, folder, place, archive)
    timer = _Timer()
    try:
        if settings.is_answering:
            run_job(job, timer, threading.Event())
            ends = _read_back(job)
        else:
            ends = _decode_only(job, timer)
    except Exception as error:  # noqa: BLE001 - whatever it is, it took the run down
        report.violations.append(f"batch {number}: the run ended: {type(error).__name__}: {error}"[:500])
        return
    report.worst_unit_s = max(report.worst_unit_s, timer.worst)
    report.clips += timer.clips
    _count(by_key, ends, probed, report)
    if listing(archive) != before:
        report.violations.append(f"batch {number}: the archive changed")
    shutil.rmtree(place)


def _write(batch: Sequence[Trial], archive: Path) -> dict[str, Trial]:
    """The batch as files, by the key that the archive's listing will give them."""
    by_key = {}
    for trial in batch:
        path = archive / trial.kind / trial.name
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.write(path)
        by_key[f"{trial.kind}/{os.fsencode(trial.name).decode('utf-8', 'backslashreplace')}"] = trial
    return by_key


def _probe_alone(by_key: dict[str, Trial], archive: Path, settings: Settings, report: Report) -> dict[str, str]:
    """Class of each file that cannot be probed, "" for the others; one at a time, for the time it takes."""
    classes = {}
    with ProbePool(1, timeout_s=settings.probe_timeout_s) as pool:
        for key, trial in by_key.items():
            started = time.monotonic()
            ((_, found),) = pool.probe_many([(key, str(archive / trial.kind / trial.name))])
            report.worst_probe_s = max(report.worst_probe_s, (time.monotonic() - started, key))
            classes[key] = found.error_class if isinstance(found, ClipFailure) else ""
    return classes


def _job(settings: Settings, folder: Path, place: Path, archive: Path) -> JobConfig:
    given = {"uri": str(archive)}
    if settings.s3_endpoint is not None:
        given = {"uri": _uploaded(archive, settings.s3_endpoint, place.name), "endpoint_url": settings.s3_endpoint}
    return make_job(
        {
            "name": "hostile",
            "archive": given,
            "output": str(place / "results"),
            "question_set": str(folder / "questions.yaml"),
            "clips": {"length_s": 60, "fps": 1, "max_pixels": 28 * 28},
            "pruning": {"retained_ratio": 0.4},
            "execution": {
                "ray_address": "in-process",
                "probe_timeout_s": settings.probe_timeout_s,
                "decode_timeout_s": settings.decode_timeout_s,
            },
        }
    )


def _uploaded(archive: Path, endpoint: str, bucket: str) -> str:
    import s3fs

    filesystem = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True)
    filesystem.mkdir(bucket)
    for path in archive.rglob("*"):
        if path.is_file():
            filesystem.pipe_file(f"{bucket}/{path.relative_to(archive)}", path.read_bytes())
    return f"s3://{bucket}"


@dataclass
class _Ends:
    """By key: (status, decoded share) of the clips that have answers, (stage, class, message) of what has none."""

    shares: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    failures: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)


def _read_back(job: JobConfig) -> _Ends:
    """From the published tables."""
    ends = _Ends()
    with open_results(job.output, job.storage) as connection:
        for key, status, share in query(connection, "SELECT media_key, status, decoded_share FROM clips").rows:
            ends.shares.setdefault(key, []).append((status, share))
        failed = "SELECT media_key, stage, error_class, message FROM quarantine"
        for key, stage, error_class, message in query(connection, failed).rows:
            ends.failures.setdefault(key, []).append((stage, error_class, message))
    return ends


def _decode_only(job: JobConfig, timer: _Timer) -> _Ends:
    """Listing, probing, planning and decoding as the job does them; no model."""
    ends = _Ends()
    question_set = load_question_set(job.question_set)
    recipe = make_recipe(job, question_set, "0" * 64)
    decoding = DecodeSettings(
        fps=job.clips.fps, max_pixels=job.clips.max_pixels or 0, timeout_s=job.execution.decode_timeout_s
    )
    with prober(job) as probe:
        plans = [plan_media(m, p, job, question_set, recipe) for m, p in probe(list(list_media(job.archive)))]
    timer.stage("decoding")
    for plan in plans:
        key = plan.media.key
        if plan.failure is not None:
            ends.failures[key] = [(plan.failure.stage, plan.failure.error_class, plan.failure.message)]
        for unit in plan.units:
            outcomes = []
            for outcome in decode_unit(unit, decoding, source(job)):
                if isinstance(outcome, ClipFailure):
                    failure = (outcome.stage, outcome.error_class, outcome.message)
                    ends.failures.setdefault(key, []).append(failure)
                else:
                    status = "answered" if outcome.decoded_share == 1 else "partial"
                    ends.shares.setdefault(key, []).append((status, outcome.decoded_share))
                outcomes.append(outcome)
            timer.decoded(key, len(outcomes))
    return ends


def _count(by_key: dict[str, Trial], ends: _Ends, probed: dict[str, str], report: Report) -> None:
    shares, failures = ends.shares, ends.failures
    for key, trial in by_key.items():
        outcome = _outcome(key, trial, shares.get(key, []), failures.get(key, []), report)
        report.files += 1
        report.counts.setdefault(trial.kind, Counter())[outcome] += 1
        in_job = next((c for stage, c, _ in failures.get(key, []) if stage == "probe"), "")
        if trial.is_text and in_job != probed[key] and "timeout" not in in_job + probed[key]:
            report.violations.append(f"{key}: probed as {probed[key] or 'media'} alone, {in_job or 'media'} in the job")
    unknown = (shares.keys() | failures.keys()) - by_key.keys()
    report.violations += [f"{key}: rows of no file" for key in unknown]


def _outcome(
    key: str,
    trial: Trial,
    shares: Sequence[tuple[str, float]],
    failures: Sequence[tuple[str, str, str]],
    report: Report,
) -> str:
    """`answered`, `partial`, `some clips` (others are in quarantine) or `quarantine: CLASS`; `hidden: not listed` for
    names that begin with a dot. Checked on the way."""
    classes = [error_class for _, error_class, _ in failures]
    for stage, error_class, message in failures:
        if error_class not in stable_classes():
            report.violations.append(f"{key}: {stage}: {error_class}: {message}"[:400])
    for status, share in shares:
        # Of pictures or sound everything may be lost, as long as enough of the other is there.
        if not 0 <= share <= 1 or (status == "answered") != (share == 1):
            report.violations.append(f"{key}: {status} with a share of {share}")
    if trial.name.startswith(".") and not shares and not failures:
        return "hidden: not listed"
    if trial.is_intact and trial.is_text and {status for status, _ in shares} != {"answered"}:
        report.violations.append(f"{key}: intact, but {classes or shares}")
    if not shares and not failures:
        report.violations.append(f"{key}: lost, neither answers nor quarantine")
        return "lost"
    if not shares:
        return f"quarantine: {Counter(classes).most_common(1)[0][0]}"
    if failures:
        return "some clips"
    return "partial" if any(status == "partial" for status, _ in shares) else "answered"


def stable_classes() -> frozenset[str]:
    """Every `error_class` of our own exceptions that names a reason."""
    found, waiting = {"empty_media"}, [OmniDropError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found.add(kind.error_class)
    return frozenset(found - UNNAMED)
