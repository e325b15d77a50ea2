"""A job's runs at the times of a cron expression, one at a time, none of them lost and none done twice.

Promises: runs of one job on schedule never overlap, on however many machines a schedule is kept (`lease.py`);
times missed while no schedule was running, or during a run, are made up for by one run; a run that fails is
recorded and the schedule goes on. Every run leaves a record, the last of which says from where to go on; records of
runs that found nothing to do are not kept beyond that, so that a schedule costs as much after years as on its first
day:

    schedules/<job>/last.json               the newest record
    schedules/<job>/runs/<due time>.json    every run that did something or failed

Knows nothing about what a run does, or about the command line.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from omnidrop.errors import OmniDropError, UserError
from omnidrop.json_text import parse_json
from pipeline.launch.lease import LEASE_S, Lease, take_lease
from pipeline.planning.asking_again import AsksAgain
from pipeline.storage.errors import StorageError
from pipeline.storage.outage import StopFlag
from workers.redaction import without_secrets

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.runs.run import RunSummary
    from pipeline.storage.store import Store

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 30.0
"""How long one wait for the next due time may be: a clock that was set, or a machine that slept, is noticed then."""
SKEW_S = 60.0
"""How far clocks of machines that keep one schedule may differ, and more: a record of a later time is one of a clock
that was wrong."""
MISSED = 3
"""Due times without a run from which on it is said."""
MOST_MISSED = 1000
"""Counted up to this: a schedule of every minute that was left for years."""
BUSY_WAIT_S = 5.0
"""How soon to look again whether another process still holds the lease, or the store is back."""


class ScheduleError(UserError):
    """A schedule cannot be kept as given."""

    error_class = "schedule"


@dataclass(frozen=True)
class Cron:
    """Due times in a time zone. Summer time is treated as by Debian's cron: nothing is left out or done twice."""

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            if len(self.expression.split()) != 5:
                # CronSim also takes six, with seconds first or last: a run each second is not useful.
                raise CronSimError(f"{len(self.expression.split())} fields")
            self._from(datetime.now(UTC))
        except CronSimError as error:
            raise ScheduleError(
                f"--cron {self.expression!r}: {error}; give five fields: minute, hour, day of month, month, "
                'day of week, for example "0 2 * * *" (every night at two)'
            ) from error
        except (KeyError, OSError, ValueError) as error:
            raise ScheduleError(
                f"--timezone {self.timezone!r} is not known here; give a name such as Europe/Berlin or UTC (minimal "
                "containers need the system's tzdata)"
            ) from error

    def next_after(self, moment: datetime) -> datetime:
        """The first due time after a moment, in UTC. Raises ScheduleError where there is none within 50 years."""
        if (due := next(self._from(moment), None)) is None:
            raise ScheduleError(f"--cron {self.expression!r} is never due")
        return due.astimezone(UTC)

    def last_until(self, moment: datetime) -> datetime:
        """The last due time that is not after a moment, in UTC. Raises ScheduleError where there is none."""
        # CronSim leaves out the moment that it starts from.
        just_after = moment.replace(microsecond=max(moment.microsecond, 1))
        if (due := next(self._from(just_after, reverse=True), None)) is None:
            raise ScheduleError(f"--cron {self.expression!r} was never due")
        return due.astimezone(UTC)

    def missed(self, last_due: datetime, now: datetime) -> int:
        """How many due times have passed since a run was due, at most `MOST_MISSED`."""
        due = (moment.astimezone(UTC) for moment in self._from(last_due))
        return sum(1 for _ in takewhile(lambda moment: moment <= now, islice(due, MOST_MISSED)))

    def _from(self, moment: datetime, *, reverse: bool = False) -> CronSim:
        return CronSim(self.expression, moment.astimezone(ZoneInfo(self.timezone)), reverse=reverse)


