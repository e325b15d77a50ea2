"""The rows of the evidence tables: every way of asking that is compared, by table.

Promises: names are unique, and every row says its table, so that a figure can be found again. Knows nothing about clips
or answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.evidence.damage import CLEAN, CONDITIONS
from benchmarks.evidence.guides import AudioGuided, WordsGuided
from omnidrop.pruning import Guidance, Pruning
from pipeline.evaluation.dataset import Arm

RATIOS = (0.5, 0.3, 0.2, 0.1, 0.05)
ABLATED = (0.2, 0.1)
"""Retained ratios of the ablations: above, nothing separates."""
SET_SIZES = (1, 2, 4, 8, 16)
SET = 8
"""Questions asked together where nothing else is said."""
BASELINES = ("random", "fastv", "divprune", "visionzip", "omnizip", "dash", "vidcom2", "evs", "seats")
ENCODED = (1.0, 0.5, 0.35, 0.25)
"""Shares of the picture that are encoded, the whole first."""
OFFERED = (1.0, 0.5, 0.35)
"""Those that a user's table shows, the default first."""
ENCODER_RATIOS = (0.3, 0.2, 0.1)
USER_RATIOS = (0.3, 0.2, 0.1, 0.05)
COMPARED = (0.2, 0.1, 0.05)
"""Retained ratios at which a user sees the others, too."""
INTRA_ONLY = (("beta", 200.0), ("t_mid", 1.0))
"""A sigmoid that starts behind the last layer: what leaves, leaves before the decoder."""

Settings = tuple[tuple[str, float | int | str | bool], ...]

UNREAD: Settings = (("read_left_out", False),)
BEFORE: Settings = (("entry", "rare"), ("merge", False), *UNREAD)
"""Ours until November 2026: max-min weighted by rarity, what is left out dropped and not read."""
MERGE: Settings = (("merge", True),)
READ: Settings = (("read_left_out", True),)
AS_COSTLY = {0.2: 0.22, 0.1: 0.125, 0.05: 0.08}
"""By retained ratio, one at which about as many FLOPs buy more tokens in place of reading what is left out: a minute
with eight questions of 12 to 45 rows takes as many at 0.21 to 0.22, 0.114 to 0.128 and 0.067 to 0.083 at 7B and 3B
shape. Nearly the most, so that reading is not flattered."""
OMNIPACK: Settings = (("shares", "even"),)
"""Its published shares are made for six times as many video as audio tokens; the worlds have about as many, and lose
more by those."""

