"""Everything that a job needs, tried before a GPU second is spent: one check after the other, each with its finding.

Promises: every check does the real thing on the smallest scale (lists one item, writes one object, answers one black
second), leaves nothing behind, and a failed one says what to do. Knows nothing about how findings are shown.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy

from omnidrop import policies
from omnidrop.errors import OmniDropError, UserError, first_line
from omnidrop.models.checkpoints import describe_checkpoint
from omnidrop.models.quantised import stored
from omnidrop.questions import Question
from pipeline.archive.listing import list_media
from pipeline.archive.not_taken import NotTaken
from pipeline.archive.probing import source
from pipeline.config.idle_settings import idle_settings
from pipeline.config.job import JobConfig
from pipeline.config.locations import is_s3
from pipeline.config.worker_settings import decode_settings
from pipeline.counted import counted
from pipeline.index.database import (
    GRANT,
    IndexMissing,
    IndexOutdated,
    IndexUnreadable,
    check_supported,
    reason_of,
    shown,
)
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.schema import tables_of
from pipeline.journal.output_id import read_output_id
from pipeline.planning.context import context_reader
from pipeline.questions.question_set import QuestionSet, load_question_set
from pipeline.questions.templates import UNTOLD, Told
from pipeline.storage.local_store import LocalStore
from pipeline.storage.store import caveats, open_store
from workers.errors import MediaError
from workers.media import confinement, nvdec
from workers.media.fetching import own_folder, room_in
from workers.media.ffmpeg import Limits, check_ffmpeg, filters, find_ffmpeg, run
from workers.media.probing import probe
from workers.media.sidecars import is_named_aside
from workers.records import Media, MediaInfo
from workers.whole_text import OF_CLIPS, Line
from workers.whole_text import told as told_of

MEDIA_TRIED = 5
"""Items that are looked at for one that can be probed: a single damaged file at the top proves nothing."""
TONE_MAPPING_FILTERS = ("zscale", "tonemap")


class CheckError(UserError):
    """A check failed; the message says what to do."""


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None where an earlier failure left nothing to check."""

    name: str
    ok: bool | None
    detail: str


@dataclass
class _Found:
    """What earlier checks found out for later ones."""

    question_set: QuestionSet | None = None
    media: tuple[Media, ...] = ()
    bytes: int = 0
    """Of all items."""
    larger: int = 0
    """Items that are larger than a machine's cache."""
    readable: tuple[Media, MediaInfo] | None = None
    """The first item that can be read."""
    questions: tuple[Question, ...] = ()
    whole: tuple[Question, ...] = ()
    instruction: str = ""


def run_checks(job: JobConfig, *, with_model: bool = True, weights: bool = True) -> Iterator[Check]:
    """Findings as they come. A `JobConfig` that exists is consistent in itself, so that is the first finding. Without
    `weights` the checkpoint is described and the questions are laid out for it, but it is not loaded."""
    found = _Found()
    yield Check("configuration", True, f"job {job.name}: {job.pruning.mode}, policy {job.pruning.policy}")
    checks: list[tuple[str, Callable[[JobConfig, _Found], str | None]]] = [
        ("question set", _question_set),
        ("archive", _archive),
        ("files fetched", _cache),
        ("questions fit the media", _questions_fit),
        ("output", _output),
        ("savings index", _index),
        ("ffmpeg", _ffmpeg),
        ("decoder", _decoder),
        ("confinement", _confinement),
    ]
    if with_model:
        checks.append(("retained ratio", _ratio))
        checks.append(("checkpoint answers", _checkpoint) if weights else ("checkpoint described", _described))
    for name, check in checks:
        try:
            detail = check(job, found)
        except (OmniDropError, OSError) as error:
            yield Check(name, False, str(error))
            continue
        yield Check(name, None, "an earlier check failed") if detail is None else Check(name, True, detail)


def _question_set(job: JobConfig, found: _Found) -> str:
    found.question_set = load_question_set(job.question_set)
    values = found.question_set.values(job.variables)
    given = ", ".join(f"{name}={value}" for name, value in values.items())
    asked, whole = len(found.question_set.questions), len(found.question_set.whole)
    count = counted(asked, "question") + (f", and {whole} about whole videos" if whole else "")
    said = f"{found.question_set.name} {found.question_set.version}: {count}{f'; {given}' if given else ''}"
    idle = idle_settings(job, reads_context=bool(found.question_set.context_names))
    return "; but ".join((said, *found.question_set.warnings, *idle))


