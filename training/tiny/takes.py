"""`python -m training.tiny.takes`: words of world v3 said by espeak-ng, for training and for the bank that ships.

Promises: the two sets share no speaker. What ships is sound, the output of the program espeak-ng, which its licence
(GPL-3) does not cover; nothing of the program or its data is in it. Needs `espeak-ng` (a Debian package) on the path;
users need it not: evaluation plays the bank.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import wave as wave_files
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from pipeline.toy_world.render import SAMPLE_RATE, Wave
from pipeline.toy_world.speech import BANK, GAP_S, Takes, decoded
from pipeline.toy_world.truth import VOICES, WORDS
from pipeline.toy_world.world import SLOT_S
from workers.media.ffmpeg import find_ffmpeg

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
TRAINING = {
    "low": ("m1", "m2", "m3", "m4", "m5", "m6", "adam", "caleb", "david", "edward", "john", "max", "michael", "paul"),
    "high": ("f1", "f2", "f3", "f4", "anika", "Annie", "linda", "steph", "Andrea"),
}
HELD_OUT = {"low": ("m8", "ed", "robert", "travis", "quincy"), "high": ("f5", "belinda", "steph2", "Alicia")}
PITCHES = {"low": (5, 35), "high": (65, 95)}
"""Far apart, so that high and low are never a matter of taste."""
SPEEDS = (130, 220)
"""Words a minute."""
TAKES_OF_A_WORD = {"training": 240, "held out": 8}
"""By each kind of voice."""
THROATS = (0.9, 1.12)
"""Training takes are played so much slower or faster: throats of other lengths than the program's few speakers have."""


def spoken(word: str, accent: str, speaker: str, pitch: int, speed: int) -> Wave:
    """One take at 16 kHz without the silence around it, its peak at 1."""
    command = ["espeak-ng", "-v", f"{accent}+{speaker}", "-p", str(pitch), "-s", str(speed), "--stdout", word]
    written = subprocess.run(command, capture_output=True, check=True).stdout
    with wave_files.open(io.BytesIO(written)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(written[44:], "<i2").astype(np.float32)
    heard = resample_poly(samples, SAMPLE_RATE // 50, rate // 50).astype(np.float32)
    loud = np.nonzero(np.abs(heard) > 0.02 * np.abs(heard).max())[0]
    heard = heard[loud[0] : loud[-1] + 1]
    return np.asarray(heard / np.abs(heard).max(), np.float32)


def made(speakers: dict[str, Sequence[str]], each: int, seed: int, throats: tuple[float, float] | None = None) -> Takes:
    """`each` takes of every word by speakers of both kinds; a take too long for a slot is said again, faster."""
    rng = np.random.default_rng(seed)
    waves: list[Wave] = []
    spans, words, voices, now = [], [], [], 0
    gap = np.zeros(round(GAP_S * SAMPLE_RATE), np.float32)
    for word in WORDS:
        for voice in VOICES:
            for number in range(each):
                speaker, accent = speakers[voice][number % len(speakers[voice])], str(rng.choice(ACCENTS))
                pitch, speed = (int(rng.integers(*bounds)) for bounds in (PITCHES[voice], SPEEDS))
                take = spoken(word, accent, speaker, pitch, speed)
                while len(take) > SLOT_S[0] * SAMPLE_RATE:
                    speed = round(speed * 1.12)
                    take = spoken(word, accent, speaker, pitch, speed)
                if throats:
                    take = resample_poly(take, 100, round(100 * rng.uniform(*throats))).astype(np.float32)
                    take = take[: int(SLOT_S[0] * SAMPLE_RATE)] / np.abs(take).max()
                now += len(gap)
                waves += [gap, take]
                spans.append((now, now + len(take)))
                words.append(WORDS.index(word))
                voices.append(VOICES.index(voice))
                now += len(take)
    return Takes(np.concatenate([*waves, gap]), np.asarray(spans), np.asarray(words), np.asarray(voices))


def training_takes(folder: Path) -> Takes:
    """The takes of the training voices, made once and kept in `folder`."""
    kept = folder / "takes.npz"
    if not kept.exists():
        takes = made(TRAINING, TAKES_OF_A_WORD["training"], 1, THROATS)
        # Half of them as a codec leaves them, as all of the bank are.
        with tempfile.TemporaryDirectory() as place:
            coded = Path(place) / "takes.opus"
            write_opus(coded, takes.wave)
            heard = decoded(coded, len(takes.wave))
        for start, end in takes.spans[::2]:
            takes.wave[start:end] = heard[start:end] / np.abs(heard[start:end]).max()
        part = kept.with_suffix(".part.npz")
        np.savez(part, wave=(takes.wave * 32767).astype(np.int16), **{n: getattr(takes, n) for n in FIELDS})
        part.replace(kept)
    with np.load(kept) as read:
        return Takes(read["wave"].astype(np.float32) / 32767, *(read[name] for name in FIELDS))


FIELDS = ("spans", "words", "voices")


def write_opus(path: Path, wave: Wave) -> None:
    """Speech at 20 kbit/s."""
    samples = (wave * 0.9 * 32767).astype("<i2").tobytes()
    options = ["-c:a", "libopus", "-b:a", "20k", "-application", "voip", "-fflags", "+bitexact", "-flags", "+bitexact"]
    source = ["-f", "s16le", "-ar", str(SAMPLE_RATE), "-ac", "1", "-i", "pipe:"]
    subprocess.run([find_ffmpeg(), "-v", "error", "-y", *source, *options, str(path)], input=samples, check=True)


def write_bank(path: Path) -> None:
    """The bank of held-out voices: Opus, and an index of where each take lies."""
    takes = made(HELD_OUT, TAKES_OF_A_WORD["held out"], seed=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_opus(path, takes.wave)
    index = {
        "samples": len(takes.wave),
        "takes": [
            {"word": WORDS[word], "voice": VOICES[voice], "span": [int(start), int(end)]}
            for word, voice, (start, end) in zip(takes.words, takes.voices, takes.spans, strict=True)
        ],
    }
    lines = ",\n".join(json.dumps(take) for take in index["takes"])
    text = f'{{"samples": {index["samples"]}, "takes": [\n{lines}\n]}}\n'
    path.with_suffix(".json").write_text(text)


if __name__ == "__main__":
    write_bank(Path(sys.argv[1]) if len(sys.argv) > 1 else BANK)
