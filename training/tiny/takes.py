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

ACCENTS = ("en-us", "gmw/en", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
TRAINING = {
    "low": (
        *("m1", "m2", "m3", "m4", "m5", "m6", "adam", "caleb", "david", "edward", "john", "max", "paul", "Alex"),
        *("Andy", "antonio", "Denis", "Gene", "gustave", "Henrique", "Jacky", "klatt", "klatt2", "klatt3", "Marco"),
        *("Michael", "miguel", "Mike", "norbert", "pablo", "pedro", "sandro", "victor"),
    ),
    "high": ("f1", "f2", "f3", "f4", "anika", "Annie", "linda", "steph", "Andrea", "grandma", "shelby"),
}
HELD_OUT = {"low": ("m8", "ed", "robert", "travis", "quincy"), "high": ("f5", "belinda", "steph2", "Alicia")}
PITCHES = {"low": (5, 35), "high": (65, 95)}
"""Far apart, so that high and low are never a matter of taste."""
SPEEDS = (130, 220)
"""Words a minute."""
TAKES_OF_A_WORD = {"training": 240, "unheard": 80, "held out": 8}
"""By each kind of voice."""
THROATS = (0.9, 1.12)
"""Training takes are played so much slower or faster: throats of other lengths than the program's few speakers have."""
DRAWN = 75
"""Speakers of each kind that no file of the program describes: their formants, pitch and breath are drawn. Its own are
few and much alike, and those held out that are not were misheard (the lab log)."""
FORMANTS = {"low": (0.72, 1.1), "high": (0.95, 1.4)}
"""By how much a drawn speaker's formants lie higher than the program's own voice's, all together; each of them by up to
a third more or less."""
BASES = {"low": (65, 110), "high": (140, 230)}
"""Lowest pitch of a drawn speaker in hertz."""


def spoken(word: str, accent: str, speaker: str, pitch: int, speed: int, data: Path | None = None) -> Wave:
    """One take at 16 kHz without the silence around it, its peak at 1; `data` as `with_drawn` left it."""
    voice = f"{accent}+{speaker}" if speaker else accent
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", word]
    command += [f"--path={data}"] if data else []
    written = subprocess.run(command, capture_output=True, check=True).stdout
    with wave_files.open(io.BytesIO(written)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(written[44:], "<i2").astype(np.float32)
    heard = resample_poly(samples, SAMPLE_RATE // 50, rate // 50).astype(np.float32)
    loud = np.nonzero(np.abs(heard) > 0.02 * np.abs(heard).max())[0]
    heard = heard[loud[0] : loud[-1] + 1]
    return np.asarray(heard / np.abs(heard).max(), np.float32)


def with_drawn(folder: Path, seed: int = 3) -> dict[str, list[str]]:
    """Names of DRAWN speakers of each kind, whose descriptions are written into `folder` among links to the program's
    own data."""
    said = subprocess.run(["espeak-ng", "--version"], capture_output=True, check=True, text=True).stdout
    own = Path(said.rpartition("Data at:")[2].strip())
    speakers = folder / "espeak-ng-data" / "voices" / "!v"
    speakers.mkdir(parents=True)
    # The program reads at most 349 descriptions, and says an unknown speaker's words with its own voice.
    described = [own / "voices" / "!v" / name for voice in VOICES for name in TRAINING[voice]]
    for entry in (*own.iterdir(), *described):
        if entry.name != "voices":
            (folder / "espeak-ng-data" / entry.relative_to(own)).symlink_to(entry)
    rng = np.random.default_rng(seed)
    names = {voice: [f"drawn-{voice}-{number}" for number in range(DRAWN)] for voice in VOICES}
    for voice, name in [(voice, name) for voice, own_names in names.items() for name in own_names]:
        base, whole = rng.uniform(*BASES[voice]), rng.uniform(*FORMANTS[voice])
        lines = ["language variant", f"name {name}", f"pitch {base:.0f} {base * rng.uniform(1.15, 1.75):.0f}"]
        lines += [f"flutter {rng.integers(8)}", f"roughness {rng.integers(5)}", f"voicing {rng.integers(30, 180)}"]
        if rng.random() < 0.3:
            lines.append(f"klatt {rng.integers(1, 7)}")
        if rng.random() < 0.3:
            lines.append("breath " + " ".join(str(one) for one in rng.integers(0, 12, 8)))
        for number in range(9):
            higher = 100 * whole * rng.uniform(*((0.67, 1.33) if rng.random() < 0.4 else (0.9, 1.1)))
            lines.append(f"formant {number} {higher:.0f} {rng.uniform(50, 160):.0f} {rng.uniform(50, 180):.0f}")
        (speakers / name).write_text("\n".join(lines) + "\n")
    return names


def _check(speakers: dict[str, Sequence[str]], data: Path | None) -> None:
    """The program says in silence with its own voice what a speaker or accent it does not know should say. Raises
    SystemExit where one of them changes nothing."""
    for voice in VOICES:
        first = speakers[voice][0]
        for accent, speaker in [*((one, first) for one in ACCENTS), *((ACCENTS[0], one) for one in speakers[voice])]:
            said, own = (spoken(WORDS[0], accent, name, 50, 160, data) for name in (speaker, ""))
            if np.array_equal(said, own):
                raise SystemExit(f"espeak-ng says {accent}+{speaker} with its own voice: it does not know one of them")


def made(
    speakers: dict[str, Sequence[str]],
    each: int,
    seed: int,
    throats: tuple[float, float] | None = None,
    data: Path | None = None,
) -> Takes:
    """`each` takes of every word by speakers of both kinds; a take too long for a slot is said again, faster."""
    _check(speakers, data)
    rng = np.random.default_rng(seed)
    waves: list[Wave] = []
    spans, words, voices, now = [], [], [], 0
    gap = np.zeros(round(GAP_S * SAMPLE_RATE), np.float32)
    for word in WORDS:
        for voice in VOICES:
            for number in range(each):
                which = (number + len(spans) // each * 7) if data else number
                speaker, accent = speakers[voice][which % len(speakers[voice])], str(rng.choice(ACCENTS))
                pitch, speed = (int(rng.integers(*bounds)) for bounds in (PITCHES[voice], SPEEDS))
                take = spoken(word, accent, speaker, pitch, speed, data)
                while len(take) > SLOT_S[0] * SAMPLE_RATE:
                    speed = round(speed * 1.12)
                    take = spoken(word, accent, speaker, pitch, speed, data)
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


def training_takes(folder: Path, unheard: bool = False) -> Takes:
    """The takes of the training voices, made once and kept in `folder`. `unheard` gives those of drawn speakers that no
    encoder learns from: on familiar voices it errs less than on others, and a decoder should see it err."""
    kept = folder / ("unheard.npz" if unheard else "takes.npz")
    if not kept.exists():
        with tempfile.TemporaryDirectory() as place:
            speakers = with_drawn(Path(place), seed=4 if unheard else 3)
            if not unheard:
                speakers = {voice: [*TRAINING[voice], *speakers[voice]] for voice in VOICES}
            each = TAKES_OF_A_WORD["unheard" if unheard else "training"]
            takes = made(speakers, each, 5 if unheard else 1, THROATS, Path(place))
            # Half of them as a codec leaves them, as all of the bank are.
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