def _archive(job: JobConfig, found: _Found) -> str:
    whole, left = job.archive.model_copy(update={"sample": None}), NotTaken()
    first: list[Media] = []
    files = beside = 0
    for media in list_media(whole, leave_out=job.output, not_taken=left):
        is_aside = is_named_aside(media.key)
        files, beside = files + 1, beside + is_aside
        found.bytes += media.size_bytes
        found.larger += media.size_bytes > job.execution.cache_bytes
        # What is called like a sidecar is looked into only where there is nothing else.
        if len(first) < MEDIA_TRIED or (not is_aside and is_named_aside(first[-1].key)):
            first = sorted([*first, media], key=lambda one: is_named_aside(one.key))[:MEDIA_TRIED]
    found.media = tuple(first)
    parts = [f"{job.archive.uri}: {counted(files, 'file')}, begins with {first[0].key}"]
    parts += [
        f"{beside} of them have names like subtitles or other sidecars; plan and index check their content"
    ] * bool(beside)
    parts += [f"{name}: {count}" for name, count in left.lines()]
    return "; ".join(parts)


def _questions_fit(job: JobConfig, found: _Found) -> str | None:
    if found.question_set is None or not found.media:
        return None
    problems: list[str] = []
    for media in found.media:
        try:
            info = _probe(media, job)
        except MediaError as error:
            problems.append(f"{media.key}: {error}")
            continue
        found.readable = media, info
        told, known_as = _told(media, info, job, found.question_set.context_names)
        found.questions, found.instruction = found.question_set.resolve(media, info, job.variables, told)
        found.whole = found.question_set.resolve_whole(media, info, job.variables)
        codecs = ", ".join(codec for codec in (info.video_codec, info.audio_codec) if codec is not None)
        return f"{media.key}: {info.duration_s:.1f} s, {codecs}{known_as}; e.g. {found.questions[0].text!r}"
    raise CheckError(
        f"none of the first {len(found.media)} items can be read; check archive.include: " + "; ".join(problems)
    )


def _told(media: Media, info: MediaInfo, job: JobConfig, names: Sequence[str]) -> tuple[Told, str]:
    """What the first clip is told by sidecars, and which they are."""
    reader = context_reader(job, names)
    if reader is None:
        return UNTOLD, ""
    item = reader.read(media, info)
    if item.failure:
        raise CheckError(item.failure)
    return item.of_clip(0.0, min(info.duration_s, job.clips.longest_s))[0], f", {reader.counts.line}"


def _probe(media: Media, job: JobConfig) -> MediaInfo:
    options = dict(source(job).storage_options)
    # A scan of an object would read it whole.
    scans = not is_s3(media.uri)
    return probe(media.uri, timeout_s=job.execution.probe_timeout_s, storage_options=options, scans=scans)


def _cache(job: JobConfig, found: _Found) -> str:
    """Whether what is fetched from a store finds room on this machine."""
    cache = source(job).cache
    if not is_s3(job.archive.uri):
        return "not needed: the archive's files are decoded where they lie"
    missing = _missing_folders(cache.path)
    try:
        try:
            own_folder(cache.path)
            room = room_in(cache)
        except OSError as error:
            raise CheckError(
                f"execution.cache_dir: {cache.path} cannot be used here: {error.strerror}; choose another folder"
            ) from error
        wanted = min(cache.max_bytes, found.bytes or cache.max_bytes)
        if room < wanted:
            raise CheckError(
                f"{cache.path}: {_gib(room)} free, but cached archive files may take {_gib(wanted)}; free "
                "some space, lower execution.cache_bytes, or set execution.cache_dir to a folder on a larger disk"
            )
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
    larger = f"; {found.larger} files are larger and are read in blocks" if found.larger else ""
    return f"{cache.path}: {_gib(room)} free on this machine, up to {_gib(cache.max_bytes)} are kept{larger}"


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:,.1f} GiB"


