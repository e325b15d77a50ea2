"""Log lines as JSON objects, one a line, that name the run, the unit and the clip they are about.

Promises: a line is one JSON object with `time`, `level`, `logger`, `message` and whichever of `IDS` are known; each
of a run names the run, whichever thread wrote it; credentials are masked. Knows nothing about who reads them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from workers.records import ClipFailure
from workers.redaction import without_secrets

if TYPE_CHECKING:
    from pipeline.execution.clip_state import UnitResult

log = logging.getLogger(__name__)

IDS = ("run_id", "media_id", "unit_id", "clip_id", "stage", "error_class", "clips", "failed")
"""Fields that a line may have beside what every line has: give them as `extra` of a log call."""
OURS = ("omnidrop", "workers", "pipeline", "jobs")
"""The loggers that are shown from INFO on; of all others, warnings."""


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        line |= {name: value for name in IDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = without_secrets(self.formatException(record.exc_info))
        text = json.dumps(line, ensure_ascii=False, default=str)
        # A terminal obeys more than JSON escapes, and still shows JSON.
        return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


@contextmanager
def json_logs(stream: IO[str]) -> Iterator[None]:
    """While it lasts, everything that is logged goes to a stream as JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    before = {name: logging.getLogger(name).level for name in OURS}
    logging.getLogger().addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def run_named(run_id: str) -> Iterator[None]:
    """While it lasts, every record names the run."""
    before = logging.getLogRecordFactory()

    def with_run(*args: Any, **given: Any) -> logging.LogRecord:
        record = before(*args, **given)
        record.run_id = run_id
        return record

    logging.setLogRecordFactory(with_run)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def log_unit(result: UnitResult) -> None:
    """One line for a finished unit, one for each clip of it that failed."""
    unit = result.unit
    failures = [outcome for outcome in result.outcomes if isinstance(outcome, ClipFailure)]
    ids: dict[str, str | None] = {"media_id": unit.media.media_id, "unit_id": unit.unit_id}
    for failure in failures:
        about = {
            "clip_id": failure.clip.clip_id if failure.clip else None,
            "stage": failure.stage,
            "error_class": failure.error_class,
        }
        log.info("clip failed: %s", failure.message, extra=ids | about)
    log.info("unit finished", extra=ids | {"clips": len(unit.clips), "failed": len(failures)})
