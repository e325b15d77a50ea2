"""OmniPack: what encoders look at and what covers the clip enters, the rest merged into it; one cut in the middle.

Promises: exact counts without waiting for the device inside the decoder; distances of `BLOCK` tokens at once, however
long the clip. Knows nothing about attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.errors import PolicyError
from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies.base import AudioVisual, Counted, Guide, LayerTokens
from omnidrop.policies.budget import checked, solve
from omnidrop.policies.joined import Joined
from omnidrop.policies.max_min_selection import split
from omnidrop.policies.reading import Reading
from omnidrop.policies.schedule import Schedule, full
from omnidrop.policies.tokens import enters, everything

BLOCK = 1024
"""Tokens whose distances to all others are held at once."""
SHARES = ((0.0, 0.0), (0.06, 0.35), (0.10, 0.45), (0.15, 0.50), (0.20, 0.55), (1.0, 1.0))
"""Share of the video and of the audio that enters: published for 10, 15, 20 and 25 % of 144 and 25 tokens a second."""
DOMINANT = {VIDEO: 0.25, AUDIO: 0.35}
"""Share of the budget that goes by importance alone."""
PLACE, NEIGHBOURS, SALIENT = 0.20, 7, 0.35
"""In the coverage: how much the distance in place counts, of how many neighbours density is made, how much importance
raises it."""
MERGE_PLACE, MERGE_SALIENT = {VIDEO: 0.10, AUDIO: 0.05}, 0.10
"""In the merging: how much the distance in place and the importance of what stays count beside the cosine."""
OWN = {VIDEO: 0.62, AUDIO: 0.65}
"""Share of its own that an entering token keeps; the rest is the mean of what joined it, itself included."""
EVENT, CURVATURE, NOVELTY = 0.35, 0.35, 0.25
"""How much events raise a video token's importance, a turn of its change the event, change an audio token's."""
LOW, HIGH, LEAST = 0.14, 0.42, 0.35
"""Events count in full where HIGH of the video enters, LEAST of that where LOW and less does."""


@dataclass(frozen=True)
class OmniPack(Reading):
    """OmniPack (arXiv 2608.03812, its formulas and settings, and what its released code adds to them).

    Before the decoder, in each modality over the whole clip: the most important tokens (encoder attention, raised for
    video by what changes and stands out, for audio by what is new), then density peaks by cosine and place among the
    others; what is left out is averaged into the most alike that enters. After layer 18 of 28, half of each modality
    goes: tokens far apart and near the question's states, near the other modality's mean and dense stay, the others are
    averaged into them.

    Differs: the shares of both modalities are interpolated between the published ones, so that exactly the ratio asked
    stays; a set's questions each bring their likeness, scaled to 0..1, and the highest counts; caches of the layers
    before the cut keep what entered them, where the authors cut those too (text answers only).
    """

    name: ClassVar[str] = "omnipack"
    guide: ClassVar[Guide] = "states"
    depth: float = 18 / 28
    """Share of the layers before the cut; the authors' 3B setting is 26 of 36."""
    inside: float = 0.5
    """Share of the entering tokens that pass the cut."""
    shares: Literal["published", "even"] = "published"
    """How audio and video share what enters: as published for 144 and 25 tokens a second, or each the same share, which
    loses less where they are about as many."""
    merge: bool = True
    """The paper merges, at the entry and at the cut; off, what is left out is gone."""

    def __post_init__(self) -> None:
        for name in ("depth", "inside"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise PolicyError(f"{name} must be above 0 and at most 1, got {getattr(self, name)!r}")

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """One step down, as high as the ratio asks; above what it reaches, the step flattens."""
        ratio = checked(retained_ratio, self.name)
        if ratio == 1.0 or not tokens.count:
            return full(tokens.count, layers)
        cut = max(1, round(self.depth * layers))

        def step(level: float) -> Schedule:
            """Up to level 1 the share entering grows, from there to 2 the step vanishes."""
            enters = max(1, round(min(level, 1.0) * tokens.count))
            stays = max(1, round((self.inside + (1.0 - self.inside) * max(level - 1.0, 0.0)) * enters))
            return Schedule(tokens.count, tuple(enters if layer < cut else stays for layer in range(layers)))

        return solve(step, 0.0, 2.0, tokens, ratio, self.name)

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """The important ones and those that cover the rest."""
        if schedule.entering[0] == tokens.count:
            return everything(tokens)
        counts = self._shared(schedule.entering[0], tokens)
        pools = zip(_pools(tokens, counts[1]), counts, strict=True)
        kept = [_representatives(pool, count) for pool, count in pools if count]
        return torch.sort(torch.cat(kept)).values

    def joins(self, tokens: AudioVisual, index: Tensor) -> Joined | None:
        """What was left out, into the most alike of its modality that enters."""
        if not self.merge:
            return None
        entering = enters(tokens, index)
        rank = torch.cumsum(entering, 0) - 1
        stays = torch.tensor([OWN[AUDIO], OWN[VIDEO]], device=index.device)[(tokens.modality[index] == VIDEO).long()]
        parts = [_absorbed(pool, entering) for pool in _pools(tokens, self._shared(index.shape[0], tokens)[1])]
        source, target, weight = (torch.cat(of) for of in zip(*parts, strict=True))
        return Joined(source, rank[target], weight, own=stays)

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """In each modality, tokens unlike each other that matter to the questions and to the other modality."""
        kept = []
        for part, count, relevance in zip(*self._parts(tokens, keep), strict=True):
            if count:
                kept.append(part[_spread(_states(tokens)[part], relevance, count)])
        return torch.sort(torch.cat(kept)).values

    def joins_at(self, tokens: LayerTokens, index: Tensor) -> Joined | None:
        """What leaves, into the most alike of its modality that stays."""
        if not self.merge:
            return None
        unit, alive, stays = _states(tokens), tokens.index.shape[0], index.shape[0]
        leaves = torch.ones(alive, device=index.device).index_fill_(0, index, 0.0)
        leaving = torch.topk(leaves, alive - stays).indices
        alike = unit[leaving] @ unit[index].T
        other = tokens.modality[leaving][:, None] != tokens.modality[index][None]
        best, nearest = alike.masked_fill_(other, -1.0).max(dim=1)
        relevance = torch.zeros(alive, device=index.device)
        for part, _, of_part in zip(*self._parts(tokens, stays), strict=True):
            if not part.numel():
                continue
            among = leaves[part] > 0
            low = of_part.masked_fill(~among, float("inf")).amin()
            high = of_part.masked_fill(~among, float("-inf")).amax()
            relevance[part] = ((of_part - low) / (high - low + 1e-6)).clamp(0.0, 1.0)
        weight = ((best + 1.0) / 2).clamp(0.0, 1.0).square() * (0.5 + 0.5 * relevance[leaving])
        return Joined(leaving, nearest, weight, own=torch.zeros(stays, device=index.device))

    def _shared(self, enters: int, tokens: AudioVisual | LayerTokens) -> tuple[int, int]:
        """How many audio and video tokens the `enters` are that enter."""
        if self.shares == "published":
            return published_shares(enters, tokens.audio, tokens.video)
        audio, video = split(enters, (tokens.audio, tokens.video))
        return audio, video

    def _parts(self, tokens: LayerTokens, keep: int) -> tuple[list[Tensor], list[int], list[Tensor]]:
        """Audio and video: their places among those alive, how many of each stay, and their relevance."""
        counts = self._shared(tokens.index.shape[0], tokens)
        sorted_ = torch.argsort((tokens.modality != AUDIO).to(torch.uint8), stable=True)
        parts = list(torch.split(sorted_, list(counts)))
        unit, states = _states(tokens), tokens.hidden
        assert states is not None
        means = [
            functional.normalize(states[part].float().mean(dim=0), dim=0) if part.numel() else None for part in parts
        ]
        relevance = []
        for part, other in zip(parts, reversed(means), strict=True):
            of = unit[part]
            density = (of @ of.mean(dim=0) - 1.0).exp() if part.numel() else of.sum(dim=1)
            cross = torch.zeros_like(density) if other is None else of @ other
            relevance.append(_asked_for(tokens, of) + _scaled(cross) + _scaled(density))
        return parts, split(keep, counts), relevance


def published_shares(enters: int, audio: int, video: int) -> tuple[int, int]:
    """How many audio and video tokens `enters` tokens are, by SHARES."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if middle * video + _audio_share(middle) * audio <= enters:
            low = middle
        else:
            high = middle
    seen = min(max(round(low * video), enters - audio), video, enters)
    return enters - seen, seen


def _audio_share(video_share: float) -> float:
    for (v0, a0), (v1, a1) in pairwise(SHARES):
        if video_share <= v1:
            return a0 + (a1 - a0) * (video_share - v0) / (v1 - v0)
    return 1.0


@dataclass(frozen=True, eq=False)
class _Pool:
    """One modality's n tokens."""

    kind: int
    places: Tensor
    """(n,) int64 among the clip's."""
    unit: Tensor
    """(n, D) float32, rows of length 1."""
    at: Tensor
    """(n, c) float32 coordinates, 0..1: time, and for video row and column."""
    salience: Tensor
    """(n,) float32."""

    def distances(self, rows: Tensor, columns: Tensor, weight: float) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of `rows`, and their 1 - cosine to `columns` plus `weight` times their distance in place, 0..1."""
        for begin in range(0, rows.shape[0], BLOCK):
            block = slice(begin, begin + BLOCK)
            place = _scaled(torch.cdist(self.at[rows[block]], self.at[columns]), dim=1)
            yield block, 1.0 - self.unit[rows[block]] @ self.unit[columns].T + weight * place


def _pools(tokens: AudioVisual, seen: int) -> list[_Pool]:
    """Audio and video of a clip of which `seen` video tokens enter."""
    made = []
    for kind, importance in ((AUDIO, tokens.audio_importance), (VIDEO, tokens.video_importance)):
        places = torch.nonzero(tokens.modality == kind).flatten()
        features = tokens.features[places].float()
        unit = functional.normalize(features, dim=-1)
        if kind == AUDIO:
            at = torch.linspace(0.0, 1.0, max(places.shape[0], 1), device=unit.device)[: places.shape[0], None]
            looked = torch.zeros(places.shape[0], device=unit.device) if importance is None else _scaled(importance)
            salience = looked + NOVELTY * _scaled(_change(unit))
        else:
            grid = tokens.grid[places].float()
            at = grid / grid.amax(dim=0).clamp_min(1.0) if places.numel() else grid
            part = seen / max(tokens.video, 1)
            how = EVENT * (LEAST + (1.0 - LEAST) * min(max((part - LOW) / (HIGH - LOW), 0.0), 1.0))
            looked = torch.ones(places.shape[0], device=unit.device) if importance is None else _scaled(importance)
            salience = looked * (1.0 + how * _scaled(_events(features, tokens.frame_sizes))) + 1e-6
        made.append(_Pool(kind, places, unit, at, salience))
    return made


def _change(rows: Tensor) -> Tensor:
    """(n, ...) float32: 1 - cosine of each of (n, ..., D) with the one before or after it, the larger."""
    far = rows.new_zeros(rows.shape[:-1])
    if rows.shape[0] > 1:
        step = 1.0 - functional.cosine_similarity(rows[:-1], rows[1:], dim=-1)
        far[:-1] = step
        far[1:] = torch.maximum(far[1:], step)
    return far


def _events(features: Tensor, frame_sizes: tuple[int, ...]) -> Tensor:
    """(n,) float32: how much each video token changes, or is unlike its picture, and turns in how it changes."""
    if len(set(frame_sizes)) != 1 or len(frame_sizes) < 2:
        return features.new_zeros(features.shape[0])
    frames = features.view(len(frame_sizes), frame_sizes[0], -1)
    detail = 1.0 - functional.cosine_similarity(frames, frames.mean(dim=1, keepdim=True), dim=-1)
    turn = torch.zeros_like(detail)
    if len(frame_sizes) > 2:
        step = frames[1:] - frames[:-1]
        turn[1:-1] = 1.0 - functional.cosine_similarity(step[:-1], step[1:], dim=-1)
    return (_scaled(torch.maximum(_change(frames), detail)) + CURVATURE * _scaled(turn)).flatten()


def _representatives(pool: _Pool, keep: int) -> Tensor:
    """(keep,) of the clip's tokens: the most important, then density peaks of the others."""
    first = max(1, min(keep, round(DOMINANT[pool.kind] * keep)))
    order = torch.argsort(pool.salience, descending=True, stable=True)
    rest = torch.sort(order[first:]).values
    chosen = order[:first] if keep == first else torch.cat((order[:first], rest[_peaks(pool, rest, keep - first)]))
    return pool.places[chosen]


def _peaks(pool: _Pool, rows: Tensor, keep: int) -> Tensor:
    """(keep,) numbers among `rows` of those that are dense and far from anything denser (density-peak clustering)."""
    count = rows.shape[0]
    near = torch.empty(count, device=rows.device)
    every = torch.arange(count, device=rows.device)
    for block, distance in pool.distances(rows, rows, PLACE):
        distance[torch.arange(distance.shape[0], device=rows.device), every[block]] = float("inf")
        nearest = torch.topk(distance, min(NEIGHBOURS, max(count - 1, 1)), dim=1, largest=False).values
        near[block] = nearest.square().mean(dim=1)
    density = (-near).exp() * (1.0 + SALIENT * _scaled(pool.salience[rows]))
    rank = torch.empty_like(every).scatter_(0, torch.argsort(density, stable=True), every)
    apart = torch.empty(count, device=rows.device)
    for block, distance in pool.distances(rows, rows, PLACE):
        to_denser = distance.masked_fill(rank[None, :] <= rank[block, None], float("inf")).amin(dim=1)
        apart[block] = torch.where(to_denser.isinf(), distance.amax(dim=1), to_denser)
    return torch.topk(density * apart, keep).indices


def _absorbed(pool: _Pool, enters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What of a modality does not enter, what each joins (both among the clip's tokens), and with which weight."""
    inside = enters[pool.places]
    stays, leaves = torch.nonzero(inside).flatten(), torch.nonzero(~inside).flatten()
    if not stays.numel() or not leaves.numel():
        return pool.places[:0], pool.places[:0], pool.salience[:0]
    to = torch.empty_like(leaves)
    pull = MERGE_SALIENT * _scaled(pool.salience[stays])
    for block, distance in pool.distances(leaves, stays, MERGE_PLACE[pool.kind]):
        to[block] = (pull - distance).argmax(dim=1)
    return pool.places[leaves], pool.places[stays[to]], 0.5 + 0.5 * _scaled(pool.salience[leaves])


def _states(tokens: LayerTokens) -> Tensor:
    assert tokens.hidden is not None
    return functional.normalize(tokens.hidden.float(), dim=-1)


def _asked_for(tokens: LayerTokens, unit: Tensor) -> Tensor:
    """(n,) float32, 0..1: how like the text or its mean each of (n, D) is, for the question it is most like."""
    assert tokens.text is not None
    assert tokens.asked is not None
    if not unit.shape[0]:
        return unit.sum(dim=1)
    text = functional.normalize(tokens.text.float(), dim=-1)
    means = tokens.asked.float() @ tokens.text.float() / tokens.asked.sum(dim=1, keepdim=True)
    one = unit @ text.T
    near = torch.stack([one.masked_fill(~of, -1.0).amax(dim=1) for of in tokens.asked])
    by_question = torch.maximum(near, functional.normalize(means, dim=-1) @ unit.T)
    return _scaled(_scaled(by_question, dim=1).amax(dim=0))


def _spread(unit: Tensor, relevance: Tensor, keep: int) -> Tensor:
    """(keep,) numbers of (n, D): the most relevant, then the farthest from those chosen, times relevance."""
    distance = 1.0 - unit @ unit.T
    pull = 1.0 + _scaled(relevance)
    pick = relevance.argmax()
    picked, nearest = [pick], distance[pick].clone()
    taken = torch.zeros(unit.shape[0], dtype=torch.bool, device=unit.device).index_fill_(0, pick[None], True)
    for _ in range(keep - 1):
        pick = (nearest * pull).masked_fill(taken, float("-inf")).argmax()
        taken = taken.index_fill(0, pick[None], True)
        picked.append(pick)
        nearest = torch.minimum(nearest, distance[pick])
    return torch.stack(picked)


def _scaled(values: Tensor, dim: int | None = None) -> Tensor:
    """To 0..1, over everything or along `dim`."""
    if not values.numel():
        return values
    low, high = (values.amin(), values.amax()) if dim is None else (values.amin(dim, True), values.amax(dim, True))
    return (values - low) / (high - low + 1e-6)