def _output(job: JobConfig, found: _Found) -> str:
    store = open_store(job.output, job.storage)
    missing = _missing_folders(Path(job.output)) if isinstance(store, LocalStore) else []
    key, data = f"validate-{secrets.token_hex(8)}.tmp", b"written by omnidrop validate; may be deleted"
    try:
        if not store.write_once(key, data) or store.read_bytes(key) != data:
            raise CheckError(f"{job.output}: a test object was written but read back differently; check the store")
        warnings = caveats(store, key)
    finally:
        store.delete([key])
        for folder in missing:
            if folder.is_dir():
                folder.rmdir()
    return "; but ".join((f"{job.output}: an object was written, read and deleted", *warnings))


def _missing_folders(folder: Path) -> list[Path]:
    """Folders that writing will make, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _index(job: JobConfig, found: _Found) -> str:
    given = job.resolved_index_url()
    try:
        url = sqlalchemy.make_url(given)
        check_supported(given)
        place = _sqlite_place(url.database, job.output) if url.get_backend_name() == "sqlite" else "connected"
        if place != "will be made":
            engine = sqlalchemy.create_engine(url)
            try:
                _may_do_all(engine)
                _may_use_own_tables(engine, given, read_output_id(open_store(job.output, job.storage)))
            finally:
                engine.dispose()
    except ModuleNotFoundError as error:
        raise CheckError(
            f"index_url: the driver {error.name} is not installed; pip install 'omnidrop[postgres]'"
        ) from None
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise CheckError(
            "index_url: not a SQLAlchemy URL such as postgresql+psycopg://user@host/database; @ : / % in a password "
            "are written %40 %3A %2F %25"
        ) from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise CheckError(
            f"index_url: {shown(given)} cannot be used: {reason_of(error, given)}; check host, database, user, "
            f"PGPASSWORD, that the user may create tables ({GRANT}), and has all rights on those of this output"
        ) from None
    return f"{shown(given)}: {place}"


def _may_do_all(engine: sqlalchemy.Engine) -> None:
    """Do once what a run does: make a table, write, read, drop it."""
    name = f"omnidrop_validate_{secrets.token_hex(6)}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {name} (x INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(f"INSERT INTO {name} VALUES (1)")
        connection.exec_driver_sql(f"SELECT x FROM {name}")
        connection.exec_driver_sql(f"DROP TABLE {name}")
        connection.commit()


def _may_use_own_tables(engine: sqlalchemy.Engine, url: str, output_id: str | None) -> None:
    """Look at the tables that earlier runs made, and change none of their rows. Raises UserError."""
    if output_id is None:
        return
    try:
        SavingsIndex(url, output_id, is_read_only=True).close()
    except (IndexMissing, IndexOutdated, IndexUnreadable):
        return  # a run makes it, migrates it, or tells
    never = sqlalchemy.false()
    with engine.connect() as connection:
        for table in tables_of(output_id).metadata.tables.values():
            connection.execute(table.delete().where(never))
            connection.execute(table.update().values({c: c for c in table.primary_key}).where(never))
            connection.execute(table.insert().from_select(list(table.c), sqlalchemy.select(table).where(never)))


def _sqlite_place(database: str | None, output: str) -> str:
    if database is None or database in ("", ":memory:"):
        raise CheckError("index_url: a database in memory is lost after the run; give a file, sqlite:////path/to/file")
    folder = Path(database).absolute().parent
    missing = _missing_folders(folder)
    if missing and folder != Path(output):  # a run makes the output's folder, and no other
        raise CheckError(f"index_url: the folder {folder} does not exist; make it, or choose another place")
    nearest = missing[-1].parent if missing else folder
    if not os.access(nearest, os.W_OK):
        raise CheckError(f"index_url: {nearest} is not writable; choose another place")
    return "there" if Path(database).exists() else "will be made"


def _ffmpeg(job: JobConfig, found: _Found) -> str:
    tool = check_ffmpeg()
    tone_maps = all(name in filters() for name in TONE_MAPPING_FILTERS)
    note = "" if tone_maps else "; without zscale, so HDR video is not tone-mapped"
    return f"{tool}{note}"


def _decoder(job: JobConfig, found: _Found) -> str:
    settings = decode_settings(job.clips, job.execution)
    if settings.decoder != "cpu" and job.execution.is_on_a_cluster:
        return f"{settings.decoder}: each machine of the cluster that decodes finds out what it has"
    nvdec.require(settings)
    return nvdec.said(settings) or "video on the CPU"


def _confinement(job: JobConfig, found: _Found) -> str:
    """Run the ffmpeg that decodes as it is run for decoding: it may be a script, or its libraries out of reach."""
    confinement.require(job.execution.confinement)
    tried = run([find_ffmpeg(), "-hide_banner", "-version"], limits=Limits(30.0, 1 << 20))
    if tried.returncode:
        why = tried.stderr.strip()[:300] or f"status {tried.returncode}"
        raise CheckError(
            f"{find_ffmpeg()} does not run in the sandbox ({why}); set "
            "OMNIDROP_FFMPEG to a program (not a script) whose libraries are in the system's folders"
        )
    granted = confinement.level()
    weaker = "" if granted.is_full else "; less than landlock+seccomp: hostile media could read what this user can"
    return f"{granted}{weaker}"


def _ratio(job: JobConfig, found: _Found) -> str | None:
    if found.readable is None:
        return None
    from pipeline.planning.feasibility import check_reachable

    media, info = found.readable
    schedule = check_reachable(job, media.key, info)
    tokens = f"{schedule.total} audio and video tokens of {job.clips.longest_s:g} s of {media.key}"
    said = f"{schedule.retained_ratio:.3f} of {tokens}; {schedule.entering[0]} enter the decoder"
    remark = policies.remark(job.pruning.policy, job.pruning.settings)
    return f"{said}; note: {remark}" if remark else said


def _described(job: JobConfig, found: _Found) -> str:
    """All that a plan needs of a checkpoint; of the hub its weights stay where they are."""
    from omnidrop.estimate import Estimator
    from pipeline.config.worker_settings import pruning_of

    described = describe_checkpoint(job.model.checkpoint)
    commit = "" if described.revision is None else f" at commit {described.revision[:12]}"
    said = f"{job.model.path}{commit}: weights {described.weights_hash[:12]}, {stored(described.directory)}; not loaded"
    if not found.questions:
        return f"{said}; no questions to lay out"
    estimator = Estimator(job.model.checkpoint)
    priced = estimator.clip(
        found.questions,
        pruning_of(job.pruning),
        frames=4,
        height=448,
        width=448,
        samples=32_000,
        fps=2.0,
        system_prompt=job.model.system_prompt,
        instruction=found.instruction,
    )
    tokens = priced.audio_tokens + priced.video_tokens
    if found.whole:
        estimator.text(1, found.whole, system_prompt=job.model.system_prompt)
    laid_out = len(found.questions) + len(found.whole)
    return f"{said}; {laid_out} questions laid out beside {tokens} tokens of two seconds"


def _checkpoint(job: JobConfig, found: _Found) -> str:
    """Load the checkpoint and ask the whole set about a black, silent second, so that all that can fail does so now."""
    from omnidrop.model import Request
    from pipeline.config.worker_settings import answerer_settings
    from workers.model.answerer import load_model

    settings = answerer_settings(job.model, job.pruning)
    model = load_model(settings)
    weights = f"{model.weights_hash[:12]}, {model.adapter.stored}"
    loaded = f"{job.model.path}: {model.family} on {model.adapter.device}, weights {weights}"
    if not found.questions:
        return f"{loaded}; loaded, but not asked: no question could be made, because an earlier check failed"
    frames, audio = np.zeros((2, 112, 112, 3), np.uint8), np.zeros(16_000, np.float32)
    request = Request(found.questions, 2.0, settings.pruning, settings.system_prompt, found.instruction)
    try:
        answered = model.answer(frames, audio, request)
    except OmniDropError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise CheckError(f"{loaded}; it fails on a black second ({what})") from error
    said = f"{loaded}; {len(answered.answers)} questions about a black second in {answered.cost.seconds:.1f} s"
    if not found.whole:
        return said
    line = Line(0.0, 1.0, told_of(found.questions, answered))
    read = model.answer_text(f"{OF_CLIPS}\n{line}", found.whole, system_prompt=settings.system_prompt)
    return f"{said}; {len(read.answers)} about what it said in {read.cost.seconds:.1f} s"
