"""What templates are offered of a media item's sidecars, clip by clip.

Promises: of a transcript the words that hold at some moment of the clip, in the order of time, at most so many tokens
of the model that reads them; what is left out is counted. What is told is known by its hash: the same words are the
same, whatever file says them. Knows nothing about files, archives or recipes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.context.sidecars import Context, beginning
from pipeline.questions.templates import Told

CHARS_PER_TOKEN = 8
"""Above that of any prose: a bound for what the tokenizer merges, such as long rows of dashes."""

Tokens = Callable[[str], list[int]]
"""Of the model that reads it."""


@dataclass(frozen=True)
class Cap:
    """How much of a transcript a clip is told."""

    tokens: int
    count: Tokens
    """Called only for texts that may exceed the cap: loading a tokenizer takes seconds."""

    def cut(self, words: str) -> str:
        """The beginning of a text, cut after the last whole word within the cap."""
        if len(words.encode()) <= self.tokens:  # a token is a byte at least
            return words
        words = beginning(words, self.tokens * CHARS_PER_TOKEN)
        while (tokens := len(self.count(words))) > self.tokens:
            words = beginning(words, min(len(words) - 1, int(len(words) * self.tokens / tokens)))
        return words


def told(context: Context, start_s: float, end_s: float, cap: Cap) -> tuple[Told, int]:
    """What a clip is told, and how many words of its transcript are left out."""
    clip, left_out = {}, 0
    if context.cues:
        said = context.said(start_s, end_s)
        clip["transcript"] = cap.cut(said)
        left_out = len(said[len(clip["transcript"]) :].split())
    if context.chapters:
        clip["chapter"] = context.chapter(start_s, end_s)
    return Told(clip, context.meta), left_out


def hashes(told: Told, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(name, hash of what is told), of the names that templates read."""
    return tuple((name, _hash(told.value(name))) for name in names)


def item_hashes(context: Context, names: Iterable[str], cap: Cap) -> tuple[tuple[str, str], ...]:
    """The same of all that a media item's sidecars say, however it is cut into clips."""
    whole = {
        "clip.transcript": [cap.tokens, *map(_cue, context.cues)] if context.cues else None,
        "clip.chapter": list(map(_cue, context.chapters)) or None,
    }
    return tuple((name, _hash(whole[name] if name in whole else Told(meta=context.meta).value(name))) for name in names)


def _cue(cue: object) -> list[object]:
    return list(vars(cue).values())


def _hash(value: object) -> str:
    """Empty for an undefined value, which differs from an empty text."""
    return "" if value is None else hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()
