"""Questions with right answers, made from a truth: six tasks named as users would, and the timeline in words.

Promises: only questions that have one answer are asked; "none" is the answer where nothing fits; the same truth and
seed give the same questions. Knows nothing about who rendered the clip or which model answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from omnidrop.questions import Boolean, Choice, Number, Question
from pipeline.toy_world.truth import COLOURS, LINES, PLACES, SHAPES, SOUNDS, VOICES, WORDS, Event, Truth

TASKS = (
    "visual recognition",
    "audio recognition",
    "audio-visual matching",
    "temporal order",
    "presence",
    "counting",
    "reading",
    "reading and hearing",
)
NONE = "none"
SHAPE_ANSWER = Choice((*SHAPES, NONE))
COLOUR_ANSWER = Choice((*COLOURS, NONE))
SOUND_ANSWER = Choice((*SOUNDS, NONE))
WORD_ANSWER = Choice((*WORDS, NONE))
VOICE_ANSWER = Choice(VOICES)
LINE_ANSWER = Number(1, len(LINES))
COUNT_ANSWER = Number(0, 6)
MOST_COUNTED = 6


@dataclass(frozen=True)
class AskedQuestion:
    """A question, its right answer as text (as `Question.answer.rendered()` spells it), and the task it belongs to."""

    question: Question
    right: str
    task: str
    guess: float
    """Chance of being right by guessing among the answers present in the clip (for yes/no: 0.5)."""


def questions_of(
    truth: Truth | Sequence[Event], *, seed: int = 0, most: int | None = None
) -> tuple[AskedQuestion, ...]:
    """All questions with one answer that `truth` allows, or `most` of them, spread over the tasks.

    Yes/no questions are balanced: as many about what is there as about what is not.
    """
    truth = truth if isinstance(truth, Truth) else Truth(tuple(truth))
    asked = {"v2": _busy_questions, "v3": _spoken_questions}.get(truth.world, _questions)(truth.events)
    rng = np.random.default_rng([seed, 7])
    balanced = _balanced(asked, rng, by_task=truth.world == "v3")
    if most is None or most >= len(balanced):
        return tuple(balanced)
    by_task = {task: [one for one in balanced if one.task == task] for task in TASKS}
    queues = [[group[i] for i in rng.permutation(len(group))] for group in by_task.values() if group]
    chosen: list[AskedQuestion] = []
    while len(chosen) < most:
        for queue in queues:
            if queue and len(chosen) < most:
                chosen.append(queue.pop())
    return tuple(chosen)


def _balanced(asked: Iterable[AskedQuestion], rng: np.random.Generator, by_task: bool) -> list[AskedQuestion]:
    """Drop yes/no questions at random until both answers are as frequent (in every task, where `by_task`), and three
    quarters of the "none"s."""
    kept: list[AskedQuestion] = []
    boolean: dict[str, dict[str, list[AskedQuestion]]] = {}
    for one in asked:
        if isinstance(one.question.answer, Boolean):
            group = boolean.setdefault(one.task if by_task else "", {"yes": [], "no": []})
            group[one.right].append(one)
        elif one.right != NONE or rng.random() < 0.25:
            kept.append(one)
    for group in boolean.values():
        fewer = min(len(those) for those in group.values())
        for those in group.values():
            kept += [those[i] for i in rng.permutation(len(those))[:fewer]]
    return kept


class _Asked(list[AskedQuestion]):
    """A list that makes ids from texts and guesses from the answers present."""

    def add(self, task: str, text: str, answer: Choice | Boolean | Number, right: str, present: int) -> None:
        name = text.lower().rstrip("?").replace(",", "").replace(" ", "-")
        self.append(AskedQuestion(Question(name, text, answer), right, task, 1 / max(1, present)))


def _only(values: Iterable[str | None]) -> str | None:
    """The one value that all have, "none" where there is no value at all, None where they differ."""
    found = {value for value in values if value is not None}
    if len(found) > 1:
        return None
    return next(iter(found), NONE)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _heard(sound: str) -> str:
    """The sound as a noun phrase: "a low tone", but "noise" and "clicks"."""
    return sound if sound in ("noise", "clicks") else _article(sound)


def _the(sound: str) -> str:
    return f"the {sound}"


def _are(sound: str) -> str:
    return "Are" if sound == "clicks" else "Is"


def _is(sound: str) -> str:
    return "are" if sound == "clicks" else "is"


def _questions(events: Sequence[Event]) -> list[AskedQuestion]:
    """World v1: one event after another."""
    asked = _Asked()
    shown = [event for event in events if event.shape]
    heard = [event for event in events if event.sound]
    shapes, colours = {event.shape for event in shown}, {event.colour for event in shown}
    sounds = {event.sound for event in heard}
    for shape in SHAPES:
        those = [event for event in shown if event.shape == shape]
        if right := _only(event.colour for event in those):
            asked.add("visual recognition", f"What colour is the {shape}?", COLOUR_ANSWER, right, len(colours))
        if those and (right := _unanimous(event.sound for event in those)):
            text = f"Which sound is heard while the {shape} is shown?"
            asked.add("audio-visual matching", text, SOUND_ANSWER, right, len(sounds))
        asked.add("presence", f"Is a {shape} shown?", Boolean(), "yes" if those else "no", 2)
    for colour in COLOURS:
        those = [event for event in shown if event.colour == colour]
        if right := _only(event.shape for event in those):
            asked.add("visual recognition", f"Which shape is {colour}?", SHAPE_ANSWER, right, len(shapes))
        if those and (right := _unanimous(event.sound for event in those)):
            text = f"Which sound is heard while the {colour} shape is shown?"
            asked.add("audio-visual matching", text, SOUND_ANSWER, right, len(sounds))
        asked.add("presence", f"Is a {colour} shape shown?", Boolean(), "yes" if those else "no", 2)
        for shape in SHAPES:
            if those and shape in shapes:
                there = any(event.shape == shape for event in those)
                asked.add("presence", f"Is a {colour} {shape} shown?", Boolean(), "yes" if there else "no", 2)
    for sound in SOUNDS:
        those = [event for event in heard if event.sound == sound]
        text = f"{_are(sound)} {_heard(sound)} heard?"
        asked.add("audio recognition", text, Boolean(), "yes" if those else "no", 2)
        if those:
            while_ = f"while {_the(sound)} {_is(sound)} heard?"
            if right := _unanimous(event.shape for event in those):
                asked.add("audio-visual matching", f"Which shape is shown {while_}", SHAPE_ANSWER, right, len(shapes))
            if right := _unanimous(event.colour for event in those):
                asked.add(
                    "audio-visual matching", f"Which colour is shown {while_}", COLOUR_ANSWER, right, len(colours)
                )
    _order(asked, shown, heard)
    count = "How many times does a shape appear?"
    asked.add("counting", count, COUNT_ANSWER, str(min(len(shown), MOST_COUNTED)), MOST_COUNTED)
    count = "How many times does a sound play?"
    asked.add("counting", count, COUNT_ANSWER, str(min(len(heard), MOST_COUNTED)), MOST_COUNTED)
    return asked


def _unanimous(values: Iterable[str | None]) -> str | None:
    """Like `_only`, but nothing counts as a value of its own."""
    found = {value or NONE for value in values}
    return next(iter(found)) if len(found) == 1 else None


def _order(asked: _Asked, shown: Sequence[Event], heard: Sequence[Event]) -> None:
    task = "temporal order"
    fields: tuple[tuple[str, str, Choice, Sequence[Event]], ...] = (
        ("shape", "shown", SHAPE_ANSWER, shown),
        ("colour", "shown", COLOUR_ANSWER, shown),
        ("sound", "heard", SOUND_ANSWER, heard),
    )
    for field, verb, answer, those in fields:
        names = [str(getattr(event, field)) for event in those]
        for which, number in (("first", 0), ("last", -1)):
            right = names[number] if names else NONE
            asked.add(task, f"Which {field} is {verb} {which}?", answer, right, len(set(names)))
    for field, verb, answer, those in (fields[0], fields[2]):
        names = [str(getattr(event, field)) for event in those]
        for number, name in enumerate(names):
            if names.count(name) == 1:
                others = max(1, len(set(names)) - 1)
                after = names[number + 1] if number + 1 < len(names) else NONE
                before = names[number - 1] if number else NONE
                asked.add(task, f"Which {field} is {verb} right after the {name}?", answer, after, others)
                asked.add(task, f"Which {field} is {verb} right before the {name}?", answer, before, others)


def _busy_questions(events: Sequence[Event]) -> list[AskedQuestion]:
    """World v2: questions about one place while one sound is heard; a short stretch of a busy clip decides."""
    asked = _Asked()
    shown = [event for event in events if event.shape and event.place]
    heard = [event for event in events if event.sound]
    shapes, colours = {event.shape for event in shown}, {event.colour for event in shown}
    sounds = {event.sound for event in heard}
    for sound in SOUNDS:
        those = [event for event in heard if event.sound == sound]
        asked.add("audio recognition", f"{_are(sound)} {_heard(sound)} heard?", Boolean(), "yes" if those else "no", 2)
        if len(those) != 1:
            continue
        for place in PLACES:
            during = [e for e in shown if e.place == place and _overlap(e, those[0]) > 0.25]
            # Asked where one shape has the place for nearly all of the sound.
            if len(during) == 1 and _overlap(during[0], those[0]) >= 0.8 * (those[0].end - those[0].start):
                where = f"{_at(place)} while {_the(sound)} {_is(sound)} heard?"
                task = "audio-visual matching"
                asked.add(task, f"Which shape is {where}", SHAPE_ANSWER, str(during[0].shape), len(shapes))
                asked.add(task, f"What colour is the shape {where}", COLOUR_ANSWER, str(during[0].colour), len(colours))
    for place in PLACES:
        those = [event for event in shown if event.place == place]
        if not those:
            continue
        task = "temporal order"
        for which, event in (("first", those[0]), ("last", those[-1])):
            where = f"{_at(place)} {which}?"
            asked.add(task, f"Which shape is {where}", SHAPE_ANSWER, str(event.shape), len(shapes))
            asked.add(task, f"Which colour is {where}", COLOUR_ANSWER, str(event.colour), len(colours))
        for colour in COLOURS:
            there = any(event.colour == colour for event in those)
            text = f"Is a {colour} shape shown {_at(place)}?"
            asked.add("presence", text, Boolean(), "yes" if there else "no", 2)
        for shape in SHAPES:
            matching = [event for event in those if event.shape == shape]
            if matching and (right := _only(event.colour for event in matching)):
                text = f"What colour is the {shape} {_at(place)}?"
                asked.add("visual recognition", text, COLOUR_ANSWER, right, len(colours))
        appear = f"How many shapes appear {_at(place)}?"
        if len(those) <= MOST_COUNTED:
            asked.add("counting", appear, COUNT_ANSWER, str(len(those)), MOST_COUNTED)
    if heard:
        asked.add("temporal order", "Which sound is heard first?", SOUND_ANSWER, str(heard[0].sound), len(sounds))
        asked.add("temporal order", "Which sound is heard last?", SOUND_ANSWER, str(heard[-1].sound), len(sounds))
    return asked


def _overlap(one: Event, other: Event) -> float:
    return max(0.0, min(one.end, other.end) - max(one.start, other.start))


def _at(place: str) -> str:
    return "in the centre" if place == "centre" else f"at the {place}"


def _spoken_questions(events: Sequence[Event]) -> list[AskedQuestion]:
    """World v3: words in their order, by the voice that says them, by what is shown meanwhile, and on pages."""
    asked = _Asked()
    shown, said = [event for event in events if event.shape], [event for event in events if event.word]
    words = [str(event.word) for event in said]
    different = len(set(words))
    for which, number in (("first", 0), ("last", -1)):
        asked.add(
            "temporal order", f"Which word is said {which}?", WORD_ANSWER, words[number] if words else NONE, different
        )
    for word in WORDS:
        asked.add("presence", f"Is the word {word} said?", Boolean(), "yes" if word in words else "no", 2)
        those = [event for event in said if event.word == word]
        if those and (voice := _unanimous(event.voice for event in those)):
            text = f"Is the word {word} said by a low or a high voice?"
            asked.add("audio recognition", text, VOICE_ANSWER, voice, 2)
    for voice in VOICES:
        if right := _only(event.word for event in said if event.voice == voice):
            text = f"Which word is said by the {voice} voice?"
            asked.add("audio recognition", text, WORD_ANSWER, right, different)
    for field, values, noun in (("shape", SHAPES, "{}"), ("colour", COLOURS, "{} shape")):
        for value in values:
            matching = [event for event in shown if getattr(event, field) == value]
            if len(matching) == 1:
                _said_while(asked, matching[0], said, f"while the {noun.format(value)} is shown?", different)
    for shape in SHAPES:
        those = [event for event in shown if event.shape == shape]
        if those and (right := _only(event.colour for event in those)):
            colours = {event.colour for event in shown}
            asked.add("visual recognition", f"What colour is the {shape}?", COLOUR_ANSWER, right, len(colours))
    if len(words) <= MOST_COUNTED:
        asked.add("counting", "How many words are said?", COUNT_ANSWER, str(len(words)), MOST_COUNTED)
    _how_often(asked, words)
    _written(asked, [event for event in events if event.lines], words)
    return asked


def _how_often(asked: _Asked, words: Sequence[str]) -> None:
    """Every word that is said more than once, and as many that are said once and never: most words are said once."""
    turn = sum(map(WORDS.index, words)) % len(WORDS)
    by_count: dict[int, list[str]] = {}
    for word in (*WORDS[turn:], *WORDS[:turn]):
        by_count.setdefault(min(2, words.count(word)), []).append(word)
    often = by_count.get(2, [])
    for word in (*often, *(word for count in (0, 1) for word in by_count.get(count, [])[: max(1, len(often))])):
        right = str(min(words.count(word), MOST_COUNTED))
        asked.add("counting", f"How often is the word {word} said?", COUNT_ANSWER, right, 3)


def _written(asked: _Asked, pages: Sequence[Event], said: Sequence[str]) -> None:
    """What is written, in which line of its page, and whether it is said as well."""
    written = [word for page in pages for word in page.lines]
    if not written:
        return
    task = "reading"
    for number, line in enumerate(LINES):
        there = {page.lines[number] for page in pages if number < len(page.lines)}
        if len(there) == 1:
            asked.add(task, f"Which word is written in line {line}?", WORD_ANSWER, there.pop(), len(set(written)))
    for word in WORDS:
        asked.add(task, f"Is the word {word} written?", Boolean(), "yes" if word in written else "no", 2)
        lines = {LINES[page.lines.index(word)] for page in pages if word in page.lines}
        if len(lines) == 1:
            asked.add(task, f"In which line is the word {word} written?", LINE_ANSWER, lines.pop(), len(LINES))
        if word in said or word in written:
            both = word in said and word in written
            text = f"Is the word {word} said and also written?"
            asked.add("reading and hearing", text, Boolean(), "yes" if both else "no", 2)


def _said_while(asked: _Asked, shape: Event, said: Sequence[Event], while_: str, different: int) -> None:
    """What is said while one shape is shown, where no word begins before it or goes on after it."""
    those = [event for event in said if _overlap(shape, event) > 0]
    if any(_overlap(shape, event) < 0.999 * (event.end - event.start) for event in those):
        return
    task = "audio-visual matching"
    if right := _only(event.word for event in those):
        asked.add(task, f"Which word is said {while_}", WORD_ANSWER, right, different)
        return
    for which, number in (("first", 0), ("last", -1)):
        asked.add(task, f"Which word is said {which} {while_}", WORD_ANSWER, str(those[number].word), different)


def timeline_of(events: Sequence[Event]) -> str:
    """All events in order, in words: "red circle with low tone, then noise alone, then ..."."""
    parts = []
    for event in events:
        seen = f"{event.colour} {event.shape}" if event.shape else None
        if seen and event.sound:
            parts.append(f"{seen} with {event.sound}")
        else:
            parts.append(f"{seen or event.sound} alone")
    return ", then ".join(parts) if parts else NONE
