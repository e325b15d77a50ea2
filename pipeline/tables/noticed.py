"""What was noticed about a job's clips and files, summed: one vocabulary for summaries, status, report and one file.

Promises: the sums are those of the view `noticed`, which has each case. Knows nothing about how anything is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.counted import counted
from workers.records import MediaInfo, Noticed

if TYPE_CHECKING:
    import duckdb

SECONDS = {
    "silent_s": "without sound or digitally silent",
    "held_s": "in which a picture stays",
    "missing_s": "that should be there and could not be decoded",
}
CASES = {
    "clipped_share": "clips with samples at full scale",
    "tone_mapped": "clips of HDR, tone-mapped",
    "repeated": "clips that repeat the one before to the last value",
    "segments": "files of several recordings or with jumps in time",
    "unused_tracks": "files with tracks that are not decoded",
}


@dataclass(frozen=True)
class Case:
    """One kind: in how many clips (or files), how much in all."""

    kind: str
    cases: int
    amount: float


def noticed_in(connection: duckdb.DuckDBPyConnection, job: str) -> tuple[Case, ...]:
    """The kinds there are in a job's published tables."""
    rows = connection.execute(
        "SELECT kind, count(*), sum(amount) FROM noticed WHERE job = $job GROUP BY kind ORDER BY kind", {"job": job}
    ).fetchall()
    return tuple(Case(str(kind), int(cases), float(amount)) for kind, cases, amount in rows)


def noticed_here(info: MediaInfo, clips: Iterable[Noticed]) -> tuple[Case, ...]:
    """The same of one file whose clips are at hand, in their order."""
    amounts: dict[str, list[float]] = {}
    before = Noticed()
    for now in clips:
        for kind in (*SECONDS, "clipped_share", "tone_mapped"):
            if amount := float(getattr(now, kind)):
                amounts.setdefault(kind, []).append(amount)
        if now.repeats(before):
            amounts.setdefault("repeated", []).append(1.0)
        before = now
    if len(info.parts) > 1:
        amounts["segments"] = [float(len(info.parts))]
    if info.unused_tracks:
        amounts["unused_tracks"] = [float(info.unused_tracks)]
    return tuple(Case(kind, len(found), sum(found)) for kind, found in sorted(amounts.items()))


def lines(found: Iterable[Case]) -> list[tuple[str, str]]:
    """Rows of a table for people: (name, how much)."""
    rows = []
    for one in found:
        if one.kind in SECONDS:
            rows.append(
                (f"noticed: {one.kind}", f"{one.amount:.1f} s {SECONDS[one.kind]}, in {counted(one.cases, 'clip')}")
            )
        elif one.kind in ("segments", "unused_tracks"):
            rows.append((f"noticed: {one.kind}", f"{one.amount:.0f} in {one.cases} {CASES[one.kind]}"))
        elif one.kind in CASES:
            rows.append((f"noticed: {one.kind}", f"{one.cases} {CASES[one.kind]}"))
    return rows
