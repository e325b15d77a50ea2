"""What is shown and heard in a toy clip, and the JSON file that says so.

Promises: frozen events in seconds, checked when made; `read_truth` takes anyone's file of the published form, where a
missing or null field means that nothing is shown or heard. Knows nothing about pixels, samples or questions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omnidrop.errors import UserError
from omnidrop.json_text import parse_json

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SOUNDS = ("low tone", "high tone", "rising sweep", "falling sweep", "noise", "clicks")
PLACES = ("left", "right", "top", "bottom", "centre")
WORDS = (
    *(
        "book",
        "camera",
        "coffee",
        "doctor",
        "dollar",
        "fish",
        "garden",
        "guitar",
        "hammer",
        "island",
        "jacket",
        "lemon",
    ),
    *("market", "monkey", "office", "paper", "pencil", "river", "school", "sugar", "table", "train", "window", "zebra"),
)
"""What voices say in world v3: one or two syllables that no other word begins and ends like."""
VOICES = ("low", "high")
LINES = ("1", "2", "3")
"""Numbers of a page's lines in world v3, from the top."""
ALLOWED = {"shape": SHAPES, "colour": COLOURS, "sound": SOUNDS, "place": PLACES, "word": WORDS, "voice": VOICES}
SILENCE = ("silence", "none", "nothing", "")
"""Other ways to write null."""


class TruthError(UserError):
    """A truth file or one of its events is not of the published form."""


@dataclass(frozen=True)
class Event:
    """A shape, a sound or both, from `start` to `end` seconds. `place` is where a shape stays, in world v2 only.

    In world v3 alone: a `word` said by a low or high `voice` somewhere between `start` and `end`, or a page with one
    written word on each of its `lines`, the first of several being its title.
    """

    start: float
    end: float
    shape: str | None = None
    colour: str | None = None
    sound: str | None = None
    place: str | None = None
    word: str | None = None
    voice: str | None = None
    lines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and 0 <= self.start < self.end):
            raise TruthError(f"an event needs 0 <= start < end in seconds, got {self.start} to {self.end}")
        for name, allowed in ALLOWED.items():
            given = getattr(self, name)
            if given is not None and given not in allowed:
                raise TruthError(f"{name} must be one of {', '.join(allowed)} or null, got {given!r}")
        if (self.shape is None) != (self.colour is None):
            raise TruthError(f"a shape and its colour come together, got shape {self.shape!r}, colour {self.colour!r}")
        if (self.word is None) != (self.voice is None):
            raise TruthError(f"a word and its voice come together, got word {self.word!r}, voice {self.voice!r}")
        self._check_lines()
        if self.shape is None and self.sound is None and self.word is None and not self.lines:
            raise TruthError(
                "an event needs a shape, a sound, a word or lines of writing; leave out stretches without any"
            )

    def _check_lines(self) -> None:
        if self.lines and self.shape:
            raise TruthError(f"a page fills the picture: it has lines or a shape, got {self.shape!r} and lines")
        if len(self.lines) > len(LINES) or len(set(self.lines)) < len(self.lines):
            raise TruthError(f"a page has 1 to {len(LINES)} lines with different words, got {', '.join(self.lines)}")
        for word in self.lines:
            if word not in WORDS:
                raise TruthError(f"each of the lines must be one of {', '.join(WORDS)}, got {word!r}")

    def to_dict(self) -> dict[str, Any]:
        """The event as the truth file holds it."""
        fields = {name: getattr(self, name) for name in ("start", "end", "shape", "colour", "sound")}
        rare = {"place": self.place, "word": self.word, "voice": self.voice, "lines": list(self.lines)}
        return fields | {name: value for name, value in rare.items() if value}


