"""Tokens that cover a clip: every token is near one that is chosen, in likeness and in time; rare ones count for more.

Promises: exactly as many tokens as asked, the same for the same features. What stands still is one thing: its first
moment enters before any later one, and covers most of them. The choice is greedy on
`sum_i w_i max_{j chosen} K_ij` with `K_ij = exp(10 (z_ij - 1)) exp(-|t_i - t_j| / 1 s)` within a modality and 0 across:
a monotone submodular sum, of which the greedy reaches at least 1 - 1/e (Nemhauser 1978). Knows nothing about questions,
layers or where the budget comes from.

Saliency times coverage was found to beat max-min on published models (SCOPE, arXiv 2510.24214); time in the kernel, two
modalities and rarity are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies import likeness
from omnidrop.policies.base import AudioVisual

WINDOW_S = 1.0
"""Time is cut into windows; of windows far enough apart one token each is chosen at once."""
REACH = 3
"""Windows on either side that a token can cover: farther off, K is below e^-3."""
USUAL = 0.1
"""The weight of the most usual tokens, in nats as the others."""
FALL = 0.85
"""What the least gain accepted is multiplied with when no window has one above it any more."""
ALMOST = 1.0 - 1e-5
"""The least gain accepted at first, of the highest: a sum may round otherwise when it is made again."""
LOOKED_AT = 16
"""Tokens of a window that are looked at together, those that could add most."""
LEAST_AUDIO, MOST_AUDIO = 1.0, 1.75
"""Audio's share of its tokens stays between so many times the video's: SEATS' 1 and the paper's 0.7 : 0.4. Coverage
alone starves a modality whose tokens are all different, as speech is."""
STILL = 0.8
"""How much of a token that is like one at another moment the moment does not change: a page that stands still is seen
whole before anything of it is seen again."""


@dataclass(frozen=True, eq=False)
class _Band:
    """One modality's tokens in windows of time, padded to the fullest one."""

    members: Tensor
    """(W, M) int64: indices into the clip's n tokens."""
    real: Tensor
    """(W, M) bool: which of `members` are tokens."""
    kernel: Tensor
    """(W, M, (2 REACH + 1) M) float32: K of a window's tokens and those of the windows around it."""
    weight: Tensor
    """(W + 2 REACH, M) float32, 0 where there is no token."""
    alone: Tensor
    """(W, M) float32: what each token would add if none were chosen, which is the most that it ever adds."""
    version: Tensor | None = None
    """(W + 2 REACH, M) int64: the token that each is a later moment of, or itself (`AudioVisual.versions`); -1 where
    there is no token. None where each is its own."""
    tokens: int = 0
    """n."""
    count: int = 0
    """How many of them are the modality's, on the host."""


def cover(tokens: AudioVisual, keep: int) -> Tensor:
    """(keep,) ascending indices of the tokens that cover the clip best, int64."""
    places = {kind: torch.nonzero(tokens.modality == kind).flatten() for kind in (AUDIO, VIDEO)}
    bands = {kind: _band(tokens, at, rare=kind == VIDEO) for kind, at in places.items() if at.numel()}
    if not bands:
        return torch.zeros(0, dtype=torch.int64, device=tokens.modality.device)
    # What stands still takes no budget from sound: the two share it as if all moments could be chosen at once.
    is_split = len(bands) == 2
    chosen = _greedy(list(bands.values()), keep, first=not is_split)
    if is_split:
        heard = int((tokens.modality[chosen] == AUDIO).sum())
        bounded = _guarded(heard, keep, tokens.audio, sum(tokens.sizes), tokens.video)
        if bounded != heard or tokens.versions is not None:
            chosen = torch.cat((_greedy([bands[AUDIO]], bounded), _greedy([bands[VIDEO]], keep - bounded)))
    return torch.sort(chosen).values


def _guarded(heard: int, keep: int, audio: int, video: int, encoded: int) -> int:
    """How many of `keep` tokens are audio when audio's share is held within its bounds; only `encoded` of the `video`
    tokens can enter."""
    least, most = (_audio_at(times, keep, audio, video) for times in (LEAST_AUDIO, MOST_AUDIO))
    return max(min(max(heard, least), most), keep - encoded)