@dataclass(frozen=True)
class ScheduledRun:
    """What one run on schedule did; also the mark from where the schedule goes on. Times are ISO 8601 in UTC."""

    job: str
    due_at: str
    started_at: str
    finished_at: str
    status: str
    """As of a run's record (complete, budget, stopped, failed); `begun` for the mark that a new schedule leaves."""
    lease_token: int = 0
    run_id: str | None = None
    """None where the run failed before it had a name, and in all that follows what is not known then."""
    media_listed: int | None = None
    media_new_or_changed: int | None = None
    clips_answered: int | None = None
    """With all answers or some."""
    answers: int | None = None
    quarantined: int | None = None
    wall_s: float | None = None
    model_s: float | None = None
    """Seconds of the model in this run."""
    gpu_hours: float | None = None
    usd: float | None = None
    """What the run cost, where the job has a price: see `pipeline/cost/budget.py`."""
    error_class: str | None = None
    error: str | None = None
    cron: str | None = None
    """The schedule that it was due by; None in records of older versions."""
    timezone: str = "UTC"

    @property
    def found_nothing_to_do(self) -> bool:
        """Whether everything was finished before."""
        return self.status == "complete" and not (self.clips_answered or self.quarantined or self.error_class)

    @property
    def line(self) -> str:
        """The record on one line, for a log."""
        told = ((name, value) for name, value in asdict(self).items() if value is not None)
        return " ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in told
        )


class Clock(StopFlag, Protocol):
    """A stop flag that can be waited for."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most so long; whether it is."""
        ...


def check_same_place(kept: JobConfig, now: JobConfig) -> None:
    """Raises ScheduleError where a job that has changed is another one, or has its results elsewhere: its lease and its
    records would be, too."""
    before, after = ((job.name, job.output, job.storage.endpoint_url) for job in (kept, now))
    if before != after:
        raise ScheduleError(
            f"the job file names job {now.name} with output {now.output} by now; this schedule keeps job {kept.name} "
            f"with output {kept.output}; start `omnidrop schedule` again"
        )


def keep_schedule(
    store: Store,
    job: str,
    cron: Cron,
    run: Callable[[Lease], RunSummary],
    stop: Clock,
    report: Callable[[ScheduledRun], None],
    count: int | None = None,
    lease_s: float = LEASE_S,
) -> ScheduledRun | None:
    """Run a job when it is due until `stop` is set, or `count` runs were made here; returns the last of them.

    `run` gets the lease and must begin nothing new once it is set; how many due times it makes up for stands there.
    Raises StorageError where the store cannot be used at the start; later on it is waited for.
    """
    last = last_run(store, job)
    if last is None:
        # Remembered, so that a first run that was missed is made up for, too.
        write_record(store, _mark(job, cron))
    elif (said := overdue(last, datetime.now(UTC), cron)) is not None:
        log.warning(said)
    done, record = 0, None
    while not stop.is_set() and (count is None or done < count):
        try:
            made = _run_if_due(store, job, cron, run, stop, lease_s)
        except StorageError as error:
            log.warning("the schedule is waiting for the output's store: %s", error)
            stop.wait(BUSY_WAIT_S)
            continue
        if made is not None:
            done, record = done + 1, made
            report(made)
            if made.error_class in (AsksAgain.error_class, ScheduleError.error_class):
                break  # so would every further run
    return record


def _run_if_due(
    store: Store, job: str, cron: Cron, run: Callable[[Lease], RunSummary], stop: Clock, lease_s: float
) -> ScheduledRun | None:
    """One run, if it is due and no other process runs it; otherwise wait for a while."""
    now = datetime.now(UTC)
    due, missed = _due(store, job, cron, now)
    if due is None:
        until_next_s = (cron.next_after(now) - now).total_seconds()
        stop.wait(min(LONGEST_WAIT_S, until_next_s))
        return None
    lease = take_lease(store, job, lease_s)
    if lease is None:
        if missed >= MISSED:
            log.warning("no run for %d due times: another process holds the lease of job %s's runs", missed, job)
        stop.wait(min(BUSY_WAIT_S, lease_s / 2))
        return None
    with lease:
        # Looked at again: another may have made this run before it gave the lease back.
        due, lease.missed = _due(store, job, cron, now)
        if due is None:
            return None
        record = replace(_recorded(job, due, lease, run), cron=cron.expression, timezone=cron.timezone)
        if lease.is_set():
            log.warning("the lease was lost during the run; the process that took it over writes the record")
        elif record.status != "stopped":
            # A run that was stopped stays due: the next start goes on with it.
            write_record(store, record)
    return record