@dataclass(frozen=True)
class Truth:
    """One file's events, ordered by start."""

    events: tuple[Event, ...]
    world: str = "v1"

    def within(self, start_s: float, end_s: float) -> Truth:
        """The events of the span, counted from its start; parts shorter than 0.5 s are too short to be asked about, and
        of a word that the span's border cuts nobody knows whether it is still heard."""
        kept = []
        for event in self.events:
            start, end = max(event.start, start_s), min(event.end, end_s)
            if end - start >= (event.end - event.start if event.word else 0.5):
                kept.append(replace(event, start=start - start_s, end=end - start_s))
        return Truth(tuple(kept), self.world)


def _event(given: Mapping[str, Any], where: str) -> Event | None:
    if not isinstance(given, Mapping):
        raise TruthError(f"{where}: an event must be an object with 'start' and 'end', got {given!r}")

    def name(field: str, *others: str) -> str | None:
        value = next((given[key] for key in (field, *others) if given.get(key) is not None), None)
        text = None if value is None else str(value).strip().lower().replace("_", " ").replace("-", " ")
        return None if text in SILENCE else text

    try:
        start, end = float(given["start"]), float(given["end"])
    except (KeyError, TypeError, ValueError) as error:
        raise TruthError(
            f"{where}: an event needs numbers 'start' and 'end' in seconds, got {dict(given)!r}"
        ) from error
    shape, colour, sound, word = name("shape"), name("colour", "color"), name("sound"), name("word")
    lines = given.get("lines") or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise TruthError(f"{where}: 'lines' must be a list of words, got {lines!r}")
    if shape is None and sound is None and word is None and not lines:
        return None
    sound = {"rising": "rising sweep", "falling": "falling sweep", "low": "low tone", "high": "high tone"}.get(
        sound or "", sound
    )
    try:
        written = tuple(line.strip().lower() for line in lines)
        return Event(start, end, shape, colour if shape else None, sound, name("place"), word, name("voice"), written)
    except TruthError as error:
        raise TruthError(f"{where}: {error}") from error


def read_truth(path: Path) -> dict[str, Truth]:
    """Truth per file name from a JSON file `{"clip.mp4": {"events": [{start, end, shape, colour, sound}]}}`
    (in world v3 also `word` and `voice`, or `lines`).

    A list of `{"file": ..., "events": [...]}` and a single file's `{"events": [...]}` are read as well. Raises
    TruthError, naming file, clip and event.
    """
    try:
        given = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TruthError(f"{path} cannot be read as JSON: {error}") from error
    if isinstance(given, dict) and isinstance(given.get("files"), dict | list):
        given = given["files"]
    if isinstance(given, dict) and isinstance(given.get("events"), list):
        given = {str(given.get("file", Path(path).stem)): given}
    if isinstance(given, list):
        try:
            given = {str(entry["file"]): entry for entry in given}
        except (KeyError, TypeError) as error:
            raise TruthError(f"{path}: every entry of a list needs 'file' and 'events'") from error
    if not isinstance(given, dict):
        raise TruthError(f"{path} must hold an object of file names, got {type(given).__name__}")
    truths = {}
    for file, entry in given.items():
        events = entry.get("events") if isinstance(entry, dict) else entry
        if not isinstance(events, list):
            raise TruthError(f"{path}: {file!r} needs a list 'events', got {type(events).__name__}")
        read = [_event(event, f"{path}: {file!r}, event {number}") for number, event in enumerate(events, 1)]
        ordered = tuple(sorted((event for event in read if event), key=lambda event: (event.start, event.end)))
        # Only world v2 has places, and only v3 has words and pages.
        world = "v3" if any(e.word or e.lines for e in ordered) else "v2" if any(e.place for e in ordered) else "v1"
        truths[str(file)] = Truth(ordered, str(entry.get("world", world)) if isinstance(entry, dict) else world)
    return truths


def write_truth(path: Path, truths: Mapping[str, Truth]) -> None:
    """Write `truths` (by file name) in the form `read_truth` takes."""
    entries = {
        file: {"world": truth.world, "events": [event.to_dict() for event in truth.events]}
        for file, truth in truths.items()
    }
    Path(path).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