def _audio_at(times: float, keep: int, audio: int, video: int) -> int:
    # a / audio = times * v / video and a + v = keep
    count = round(keep * times * audio / (times * audio + video)) if audio else 0
    return min(max(count, keep - video, 0), audio, keep)


def video_entering(keep: int, audio: int, video: int) -> int:
    """Of `keep` tokens, how many must be video at least: as many cells a picture needs to have encoded."""
    return keep - _audio_at(MOST_AUDIO, keep, audio, video)


def _band(tokens: AudioVisual, places: Tensor, *, rare: bool) -> _Band:
    unit, of = likeness.unit_and_scale(tokens.features[places], tokens.is_own[places])
    weight = likeness.surprisal(unit, of) + USUAL if rare else torch.ones(places.shape[0], device=unit.device)
    weight = weight / weight.mean()
    seconds = tokens.seconds[places]
    window = torch.div(seconds, WINDOW_S, rounding_mode="floor").long()
    count = int(window.max()) + 1
    sizes = torch.bincount(window, minlength=count)
    widest = int(sizes.max())
    starts = torch.cumsum(sizes, 0) - sizes
    order = torch.argsort(window, stable=True)
    slot = torch.arange(places.shape[0], device=places.device) - starts[window[order]]

    def laid(values: Tensor, empty: float) -> Tensor:
        out = torch.full((count, widest, *values.shape[1:]), empty, dtype=values.dtype, device=values.device)
        out[window[order], slot] = values[order]
        return out

    real = laid(torch.ones_like(window, dtype=torch.bool), False)

    def banded(values: Tensor, first: int) -> Tensor:
        """(W, M, ...) -> (W, k M, ...): each window with those around it from the `first`th on, as a view in which they
        overlap: of a clip's features copies would be a quarter of a gigabyte."""
        padding = [0, 0] * (values.dim() - 1) + [-first, REACH]
        padded = torch.nn.functional.pad(values, padding)
        return padded.as_strided((count, (REACH + 1 - first) * widest, *values.shape[2:]), padded.stride())

    at, when = laid(unit, 0.0), laid(seconds, 0.0)
    # In place: one such table is tens of megabytes, and on a CPU a new one costs more than what is done with it.
    alike = (at @ banded(at, 0).transpose(1, 2)).div_(of).clamp_max_(1.0)
    apart = (when[:, :, None] - banded(when, 0)[:, None, :]).abs_()
    kernel = _both_ways(alike.sub_(1.0).mul_(likeness.CONCENTRATION).sub_(apart).exp_())
    version = None
    if rare and tokens.versions is not None:
        of_place = laid(tokens.versions[places], -1)
        is_same = of_place[:, :, None] == banded(of_place + 1, -REACH)[:, None, :] - 1
        kernel = torch.where(is_same, STILL + (1.0 - STILL) * kernel, kernel)
        version = torch.nn.functional.pad(of_place, [0, 0, REACH, REACH], value=-1)
    kernel.mul_(banded(real, -REACH)[:, None, :])
    weights = torch.nn.functional.pad(laid(weight, 0.0), [0, 0, REACH, REACH])
    around = torch.arange(count, device=places.device)[:, None] + torch.arange(2 * REACH + 1, device=places.device)
    return _Band(
        members=laid(places, 0),
        real=real,
        kernel=kernel,
        weight=weights,
        alone=(kernel @ weights[around].flatten(1)[:, :, None]).squeeze(2),
        version=version,
        tokens=tokens.count,
        count=places.shape[0],
    )


def _both_ways(onwards: Tensor) -> Tensor:
    """(W, M, (2 REACH + 1) M): of a window's tokens with themselves and those after them, (W, M, (REACH + 1) M), also
    those before: K is the same both ways."""
    count, widest = onwards.shape[:2]
    table = onwards.new_zeros(count, widest, 2 * REACH + 1, widest)
    table[:, :, REACH:] = onwards.view(count, widest, REACH + 1, widest)
    for lag in range(1, min(REACH, count - 1) + 1):
        table[lag:, :, REACH - lag] = table[:-lag, :, REACH + lag].transpose(1, 2)
    return table.flatten(2)


