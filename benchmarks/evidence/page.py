"""Figures to Markdown tables and SVG plots, put between the marks of `docs/evidence.md`.

Promises: only what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced, so that words and figures
live in one page. Knows nothing about how figures were measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.rows import encoded

SHORT = {
    "visual recognition": "visual",
    "audio recognition": "audio",
    "audio-visual matching": "A/V matching",
    "temporal order": "order",
    "presence": "presence",
    "counting": "counting",
}
PLOTTED = ("set_guided, max", "random", "fastv", "divprune", "visionzip", "omnizip", "dash", "vidcom2", "evs", "seats")


def sections(report: dict[str, Any]) -> dict[str, str]:
    """Markdown by the name of its marks."""
    made = {}
    if report.get("worlds"):
        made["setting"] = _setting(report)
    for world, found in report.get("worlds", {}).items():
        made[f"ways {world}"] = ways(found)
        made[f"tasks {world}"] = tasks(found)
        made[f"ablations {world}"] = ablations(found)
        made[f"comparisons {world}"] = comparisons(found)
        made[f"disagreement {world}"] = disagreement(found)
        made[f"repeats {world}"] = repeats(found)
    for world, found in report.get("encoders", {}).items():
        made[f"encoders {world}"] = encoders(world, found)
    for found in report.get("pages", {}).values():
        made["pages"] = written_pages(found)
    for world, found in report.get("damage", {}).items():
        made[f"damage {world}"] = damage(found)
    users = report.get("user", {})
    for world, found in users.items():
        made[f"user {world}"] = choices(world, found)
    if len(users) > 1:
        made["user mean"] = mean_of_worlds(users)
    return made


def choices(world: str, found: dict[str, Any]) -> str:
    """What a user chooses between: points lost to no pruning, and the default (the first way) against every other."""
    dense, *rows = found["rows"]
    ratios = sorted({row["ratio"] for row in rows}, reverse=True)
    ways = _unique(row["way"] for row in rows)
    lines = [
        f"World {world}: {_questions(dense, found)} "
        f"No pruning: {_percent(dense['accuracy'])} right; points lost to it:",
        "",
        *_head(["way", *(f"{_percent(ratio)} kept" for ratio in ratios)]),
    ]
    for way in ways:
        at = {row["ratio"]: row for row in rows if row["way"] == way}
        lines.append(_line([way, *(_lost(at[ratio], dense) if ratio in at else "" for ratio in ratios)]))
    if any(row["questions"] != dense["questions"] for row in rows):
        lines += ["", "In brackets: of so many questions, where not all were asked."]
    default, *others = ways
    compared = {(one["against"], one["ratio"]): one for one in found["comparisons"]}
    lines += ["", *_head([f"{default}, minus", *(f"{_percent(ratio)} kept" for ratio in ratios)])]
    for other in others:
        cells = [compared.get((other, ratio)) for ratio in ratios]
        lines.append(_line([other, *(_points(one["difference"], one["interval"]) if one else "" for one in cells)]))
    if len({row["seed"] for row in found["repeats"]}) > 1:
        lines += ["", f"{default}, seed by seed:", "", repeats(found)]
    return "\n".join(lines)


def mean_of_worlds(worlds: Mapping[str, dict[str, Any]]) -> str:
    """The default against every other way that all worlds were asked, the mean of their differences: each world counts
    the same, and their clips are not each other's, so that intervals add as the roots of sums of squares do."""
    compared = {name: {(one["against"], one["ratio"]): one for one in of["comparisons"]} for name, of in worlds.items()}
    default = next(iter(worlds.values()))["rows"][1]["way"]
    asked = _unique(key for of in compared.values() for key in of)
    ratios = sorted({ratio for _, ratio in asked}, reverse=True)
    lines = [
        f"The mean of the worlds {', '.join(worlds)}, each counted alike:",
        "",
        *_head([f"{default}, minus", *(f"{_percent(ratio)} kept" for ratio in ratios)]),
    ]
    for other in _unique(way for way, _ in asked):
        cells = [_mean([of.get((other, ratio)) for of in compared.values()]) for ratio in ratios]
        if any(cells):
            lines.append(_line([other, *cells]))
    return "\n".join(lines)


