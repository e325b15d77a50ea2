"""The curriculum as data: which part of the model learns from what, for how many steps, in which order.

Promises: the stages of a curriculum that ship are, in their order, the run whose checkpoint ships (the lab log tells
where their steps were found on the way). Knows nothing about how a stage is run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from training.tiny.binding import FIRST_LAYERS, Phase
from training.tiny.clips import Curriculum

ALL_LAYERS = None
NAMED_AFTER, KNOWN_AFTER = 5, 8
"""After so many layers every media token names its moment, and knows what came before; later stages keep them."""
READING = Curriculum(6, 32, full_share=0.8, thin_share=0.95, fewest_events=2, questions=18, order_weight=2.4)
"""What tokens know has to be read by questions: many questions of order, few of all else."""


@dataclass(frozen=True)
class EncoderStage:
    """One encoder alone."""

    name: str
    kind: str
    """ "audio" or "vision"."""
    steps: int
    rate: float = 2e-3
    busy_share: float = 0.0
    """Share of the batches from world v2."""
    speaks: bool = False
    """Whether it learns the words that are said in world v3."""
    reads: bool = False
    """Whether it learns the words that are written there."""
    begins_at: float = 0.0
    """Share of the way from one written word to whole pages in all faces that lies behind it."""
    tables: float = 0.0
    """Share of the batches that are pages with rules and columns."""
    ships: bool = True
    """Whether the checkpoint that ships has been through it; other stages run where they are named."""
    share_of_time: float = 0.1
    """How `--hours` is spent, relative to other stages."""


@dataclass(frozen=True)
class DecoderStage:
    """The decoder, or some layers of it, on features of one kind."""

    name: str
    features: str
    """ "ideal" or "encoded"."""
    steps: int
    phases: tuple[Phase, ...]
    rate: float = 1.5e-3
    rows: int = 6
    """Clips a step and process."""
    decay: float = 0.0
    """Share of the steps over which the rate falls to nearly nothing; 0 goes over into the next stage."""
    layers: tuple[int, ...] | None = ALL_LAYERS
    frozen: int = 0
    """First layers that stay as they are, with the embeddings."""
    unheard: bool = False
    """Whether the words are said by speakers that the sound encoder has never heard, as an evaluation's are."""
    is_averaged: bool = False
    """Whether the weights at its end are the mean of those before and after it."""
    ships: bool = True
    share_of_time: float = 0.1


Stage = EncoderStage | DecoderStage