def _greedy(bands: Sequence[_Band], keep: int, *, first: bool = True) -> Tensor:
    """(keep,) indices; where `first`, no later moment before every first one.

    Windows REACH + 1 apart cannot cover each other's tokens, so one token of each is chosen at once, as long as it
    gains what is still accepted; that falls until enough are chosen. Covers as much as the plain greedy, within 1 %,
    in a tenth of its steps. The host waits for the device once a round over all windows, and at every step only when
    so few are left to choose that one step could choose too many.
    """
    covering = [_Covering(band, first=first) for band in bands]
    left = min(keep, sum(band.count for band in bands))
    accepted = most = max((float(band.alone.amax()) for band in bands), default=0.0) * ALMOST
    while left:
        at_least = left
        taken: list[Tensor] = []
        reached: list[Tensor] = []
        for one in covering:
            for windows in one.phases:
                best, slot = one.best(windows, accepted)
                takes = best >= accepted
                if at_least < windows.count:
                    at_least = left - int(torch.stack(taken).sum()) if taken else left
                    if at_least < windows.count and int(takes.sum()) > at_least:
                        those = torch.nonzero(takes).flatten()
                        those = those[torch.topk(best[those], at_least, sorted=False).indices]
                        takes = torch.zeros_like(takes).index_fill_(0, those, True)
                one.take(windows, best, slot, takes)
                taken.append(takes.sum())
                reached.append(best.amax())
                at_least -= windows.count
        count, highest = torch.stack((torch.stack(taken).sum().double(), torch.stack(reached).amax().double())).tolist()
        left -= int(count)
        if count:
            continue
        if accepted == 0.0:
            for one in covering:
                one.go_on()
            accepted = most
        else:
            accepted = _fallen(accepted, highest)
    return torch.cat([one.band.members[one.chosen] for one in covering])


def may_wait(device: torch.device) -> bool:
    """Whether the host may ask at every step what was chosen: a CPU does not run ahead of it."""
    return device.type == "cpu"


def _fallen(accepted: float, reached: float) -> float:
    """The least gain accepted after falling until `reached`, the highest there is, is."""
    highest = torch.tensor(reached, dtype=torch.float32)
    while True:
        accepted = accepted * FALL if accepted > 1e-6 else 0.0
        if accepted == 0.0 or highest >= accepted:
            return accepted


@dataclass(frozen=True, eq=False)
class _Windows:
    """Every nth window from `rows.start` on: where n is REACH + 1 none covers another's tokens."""

    rows: slice
    count: int
    around: Tensor
    """(count, 2 REACH + 1) int64: each window and those around it, as rows of `_Band.weight`."""
    weight: Tensor
    """(count, (2 REACH + 1) M, 1) float32."""

    @classmethod
    def every(cls, band: _Band, step: int) -> list[_Windows]:
        """Every `step`th window, from each of the first `step` on."""
        count, beside = band.real.shape[0], torch.arange(2 * REACH + 1, device=band.real.device)
        found = []
        for first in range(min(step, count)):
            around = torch.arange(first, count, step, device=beside.device)[:, None] + beside
            weight = band.weight[around].flatten(1)[:, :, None]
            found.append(cls(slice(first, None, step), around.shape[0], around, weight))
        return found


