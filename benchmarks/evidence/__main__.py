"""`python -m benchmarks.evidence`: measure, and write the tables of `docs/evidence.md` and `docs/guide/choosing.md`.

python -m benchmarks.evidence --state DIR                          # everything in docs/evidence.md, a night
python -m benchmarks.evidence --clips 8 --questions 8 --json FILE   # a look, written nowhere else

python -m benchmarks.evidence --from-results                       # the tables of what was kept, nothing is asked

With `--state` a run that was stopped goes on where it was, and one with more rows asks only those. A folder is for one
version of the code. What is answered for users and on damaged clips is kept, question by question, in the folder of
`--results`: tables are made from all that is there, so that seeds of several sittings are pooled.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.evidence import guides, pages, results
from benchmarks.evidence.asking import ask
from benchmarks.evidence.damage import CONDITIONS
from benchmarks.evidence.figures import damage_figures, encoder_figures, figures, user_figures
from benchmarks.evidence.page import fill, plot, sections
from benchmarks.evidence.rows import (
    ABLATED,
    ENCODER_RATIOS,
    RATIOS,
    USER_RATIOS,
    Row,
    all_rows,
    damaged_rows,
    encoder_rows,
    user_rows,
)
from omnidrop.errors import UserError
from omnidrop.models.registry import weights_hash
from pipeline.evaluation.toy import CHECKPOINTS, toy_clips

log = logging.getLogger(__name__)

DOCS = Path("docs")
FORMAT = 2
"""Of the figures: those of another are not shown."""
SEEDS = (50, 52, 53)
"""Evaluation seeds. Methods were compared on 51 and 9101 while they were made; 53 was not looked at before the end."""
WORLDS = ("v1", "v2", "v3")
PARTS = ("worlds", "encoders", "damage", "user", "pages")
PARTS_OF = {"v3": ("damage", "user")}
"""Parts that ask about a world, where not all do: v3 is there for its spoken words."""
FOR_USERS = ("user v1", "user v2", "user v3", "user mean")
"""Tables of the page for users; all others are in `docs/evidence.md`."""
KEPT = ("user", "damage")
"""Parts whose answers are kept, question by question: their tables show no costs."""
FIGURES = {"worlds": figures, "encoders": encoder_figures, "damage": damage_figures, "user": user_figures}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="what to measure (default all)",
    )
    parser.add_argument("--model", help="another checkpoint than the embedded one")
    parser.add_argument("--clips", type=int, default=64, help="clips of each world and seed (default 64)")
    parser.add_argument("--questions", type=int, default=16, help="questions about a clip, at most (default 16)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="evaluation seeds (default 50 52 53)")
    parser.add_argument("--state", type=Path, help="folder that keeps what was asked, clip by clip")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--ways", nargs="+", help="ask only these ways, as the tables name them, beside no pruning")
    parser.add_argument(
        "--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="of damaged clips"
    )
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="where to write the figures (default: docs/evidence.json)")
    parser.add_argument(
        "--results",
        type=Path,
        help=f"folder of answers, question by question, to add to (default: {results.FOLDER}; with --json none)",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--rewrite", action="store_true", help="measure nothing: write the page from the figures again")
    only.add_argument(
        "--from-results", action="store_true", help="measure nothing: figures of the answers in --results"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if given.results is None and (given.json is None or given.from_results):
        given.results = results.FOLDER
    if given.rewrite:
        report = current(json.loads((given.json or DOCS / "evidence.json").read_text()))
    else:
        try:
            report = pooled(given) if given.from_results else measured(given)
        except UserError as error:
            sys.exit(f"{error}")
        written = given.json or DOCS / "evidence.json"
        if written.exists():
            # What was not measured this time stays as it is.
            before = current(json.loads(written.read_text()))
            report = {
                part: before.get(part, {}) | larger(before.get(part, {}), found) for part, found in report.items()
            }
        written.write_text(json.dumps(report, indent=1) + "\n")
    if given.json is None:
        made = sections(report)
        fill(DOCS / "guide" / "choosing.md", {name: text for name, text in made.items() if name in FOR_USERS})
        fill(DOCS / "evidence.md", {name: text for name, text in made.items() if name not in FOR_USERS})
        plot(report, DOCS / "images")
    else:
        print("\n\n".join(f"{name}\n{text}" for name, text in sections(report).items()))


def current(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report that this version can show: what an earlier one measured is left out, and said."""
    for part, found in report.items():
        for name in [name for name, of in found.items() if of.get("format") != FORMAT]:
            log.warning("%s of %s were measured by an earlier version and are left out: measure them again", part, name)
            del found[name]
    return report


