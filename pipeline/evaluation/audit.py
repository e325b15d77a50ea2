"""What an audited sample says of a job: seconds and memory really saved, and how often pruned and dense answers agree.

Promises: every share comes with its 95 % interval over media (clips of one video are not independent) and its count,
and a question with too few comparisons is not judged; claimed seconds are judged on clips they were not fitted to.
Knows nothing about how clips are run; see `workers/model/audit_sample.py` for which clips are drawn.

A clip is audited by running its question set both as the job says and dense with prefix reuse, by the same model, each
from cold caches, in an order drawn by clip. Rows come from the published table `audits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from omnidrop.answers import PassCost
from pipeline.config.sections import AuditConfig
from pipeline.cost.throughput import MeasuredPass, fit
from pipeline.evaluation.intervals import bootstrap_ratio, wilson
from pipeline.tables import manifest
from workers.model.audit_sample import is_fitted

if TYPE_CHECKING:
    from pipeline.storage.store import Store

MIN_COMPARED = 30
"""Fewer comparisons than this say nothing about a question."""
MIN_MEDIA = 5
"""Intervals over fewer media than this are wishes."""
MIN_HALF = 8
"""Audited clips in each half, below which claimed seconds are not judged."""
TOLERANCE = 0.05
"""How far claimed seconds may be off before the summary says so."""


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval over media; no interval where one media item is all there is."""

    value: float
    low: float | None
    high: float | None
    count: int
    """Clips or answers it is made of."""
    media: int

    @property
    def is_enough(self) -> bool:
        """Whether it may be judged at all."""
        return self.count >= MIN_COMPARED and self.media >= MIN_MEDIA


@dataclass(frozen=True)
class Agreement:
    """How often the pruned answers to one question, or kind of question, were those of dense."""

    name: str
    """A question's id, or a type of answer."""
    share: Share
    unreadable: int
    """Dense answers that could not be read: nothing to agree with, and not counted."""
    drift: float | None = None
    """Share in the newest audited run minus share in the one before; None where either has too few."""
    drift_low: float | None = None
    drift_high: float | None = None


@dataclass(frozen=True)
class Claim:
    """Seconds saved as a throughput model claims them from counted FLOPs, against those measured, on other clips."""

    fitted_on: int
    judged_on: int
    """Clips."""
    claimed_s: float
    """Seconds that dense with prefix reuse takes beyond the job's own way, from FLOPs."""
    audited_s: float
    """The same, measured."""

    @property
    def off(self) -> float | None:
        """How far the claim is off, as a share of what was measured; None where nothing was saved."""
        return (self.claimed_s - self.audited_s) / self.audited_s if self.audited_s > 0 else None

    @property
    def is_within(self) -> bool:
        """Whether the claim holds."""
        return self.off is not None and abs(self.off) <= TOLERANCE


@dataclass(frozen=True)
class Audit:
    """What all audited clips of a job say."""

    clips: int
    """Measured both ways."""
    failed: tuple[tuple[str, int], ...]
    """Clips that were answered, but not by dense: error classes and counts. Often what dense has no memory for."""
    saved_s: Share | None
    """Of model seconds, against dense with prefix reuse."""
    saved_peak_bytes: Share | None
    """Of the device's peak memory, weights included; None where the device does not tell."""
    questions: tuple[Agreement, ...]
    answer_types: tuple[Agreement, ...]
    claim: Claim | None
    """None with fewer than `MIN_HALF` clips in a half."""
    min_agreement: float

    @property
    def below(self) -> tuple[Agreement, ...]:
        """Questions that agree with dense less often than asked, and were compared often enough to say so."""
        return tuple(q for q in self.questions if q.share.is_enough and q.share.value < self.min_agreement)


def audit_of(
    store: Store, published: manifest.Published, job: str, min_agreement: float = AuditConfig().min_agreement
) -> Audit | None:
    """What the audited clips of one job say in a published generation; None without any."""
    if not published.rows.get("audits"):
        return None
    audits, runs = manifest.read(store, published, "audits"), manifest.read(store, published, "runs")
    order = runs.sort_by("started_at")["run_id"].to_pylist()
    # What several jobs list is published once, under the first one's name.
    media = manifest.read(store, published, "media").select(["job", "media_id", "jobs"]).to_pylist()
    theirs = {(row["job"], row["media_id"]) for row in media if job in (row["jobs"] or [row["job"]])}
    owners = zip(audits["job"].to_pylist(), audits["media_id"].to_pylist(), strict=True)
    return evaluate(audits.filter(pa.array([owner in theirs for owner in owners], pa.bool_())), min_agreement, order)


