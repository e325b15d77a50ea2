"""The rows of the evidence tables: every way of asking that is compared, by table.

Promises: names are unique, and every row says its table, so that a figure can be found again. Knows nothing about clips
or answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.evidence.guides import AudioGuided, WordsGuided
from omnidrop.engine.importance import Guidance
from omnidrop.model import Pruning
from pipeline.evaluation.dataset import Arm

RATIOS = (0.5, 0.3, 0.2, 0.1, 0.05)
ABLATED = (0.2, 0.1)
"""Retained ratios of the ablations: above, nothing separates."""
SET_SIZES = (1, 2, 4, 8, 16)
SET = 8
"""Questions asked together where nothing else is said."""
BASELINES = ("random", "fastv", "divprune", "omnizip", "dash", "seats")
INTRA_ONLY = (("beta", 200.0), ("t_mid", 1.0))
"""A sigmoid that starts behind the last layer: what leaves, leaves before the decoder."""

Settings = tuple[tuple[str, float | int | str | bool], ...]

PAPER: Settings = (("entry", "merged"), ("memory", 0.0), ("diversity", "printed"))
"""With `WordsGuided`: the paper's method throughout."""

ABLATIONS: dict[str, Settings] = {
    "entry: least alike, rare or not (diverse)": (("entry", "diverse"),),
    "entry as in the paper (merged)": (("entry", "merged"),),
    "50 % of the audio enters, not 70 %": (("audio_keep", 0.5),),
    "no memory of earlier layers, as in the paper": (("memory", 0.0),),
    "diversity off": (("diversity", "off"),),
    "diversity as printed": (("diversity", "printed"),),
    "pruning inside the decoder only": (("at_input", False),),
    "schedule: t_mid 0.35": (("t_mid", 0.35),),
    "schedule: t_mid 0.65": (("t_mid", 0.65),),
    "schedule: beta 5": (("beta", 5.0),),
}
"""Changes to the default policy, each alone."""


@dataclass(frozen=True)
class Row:
    """One way of asking at one ratio, and how many questions at a time."""

    table: str
    way: str
    ratio: float | None
    set_size: int
    pruning: Pruning

    @property
    def name(self) -> str:
        """Unique over all tables."""
        return f"{self.table}: {self.way}, {self.set_size} at a time" + (
            "" if self.ratio is None else f", {100 * self.ratio:g} %"
        )

    @property
    def arm(self) -> Arm:
        """For the evaluation."""
        return Arm(self.name, self.pruning)


DENSE = Row("ways", "dense", None, SET, Pruning.off("dense_shared"))


def all_rows(ratios: Sequence[float] = RATIOS, ablated: Sequence[float] = ABLATED, largest: int = 16) -> list[Row]:
    """Everything, the unpruned row first; sets of at most `largest` questions. Needs `guides.registered()`."""
    return [DENSE, *_ways(ratios, largest), *_ablations(ablated)]


def _ways(ratios: Sequence[float], largest: int) -> Iterator[Row]:
    for ratio in ratios:
        for size in (size for size in SET_SIZES if size <= largest):
            way = "per_question" if size == 1 else "set_guided, max"
            mode = "per_question" if size == 1 else "set_guided"
            yield Row("ways", way, ratio, size, Pruning(mode, "omnidrop", ratio))
        guidances: tuple[Guidance, ...] = ("mean", "quota")
        for guidance in guidances:
            yield Row("ways", f"set_guided, {guidance}", ratio, SET, Pruning("set_guided", "omnidrop", ratio, guidance))
        intra = Pruning("set_guided", "omnidrop", ratio, settings=INTRA_ONLY)
        yield Row("ways", "intra-modality only", ratio, SET, intra)
        for policy in BASELINES:
            yield Row("ways", policy, ratio, SET, Pruning("set_guided", policy, ratio))


def _ablations(ratios: Sequence[float]) -> Iterator[Row]:
    for ratio in ratios:
        for way, settings in ABLATIONS.items():
            yield Row("ablations", way, ratio, SET, Pruning("set_guided", "omnidrop", ratio, settings=settings))
        words, audio = (Pruning("set_guided", guide.name, ratio) for guide in (WordsGuided, AudioGuided))
        yield Row("ablations", "guided by the questions' words alone, as in the paper", ratio, SET, words)
        yield Row("ablations", "guided by audio instead of text", ratio, SET, audio)
        paper = Pruning("set_guided", WordsGuided.name, ratio, settings=PAPER)
        yield Row("ablations", "the paper throughout", ratio, SET, paper)
