"""The README's picture: what a question set about one minute of video costs, by how it is asked.

    python -m benchmarks.picture -o docs/images/questions.svg

FLOPs of the decoder at Qwen2.5-Omni-7B's published shape, by the convention of `omnidrop/cost.py`: counted, not timed.
Encoders are left out, as they cost every way the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from omnidrop import cost
from omnidrop.intra_modality import Entry
from omnidrop.schedule import Schedule, Sigmoid, calibrate, full

LAYERS = 28
WIDTHS = cost.Widths(
    hidden=3584, query=3584, key_value=512, mlp_flops=(6 * 3584 * 18944,) * LAYERS, vocabulary=152064, value_bytes=2
)
"""config.json of Qwen/Qwen2.5-Omni-7B."""
AUDIO, PATCHES, PER_PATCH = 1500, 60, 144
"""One minute at 2 frames a second: 25 audio tokens a second and 60 temporal patches of 144 tokens."""
TEXT, QUESTION = 60, 40
"""Tokens of the prompt before the questions, and of one question."""
SETS = (1, 2, 4, 8, 12, 16)


def flops(schedule: Schedule, questions: int, *, together: bool) -> int:
    """Decoder FLOPs of a set, prefilled once for all questions or once for each."""
    count = questions if together else 1
    rows = count * QUESTION
    work = [
        cost.LayerWork(TEXT + entering, rows, count * QUESTION**2 / 2, rows if schedule.drops_after(layer) else 0)
        for layer, entering in enumerate(schedule.entering)
    ]
    once = cost.prefill_flops(WIDTHS, work, count) + cost.selection_flops(WIDTHS, work)
    return once if together else questions * once


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/questions.svg"))
    given = parser.parse_args()

    import matplotlib as mpl

    mpl.rcParams.update({"svg.hashsalt": "omnidrop", "svg.fonttype": "none", "font.size": 11})
    from matplotlib import pyplot as plt

    tokens = AUDIO + PATCHES * PER_PATCH
    entry = Entry(AUDIO, (PER_PATCH,) * PATCHES, 0.7, 0.4).counts()
    pruned = {ratio: calibrate(ratio, tokens, LAYERS, Sigmoid(0.0, 0.0, 20.0, 0.5), entry) for ratio in (0.3, 0.2)}
    whole = full(tokens, LAYERS)
    ways = [
        ("every question alone, nothing pruned", whole, False, "#9aa0a6", ":"),
        ("every question alone, 30 % kept (OmniDrop, the paper)", pruned[0.3], False, "#e8710a", "--"),
        ("prefix caching, nothing pruned", whole, True, "#1a73e8", "-."),
        ("one pass guided by the whole set, 30 % kept", pruned[0.3], True, "#188038", "-"),
        ("one pass guided by the whole set, 20 % kept", pruned[0.2], True, "#81c995", "-"),
    ]
    figure, axes = plt.subplots(figsize=(8.2, 4.2), layout="constrained")
    for name, schedule, together, colour, style in ways:
        costs = [flops(schedule, n, together=together) / 1e12 for n in SETS]
        axes.plot(SETS, costs, style, color=colour, marker="o", markersize=4, linewidth=2.2, label=name)
        print(f"{name:56s}", " ".join(f"{c:8.1f}" for c in costs), "TFLOP")
    axes.set_yscale("log")
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
    figure.savefig(given.output, metadata={"Date": None} if given.output.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
