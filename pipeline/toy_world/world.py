"""Which events happen in a clip of a world: drawn by seed, before anything is painted or synthesised.

Promises: `events_of` depends on its arguments alone; the worlds are fixed, so that results of different methods on
them can be compared. Knows nothing about pixels, samples, files or questions.
"""

from __future__ import annotations

import numpy as np

from omnidrop.errors import UserError
from pipeline.toy_world.truth import COLOURS, LINES, PLACES, SHAPES, SOUNDS, VOICES, WORDS, Event

__all__ = ["COLOURS", "PLACES", "SHAPES", "SOUNDS", "WORLDS", "events_of", "generator_of"]

WORLDS = ("v1", "v2", "v3")
SHORTEST_EVENT_S = 2.0
MOST_EVENTS = 6
SLOT_S = (0.55, 0.8)
"""A word is said somewhere within a slot of so many seconds; no take of a word is longer than the shortest slot."""
PAUSE_S = 0.15
MOST_WORDS = 6
REPEATED = 0.25
"""Share of the words that were said before in the clip."""
PAGES = 0.4
"""Share of pages among what v3 shows one after another; a clip has at most MOST_PAGES."""
MOST_PAGES = 2


def generator_of(world: str, seed: int, stream: str) -> np.random.Generator:
    """An independent random stream per (world, seed, purpose): changing how pixels are drawn moves no event."""
    purposes = {"events": 0, "picture": 1, "sound": 2, "format": 3, "questions": 4}
    if world not in WORLDS:
        raise UserError(f"there are the toy worlds {', '.join(WORLDS)}, got {world!r}")
    return np.random.default_rng([WORLDS.index(world) + 1, seed, purposes[stream]])


def events_of(
    world: str, seed: int, *, length_s: float | None = None, count: int | None = None
) -> tuple[float, tuple[Event, ...]]:
    """Length in seconds and events of clip `seed`; `length_s` and `count` (v1) fix what is otherwise drawn.

    v1: 1 to 6 events one after another, each at least 2 s, in 8 to 32 s. v2: 3 to 5 shapes at a time in named places,
    changing about every second, and a chain of short sounds, in 8 to 16 s. v3: shapes and pages of writing one after
    another that begin and end on whole seconds, and up to two words said during each, in 6 to 12 s. Raises UserError
    for an unknown world or more events than fit.
    """
    rng = generator_of(world, seed, "events")
    if world == "v2":
        length_s = length_s or float(rng.integers(8, 17))
        return length_s, _busy(rng, length_s)
    if world == "v3":
        length_s = length_s or float(rng.integers(6, 13))
        return length_s, _spoken(rng, length_s)
    if count is None:
        most = MOST_EVENTS if length_s is None else max(1, min(MOST_EVENTS, int(length_s / 2.5)))
        count = int(rng.integers(1, most + 1))
    if length_s is None:
        length_s = float(np.clip(round(count * rng.uniform(2.5, 6.0) + rng.uniform(0, 3)), 8, 32))
    if count * SHORTEST_EVENT_S > length_s:
        raise UserError(f"{count} events of at least {SHORTEST_EVENT_S:g} s do not fit into {length_s:g} s")
    return length_s, _one_by_one(rng, length_s, count)


def _one_by_one(rng: np.random.Generator, length_s: float, count: int) -> tuple[Event, ...]:
    """v1: spare time is spread over the events and the gaps between them."""
    spare = length_s - count * SHORTEST_EVENT_S
    weights = rng.dirichlet(np.r_[np.full(count, 2.0), np.full(count + 1, 0.35)]) * spare
    longer, gaps = [float(w) for w in weights[:count]], [float(w) for w in weights[count:]]
    # Mostly different attributes, so that most questions have one answer; sometimes a repeat.
    repeats = rng.random() < 0.25
    shapes = rng.choice(SHAPES, count) if repeats or count > len(SHAPES) else rng.permutation(SHAPES)[:count]
    colours = rng.choice(COLOURS, count) if repeats else rng.permutation(COLOURS)[:count]
    sounds = rng.choice(SOUNDS, count) if repeats else rng.permutation(SOUNDS)[:count]
    events, now = [], 0.0
    for number in range(count):
        now += gaps[number]
        end = now + SHORTEST_EVENT_S + longer[number]
        kind = rng.random()
        shape, colour, sound = str(shapes[number]), str(colours[number]), str(sounds[number])
        if kind < 0.1:
            event = Event(round(now, 3), round(end, 3), shape, colour, None)
        elif kind < 0.2:
            event = Event(round(now, 3), round(end, 3), None, None, sound)
        else:
            event = Event(round(now, 3), round(end, 3), shape, colour, sound)
        events.append(event)
        now = end
    return tuple(events)