def evaluate(audits: pa.Table, min_agreement: float, runs: Sequence[str] = ()) -> Audit | None:
    """Evaluate rows of `audits` (`pipeline.records.columns.AUDITS_SCHEMA`) of one job; None without any.

    `runs`: ids of runs, oldest first, by which drift is told; without them there is none.
    """
    rows = audits.to_pylist()
    if not rows:
        return None
    measured = [row for row in rows if row["error_class"] is None]
    told = [row for row in measured if row["peak_bytes"] and row["dense_shared_peak_bytes"]]
    asked = [{**row, **one} for row in measured for one in row["answers"]]
    order = {run_id: number for number, run_id in enumerate(runs)}
    newest = sorted({row["run_id"] for row in asked} & order.keys(), key=order.__getitem__)[-2:]
    return Audit(
        clips=len({row["clip_id"] for row in measured}),
        failed=tuple(Counter(row["error_class"] for row in rows if row["error_class"] is not None).most_common()),
        saved_s=_saved(measured, "model_s", "dense_shared_model_s"),
        saved_peak_bytes=_saved(told, "peak_bytes", "dense_shared_peak_bytes"),
        questions=_agreements(asked, "question_id", newest),
        answer_types=_agreements(asked, "answer_type", newest),
        claim=_claim(measured),
        min_agreement=min_agreement,
    )


def _saved(rows: Sequence[dict[str, Any]], run: str, dense: str) -> Share | None:
    if not rows or not sum(row[dense] for row in rows):
        return None
    media = [row["media_id"] for row in rows]
    saved = [row[dense] - row[run] for row in rows]
    value, low, high = bootstrap_ratio(saved, [row[dense] for row in rows], media)
    return Share(value, low, high, len(rows), len(set(media)))


def _agreements(asked: Sequence[dict[str, Any]], name: str, newest: Sequence[str]) -> tuple[Agreement, ...]:
    """By question or type, in the order in which they are first seen."""
    found = []
    for group in dict.fromkeys(row[name] for row in asked):
        mine = [row for row in asked if row[name] == group]
        compared = [row for row in mine if row["agrees"] is not None]
        if not compared:
            continue
        shares = [_share([row for row in compared if row["run_id"] == run_id]) for run_id in newest]
        drift: tuple[float | None, ...] = (None, None, None)
        if len(shares) == 2 and all(share is not None and share.is_enough for share in shares):
            drift = _difference(*shares)
        overall = _share(compared)
        assert overall is not None
        found.append(Agreement(group, overall, len(mine) - len(compared), *drift))
    return tuple(found)


def _share(rows: Sequence[dict[str, Any]]) -> Share | None:
    if not rows:
        return None
    media = [row["media_id"] for row in rows]
    value, low, high = bootstrap_ratio([float(row["agrees"]) for row in rows], [1.0] * len(rows), media)
    groups = len(set(media))
    if value in (0.0, 1.0):
        # Where all agree every resample does, but nothing is certain: then the media count as the sample.
        low, high = wilson(value, groups)
    return Share(value, low, high, len(rows), groups)


def _difference(before: Share | None, after: Share | None) -> tuple[float | None, ...]:
    """Newest minus the run before, with Newcombe's interval (1998, method 10) from the two shares' own."""
    assert before is not None
    assert after is not None
    value = after.value - before.value
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return value, None, None
    down = ((after.value - after.low) ** 2 + (before.high - before.value) ** 2) ** 0.5
    up = ((after.high - after.value) ** 2 + (before.value - before.low) ** 2) ** 0.5
    return value, value - down, value + up


def _claim(rows: Sequence[dict[str, Any]]) -> Claim | None:
    fitted = [row for row in rows if is_fitted(row["clip_id"])]
    judged = [row for row in rows if not is_fitted(row["clip_id"])]
    if min(len(fitted), len(judged)) < MIN_HALF:
        return None
    passes = [
        MeasuredPass(_cost(row, way), row[seconds])
        for row in fitted
        for way, seconds in (("as_run", "model_s"), ("dense_shared", "dense_shared_model_s"))
    ]
    throughput = fit(passes)
    claimed = (
        throughput.seconds(_cost(row, "dense_shared")) - throughput.seconds(_cost(row, "as_run")) for row in judged
    )
    audited = sum(row["dense_shared_model_s"] - row["model_s"] for row in judged)
    return Claim(len(fitted), len(judged), sum(claimed), audited)


def _cost(row: dict[str, Any], way: str) -> PassCost:
    return PassCost(**{one.name: row[f"{way}_{one.name}"] for one in fields(PassCost)})
