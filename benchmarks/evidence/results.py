"""What was answered, question by question, in files small enough to be kept with the code: `WORLD-SEED.parquet`, a line
for each question and row.

Promises: tables made from the files are those made from the answers themselves; sittings add to each other; answers of
other weights, or of a row that today is asked otherwise, are never pooled with today's. Knows nothing about costs,
which are not kept, or about tables.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from benchmarks.evidence.asking import Asked
from benchmarks.evidence.rows import Row
from omnidrop.errors import UserError
from pipeline.evaluation.dataset import ArmClip, Scored

log = logging.getLogger(__name__)

FOLDER = Path("benchmarks") / "evidence" / "results"
_WORDS = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("row", _WORDS),
        ("clip", _WORDS),
        ("question", _WORDS),
        ("task", _WORDS),
        ("guess", pa.float32()),
        ("expected", _WORDS),
        ("answer", _WORDS),
        ("is_right", pa.bool_()),
        ("error_class", _WORDS),
    ]
)


@dataclass(frozen=True)
class Pooled:
    """The answers of all files of a world."""

    asked: Asked
    seeds: tuple[int, ...]
    model: str
    weights: str


_LATER = ("read_left_out=False",)
"""Parameters that came later, as they are where a policy does what it did without: left out, so that answers stay."""


def described(row: Row) -> str:
    """How `row` is asked, every parameter of its policy written out: a default that changes makes another row."""
    pruning = row.pruning
    policy = repr(pruning.build())
    for later in _LATER:
        policy = policy.replace(f", {later}", "").replace(f"{later}, ", "")
    return (
        f"{pruning.mode}, {pruning.guidance}, {row.set_size} at a time, {pruning.retained_ratio} kept, "
        f"{pruning.encoder_share:g} encoded, still within {pruning.still_levels:g}, seed {pruning.seed}, "
        f"{row.condition}, {policy}"
    )


def add(folder: Path, world: str, model: str, weights: str, asked: Asked, rows: Sequence[Row]) -> list[Path]:
    """Put the answers to `rows` into the files of their seeds, in place of what a row answered before.

    Raises UserError where a file has answers of other weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for seed in sorted(set(asked.seeds.values())):
        path = folder / f"{world}-{seed}.parquet"
        lines: dict[tuple[str, str, str], dict[str, Any]] = {}
        how = {row.name: described(row) for row in rows if row.name in asked.answers}
        if path.exists():
            about, kept = _read(path)
            if about["weights"] != weights:
                raise UserError(
                    f"{path} has answers of weights {about['weights'][:12]}, these are of {weights[:12]}: delete it, "
                    f"or name another folder with --results"
                )
            lines = {_key(line): line for line in kept if how.get(line["row"], "") in ("", about["rows"][line["row"]])}
            how = about["rows"] | how
        for row in rows:
            for of_clip in asked.answers.get(row.name, ()):
                if asked.seeds[of_clip.clip_id] == seed:
                    lines |= {_key(line): line for line in map(_line, [row.name] * len(of_clip.scored), of_clip.scored)}
        those = [lines[key] for key in sorted(lines)]
        about = {
            "model": model,
            "weights": weights,
            "rows": {name: how[name] for name in sorted({k[0] for k in lines})},
        }
        schema = SCHEMA.with_metadata({"about": json.dumps(about)})
        partial = path.with_suffix(".part")
        parquet.write_table(
            pa.Table.from_pylist(those, schema=schema), partial, compression="zstd", compression_level=19
        )
        partial.rename(path)
        written.append(path)
    return written


def load(folder: Path, world: str, rows: Sequence[Row]) -> Pooled | None:
    """The answers to `rows` in all files of `world`; None where there are none.

    Raises UserError where files are of different weights.
    """
    wanted = {row.name: described(row) for row in rows}
    scored: dict[str, dict[str, list[Scored]]] = {}
    seeds: dict[str, int] = {}
    of: dict[str, str] = {}
    model = ""
    for path in sorted(folder.glob(f"{world}-*.parquet"), key=_seed):
        about, lines = _read(path)
        model, of[about["weights"]] = about["model"], path.name
        stale = {name for name, how in about["rows"].items() if wanted.get(name, how) != how}
        for name in sorted(stale):
            log.warning("%s: %r is asked otherwise today and is left out: measure it again", path.name, name)
        for line in lines:
            if line["row"] in wanted and line["row"] not in stale:
                seeds[line["clip"]] = _seed(path)
                scored.setdefault(line["row"], {}).setdefault(line["clip"], []).append(_scored(line))
    if len(of) > 1:
        raise UserError(f"files of {folder} are of different weights: {', '.join(of.values())}; keep those of one")
    if not scored:
        return None
    answers = {
        name: tuple(ArmClip(name, clip, tuple(those), ()) for clip, those in by_clip.items())
        for name, by_clip in scored.items()
    }
    (weights,) = of
    return Pooled(Asked(answers, {}, (), seeds), tuple(sorted(set(seeds.values()))), model, weights)


def _seed(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    table = parquet.read_table(path)
    return json.loads(table.schema.metadata[b"about"]), table.to_pylist()


def _key(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["row"], line["clip"], line["question"]


def _line(row: str, one: Scored) -> dict[str, Any]:
    return {
        "row": row,
        "clip": one.clip_id,
        "question": one.question_id,
        "task": one.task,
        "guess": one.guess,
        "expected": one.expected,
        "answer": one.answer,
        "is_right": one.is_right,
        "error_class": one.error_class,
    }


def _scored(line: dict[str, Any]) -> Scored:
    return Scored(
        line["clip"],
        line["question"],
        line["task"],
        line["guess"],
        (),
        line["expected"],
        line["answer"],
        line["is_right"],
        line["error_class"],
    )
