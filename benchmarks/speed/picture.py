"""The README's picture: what a question set about one minute of video costs, by how it is asked.

    python -m benchmarks.speed.picture -o docs/images/questions.svg

FLOPs of the decoder at Qwen2.5-Omni-7B's published shape, by the convention of `omnidrop/cost.py`: counted, not timed.
Questions read what is left out, as by default, and not in the paper's way. Encoders are left out, as they cost every
way the same; `benchmarks.speed.whole_clip` has them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from omnidrop import cost
from omnidrop.policies.entry import Entry
from omnidrop.policies.schedule import Schedule, Sigmoid, calibrate, full

LAYERS = 28
WIDTHS = cost.Widths(
    hidden=3584, query=3584, key_value=512, mlp_flops=(6 * 3584 * 18944,) * LAYERS, vocabulary=152064, value_bytes=2
)
"""config.json of Qwen/Qwen2.5-Omni-7B."""
AUDIO, PATCHES, PER_PATCH = 1500, 60, 144
"""One minute at 2 frames a second: 25 audio tokens a second and 60 temporal patches of 144 tokens."""
TOKENS = AUDIO + PATCHES * PER_PATCH
TEXT, QUESTION = 60, 40
"""Tokens of the prompt before the questions, and of one question."""
SETS = (1, 2, 4, 8, 12, 16)
DARK = """@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 !important }
  [style*="stroke: #000000"] { stroke: #e6edf3 !important }
  [style*="#188038"] { stroke: #3fb950 !important }
  [style*="#1a73e8"] { stroke: #58a6ff !important }
}"""
"""Pages are light or dark, and the picture has no ground of its own."""


def flops(schedule: Schedule, questions: int, *, together: bool) -> int:
    """Decoder FLOPs of a set, prefilled once for all questions, which read what is left out, or once for each."""
    count = questions if together else 1
    rows, pairs = count * QUESTION, count * QUESTION**2 / 2
    read = TOKENS - schedule.entering[0] if together else 0
    work = [
        cost.LayerWork(TEXT + entering, rows, pairs, rows if schedule.drops_after(layer) else 0, read)
        for layer, entering in enumerate(schedule.entering)
    ]
    work[-1] = work[-1].as_last(count, count * (QUESTION - 0.5))
    once = cost.prefill_flops(WIDTHS, work, count) + cost.selection_flops(WIDTHS, work)
    return once if together else questions * once


def readable_in_the_dark(svg: str) -> str:
    """The picture with colours for dark pages, too."""
    return svg.replace("</style>", f"\n{DARK}</style>", 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/questions.svg"))
    given = parser.parse_args()

    import matplotlib as mpl

    mpl.rcParams.update({"svg.hashsalt": "omnidrop", "svg.fonttype": "none", "font.size": 11})
    from matplotlib import pyplot as plt

    entry = Entry(AUDIO, (PER_PATCH,) * PATCHES, 0.7, 0.4).counts()
    pruned = {ratio: calibrate(ratio, TOKENS, LAYERS, Sigmoid(0.0, 0.0, 20.0, 0.5), entry) for ratio in (0.3, 0.2)}
    whole = full(TOKENS, LAYERS)
    ways = [
        ("every question alone, nothing pruned", whole, False, "#9aa0a6", ":"),
        ("every question alone, 30 % kept (OmniDrop, the paper)", pruned[0.3], False, "#e8710a", "--"),
        ("prefix caching, nothing pruned", whole, True, "#1a73e8", "-."),
        ("one pass guided by the whole set, 30 % kept", pruned[0.3], True, "#188038", "-"),
        ("one pass guided by the whole set, 20 % kept", pruned[0.2], True, "#81c995", "-"),
    ]
    at_eight = {name: flops(schedule, 8, together=together) / 1e12 for name, schedule, together, _, _ in ways}
    unpruned, guided = at_eight[ways[2][0]], at_eight[ways[3][0]]
    figure, axes = plt.subplots(figsize=(8.2, 4.2), layout="constrained")
    for name, schedule, together, colour, style in ways:
        costs = [flops(schedule, n, together=together) / 1e12 for n in SETS]
        axes.plot(SETS, costs, style, color=colour, marker="o", markersize=4, linewidth=2.2, label=name)
        print(f"{name:56s}", " ".join(f"{c:8.1f}" for c in costs), "TFLOP")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.annotate("", (8, guided * 1.12), (8, unpruned / 1.12), arrowprops={"arrowstyle": "->", "color": "#9aa0a6"})
    axes.annotate(f"{unpruned / guided:.1f} times less", (8.15, (unpruned * guided) ** 0.5), va="center", fontsize=10)
    axes.set_xticks(SETS)
    axes.set_xlabel("questions about one minute of video")
    axes.set_ylabel("decoder TFLOP, Qwen2.5-Omni-7B")
    axes.set_title("The bill for a question set", loc="left", fontweight="bold")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.set_ylim(20, 20_000)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    if given.output.suffix == ".svg":
        figure.savefig(given.output, metadata={"Date": None}, transparent=True)
        given.output.write_text(readable_in_the_dark(given.output.read_text()))
    else:
        figure.savefig(given.output)


if __name__ == "__main__":
    main()
