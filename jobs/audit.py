"""`omnidrop audit JOB_OR_RESULTS`: what pruning really saved and changed, on clips that were also run dense."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from jobs._shared.display import banded, console, off_line, print_facts, share, with_reasons
from jobs._shared.options import JsonFile, write_json
from jobs._shared.results import EndpointUrl, JobName, Results, find_results
from jobs.cli import main
from omnidrop.errors import UserError
from pipeline.config.job import AuditConfig

if TYPE_CHECKING:
    from pipeline.evaluation.audit import Agreement, Audit

EXAMPLES = (
    "omnidrop audit job.yaml",
    "omnidrop audit demo/results --min-agreement 0.95 --json audit.json",
    "omnidrop audit s3://bucket/results --job lectures",
)
ADVICE = (
    "give these questions a higher retained_ratio in the question set: questions with the same ratio share a pass that "
    "only they guide"
)


def command(
    results: Results = None,
    job: JobName = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="List questions that agree with dense less often than this. Default: the job file's value.",
            show_default=False,
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Show what pruning saved and changed: time, memory and answers of the clips that were also run dense.

    A run audits `audit.share` of its clips. Shares are shown with 95 % confidence intervals over media.
    """
    # Here, so that --help need not wait for pyarrow.
    from pipeline.evaluation.audit import audit_of
    from pipeline.storage.store import open_store
    from pipeline.tables import manifest
    from pipeline.tables.query import chosen_job, job_names

    place = find_results(results, endpoint_url)
    uri, settings = place.uri, AuditConfig()
    if place.job is not None:
        job, settings = job or place.job.name, place.job.audit
    store = open_store(uri, place.storage)
    published = manifest.current(store)
    if published is None:
        raise UserError(f"{uri}: there are no published tables; run `omnidrop index` with this output first")
    media = manifest.read(store, published, "media").select(["job", "jobs"]).to_pylist()
    jobs = job_names(name for row in media for name in row["jobs"] or [row["job"]])
    job = chosen_job(jobs, uri, job)
    found = audit_of(store, published, job, settings.min_agreement if min_agreement is None else min_agreement)
    if found is None:
        raise UserError(
            f"{uri}: no clip of job {job} was audited. A run audits audit.share of its clips "
            f"({settings.share:g} now; none in dense modes). For new media, raise it with --audit-share"
        )
    _print(job, found)
    write_json(json_file, _as_json(job, found))


def _print(job: str, audit: Audit) -> None:
    facts = [("clips run both ways", f"{audit.clips}")]
    if audit.failed:
        facts.append(("dense failed", with_reasons(sum(count for _, count in audit.failed), audit.failed)))
    if audit.saved_s is not None:
        facts.append(("model seconds saved", banded(audit.saved_s)))
    memory = audit.saved_peak_bytes
    facts.append(("peak memory saved", "not reported by this device" if memory is None else banded(memory)))
    facts.append(("seconds estimated from FLOPs", _claim(audit)))
    print_facts(f"job {job}: audited against dense with prefix reuse", facts)
    for title, found in (("question", audit.questions), ("type of answer", audit.answer_types)):
        console.print(_table(title, found))
    if audit.below:
        names = ", ".join(one.name for one in audit.below)
        console.print(f"[yellow]below {share(audit.min_agreement)}:[/] {names}; {ADVICE}", soft_wrap=True)


def _claim(audit: Audit) -> str:
    from pipeline.evaluation.audit import MIN_HALF, TOLERANCE

    claim = audit.claim
    if claim is None:
        return f"not judged: half of the clips fit them, the other half judges, and each needs {MIN_HALF}"
    if not claim.is_within:
        return off_line(claim)
    return f"within {share(TOLERANCE)} of those measured on {claim.judged_on} other clips"


def _table(title: str, found: tuple[Agreement, ...]) -> Table:
    table = Table(title=f"agreement by {title}", title_justify="left")
    for column in (title, "compared", "media", "agree (95 %)", "since the run before", ""):
        table.add_column(column)
    for one in found:
        drift = "-" if one.drift is None else f"{100 * one.drift:+.1f} points"
        if one.drift_low is not None and one.drift_high is not None:
            drift += f" ({100 * one.drift_low:+.1f} to {100 * one.drift_high:+.1f})"
        counts = (f"{one.share.count}", f"{one.share.media}")
        table.add_row(one.name, *counts, banded(one.share), drift, "" if one.share.is_enough else "too few to judge")
    return table


def _as_json(job: str, audit: Audit) -> dict[str, object]:
    claim = audit.claim
    return {
        "job": job,
        **asdict(audit),
        "claim": claim and {**asdict(claim), "off": claim.off, "is_within": claim.is_within},
        "below": [one.name for one in audit.below],
    }


if __name__ == "__main__":
    main("audit")
