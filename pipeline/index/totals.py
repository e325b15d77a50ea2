"""What an output's clips cost and saved in all, from the stored sums or from every clip's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.index.rollups import GFLOP, MILLIONTHS, NEEDED, Change
from pipeline.index.schema import Tables
from pipeline.records.columns import WAYS


@dataclass(frozen=True)
class Totals:
    """Sums over the clips of one job that count; zeros for a job that never ran."""

    media: int = 0
    copies: int = 0
    """Media that are exact copies of others: in no other number."""
    units: int = 0
    units_done: int = 0
    clips: int = 0
    clips_partial: int = 0
    quarantined: int = 0
    model_s: float = 0.0
    """Wall seconds in the model."""
    retained_ratio: float | None = None
    """Token-weighted mean over clips."""
    as_run_flops: int = 0
    dense_flops: int = 0
    dense_shared_flops: int = 0
    as_run_kv_bytes: int = 0
    dense_kv_bytes: int = 0
    dense_shared_kv_bytes: int = 0
    as_run_tokens: int = 0
    dense_tokens: int = 0
    dense_shared_tokens: int = 0

    @property
    def saved_against_dense_shared(self) -> float | None:
        """Share of FLOPs saved against dense with prefix reuse (negative where pruning cost more)."""
        return 1 - self.as_run_flops / self.dense_shared_flops if self.dense_shared_flops else None

    @property
    def saved_against_dense(self) -> float | None:
        """Share of FLOPs saved against dense per question."""
        return 1 - self.as_run_flops / self.dense_flops if self.dense_flops else None


def ask_totals(connection: sa.Connection, tables: Tables, job: str | None) -> Totals:
    """Sums over what counts, of one job or of all; a content that counts under several keys is summed once."""
    media = tables.media
    listed = media.c.is_listed & (media.c.job == job if job is not None else sa.true())
    versions = sa.select(media.c.version_id).where(listed)

    def count(of: Any, *where: Any) -> int:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(of).where(*where)) or 0)

    items = connection.scalar(sa.select(sa.func.count(media.c.media_id.distinct())).where(listed))
    distinct = sa.select(media.c.version_id, sa.func.max(media.c.units).label("units")).where(listed)
    planned = distinct.group_by(media.c.version_id).subquery()
    units, contents = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(planned.c.units), 0), sa.func.count()).select_from(planned)
    ).one()
    labelled = count(sa.select(media.c.media_id, media.c.version_id).where(listed).distinct().subquery())
    number = _summed(connection, tables, job, versions)
    weighed = number["weighed_tokens"]
    return Totals(
        media=int(items or 0),
        copies=labelled - int(contents),
        units=int(units),
        units_done=count(tables.units, tables.units.c.version_id.in_(versions)),
        clips=number["clips"],
        clips_partial=number["clips_partial"],
        quarantined=count(tables.quarantine, tables.quarantine.c.version_id.in_(versions)),
        model_s=number["model_us"] / MILLIONTHS,
        retained_ratio=number["retained_token_millionths"] / MILLIONTHS / weighed if weighed else None,
        **{f"{way}_flops": number[f"{way}_gflop"] * GFLOP + number[f"{way}_rest_flop"] for way in WAYS},
        **{f"{way}_{cost}": number[f"{way}_{cost}"] for way in WAYS for cost in ("kv_bytes", "tokens")},
    )


def _summed(connection: sa.Connection, tables: Tables, job: str | None, versions: Any) -> dict[str, int]:
    """Each measure of `savings`, summed over what counts."""
    clips, savings = tables.clips, tables.savings
    if job is not None and _shares(connection, tables, job):
        # Rows that say another job's name count for this one, too: no sums are kept of such a mixture.
        change = Change(tables)
        columns = (clips.c[name] for name in NEEDED)
        change.add(connection.execute(sa.select(*columns).where(clips.c.version_id.in_(versions))).mappings())
        return change.total()
    of = savings.c.job == job if job is not None else sa.true()
    measured = [c.name for c in savings.c if isinstance(c.type, sa.BigInteger)]
    sums = (sa.func.coalesce(sa.func.sum(savings.c[name]), 0).label(name) for name in measured)
    return {name: int(value) for name, value in connection.execute(sa.select(*sums).where(of)).mappings().one().items()}


def _shares(connection: sa.Connection, tables: Tables, job: str) -> bool:
    """Whether another job lists something that this one lists, too, and asks the same of it."""
    mine, others = tables.media.alias(), tables.media.alias()
    same = (mine.c.version_id == others.c.version_id) & (others.c.job != job) & others.c.is_listed
    query = sa.select(mine.c.media_id).join(others, same).where(mine.c.job == job, mine.c.is_listed).limit(1)
    return connection.scalar(query) is not None