ABLATIONS: dict[str, Settings] = {
    "what is left out is not read": UNREAD,
    "what is left out is dropped, not merged": (("merge", False),),
    "entry: least alike, rare ones first": (("entry", "rare"),),
    "the same, dropped": (("entry", "rare"), ("merge", False)),
    "entry: least alike, rare or not": (("entry", "diverse"),),
    "entry as in the paper": (("entry", "merged"), ("merge", False)),
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


PAPERS: dict[str, Settings] = {
    "the paper throughout": (),
    "the paper throughout, its temporal tokens merged": (("temporal_tokens", "merge"),),
}

DAMAGED: dict[str, tuple[str, Settings]] = {
    "ours": ("omnidrop", ()),
    "ours, left out not read": ("omnidrop", UNREAD),
    "ours before": ("omnidrop", BEFORE),
    "seats": ("seats", ()),
    "seats, merged": ("seats", MERGE),
    "omnipack": ("omnipack", OMNIPACK),
    "random": ("random", ()),
}
"""What is asked of damaged clips: policy and settings by row."""

RIVALS: dict[str, tuple[str, Settings]] = {
    "seats": ("seats", ()),
    "seats, merged": ("seats", MERGE),
    "omnipack": ("omnipack", OMNIPACK),
    "divprune": ("divprune", ()),
    "random": ("random", ()),
}
"""Others that a user's table shows: policy and settings by row."""
RIVALS_READ: dict[str, tuple[str, Settings]] = {
    "seats, merged, left out read": ("seats", MERGE + READ),
    "omnipack, left out read": ("omnipack", OMNIPACK + READ),
}

WHOLE = 1.0
"""Ways and ablations encode the whole picture: they differ in the decoder's pass alone."""


@dataclass(frozen=True)
class Row:
    """One way of asking at one ratio, and how many questions at a time."""

    table: str
    way: str
    ratio: float | None
    set_size: int
    pruning: Pruning
    condition: str = CLEAN
    """What was done to the clip: one of `damage.CONDITIONS`."""

    @property
    def name(self) -> str:
        """Unique over all tables."""
        where = "" if self.condition == CLEAN else f", {self.condition}"
        kept = "" if self.ratio is None else f", {100 * self.ratio:g} %"
        return f"{self.table}: {self.way}, {self.set_size} at a time{kept}{where}"

    @property
    def arm(self) -> Arm:
        """For the evaluation."""
        return Arm(self.name, self.pruning)


DENSE = Row("ways", "dense", None, SET, Pruning.off("dense_shared"))


def encoder_rows(ratios: Sequence[float] = ENCODER_RATIOS) -> list[Row]:
    """The unpruned row, the default way with less and less of the picture encoded, and the default share with each
    moment by itself and without merging."""
    ways = [(encoded(share), Pruning(encoder_share=share)) for share in ENCODED]
    ways.append(("35 % encoded, what stands still at every moment", Pruning(encoder_share=0.35, still_levels=0.0)))
    ways.append(("35 % encoded, nothing merged", Pruning(encoder_share=0.35, settings=(("merge", False),))))
    made = [
        Row("encoders", way, ratio, SET, replace(pruning, retained_ratio=ratio))
        for way, pruning in ways
        for ratio in ratios
    ]
    return [DENSE, *made]


def user_rows(ratios: Sequence[float] = USER_RATIOS) -> list[Row]:
    """What a user chooses between: no pruning, the default way with less and less of the picture encoded or without
    reading what is left out, and where pruning costs something, the best of the others, and more kept for as much."""
    made = [DENSE]
    for ratio in ratios:
        made += [
            Row("user", f"ours, {encoded(share)}", ratio, SET, Pruning(retained_ratio=ratio, encoder_share=share))
            for share in OFFERED
        ]
        made.append(Row("user", "ours, left out not read", ratio, SET, _unread(ratio)))
        if ratio in COMPARED:
            made += [
                Row("user", way, ratio, SET, Pruning("set_guided", policy, ratio, settings=settings))
                for way, (policy, settings) in (RIVALS | RIVALS_READ).items()
            ]
            made.append(Row("user", "ours, more kept for as many FLOPs", ratio, SET, _unread(AS_COSTLY[ratio])))
    return made


def _unread(ratio: float) -> Pruning:
    return Pruning(retained_ratio=ratio, read_left_out=False)


def encoded(share: float) -> str:
    """The name of the way that encodes `share`."""
    return f"{100 * share:g} % encoded"


def all_rows(ratios: Sequence[float] = RATIOS, ablated: Sequence[float] = ABLATED, largest: int = 16) -> list[Row]:
    """Ways and ablations, the unpruned row first; sets of at most `largest` questions. Needs `guides.registered()`."""
    return [DENSE, *_ways(ratios, largest), *_ablations(ablated)]


def _ways(ratios: Sequence[float], largest: int) -> Iterator[Row]:
    for ratio in ratios:
        # What a set's size costs is asked where pruning costs something at all.
        sizes = SET_SIZES if ratio in ABLATED else (SET,)
        for size in (size for size in sizes if size <= largest):
            way = "per_question" if size == 1 else "set_guided, max"
            mode = "per_question" if size == 1 else "set_guided"
            yield Row("ways", way, ratio, size, Pruning(mode, "omnidrop", ratio, encoder_share=WHOLE))
        guidances: tuple[Guidance, ...] = ("mean", "quota")
        for guidance in guidances:
            pruning = Pruning("set_guided", "omnidrop", ratio, guidance, encoder_share=WHOLE)
            yield Row("ways", f"set_guided, {guidance}", ratio, SET, pruning)
        intra = Pruning("set_guided", "omnidrop", ratio, settings=INTRA_ONLY, encoder_share=WHOLE)
        yield Row("ways", "intra-modality only", ratio, SET, intra)
        for policy in BASELINES:
            yield Row("ways", policy, ratio, SET, Pruning("set_guided", policy, ratio))
        yield Row("ways", "seats, merged", ratio, SET, Pruning("set_guided", "seats", ratio, settings=MERGE))
        yield Row("ways", "omnipack", ratio, SET, Pruning("set_guided", "omnipack", ratio, settings=OMNIPACK))


def _ablations(ratios: Sequence[float]) -> Iterator[Row]:
    for ratio in ratios:
        for way, settings in ABLATIONS.items():
            pruning = Pruning("set_guided", "omnidrop", ratio, settings=settings, encoder_share=WHOLE)
            yield Row("ablations", way, ratio, SET, pruning)
        words, audio = (
            Pruning("set_guided", guide.name, ratio, encoder_share=WHOLE) for guide in (WordsGuided, AudioGuided)
        )
        yield Row("ablations", "guided by the questions' words alone, as in the paper", ratio, SET, words)
        yield Row("ablations", "guided by audio instead of text", ratio, SET, audio)
        for way, settings in PAPERS.items():
            paper = Pruning("set_guided", "omnidrop_paper", ratio, settings=settings)
            yield Row("ablations", way, ratio, SET, paper)


def damaged_rows(ratios: Sequence[float] = ABLATED, conditions: Sequence[str] = CONDITIONS) -> Iterator[Row]:
    """Clips damaged in every one of `conditions`, the unpruned row of each first."""
    for condition in conditions:
        yield Row("damage", "dense", None, SET, Pruning.off("dense_shared"), condition)
        for ratio in ratios:
            for way, (policy, settings) in DAMAGED.items():
                pruning = Pruning("set_guided", policy, ratio, settings=settings, encoder_share=WHOLE)
                yield Row("damage", way, ratio, SET, pruning, condition)
