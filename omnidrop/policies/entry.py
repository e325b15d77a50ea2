"""How many tokens may enter the decoder, of each modality and each temporal patch.

Promises: host arithmetic from counts, and no torch: a clip is planned before any model is there. Knows nothing about
which tokens enter (`intra_modality`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from omnidrop.policies.schedule import EntryCounts

Way = Literal["cover", "rare", "diverse", "merged"]
WAYS: tuple[Way, ...] = ("cover", "rare", "diverse", "merged")
GROUP = 4
"""Temporal patches merged together: the first, the anchor, stays whole."""
LEAST_LEVEL = 0.1
"""Below a tenth of the paper's shares too little of a clip is left to be asked about."""
LEAST_AUDIO, MOST_AUDIO = 1.0, 1.75
"""Audio's share of its tokens stays between so many times the video's: SEATS' 1 and the paper's 0.7 : 0.4. Coverage
alone starves a modality whose tokens are all different, as speech is."""
SCARCE, SCARCE_AUDIO = 0.13, 2.0
"""Where less than this share of all tokens enters, the least is higher, at half of it this many times the video's: a
word that is left with one token of its four is not understood, a shape that is left with one of its cells is."""


@dataclass(frozen=True)
class Entry:
    """How many tokens of a clip may enter the decoder.

    One number, the level, moves both modalities together: 1 is the paper's shares, below it both shrink in proportion
    (the video down to its anchors, then these are thinned too: a short clip is little else), above it both grow to
    everything at 2.
    """

    audio: int
    frame_sizes: tuple[int, ...]
    audio_share: float = 0.7
    video_share: float = 0.4

    def shares(self, level: float) -> tuple[float, float]:
        """(audio, video) shares kept at `level`. The video share counts whole groups: (1 + 3 x kept) / 4."""
        if level <= 1.0:
            return self.audio_share * level, self.video_share * level
        up = min(level, 2.0) - 1.0
        return tuple(s + (1.0 - s) * up for s in (self.audio_share, self.video_share))  # type: ignore[return-value]

    def audio_count(self, level: float) -> int:
        """Audio tokens kept at `level`."""
        return math.ceil(self.audio * self.shares(level)[0] - 1e-9)

    def frame_counts(self, level: float) -> tuple[int, ...]:
        """Video tokens kept of each temporal patch at `level`; anchors first, also of an incomplete last group."""
        anchors = min(1.0, self.shares(level)[1] * GROUP)
        others = max(0.0, (self.shares(level)[1] * GROUP - 1.0) / (GROUP - 1))
        return tuple(
            min(size, math.ceil(size * (others if index % GROUP else anchors) - 1e-9))
            for index, size in enumerate(self.frame_sizes)
        )

    def count(self, level: float) -> int:
        """Tokens kept in all."""
        return self.audio_count(level) + sum(self.frame_counts(level))

    def counts(self) -> EntryCounts:
        """The bounds that calibration works within."""
        return EntryCounts(self.count(LEAST_LEVEL), self.count(1.0), self.count(2.0))

    def split(self, keep: int) -> tuple[int, tuple[int, ...]]:
        """Audio count and per-frame counts that sum to exactly `keep`.

        The highest level that fits, and what is left over goes one token at a time, first to audio, then to the frames
        that are not yet whole, in time order.
        """
        low, high = 0.0, 2.0
        if self.count(high) <= keep:
            low = high
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.count(middle) <= keep else (low, middle)
        audio, frames = self.audio_count(low), list(self.frame_counts(low))
        left = keep - audio - sum(frames)
        while left > 0:
            before = left
            if audio < self.audio:
                audio, left = audio + 1, left - 1
            for index, size in enumerate(self.frame_sizes):
                if left and frames[index] < size:
                    frames[index], left = frames[index] + 1, left - 1
            if left == before:
                raise ValueError(f"cannot keep {keep} of {self.audio + sum(self.frame_sizes)} tokens")
        if left < 0:
            raise ValueError(f"cannot keep {keep} tokens: {audio + sum(frames)} is the least")
        return audio, tuple(frames)


def audio_at(times: float, keep: int, audio: int, video: int) -> int:
    """Of `keep` tokens, how many are audio where its share is so many times the video's, as far as there are any."""
    # a / audio = times * v / video and a + v = keep
    count = round(keep * times * audio / (times * audio + video)) if audio else 0
    return min(max(count, keep - video, 0), audio, keep)


def audio_bounds(keep: int, count: int, least_audio: float | None) -> tuple[float, float]:
    """Between how many times the video's share the audio's stays where `keep` of `count` tokens enter."""
    if least_audio is None:
        least_audio = min(max(LEAST_AUDIO, SCARCE * count / max(keep, 1)), SCARCE_AUDIO)
    return least_audio, max(least_audio, MOST_AUDIO)


def video_entering(keep: int, audio: int, video: int, least_audio: float | None = None) -> int:
    """Of `keep` tokens, how many must be video at least: as many cells a picture needs to have encoded."""
    return keep - audio_at(audio_bounds(keep, audio + video, least_audio)[1], keep, audio, video)
