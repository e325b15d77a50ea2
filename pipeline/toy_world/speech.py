"""Spoken words to samples: takes of a bank, put into a room with its echo and noise.

Promises: every word of a clip is heard within its event and nowhere else (its echo dies away within a few tenths of a
second), deterministic by generator. The bank that ships holds voices that training never hears; training brings takes
of its own. Knows nothing about who made the takes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.toy_world.render import SAMPLE_RATE, Wave, wave_of
from pipeline.toy_world.truth import VOICES, WORDS, Event

BANK = Path(__file__).parent / "takes" / "held_out.opus"
"""Made by `python -m training.tiny.takes`; the index beside it says where each take lies."""
GAP_S = 0.1
"""Silence between the takes of a bank, so that a codec smears none into another."""


@dataclass(frozen=True, eq=False)
class Takes:
    """Recordings of words, one behind the other in one wave."""

    wave: Wave
    """(samples,) float32 mono at 16 kHz, every take with its peak at 1."""
    spans: npt.NDArray[np.int64]
    """(takes, 2): first sample and the one after the last."""
    words: npt.NDArray[np.int64]
    """(takes,) numbers in WORDS."""
    voices: npt.NDArray[np.int64]
    """(takes,) numbers in VOICES."""

    def pick(self, word: str, voice: str, rng: np.random.Generator) -> Wave:
        """One of the takes of `word` by a voice of that kind."""
        those = np.nonzero((self.words == WORDS.index(word)) & (self.voices == VOICES.index(voice)))[0]
        start, end = self.spans[int(rng.choice(those))]
        return self.wave[start:end]


@cache
def bank() -> Takes:
    """The takes that come with the package: voices held out from training."""
    index = json.loads(BANK.with_suffix(".json").read_text())
    spans = np.asarray([take["span"] for take in index["takes"]], np.int64)
    words = np.asarray([WORDS.index(take["word"]) for take in index["takes"]], np.int64)
    voices = np.asarray([VOICES.index(take["voice"]) for take in index["takes"]], np.int64)
    return Takes(decoded(BANK, index["samples"]), spans, words, voices)


def decoded(path: Path, samples: int) -> Wave:
    """All of a file's sound at 16 kHz, cut or padded to `samples`."""
    import av

    with av.open(str(path)) as opened:
        to_floats = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        parts = [part for frame in opened.decode(audio=0) for part in to_floats.resample(frame)]
        parts += to_floats.resample(None)
    wave = np.concatenate([part.to_ndarray().ravel() for part in parts]).astype(np.float32)[:samples]
    return np.pad(wave, (0, samples - len(wave)))


@dataclass(frozen=True)
class Placed:
    """Where a take lies in a clip: samples from `start` to `end`."""

    event: Event
    start: int
    end: int


def heard(world: str, events: Sequence[Event], length_s: float, rng: np.random.Generator) -> Wave:
    """(samples,) float32 mono at 16 kHz: the sound of a clip of any world."""
    return spoken_wave(events, length_s, rng)[0] if world == "v3" else wave_of(events, length_s, rng)


def spoken_wave(
    events: Sequence[Event], length_s: float, rng: np.random.Generator, takes: Takes | None = None
) -> tuple[Wave, tuple[Placed, ...]]:
    """(samples,) float32 in -1..1 of a clip in which the words of `events` are said in one room, and where they lie.

    Takes come from the bank that ships where none are given.
    """
    takes = takes or bank()
    wave = np.zeros(round(length_s * SAMPLE_RATE), np.float32)
    placed = []
    for event in events:
        if event.word is None or event.voice is None:
            continue
        take = takes.pick(event.word, event.voice, rng)
        first, last = round(event.start * SAMPLE_RATE), round(event.end * SAMPLE_RATE)
        start = first + int(rng.integers(max(1, last - first - len(take) + 1)))
        end = min(len(wave), start + len(take))
        wave[start:end] += float(rng.uniform(0.5, 1.0)) * take[: max(0, end - start)]
        placed.append(Placed(event, start, end))
    return _in_a_room(wave, rng), tuple(placed)


def _in_a_room(wave: Wave, rng: np.random.Generator) -> Wave:
    """Echo of 0.1 to 0.4 s in three rooms of five, a microphone's tilt, coloured noise 12 to 40 dB below the speech."""
    size = len(wave) + SAMPLE_RATE // 2
    spectrum = np.fft.rfft(wave, size)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    if rng.random() < 0.6:
        time = np.arange(round(0.4 * SAMPLE_RATE)) / SAMPLE_RATE
        tail = rng.standard_normal(len(time), np.float32) * 10 ** (-3 * time / rng.uniform(0.1, 0.4))
        tail *= rng.uniform(0.1, 0.6) / np.linalg.norm(tail)
        tail[0] += 1
        spectrum *= np.fft.rfft(tail, size)
    spectrum *= (np.maximum(hertz, 60) / 1000) ** rng.uniform(-0.25, 0.25)
    echoed = np.fft.irfft(spectrum, size)[: len(wave)]
    level = float(np.sqrt(np.mean(wave[wave != 0] ** 2))) if wave.any() else 0.1
    noise = np.fft.rfft(rng.standard_normal(len(wave), np.float32))
    noise *= np.maximum(np.arange(len(noise)), 20.0) ** -rng.uniform(0, 0.8)
    hiss = np.fft.irfft(noise, len(wave))
    hiss *= level * 10 ** (-rng.uniform(12, 40) / 20) / max(1e-9, float(hiss.std()))
    loud = rng.uniform(0.15, 0.9) / max(0.1, float(np.abs(echoed).max()))
    return np.clip((echoed + hiss) * loud, -1, 1).astype(np.float32)
