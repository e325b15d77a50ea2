"""What a job has in the published tables, counted for summaries.

Promises: rows are the job's own, also those that another job of the output lists, too. Knows nothing about how anything
is shown.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pipeline.config.sections import StorageConfig
from pipeline.tables.noticed import Case, noticed_in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobRows:
    """Rows of one job; none where nothing is published yet."""

    answers: int | None = 0
    """None where the tables cannot be read."""
    whole_answers: int = 0
    noticed: tuple[Case, ...] = ()
    is_among_others: bool = False
    """Whether other jobs have rows there, too."""


def job_rows(uri: str, storage: StorageConfig, job: str) -> JobRows:
    """Count a job's rows in what an output has published. Tables that cannot be read are a warning: what a run did is
    done."""
    from pipeline.tables.query import NothingPublished, QueryError, jobs_of, open_results, the_job

    try:
        with open_results(uri, storage, views=("noticed",)) as connection:
            is_among_others = len(jobs_of(connection)) > 1
            the_job(connection, uri, job)
            ((answers, whole),) = connection.execute(
                "SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM whole_answers)"
            ).fetchall()
            return JobRows(answers, whole, noticed_in(connection, job), is_among_others)
    except NothingPublished:
        return JobRows()
    except QueryError as error:
        log.warning("the published tables cannot be read: %s; check them with `omnidrop verify`", error)
        return JobRows(None)