def _mean(of_worlds: Sequence[dict[str, Any] | None]) -> str:
    """Empty where a world was not asked."""
    found = [one for one in of_worlds if one]
    if len(found) < len(of_worlds):
        return ""
    value = sum(one["difference"] for one in found) / len(found)
    half = math.hypot(*((one["interval"][1] - one["interval"][0]) / 2 for one in found)) / len(found)
    return _points(value, (value - half, value + half))


def _lost(row: dict[str, Any], dense: dict[str, Any]) -> str:
    some = "" if row["questions"] == dense["questions"] else f" ({row['questions']:,})"
    return f"{_with_error(row)}{some}"


def _with_error(row: dict[str, Any]) -> str:
    """Points and half their interval, which a single clip does not have."""
    edges = row["difference_interval"]
    error = f" ± {50 * (edges[1] - edges[0]):.1f}" if edges else ""
    return f"{100 * row['difference']:+.1f}{error}"


def _questions(dense: dict[str, Any], found: dict[str, Any]) -> str:
    return (
        f"{dense['questions']:,} questions about {dense['clips']} clips of evaluation seeds "
        f"{', '.join(map(str, found['seeds']))}, asked of `{found['model']}` ({found['weights'][:12]})."
    )


def written_pages(found: dict[str, Any]) -> str:
    """How much of the writing on pages that stand still ever enters, by way and ratio."""
    lines = [
        f"{found['clips']} clips of one to four pages, asked of `{found['model']}`: share of the cells that are "
        "encoded, and of the written cells that ever enter the decoder, its middle layer and its last. "
        f"`{found['command']}`.",
        "",
        *_head(["way", "kept", "encoded", "enters", "middle layer", "last layer"]),
    ]
    for row in found["rows"]:
        shares = (_percent(row[part]) for part in ("cells", "enters", "half", "last"))
        lines.append(_line([row["way"], _percent(row["ratio"]), *shares]))
    return "\n".join(lines)


def encoders(world: str, found: dict[str, Any]) -> str:
    """What encoding less costs, against no pruning and against encoding the whole picture."""
    dense, *rows = found["rows"]
    ratios = sorted({row["ratio"] for row in rows}, reverse=True)
    names = list(dense["tasks"])
    lines = [
        f"World {world}: {dense['questions']} questions about {dense['clips']} clips of evaluation seeds "
        f"{', '.join(map(str, found['seeds']))}, asked of `{found['model']}` ({found['weights'][:12]}); dense "
        f"{_percent(dense['accuracy'])}. In brackets: points from the whole picture encoded, paired. "
        f"`{found['command']}`, {found['minutes']:.0f} minutes.",
        "",
    ]
    lines += _head(["of the picture", *(f"{_percent(ratio)} kept" for ratio in ratios)])
    for way in _unique(row["way"] for row in rows):
        cells = []
        for ratio in ratios:
            row = next((r for r in rows if (r["way"], r["ratio"]) == (way, ratio)), None)
            other = next((c for c in found["comparisons"] if (c["way"], c["ratio"]) == (way, ratio)), None)
            points = "" if other is None else f" ({_points(other['difference'], other['interval'])})"
            cells.append("out of reach" if row is None else _percent(row["accuracy"]) + points)
        lines.append(_line([way, *cells]))
    lines += [
        "",
        *_head(
            ["task", "questions", "dense", *(f"{row['way']}, {_percent(row['ratio'])} kept" for row in _strong(rows))]
        ),
    ]
    for name in names:
        right = [_percent(row["tasks"][name]["accuracy"]) for row in (dense, *_strong(rows))]
        lines.append(_line([SHORT.get(name, name), str(dense["tasks"][name]["count"]), *right]))
    return "\n".join(lines)


