"""How many audio and video tokens enter each decoder layer, and the rates that meet a retained ratio at a given depth.

Promises: pure host arithmetic on integers and floats, exact token counts, the same for the same arguments. Knows
nothing about which tokens are kept, tensors or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from omnidrop.errors import PolicyError

PAPER_RATIO, PAPER_ENTERING = 0.30, 0.45
"""The paper's first setting: 45 % of the tokens enter layer 0, half as many again as the mean over layers."""
PAPER_P_INIT = 0.02
PAPER_P_FINAL = 0.5
"""The paper's strongest rates (its 20 % settings): up to these the input is not pruned further than the paper does."""
NEARBY = 3
"""How many tokens the entry may be off the paper's share to come nearer to the target."""
MOST_P_INIT = 0.1
MOST_P_FINAL = 0.9
"""Bounds of what calibration may use: beyond them nearly nothing survives the first layers that prune."""


@dataclass(frozen=True)
class Schedule:
    """Audio and video tokens entering each layer, of `total` before any pruning."""

    total: int
    entering: tuple[int, ...]
    """One count a layer, never rising; what leaves between layers l and l + 1 leaves after layer l."""
    p_init: float = 0.0
    p_final: float = 0.0

    def __post_init__(self) -> None:
        alive = self.total
        for count in self.entering:
            if not 0 <= count <= alive:
                raise ValueError(f"tokens cannot come back: {self.total} before pruning, then {self.entering}")
            alive = count

    @property
    def retained_ratio(self) -> float:
        """Mean over layers of the tokens entering the layer / the tokens before any pruning; 1 without tokens."""
        if not self.total or not self.entering:
            return 1.0
        return sum(self.entering) / (self.total * len(self.entering))

    def drops_after(self, layer: int) -> int:
        """How many tokens leave after `layer`."""
        return self.entering[layer] - self.entering[layer + 1] if layer + 1 < len(self.entering) else 0

    @property
    def first_drop(self) -> int | None:
        """The first layer after which tokens leave; None where none does."""
        return next((layer for layer in range(len(self.entering)) if self.drops_after(layer)), None)


def full(total: int, layers: int) -> Schedule:
    """Nothing is pruned."""
    return Schedule(total, (total,) * layers)


@dataclass(frozen=True)
class Sigmoid:
    """`p_l = p_init + (p_final - p_init) * sigmoid(beta * (l / L - t_mid))`: the share of the tokens still alive that
    leaves after layer l, counted from 0, for l up to L - 2 (arXiv 2605.14458, progressive layer-wise pruning)."""

    p_init: float
    p_final: float
    beta: float = 20.0
    t_mid: float = 0.5

    def rate(self, layer: int, layers: int) -> float:
        """p_l of `layers` layers; 0 after the last one, whose output nothing follows."""
        if layer > layers - 2:
            return 0.0
        return self.p_init + (self.p_final - self.p_init) / (1.0 + math.exp(-self.beta * (layer / layers - self.t_mid)))

    def schedule(self, total: int, entering: int, layers: int) -> Schedule:
        """`k_l = floor(p_l * alive)` tokens leave after layer l, cumulatively, of `entering` that enter layer 0."""
        alive, counts = entering, []
        for layer in range(layers):
            counts.append(alive)
            alive -= math.floor(self.rate(layer, layers) * alive)
        return Schedule(total, tuple(counts), self.p_init, self.p_final)


@dataclass(frozen=True)
class EntryCounts:
    """How many tokens pruning before the decoder can let in."""

    least: int
    paper: int
    """At the paper's shares for audio and video."""
    total: int


@lru_cache(maxsize=1024)  # clips of one archive are mostly of one size
def calibrate(target: float, total: int, layers: int, shape: Sigmoid, entry: EntryCounts) -> Schedule:
    """The schedule whose retained ratio is nearest to `target`, of `layers` layers and `total` tokens.

    The share entering, `p_init` and `p_final` are solved together, in an order that stays at the paper's settings as
    long as these reach: the paper's share enters (more for targets above 30 %, in the same proportion) and `p_final` is
    solved with `p_init` 0, then with 0.02; then fewer tokens enter; then both rates rise to their bounds. `shape` gives
    beta and t_mid. Raises PolicyError for a ratio outside (0, 1] and for one below what this depth can reach.
    """
    if not 0.0 < target <= 1.0:
        raise PolicyError(f"retained_ratio must be above 0 and at most 1, got {target:g}")
    wanted = target * total * layers
    if not total or wanted > total * layers - 0.5:  # nearer to everything than to one token less in one layer
        return full(total, layers)

    def at(entering: int, p_init: float, p_final: float) -> Schedule:
        return replace(shape, p_init=p_init, p_final=p_final).schedule(total, entering, layers)

    enters = entry.paper
    if target > PAPER_RATIO or enters < target * total:
        enters = min(total, max(enters, math.ceil(target / PAPER_RATIO * PAPER_ENTERING * total)))

    def around(count: int, p_init: float, most: float) -> Schedule:
        # One step of p_final moves several layers' counts at once; a token more or less at the entry fills the gap.
        nearby = range(max(entry.least, count - NEARBY), min(total, count + NEARBY) + 1)
        tried: list[Schedule] = []
        for other in sorted(nearby, key=lambda c: abs(c - count)):
            tried.append(_solve(lambda p, c=other: at(c, p_init, p), p_init, most, wanted))  # type: ignore[misc]
            if abs(sum(tried[-1].entering) - wanted) <= layers / 2:  # half a token in the mean over layers
                break
        return min(tried, key=lambda s: abs(sum(s.entering) - wanted))

    for p_init in (0.0, PAPER_P_INIT):
        if sum(at(enters, p_init, PAPER_P_FINAL).entering) <= wanted:
            return around(enters, p_init, PAPER_P_FINAL)
    if sum(at(entry.least, PAPER_P_INIT, PAPER_P_FINAL).entering) <= wanted:
        low, high = entry.least, enters
        while high - low > 1:
            middle = (low + high) // 2
            below = sum(at(middle, PAPER_P_INIT, PAPER_P_FINAL).entering) <= wanted
            low, high = (middle, high) if below else (low, middle)
        return around(high, PAPER_P_INIT, MOST_P_FINAL)
    floor = at(entry.least, MOST_P_INIT, MOST_P_FINAL)
    if sum(floor.entering) > wanted + layers:
        raise PolicyError(
            f"retained_ratio {target:g} cannot be reached with {layers} decoder layers and {total} audio-video tokens: "
            f"the floor is {floor.retained_ratio:.3f}; ask for at least that, or use a policy that prunes at the input "
            f"alone"
        )

    def stronger(x: float) -> Schedule:
        span = MOST_P_INIT - PAPER_P_INIT, MOST_P_FINAL - PAPER_P_FINAL
        return at(entry.least, PAPER_P_INIT + x * span[0], PAPER_P_FINAL + x * span[1])

    return _solve(stronger, 0.0, 1.0, wanted)


def _solve(at: Callable[[float], Schedule], low: float, high: float, wanted: float) -> Schedule:
    """Bisect the falling step function `sum(at(x).entering)` for `wanted`; the nearer side of the last step."""
    for _ in range(32):  # finer than one token in a billion
        middle = (low + high) / 2
        if sum(at(middle).entering) <= wanted:
            high = middle
        else:
            low = middle
    return min((at(low), at(high)), key=lambda s: abs(sum(s.entering) - wanted))
