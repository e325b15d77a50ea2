"""How a question set is run and what is kept: mode, policy, retained ratio, and the policy's own settings.

Promises: frozen and checked when made; two spellings of the same pruning are equal. Importing it loads no torch, so
that configuration and planning can name it; making one, or asking it about tokens, loads its policy. Knows nothing
about models, clips or how a mode runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal, get_args

from omnidrop import policies
from omnidrop.errors import PolicyError
from omnidrop.questions import Question

if TYPE_CHECKING:
    from omnidrop.models.base import SomeOf
    from omnidrop.policies.base import Counted, Policy

DENSE_MODES = ("dense", "dense_shared")
"""Modes that prune nothing: each question alone; the prefix once for all."""
SHARED_MODES = ("dense_shared", "set_guided")
"""Modes in which a set is one pass."""
Mode = Literal["dense", "dense_shared", "per_question", "staged", "set_guided"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""The dense ones; pruned for each question alone; the same with the layers before the first drop shared; pruned once
for all."""
Guidance = Literal["max", "mean", "quota"]
GUIDANCES: tuple[Guidance, ...] = get_args(Guidance)


def is_number(given: object) -> bool:
    """Whether it is a real number; True and False are not."""
    return isinstance(given, Real) and not isinstance(given, bool)


@dataclass(frozen=True)
class Pruning:
    """How a question set is run and what is kept. Hashable: part of a recipe. Raises PolicyError when made."""

    mode: str = "set_guided"
    policy: str = "omnidrop"
    retained_ratio: float | None = 0.3
    """Mean over decoder layers of the share of audio and video tokens entering the layer."""
    guidance: Guidance = "max"
    """How `set_guided` makes one score of several questions' attention."""
    seed: int = 0
    """For policies that draw."""
    settings: tuple[tuple[str, float | int | str | bool], ...] = ()
    """The policy's own parameters by name, where they differ from its defaults."""
    encoder_share: float = 1.0
    """Share of the picture's cells that is encoded, chosen before the vision encoder, and as many as may enter the
    decoder in any case; 1 encodes all, as `none` and the published methods do, which choose among all tokens. Below 1
    answers are lost where much happens at once: docs/guide/choosing.md."""
    still_levels: float | None = None
    """Cells of one place that differ by so few 8-bit levels from the last one encoded there are versions of it: encoded
    once, and all of them enter the decoder once before any does again. 0: each cell is its own. Left at None it becomes
    2 where `encoder_share` is below 1, else 0."""
    read_left_out: bool | None = None
    """Whether questions attend to tokens that do not enter the decoder: see `policies.reading`. Left at None it becomes
    True for `omnidrop` where everything is encoded, else False. A policy's setting, too: among `settings` it is the
    same."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise PolicyError(f"unknown mode {self.mode!r}; allowed: {', '.join(MODES)}")
        if self.guidance not in GUIDANCES:
            raise PolicyError(f"unknown guidance {self.guidance!r}; allowed: {', '.join(GUIDANCES)}")
        if self.retained_ratio is not None and not (
            is_number(self.retained_ratio) and 0.0 < self.retained_ratio <= 1.0
        ):
            raise PolicyError(f"retained_ratio must be above 0 and at most 1, got {self.retained_ratio!r}")
        if self.mode in DENSE_MODES and self.policy != "none":
            raise PolicyError(
                f"mode {self.mode!r} prunes nothing and takes policy 'none', got {self.policy!r}; "
                f"use Pruning.off({self.mode!r}), or one of the modes {', '.join(MODES[len(DENSE_MODES) :])}"
            )
        if self.policy == "none" and self.retained_ratio not in (None, 1.0):
            raise PolicyError(
                f"policy 'none' keeps everything, got retained_ratio {self.retained_ratio!r}; use None or 1, or "
                f"another policy"
            )
        given = dict(self.settings)
        if self.read_left_out is None and "read_left_out" in given:
            object.__setattr__(self, "read_left_out", given["read_left_out"])
        # Two spellings of one policy are one recipe.
        settings = policies.effective(self.policy, given)
        object.__setattr__(self, "settings", tuple((n, v) for n, v in settings if n != "read_left_out"))
        if self.policy == "none":
            object.__setattr__(self, "encoder_share", 1.0)
        if not (is_number(self.encoder_share) and 0.0 < self.encoder_share <= 1.0):
            raise PolicyError(f"encoder_share must be above 0 and at most 1, got {self.encoder_share!r}")
        if self.still_levels is None or self.policy == "none":
            object.__setattr__(self, "still_levels", policies.still_levels(self.encoder_share))
        assert self.still_levels is not None
        if not (is_number(self.still_levels) and 0.0 <= self.still_levels <= 255.0):
            raise PolicyError(f"still_levels must be 0 to 255, got {self.still_levels!r}")
        asked = None if self.policy == "none" else self.read_left_out
        if not isinstance(asked, bool | None):
            raise PolicyError(f"read_left_out must be true or false, got {asked!r}")
        reads = policies.reads_left_out(self.policy, asked, self.encoder_share, self.still_levels)
        object.__setattr__(self, "read_left_out", reads)
        self.build()
        is_part = self.encoder_share < 1.0 or self.still_levels > 0.0
        if is_part and not policies.does_with_some_cells(self.policy, dict(self.settings)):
            raise PolicyError(
                f"policy {self.policy!r}{''.join(f', {n} {v}' for n, v in self.settings)} chooses among all tokens of "
                f"a clip: leave encoder_share and still_levels out, or give 1 in place of {self.encoder_share:g} and "
                f"0 in place of {self.still_levels:g}"
            )

    @classmethod
    def off(cls, mode: str = "dense_shared") -> Pruning:
        """No pruning, in any mode."""
        return cls(mode=mode, policy="none", retained_ratio=None)

    def together(self, questions: Sequence[Question]) -> list[tuple[float | None, tuple[int, ...]]]:
        """(retained ratio, numbers of the questions) of those that share one ratio and group, in order of the first of
        each: the passes."""
        if self.policy == "none":
            return [(self.retained_ratio, tuple(range(len(questions))))]
        passes = defaultdict[tuple[str, float | None], list[int]](list)
        for number, question in enumerate(questions):
            passes[question.group, question.retained_ratio or self.retained_ratio].append(number)
        return [(ratio, tuple(numbers)) for (_, ratio), numbers in passes.items()]

    def cells(self, tokens: Counted, layers: int, questions: Sequence[Question]) -> int | None:
        """How many cells of a clip with so many `tokens` are encoded for all passes of a question set, at most; None
        for all of them, each as itself. Raises PolicyError, as planning the passes."""
        from omnidrop.policies.base import SomeCells

        assert self.still_levels is not None
        policy = self.build()
        whole = self.encoder_share == 1.0 and not self.still_levels
        if whole or not tokens.video or not isinstance(policy, SomeCells):
            return None
        ratios = [ratio for ratio, _ in self.together(questions)]
        most = max(policy.most_video(tokens, policy.plan(tokens, layers, ratio)) for ratio in ratios)
        cells = max(most, math.ceil(self.encoder_share * tokens.video - 1e-9))
        if cells >= tokens.video and not self.still_levels:
            return None
        return min(cells, tokens.video)

    def some_of(self, tokens: Counted, layers: int, questions: Sequence[Question]) -> SomeOf | None:
        """Which cells of such a clip are encoded: `cells`, and how they are chosen."""
        from omnidrop.models.base import SomeOf
        from omnidrop.policies.intra_modality import choose_cells

        cells = self.cells(tokens, layers, questions)
        assert self.still_levels is not None
        return None if cells is None else SomeOf(cells, choose_cells, self.still_levels)

    def build(self) -> Policy:
        """The policy with its settings."""
        settings: dict[str, object] = dict(self.settings)
        for name in ("seed", "read_left_out"):
            if policies.takes(self.policy, name):
                settings.setdefault(name, getattr(self, name))
        return policies.named(self.policy, **settings)
