"""What a recipe's question set asks of whole videos, and by which name what was answered is found.

Promises: questions of whole videos are no part of a recipe, so that adding one asks no clip; they lie beside it in the
journal as they were asked last, so that what counts follows from the journal alone. Knows nothing about how they are
asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.identity import content_id
from pipeline.journal.recipes import recall
from pipeline.questions.question_set import QuestionSet
from pipeline.questions.templates import LABEL_FIELDS, Scalar, media_context, names_read
from pipeline.records.unit import UnitKey
from pipeline.records.video import VideoKey, inputs_of
from workers.records import Media, MediaInfo
from workers.whole_text import FORM, MOST_TOKENS

if TYPE_CHECKING:
    from pipeline.records.heads_and_runs import Head
    from pipeline.storage.store import Store


@dataclass(frozen=True)
class WholeQuestions:
    """The questions of whole videos of one recipe."""

    fingerprint: str
    """Of all that changes an answer, beside what a version's name has: weights, number type, system prompt."""
    label_fields: tuple[str, ...]
    """What they read of an item's key."""

    @classmethod
    def of(cls, question_set: QuestionSet, variables: Mapping[str, Scalar]) -> WholeQuestions | None:
        """None where nothing is asked of whole videos."""
        if not question_set.whole:
            return None
        written = [one.as_written for one in question_set.whole]
        templates = [text for one in written for text in (one.text, *one.answer.templates)]
        values, read = question_set.values(variables), names_read("vars", templates)
        named = {name: repr(value) if isinstance(value, float) else value for name, value in values.items()}
        # Ids name the answers and their order is the rows': a renamed question is another row.
        questions = [_without_floats(one.to_dict()) for one in written]
        asked = [FORM, MOST_TOKENS, questions, {name: value for name, value in named.items() if name in read}]
        seen = names_read("media", templates)
        return cls(content_id("whole questions", asked), tuple(name for name in LABEL_FIELDS if name in seen))

    def labels(self, media_key: str) -> tuple[tuple[str, str], ...]:
        """What they read of an item's key."""
        if not self.label_fields:
            return ()
        given = media_context(Media("", media_key, "", "", 0), MediaInfo("", 0.0))
        return tuple((name, str(given[name])) for name in self.label_fields)

    def key(self, head: Head, units: Iterable[UnitKey]) -> VideoKey:
        """By which name the answers of an item are found, whose version has these units by their newest attempts."""
        return VideoKey(head.place[1], head.version_id, inputs_of(self.fingerprint, self.labels(head.media_key), units))


class WholeByRecipe:
    """The same of all recipes of an output, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, WholeQuestions | None] = {}

    def of(self, recipe_hash: str) -> WholeQuestions | None:
        """Of one. Raises JournalError for damage."""
        if recipe_hash not in self._known:
            kept = recall(self._store, recipe_hash) if recipe_hash else None
            made = None if kept is None else WholeQuestions.of(kept.question_set, kept.variables)
            self._known[recipe_hash] = made
        return self._known[recipe_hash]


def _without_floats(value: object) -> object:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {name: _without_floats(one) for name, one in value.items()}
    return [_without_floats(one) for one in value] if isinstance(value, list | tuple) else value