def _busy(rng: np.random.Generator, length_s: float) -> tuple[Event, ...]:
    """v2: every place is a queue of shapes of 1 to 3 s, of which 3 to 5 are taken; sounds are a queue of their own."""
    events = []
    places = rng.permutation(PLACES)[: int(rng.integers(3, 6))]
    for place in places:
        now = float(rng.uniform(0, 0.5))
        while now + 1.0 <= length_s:
            end = min(length_s, now + float(rng.uniform(1.0, 3.0)))
            shape, colour = str(rng.choice(SHAPES)), str(rng.choice(COLOURS))
            events.append(Event(round(now, 3), round(end, 3), shape, colour, None, str(place)))
            now = end
    now, last = float(rng.uniform(0, 0.5)), ""
    while now + 1.0 <= length_s:
        end = min(length_s, now + float(rng.uniform(1.0, 2.0)))
        sound = str(rng.choice([name for name in SOUNDS if name != last]))
        events.append(Event(round(now, 3), round(end, 3), None, None, sound))
        now, last = end + float(rng.uniform(0, 0.3)), sound
    return tuple(sorted(events, key=lambda event: (event.start, event.end)))


def _spoken(rng: np.random.Generator, length_s: float) -> tuple[Event, ...]:
    """v3: shapes and pages of 2 or 3 s; the words said meanwhile keep a tenth of a second from the borders, so that
    what is shown while a word is said is never in doubt at two pictures a second. A third of the written words is said,
    too."""
    events: list[Event] = []
    shapes, colours, words = rng.permutation(SHAPES), rng.permutation(COLOURS), [str(w) for w in rng.permutation(WORDS)]
    writable = [str(word) for word in rng.permutation(words[:12])]
    shown = said = pages = 0
    now = float(rng.random() < 0.3)
    while now + 2 <= length_s:
        end = min(now + float(rng.integers(2, 4)), float(int(length_s)))
        # Mostly different attributes, as in v1; a clip of more than four shapes repeats one.
        shape, colour = str(shapes[shown % len(SHAPES)]), str(colours[shown % len(COLOURS)])
        if pages < MOST_PAGES and rng.random() < PAGES:
            count = int(rng.choice(len(LINES), p=[0.2, 0.4, 0.4])) + 1
            events.append(Event(now, end, lines=tuple(writable.pop() for _ in range(count))))
            pages += 1
        else:
            events.append(Event(now, end, shape, colour))
            shown += 1
        count = min(int(rng.choice(3, p=[0.15, 0.5, 0.35])), MOST_WORDS - said)
        slots = rng.uniform(*SLOT_S, count)
        spare = end - now - 0.2 - slots.sum() - PAUSE_S * (count - 1)
        waits = rng.dirichlet(np.ones(count + 1)) * spare
        start = now + 0.1
        for slot, wait in zip(slots, waits, strict=False):
            start += float(wait)
            word = words[said] if said == 0 or rng.random() >= REPEATED else words[int(rng.integers(said))]
            spoken = start + float(slot)
            events.append(Event(round(start, 3), round(spoken, 3), word=word, voice=str(rng.choice(VOICES))))
            start, said = spoken + PAUSE_S, said + 1
        now = end + float(rng.random() < 0.2)
    return tuple(sorted(events, key=lambda event: (event.start, event.end)))
