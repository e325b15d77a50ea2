"""`--precision` with `--labels`: only those published answers that labels promise to be right so often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs._shared.terminal import say

if TYPE_CHECKING:
    import duckdb


def keep_precise(
    connection: duckdb.DuckDBPyConnection, job: str, precision: float, labels: Path, questions: Sequence[str] = ()
) -> None:
    """Leave in the connection's tables what is sure enough, of these questions or all, and say what that promises.
    Raises UserError for labels that cannot be read or promise nothing."""
    from pipeline.review.labels import read_labels
    from pipeline.review.reliability import curves, thresholds_for
    from pipeline.tables.query import keep_sure

    promised = thresholds_for(curves(connection, job, read_labels(labels)), precision, questions)
    say(f"--precision {precision:g}: {promised}", err=True)
    keep_sure(connection, promised.least)