def _strong(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The whole picture and the default share at 20 %, where they part."""
    return [row for row in rows if row["ratio"] == 0.2 and row["way"] in (encoded(1.0), encoded(0.35))]


def fill(page: Path, made: dict[str, str]) -> None:
    """Replace what stands between the marks of `page`."""
    text = page.read_text(encoding="utf-8")
    for name, content in made.items():
        first, last = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if first not in text or last not in text:
            raise ValueError(f"{page} has no place for {name!r}: it needs the marks {first} and {last}")
        before, _, rest = text.partition(first)
        text = f"{before}{first}\n{content}\n{last}{rest.partition(last)[2]}"
    page.write_text(text, encoding="utf-8")


def _setting(report: dict[str, Any]) -> str:
    lines = []
    for world, found in report["worlds"].items():
        dense = found["rows"][0]
        seeds = ", ".join(map(str, found["seeds"]))
        lines += [
            f"World {world}: {dense['questions']} questions about {dense['clips']} clips of evaluation seeds {seeds}, "
            f"asked of `{found['model']}` ({found['weights'][:12]}); dense {_percent(dense['accuracy'])} (guessing "
            f"{_percent(dense['guess'])}). `{found['command']}`, {found['minutes']:.0f} minutes, {found['processes']} "
            "of one thread at a time.",
            "",
        ]
    return "\n".join(lines).rstrip()


def ways(found: dict[str, Any]) -> str:
    """Accuracy by way and ratio, with the paired difference from dense."""
    rows = [row for row in found["rows"] if row["table"] == "ways"]
    ratios = sorted({row["ratio"] for row in rows if row["ratio"]}, reverse=True)
    dense = rows[0]
    lines = [f"Dense: {_percent(dense['accuracy'])} {_interval(dense['interval'])}, points lost to it in brackets.", ""]
    lines += _head(["way", "questions at a time", *(f"{_percent(ratio)} kept" for ratio in ratios)])
    for way, size in _unique((row["way"], row["set_size"]) for row in rows[1:]):
        cells = []
        for ratio in ratios:
            row = next((r for r in rows if (r["way"], r["set_size"], r["ratio"]) == (way, size, ratio)), None)
            cells.append(_cell(row) if row else "out of reach")
        lines.append(_line([way, str(size), *cells]))
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    return f"{_percent(row['accuracy'])} ({_with_error(row)})"


def tasks(found: dict[str, Any]) -> str:
    """Accuracy per task and what was really kept, for rows of one set size."""
    rows = [row for row in found["rows"] if row["table"] == "ways"]
    names = list(rows[0]["tasks"])
    head = ["way", "at a time", "kept", "audio", "video", "FLOPs saved", *(SHORT.get(task, task) for task in names)]
    lines = _head(head)
    counts = ["questions", "", "", "", "", "", *(str(rows[0]["tasks"][task]["count"]) for task in names)]
    lines.append(_line(counts))
    for row in rows:
        lines.append(
            _line(
                [
                    row["way"],
                    str(row["set_size"]),
                    *(_percent(row[part]) for part in ("retained_ratio", "retained_audio", "retained_video")),
                    _percent(row["saved_against_dense_shared"]),
                    *(_percent(row["tasks"][task]["accuracy"]) for task in names),
                ]
            )
        )
    return "\n".join(lines)


def ablations(found: dict[str, Any]) -> str:
    """Changes to the default, each alone."""
    default = [r for r in found["rows"] if r["way"] == "set_guided, max" and r["set_size"] == 8]
    changed = [row for row in found["rows"] if row["table"] == "ablations"]
    ratios = sorted({row["ratio"] for row in changed}, reverse=True)
    lines = _head(["change", *(f"{_percent(ratio)} kept" for ratio in ratios)])
    for way in ("as it is", *_unique(row["way"] for row in changed)):
        cells = []
        for ratio in ratios:
            of_way = default if way == "as it is" else [row for row in changed if row["way"] == way]
            row = next((row for row in of_way if row["ratio"] == ratio), None)
            cells.append(_cell(row) if row else "out of reach")
        lines.append(_line([way, *cells]))
    return "\n".join(lines)


def comparisons(found: dict[str, Any]) -> str:
    """The set-guided pass against others, paired by question."""
    rows = found["comparisons"]
    ratios = sorted({row["ratio"] for row in rows}, reverse=True)
    lines = _head(["set_guided (max, 8) minus", *(f"{_percent(ratio)} kept" for ratio in ratios)])
    for other in _unique(row["against"] for row in rows):
        cells = []
        for ratio in ratios:
            row = next((r for r in rows if (r["against"], r["ratio"]) == (other, ratio)), None)
            cells.append(_points(row["difference"], row["interval"]) if row else "out of reach")
        lines.append(_line([other, *cells]))
    return "\n".join(lines)


def disagreement(found: dict[str, Any]) -> str:
    """What asking together costs, by how far the questions agree on what to keep."""
    lines = _head(["kept", "at a time", "overlap", "questions", "together", "each alone", "difference"])
    for row in found["disagreement"]:
        low, high = row["overlap"]
        lines.append(
            _line(
                [
                    _percent(row["ratio"]),
                    str(row["set_size"]),
                    f"{low:.1f} to {high:.1f}",
                    str(row["questions"]),
                    _percent(row["set_guided"]),
                    _percent(row["per_question"]),
                    _points(row["difference"], row["interval"]),
                ]
            )
        )
    return "\n".join(lines)


def damage(found: dict[str, Any]) -> str:
    """Points lost on damaged clips, each against no pruning on the same damaged clips."""
    rows = found["rows"]
    ratios = sorted({row["ratio"] for row in rows if row["ratio"]}, reverse=True)
    asked = {(row["way"], row["ratio"]) for row in rows}
    names = [
        name
        for name in _unique((row["way"], ratio) for row in rows for ratio in ratios if row["ratio"])
        if name in asked
    ]
    lines = [
        f"{rows[0]['questions']:,} questions of evaluation seeds {', '.join(map(str, found['seeds']))}, everything "
        f"encoded. `{found['command']}`.",
        "",
    ]
    lines += _head(["what was done", "dense", *(f"{way}, {_percent(ratio)}" for way, ratio in names)])
    for condition in _unique(row["condition"] for row in rows):
        of = {(row["way"], row["ratio"]): row for row in rows if row["condition"] == condition}
        dense = of["dense", None]
        cells = (
            _lost(row | {"difference_interval": row["interval"]}, dense) if row else "" for row in map(of.get, names)
        )
        lines.append(_line([condition, _percent(dense["accuracy"]), *cells]))
    if any(row["questions"] != rows[0]["questions"] for row in rows):
        lines += ["", "In brackets: of so many questions, where not all were asked."]
    return "\n".join(lines)


def repeats(found: dict[str, Any]) -> str:
    """The default way against no pruning, seed by seed."""
    rows = found["repeats"]
    seeds = _unique(row["seed"] for row in rows)
    lines = _head(["kept", *(f"seed {seed}" for seed in seeds)])
    for ratio in _unique(row["ratio"] for row in rows):
        of = {row["seed"]: row for row in rows if row["ratio"] == ratio}
        cells = (of.get(seed) for seed in seeds)
        lines.append(
            _line([_percent(ratio), *(_points(one["difference"], one["interval"]) if one else "" for one in cells)])
        )
    return "\n".join(lines)


def plot(report: dict[str, Any], folder: Path) -> list[Path]:
    """`evidence-WORLD.svg`: accuracy by retained ratio, and by set size."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "evidence"
    written = []
    for world, found in report.get("worlds", {}).items():
        rows = [row for row in found["rows"] if row["table"] == "ways"]
        dense = rows[0]["accuracy"]
        figure, (by_ratio, by_size) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
        for way in PLOTTED:
            points = [r for r in rows if r["way"] == way and r["set_size"] == 8 and r["ratio"]]
            thick = 2.5 if way.startswith("set_guided") else 1.2
            by_ratio.plot(
                [100 * r["retained_ratio"] for r in points],
                [100 * r["accuracy"] for r in points],
                marker="o",
                linewidth=thick,
                markersize=3,
                label=way.replace("set_guided, max", "set_guided, 8 questions"),
            )
        for ratio in (0.2, 0.1):
            points = [r for r in rows if r["ratio"] == ratio and r["way"] in ("set_guided, max", "per_question")]
            points.sort(key=lambda r: int(r["set_size"]))
            by_size.plot(
                [r["set_size"] for r in points],
                [100 * r["accuracy"] for r in points],
                marker="o",
                label=f"{ratio:.0%} kept",
            )
        for axes, label in ((by_ratio, "measured retained ratio, %"), (by_size, "questions asked together")):
            axes.axhline(100 * dense, color="grey", linestyle="--", linewidth=1)
            axes.set_xlabel(label)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        by_size.set_xscale("log", base=2)
        by_size.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        by_ratio.set_ylabel(f"right answers, world {world}, %")
        figure.tight_layout()
        path = folder / f"evidence-{world}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        written.append(path)
    return written


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(edges: Sequence[float]) -> str:
    return f"[{100 * edges[0]:.1f}, {100 * edges[1]:.1f}]"


def _points(value: float, edges: Sequence[float]) -> str:
    return f"{100 * value:+.1f} [{100 * edges[0]:+.1f}, {100 * edges[1]:+.1f}]"


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