STAGES: tuple[Stage, ...] = (
    EncoderStage("audio", "audio", 160, share_of_time=0.03),
    EncoderStage("vision", "vision", 600),
    DecoderStage(
        "two-events",
        "ideal",
        600,
        (
            Phase(0.40, Curriculum(most_events=2, longest_s=8, full_share=0.0, thin_share=1.0)),
            Phase(0.75, Curriculum(most_events=3, longest_s=12, full_share=0.0, thin_share=1.0)),
            Phase(1.00, Curriculum(most_events=4, longest_s=16, full_share=0.1, thin_share=1.0)),
        ),
        rate=2e-3,
        layers=FIRST_LAYERS,
    ),
    DecoderStage(
        "first-layers",
        "encoded",
        240,
        (Phase(1.00, Curriculum(most_events=4, longest_s=16, full_share=0.5, thin_share=0.8)),),
        layers=FIRST_LAYERS,
    ),
    DecoderStage(
        "all-layers",
        "encoded",
        500,
        (
            Phase(0.60, Curriculum(most_events=4, longest_s=16, full_share=0.6, thin_share=0.7)),
            Phase(1.00, Curriculum(most_events=6, longest_s=26, full_share=0.6, thin_share=0.85)),
        ),
        decay=0.6,
    ),
    DecoderStage(
        "order",
        "ideal",
        460,
        (
            Phase(0.61, Curriculum(4, 16, full_share=0.3, thin_share=1.0, fewest_events=2, busy_share=0.3)),
            Phase(1.00, Curriculum(6, 28, full_share=0.4, thin_share=1.0, fewest_events=2, busy_share=0.35)),
        ),
    ),
    DecoderStage(
        "order-late",
        "ideal",
        227,
        (Phase(1.00, Curriculum(6, 28, full_share=0.4, thin_share=1.0, fewest_events=2, busy_share=0.3)),),
        rate=1.2e-3,
        frozen=NAMED_AFTER,
    ),
    DecoderStage(
        "long-clips",
        "encoded",
        520,
        (
            Phase(0.60, Curriculum(6, 32, full_share=0.8, thin_share=0.9, fewest_events=2)),
            Phase(0.80, Curriculum(6, 32, full_share=0.8, thin_share=0.9)),
            Phase(1.00, Curriculum(6, 32, full_share=0.9, thin_share=0.35)),
        ),
        rate=1.2e-3,
        rows=4,
        decay=0.5,
        frozen=NAMED_AFTER,
    ),
    DecoderStage(
        "reading",
        "encoded",
        450,
        (Phase(1.00, READING),),
        rows=4,
        decay=0.5,
        frozen=KNOWN_AFTER,
    ),
    DecoderStage(
        "whole-rows",
        "encoded",
        130,
        (Phase(1.00, replace(READING, full_share=1.0, thin_share=0.1)),),
        rate=1e-3,
        rows=4,
        decay=0.8,
        frozen=NAMED_AFTER,
    ),
    DecoderStage(
        "wide",
        "encoded",
        150,
        (Phase(1.00, replace(READING, full_share=1.0, thin_share=0.3, fewest_events=1, seconds_an_event=8.0)),),
        rate=1.2e-3,
        rows=4,
        decay=0.8,
        frozen=NAMED_AFTER,
    ),
)
"""The checkpoint `tiny`, from nothing."""

BUSY_STAGES: tuple[Stage, ...] = (
    EncoderStage("busy-vision", "vision", 320, rate=1e-3, busy_share=0.75),
    EncoderStage("places", "vision", 120, rate=1e-3, busy_share=1.0),
    DecoderStage(
        "places-ideal",
        "ideal",
        746,
        (Phase(1.00, Curriculum(6, 32, full_share=0.8, thin_share=1.0, busy_share=1.0)),),
        rate=1.5e-3,
        decay=0.0,
    ),
    DecoderStage(
        "places-asked",
        "encoded",
        345,
        (
            Phase(0.60, Curriculum(6, 32, full_share=0.8, thin_share=1.0, busy_share=1.0)),
            Phase(1.00, Curriculum(6, 32, full_share=0.8, thin_share=0.5, busy_share=1.0)),
        ),
        rate=1.2e-3,
        decay=0.6,
    ),
)
"""The checkpoint `tiny-v2`, on the weights of `tiny` (`--world v2 --from DIR`)."""