def larger(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Those of the figures `found`, by world, that rest on no fewer questions than what stands there: a few new clips
    do not take the place of many. What is left out is said."""
    kept = {}
    for world, of in found.items():
        asked, stands = (one["rows"][0].get("questions", 0) for one in (of, before.get(world, of)))
        if asked < stands:
            log.warning("%s: %d questions, and the table that stands has %d: it stays", world, asked, stands)
        else:
            kept[world] = of
    return kept


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """The report: figures of every world, and how they were come by."""
    report: dict[str, Any] = {part: {} for part in PARTS}
    command = _said(sys.argv[1:])
    if "pages" in given.parts:
        report["pages"][pages.MODEL] = pages.measure() | {"format": FORMAT, "command": command}
    with Progress() as bar:
        for world in given.worlds:
            parts = parts_of(world, given.parts)
            if not parts:
                continue
            by_seed = {seed: toy_clips(world, given.clips, seed, questions=given.questions) for seed in given.seeds}
            clips = [clip for of_seed in by_seed.values() for clip in of_seed]
            seeds = {clip.clip_id: seed for seed, of_seed in by_seed.items() for clip in of_seed}
            model = given.model or CHECKPOINTS[world]
            for part in parts:
                started = time.monotonic()
                rows = _some(_rows(part, given), given.ways)
                task = bar.add_task(f"{part}, {world}: {len(rows)} rows", total=len(clips))
                asked = ask(model, clips, rows, given.processes, lambda task=task: bar.advance(task), given.state)  # type: ignore[misc]
                asked = replace(asked, seeds=seeds)
                if part in KEPT and given.results:
                    results.add(given.results, world, model, weights_hash(model), asked, rows)
                    report[part] |= pooled(given, [world], [part])[part]
                    continue
                report[part][world] = FIGURES[part](asked, rows) | {
                    "format": FORMAT,
                    "command": command,
                    "seeds": given.seeds,
                    "processes": given.processes,
                    "minutes": (time.monotonic() - started) / 60,
                    "model": model,
                    "weights": weights_hash(model),
                }
    return report


def pooled(
    given: argparse.Namespace, worlds: Sequence[str] | None = None, parts: Sequence[str] | None = None
) -> dict[str, Any]:
    """The report of what is kept in `given.results`. Raises UserError where nothing is."""
    report: dict[str, Any] = {part: {} for part in PARTS}
    for world in worlds or given.worlds:
        for part in [part for part in parts_of(world, parts or given.parts) if part in KEPT]:
            rows = user_rows() if part == "user" else list(damaged_rows())
            if found := results.load(given.results, world, rows):
                report[part][world] = FIGURES[part](found.asked, rows) | {
                    "format": FORMAT,
                    "command": "python -m benchmarks.evidence --from-results",
                    "seeds": list(found.seeds),
                    "model": found.model,
                    "weights": found.weights,
                }
    if not any(report.values()):
        raise UserError(f"{given.results} has no answers to the rows of today: measure some, or name another --results")
    return report


def parts_of(world: str, parts: Sequence[str] = PARTS) -> list[str]:
    """Those of `parts` that ask about a world's clips."""
    return [part for part in parts if part != "pages" and part in PARTS_OF.get(world, PARTS)]


def _said(arguments: Sequence[str]) -> str:
    """The command, without where it was to write."""
    kept = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not {before, word} & {"--state", "--json"}
    ]
    return shlex.join(["python", "-m", "benchmarks.evidence", *kept])


def _rows(part: str, given: argparse.Namespace) -> list[Row]:
    if part in ("encoders", "user"):
        made, possible = (encoder_rows, ENCODER_RATIOS) if part == "encoders" else (user_rows, USER_RATIOS)
        return made([ratio for ratio in given.ratios if ratio in possible])
    if part == "damage":
        return list(damaged_rows([r for r in given.ratios if r in ABLATED], given.conditions))
    with guides.registered():
        return all_rows(given.ratios, [r for r in given.ratios if r in ABLATED], given.questions)


def _some(rows: list[Row], ways: Sequence[str] | None) -> list[Row]:
    """Those of `ways`, and those without pruning. Raises UserError for a way that no row has."""
    known = dict.fromkeys(row.way for row in rows)
    if unknown := [way for way in ways or () if way not in known]:
        raise UserError(f"--ways has {', '.join(map(repr, unknown))}; allowed here: {', '.join(map(repr, known))}")
    return [row for row in rows if ways is None or row.ratio is None or row.way in ways]


if __name__ == "__main__":
    main()