class _Covering:
    """What of one band is chosen and how far it covers; only `chosen` waits for the device, and `best` on a CPU, where
    there is nothing to wait for."""

    def __init__(self, band: _Band, *, first: bool) -> None:
        self.band = band
        self.covered = torch.zeros_like(band.weight)
        self._may = _first_moments(band) if first else band.real
        self.free = self._may.clone()
        """(W, M) bool: what may be chosen and is not."""
        self._chosen = torch.zeros_like(band.real)
        self.phases = _Windows.every(band, REACH + 1)
        self._most = torch.nn.functional.pad(band.alone, [0, 0, REACH, REACH])
        """(W + 2 REACH, M) float32: what each token added when it was last looked at; it never adds more later."""
        self._is_known = torch.ones_like(self._most, dtype=torch.bool)
        """(W + 2 REACH, M): whether nothing near it was chosen since."""
        self._left: Tensor | None = None
        """What all tokens of a phase are looked at in, again and again."""

    def best(self, windows: _Windows, accepted: float) -> tuple[Tensor, Tensor]:
        """(count,) the most that a token of each of `windows` would add to the sum, -1 where none can be chosen, and
        its place; the most that it could add where not even that is accepted."""
        if not may_wait(self.free.device):
            return self._added(windows).masked_fill(~self.free[windows.rows], -1.0).max(dim=1)
        # Sums over fewer rows, for which a device would have to be waited for: what a token adds only falls while
        # others are chosen, so one that adds more than the others did when they were looked at adds most.
        free, rows = self.free[windows.rows], windows.around[:, REACH]
        most, is_known = self._most[rows].masked_fill_(~free, -1.0), self._is_known[rows]
        while True:
            best, slot = most.max(dim=1)
            unsure = torch.nonzero((best >= accepted) & ~is_known.gather(1, slot[:, None]).squeeze(1)).flatten()
            if not unsure.numel():
                return best, slot
            count = min(LOOKED_AT, most.shape[1])
            at = most[unsure].masked_fill_(is_known[unsure], -2.0).topk(count, dim=1, sorted=False).indices
            added = self._added(windows, unsure, at)
            some, to = unsure[:, None], rows[unsure][:, None]
            self._most[to, at], self._is_known[to, at] = added, True
            most[some, at], is_known[some, at] = added.masked_fill_(~free[some, at], -1.0), True

    def _added(self, windows: _Windows, some: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """(count, M): what each token of `windows` would add; of `some` (s,) of these those `at` (s, k) -> (s, k)."""
        kernel, around, weight = self.band.kernel[windows.rows], windows.around, windows.weight
        if some is not None and at is not None:
            kernel, around, weight = kernel[some[:, None], at], around[some], weight[some]
            left = kernel
        else:
            if self._left is None:
                self._left = torch.empty_like(self.band.kernel[self.phases[0].rows])
            left = self._left[: windows.count]
        torch.sub(kernel, self.covered[around].flatten(1)[:, None, :], out=left)
        return (left.clamp_min_(0.0) @ weight).squeeze(2)

    def take(self, windows: _Windows, best: Tensor, slot: Tensor, takes: Tensor) -> None:
        """Choose token `slot` (count,), which adds `best`, of those of `windows` for which `takes` says so."""
        at, every = slot[:, None], torch.arange(windows.count, device=slot.device)
        self.free[windows.rows].scatter_(1, at, ((best >= 0.0) & ~takes)[:, None])
        reach = self.band.kernel[windows.rows][every, slot].view(*windows.around.shape, -1) * takes[:, None, None]
        # Two windows chosen at once may cover the same third one.
        to = windows.around.flatten()[:, None].expand(-1, reach.shape[2])
        self.covered.scatter_reduce_(0, to, reach.flatten(0, 1), "amax")
        if may_wait(self.free.device):
            self._is_known.index_fill_(0, windows.around[takes].flatten(), False)
        if self.band.version is not None:
            self._is_known.fill_(False)
            _cover_all_moments(self.band, self.band.members[windows.rows].gather(1, at).flatten(), takes, self.covered)

    def go_on(self) -> None:
        """Every first moment is chosen: now later ones may be."""
        self._chosen, self._may = self.chosen, self.band.real & ~_first_moments(self.band)
        self.free = self._may.clone()

    @property
    def chosen(self) -> Tensor:
        """(W, M) bool."""
        return self._chosen | (self._may & ~self.free)


def _first_moments(band: _Band) -> Tensor:
    """(W, M) bool: the tokens that are no later moment of another."""
    return band.real if band.version is None else band.real & (band.version[REACH:-REACH] == band.members)


def _cover_all_moments(band: _Band, tokens: Tensor, takes: Tensor, covered: Tensor) -> None:
    """What looks like those of `tokens` that are taken is covered in good part at any moment, however far off."""
    assert band.version is not None
    is_picked = torch.zeros(band.tokens, dtype=torch.int32, device=tokens.device)
    is_picked = is_picked.index_add_(0, tokens, takes.int()) > 0
    again = is_picked[band.version.clamp_min(0)] & (band.version >= 0)
    torch.where(again, covered.clamp_min(STILL), covered, out=covered)
