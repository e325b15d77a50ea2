"""What every audio and video token should know of its moment: the auxiliary targets of the decoder's training.

Promises: `facts_of` gives one label per fact and token from the truth alone, IGNORED where a token cannot know (a
picture stands before the sound of its chunk) or where nothing is asked of it. With them a question is one look away
from its answer: "right after the circle" is at the tokens whose shape before is "circle", a count is the number begun
by the end. Knows nothing about layers or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.toy_world.truth import COLOURS, LINES, PLACES, SHAPES, SOUNDS, VOICES, WORDS, Event
from training.tiny.samples import FIRST_WRITTEN, IGNORED, NOTHING_COLOUR, NOTHING_SHAPE, NOTHING_SOUND

MOST_COUNTED = 6
SECONDS = 17
"""World v2 lasts up to 16 s: a token's second, as content, links a sound to what is shown meanwhile. Pictures stand
before the sound of their chunk, so they can be matched to it only by a time that both know."""
FOUND = (*WORDS, *SHAPES, *COLOURS, *VOICES, "none", "yes", "no", *map(str, range(MOST_COUNTED + 1)))
"""Answers of world v3. There a question's own words learn, too: the token it is keyed by (the shape, voice or line that
it names) has to know the answer some layers before the question's end does. A word that is asked about cannot know
what is asked, for "said" and "written" come after it: it has to know all that is true of it (`facts_of_word`)."""
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fact:
    """One thing to know."""

    name: str
    classes: int
    after: int
    """Decoder layers after which it is known."""
    weight: float


FACTS = (
    Fact("shape", NOTHING_SHAPE + 1, 5, 0.3),
    Fact("colour", NOTHING_COLOUR + 1, 5, 0.3),
    Fact("sound", NOTHING_SOUND + 1, 5, 0.3),
    Fact("place", len(PLACES), 5, 0.3),
    Fact("second", SECONDS, 6, 0.5),
    Fact("shape before", NOTHING_SHAPE + 1, 8, 0.25),
    Fact("sound before", NOTHING_SOUND + 1, 8, 0.25),
    Fact("shapes so far", MOST_COUNTED + 1, 8, 0.25),
    Fact("sounds so far", MOST_COUNTED + 1, 8, 0.25),
    Fact("shapes here so far", MOST_COUNTED + 1, 8, 0.25),
    Fact("word", len(WORDS) + 1, 5, 0.3),
    Fact("voice", len(VOICES), 5, 0.2),
    Fact("found", len(FOUND), 6, 0.5),
    Fact("written", len(WORDS), 5, 0.3),
    Fact("line", len(LINES), 5, 0.2),
    Fact("said so far", MOST_COUNTED + 1, 8, 0.25),
    Fact("is said", 2, 6, 0.5),
    Fact("said by", len(VOICES), 6, 0.3),
    Fact("written in", len(LINES) + 1, 6, 0.5),
    Fact("times said", MOST_COUNTED + 1, 10, 0.3),
)
NUMBER = {fact.name: number for number, fact in enumerate(FACTS)}


def facts_of(
    events: Sequence[Event], busy: bool, kind: Labels, times_s: npt.NDArray[np.float64], cells: Labels
) -> Labels:
    """(facts, n) labels of n tokens: `kind` 1 video, 2 audio; `times_s` their middles; `cells` (3, n) the shape,
    colour and place that a video token's own cell shows (IGNORED where unclear)."""
    labels = np.full((len(FACTS), len(kind)), IGNORED, np.int64)
    seen, heard = kind == 1, kind == 2
    shown, sounds = [e for e in events if e.shape], [e for e in events if e.sound]
    # Pictures stand before the sound of their own chunk and cannot know it yet.
    now, before, so_far = _stream(sounds, [SOUNDS.index(e.sound or "") for e in sounds], NOTHING_SOUND, times_s)
    for name, found in (("sound", now), ("sound before", before), ("sounds so far", so_far)):
        labels[NUMBER[name], heard] = found[heard]
    if not busy:
        shapes = [SHAPES.index(e.shape or "") for e in shown]
        labels[NUMBER["shape"]], labels[NUMBER["shape before"]], labels[NUMBER["shapes so far"]] = _stream(
            shown, shapes, NOTHING_SHAPE, times_s
        )
        colours = [COLOURS.index(e.colour or "") for e in shown]
        labels[NUMBER["colour"]] = _stream(shown, colours, NOTHING_COLOUR, times_s)[0]
        if said := [e for e in events if e.word]:
            _words(labels, said, heard, times_s)
        written = cells[0] >= FIRST_WRITTEN
        labels[NUMBER["written"], written] = cells[0, written] - FIRST_WRITTEN
        labels[NUMBER["line"], written] = cells[2, written] - len(PLACES)
        return labels
    labels[NUMBER["second"]] = times_s.astype(np.int64).clip(0, SECONDS - 1)
    for number, place in enumerate(PLACES):
        there = [e for e in shown if e.place == place]
        here = seen & (cells[2] == number)
        labels[NUMBER["place"], here] = number
        so_far = _stream(there, [0] * len(there), 0, times_s)[2]
        labels[NUMBER["shapes here so far"], here] = so_far[here]
    clear = seen & (cells[2] >= 0)
    labels[NUMBER["shape"], clear], labels[NUMBER["colour"], clear] = cells[0, clear], cells[1, clear]
    return labels


def facts_of_word(word: str, events: Sequence[Event]) -> dict[str, int]:
    """What the token of a word that a question asks about should know, by name of the fact."""
    said = [event.voice for event in events if event.word == word]
    lines = [event.lines.index(word) + 1 for event in events if word in event.lines]
    known = {"is said": int(bool(said)), "times said": min(len(said), MOST_COUNTED)}
    if len(set(said)) == 1:
        known["said by"] = VOICES.index(said[0] or "")
    if len(set(lines)) < 2:
        known["written in"] = lines[0] if lines else 0
    return known


def _words(
    labels: Labels, said: Sequence[Event], heard: npt.NDArray[np.bool_], times_s: npt.NDArray[np.float64]
) -> None:
    """What is said now, by which voice, how often it was said until now, and how many words have begun, in place of the
    facts about sounds."""
    now, _, so_far = _stream(said, [WORDS.index(e.word or "") for e in said], len(WORDS), times_s)
    voice = _stream(said, [VOICES.index(e.voice or "") for e in said], IGNORED, times_s)[0]
    for number, event in enumerate(said):
        inside = heard & (times_s >= event.start) & (times_s < event.end)
        labels[NUMBER["said so far"], inside] = sum(one.word == event.word for one in said[: number + 1])
    for name in ("sound", "sound before"):
        labels[NUMBER[name]] = IGNORED
    for name, found in (("word", now), ("voice", voice), ("sounds so far", so_far)):
        labels[NUMBER[name], heard] = found[heard]


def _stream(
    events: Sequence[Event], names: Sequence[int], nothing: int, times_s: npt.NDArray[np.float64]
) -> tuple[Labels, Labels, Labels]:
    """Of events one after another, at every time: the name now, the name of the event before the one that goes on
    (IGNORED between events), and how many have begun."""
    now = np.full(len(times_s), nothing, np.int64)
    before = np.full(len(times_s), IGNORED, np.int64)
    so_far = np.zeros(len(times_s), np.int64)
    for number, event in enumerate(events):
        inside = (times_s >= event.start) & (times_s < event.end)
        now[inside] = names[number]
        before[inside] = names[number - 1] if number else nothing
        so_far[times_s >= event.start] = min(MOST_COUNTED, number + 1)
    return now, before, so_far