def _due(store: Store, job: str, cron: Cron, now: datetime) -> tuple[datetime | None, int]:
    """The newest time that has passed since the last run was due, and how many there were: all are made up for with it.
    None where none has passed."""
    last = last_run(store, job)
    due = cron.last_until(now)
    if last is None:
        return None, 0
    last_due = datetime.fromisoformat(last.due_at)
    if (last_due - now).total_seconds() > SKEW_S:
        log.warning(
            "the last run of job %s is recorded as due at %s, after %s, so a clock was wrong; starting a run now",
            *(job, last.due_at, now.isoformat(timespec="seconds")),
        )
        return due, 1
    return (due, cron.missed(last_due, now)) if due > last_due else (None, 0)


def overdue(last: ScheduledRun, now: datetime, cron: Cron | None = None) -> str | None:
    """What to say of a schedule that has made no run for `MISSED` due times, None of any other. Records of older
    versions do not tell their schedule."""
    if cron is None and last.cron is not None:
        cron = Cron(last.cron, last.timezone)
    if cron is None:
        return None
    missed = cron.missed(datetime.fromisoformat(last.due_at), now)
    if missed < MISSED:
        return None
    return (
        f"the schedule {cron.expression!r} ({cron.timezone}) of job {last.job} has made no run for {missed} due times, "
        f"the last was due at {last.due_at} and {last.status}; check `omnidrop schedule` and its log"
    )


def _recorded(job: str, due: datetime, lease: Lease, run: Callable[[Lease], RunSummary]) -> ScheduledRun:
    started, began = _now(), time.monotonic()
    try:
        summary = run(lease)
    except Exception as error:
        # Whatever ended this run, the next one may go well.
        known = isinstance(error, OmniDropError)
        log.error("the scheduled run failed", exc_info=None if known else error)
        return ScheduledRun(
            job,
            due.isoformat(),
            started,
            _now(),
            "failed",
            lease.token,
            wall_s=time.monotonic() - began,
            error_class=error.error_class if isinstance(error, OmniDropError) else "internal",
            error=without_secrets(str(error)),
        )
    made, counts = summary.run, summary.run.counts
    return ScheduledRun(
        job,
        due.isoformat(),
        started,
        _now(),
        made.status,
        lease.token,
        made.run_id,
        media_listed=counts.media_listed,
        media_new_or_changed=counts.media_planned,
        clips_answered=counts.clips_answered + counts.clips_partial,
        answers=counts.answers,
        quarantined=counts.quarantined,
        wall_s=made.time.wall_s,
        model_s=made.time.model_s,
        gpu_hours=None if made.spending is None else made.spending.gpu_hours,
        usd=None if made.spending is None else made.spending.usd,
        error_class="answered_nothing" if summary.answered_nothing else None,
        error="no clip of the job has an answer; its quarantine says why" if summary.answered_nothing else None,
    )


def last_run(store: Store, job: str) -> ScheduledRun | None:
    """The newest record; None where no schedule was kept. Raises StorageError for damage."""
    key = _last_key(job)
    if not store.exists(key):
        # Versions that kept every record had no newest one.
        keys = [key for key, _ in store.list(f"schedules/{job}/runs/") if key.endswith(".json")]
        if not keys:
            return None
        key = keys[-1]
    try:
        return ScheduledRun(**parse_json(store.read_bytes(key)))
    except (TypeError, ValueError) as error:
        raise StorageError(
            f"{store.uri}/{key} is not a record of a scheduled run ({error}); delete it, and the schedule goes on "
            "from the one before"
        ) from error


def write_record(store: Store, record: ScheduledRun) -> None:
    """Store a record as the newest one; also under its due time, unless the run found nothing to do."""
    data = json.dumps(asdict(record), indent=1, ensure_ascii=False).encode()
    if not record.found_nothing_to_do:
        due = datetime.fromisoformat(record.due_at)
        store.write(f"schedules/{record.job}/runs/{due:%Y%m%dT%H%M%SZ}.json", data)
    store.write(_last_key(record.job), data)


def _last_key(job: str) -> str:
    return f"schedules/{job}/last.json"


def _mark(job: str, cron: Cron) -> ScheduledRun:
    now = _now()
    return ScheduledRun(job, now, now, now, "begun", cron=cron.expression, timezone=cron.timezone)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