SPOKEN = Curriculum(3, 7, full_share=0.0, thin_share=1.0, questions=14, spoken_share=1.0)
SPOKEN_STAGES: tuple[Stage, ...] = (
    EncoderStage("words", "audio", 930, rate=2e-3, busy_share=0.3, speaks=True),
    DecoderStage(
        "words-ideal",
        "ideal",
        776,
        (
            Phase(0.23, replace(SPOKEN, longest_s=6)),
            Phase(0.42, replace(SPOKEN, longest_s=8)),
            Phase(1.00, replace(SPOKEN, longest_s=12, full_share=0.2)),
        ),
        frozen=NAMED_AFTER + 1,
    ),
    DecoderStage(
        "words-heard",
        "encoded",
        320,
        (
            Phase(0.35, replace(SPOKEN, longest_s=12, full_share=0.3, thin_share=0.7)),
            Phase(1.00, replace(SPOKEN, longest_s=12, full_share=0.7, thin_share=0.5)),
        ),
        rate=1.2e-3,
        rows=4,
        decay=0.5,
    ),
    EncoderStage("words-more", "audio", 1300, rate=2e-3, busy_share=0.3, speaks=True),
    EncoderStage("writing", "vision", 1400, rate=2e-3, busy_share=0.2, reads=True),
    EncoderStage("writing-more", "vision", 700, rate=1.5e-3, busy_share=0.2, reads=True, begins_at=0.6),
    DecoderStage(
        "pages-ideal",
        "ideal",
        363,
        (
            Phase(0.70, replace(SPOKEN, longest_s=8, questions=18)),
            Phase(1.00, replace(SPOKEN, longest_s=12, questions=18, full_share=0.2)),
        ),
    ),
    DecoderStage(
        "pages-heard",
        "encoded",
        420,
        (
            Phase(0.35, replace(SPOKEN, longest_s=12, questions=18, full_share=0.3, thin_share=0.7)),
            Phase(1.00, replace(SPOKEN, longest_s=12, questions=18, full_share=0.7, thin_share=0.5)),
        ),
        rate=1.2e-3,
        rows=4,
        decay=0.6,
    ),
    EncoderStage("words-drawn", "audio", 560, rate=1.5e-3, busy_share=0.3, speaks=True),
    EncoderStage("voices", "audio", 400, rate=1e-3, busy_share=0.3, speaks=True),
    EncoderStage("faces", "vision", 180, rate=1e-3, busy_share=0.2, reads=True, begins_at=0.6),
    DecoderStage(
        "joined-ideal",
        "ideal",
        80,
        (
            Phase(0.50, replace(SPOKEN, longest_s=8, questions=18, joined_weight=3.0)),
            Phase(1.00, replace(SPOKEN, longest_s=12, questions=18, full_share=0.2, joined_weight=2.0)),
        ),
        rate=1.2e-3,
        decay=0.3,
    ),
    EncoderStage("voices-more", "audio", 190, rate=1.2e-3, busy_share=0.3, speaks=True),
    DecoderStage(
        "joined-heard",
        "encoded",
        220,
        (
            Phase(0.35, replace(SPOKEN, longest_s=12, questions=20, full_share=0.3, thin_share=0.7, joined_weight=1.5)),
            Phase(1.00, replace(SPOKEN, longest_s=12, questions=20, full_share=0.7, thin_share=0.5, joined_weight=1.5)),
        ),
        rate=1.2e-3,
        rows=4,
        decay=0.6,
        unheard=True,
    ),
    DecoderStage(
        "joined-long",
        "encoded",
        250,
        (
            Phase(
                1.00,
                replace(
                    SPOKEN,
                    shortest_s=7,
                    longest_s=13,
                    questions=26,
                    full_share=0.7,
                    thin_share=0.5,
                    joined_weight=1.5,
                    counted_weight=3.0,
                ),
            ),
        ),
        rate=7e-4,
        rows=4,
        decay=0.7,
        unheard=True,
        is_averaged=True,
    ),
    EncoderStage(
        "tables",
        "vision",
        316,
        rate=1e-3,
        busy_share=0.25,
        reads=True,
        begins_at=0.6,
        tables=0.55,
        ships=False,
    ),
)
"""The checkpoint `tiny-v3`, on the weights of `tiny` (`--world v3 --from DIR`)."""
CURRICULA = {"v1": STAGES, "v2": BUSY_STAGES, "v3": SPOKEN_STAGES}


def shipped(world: str) -> tuple[Stage, ...]:
    """The stages of the checkpoint that ships for `world`."""
    return tuple(stage for stage in CURRICULA[world] if stage.ships)


def named(names: list[str], curriculum: tuple[Stage, ...] = STAGES) -> tuple[Stage, ...]:
    """The stages of these names, in the curriculum's order. Raises ValueError for a name there is not."""
    known = [stage.name for stage in curriculum]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no stage {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(stage for stage in curriculum if stage.name in names)


def fitted(stages: tuple[Stage, ...], seconds: float, seconds_a_step: dict[str, float]) -> tuple[Stage, ...]:
    """The same stages with steps that take about `seconds` in all, each its share of the time."""
    whole = sum(stage.share_of_time for stage in stages)
    return tuple(
        replace(stage, steps=max(20, int(seconds * stage.share_of_time / whole / seconds_a_step[stage.name])))
        for stage in stages
    )
