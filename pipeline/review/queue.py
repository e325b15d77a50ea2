"""Which answers a person should look at, and in which order.

Promises: answers that dense contradicted in an audit come first, then those with the smallest margin; every fifth is
drawn from all others, always the same ones, so that labels also say something about sure answers. What is labelled
comes no more, and of exact copies one. Knows nothing about pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnidrop.answer_types import kinds
from pipeline.journal.recipes import recall
from pipeline.review.labels import Key, Label, key_of
from pipeline.tables.chosen import IS_CHOSEN, chosen_media

if TYPE_CHECKING:
    import duckdb

    from pipeline.storage.store import Store

MOST = 200
SAMPLED_EVERY = 5
MOST_OPTIONS = 9
"""There are nine keys."""


@dataclass(frozen=True)
class Item:
    """One answer to be looked at."""

    clip_id: str
    media_id: str
    media_key: str
    start_s: float
    end_s: float
    question_id: str
    question: str
    answer_type: str
    answer: str
    probability: float | None
    margin: float | None
    dense_answer: str | None
    """What dense answered, where it was asked and said something else."""
    why: str
    """audit, unsure or sampled."""
    options: tuple[str, ...]
    """Answers to choose the right one from; empty where it must be written."""

    def label(self, verdict: str, answer: str) -> Label:
        """What a person said about it."""
        return Label(
            *(self.media_key, self.start_s, self.end_s, self.question_id),
            *(answer, verdict, self.answer, self.clip_id, self.question),
        )


def queue(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    job: str,
    labelled: Sequence[Label],
    *,
    questions: Sequence[str] = (),
    media: str | None = None,
    most: int = MOST,
) -> list[Item]:
    """The next answers; `labelled` is left out."""
    limit = most + len(labelled)
    values = {
        **{"job": job, "questions": list(questions), "limit": limit, **chosen_media(connection, job, media)},
        "not_compared": kinds(lambda one: not one.is_compared),
    }
    audited = (
        "SELECT audits.clip_id, unnest(audits.answers).question_id AS question_id, "
        "unnest(audits.answers).agrees AS agrees, unnest(audits.answers).dense_shared_answer AS dense FROM audits"
    )
    chosen = f"FROM clips WHERE job = $job AND {IS_CHOSEN.format('clips')}"
    # A copy stands for its content where --media leaves out the file that was asked, the first of several.
    stand_ins = (
        f"SELECT arg_min(clip_id, (media_key, media_id)) {chosen} AND copy_of IS NOT NULL "
        f"AND copy_of NOT IN (SELECT clip_id {chosen}) GROUP BY copy_of"
    )
    select = f"""
        SELECT a.clip_id, a.media_id, a.media_key, a.start_s, a.end_s, a.question_id, a.question, a.answer_type,
            a.answer, a.probability, a.margin, CASE WHEN audited.agrees = false THEN audited.dense END AS dense_answer
        FROM answers AS a LEFT JOIN ({audited}) AS audited
            ON audited.clip_id = a.clip_id AND audited.question_id = a.question_id
        WHERE a.job = $job AND a.answer IS NOT NULL AND NOT list_contains($not_compared, a.answer_type)
            AND (len($questions) = 0 OR list_contains($questions, a.question_id))
            AND {IS_CHOSEN.format("a")} AND (a.copy_of IS NULL OR a.clip_id IN ({stand_ins}))
    """
    unsure = connection.execute(
        f"{select} AND (audited.agrees = false OR a.margin IS NOT NULL) "
        "ORDER BY dense_answer IS NULL, a.margin, a.media_key, a.start_s, a.question_id LIMIT $limit",
        values,
    ).fetchall()
    sampled = connection.execute(
        f"{select} ORDER BY md5(a.clip_id || a.question_id), a.media_key, a.start_s LIMIT $limit", values
    ).fetchall()
    options = _options(connection, store, job)
    labels = {label.key: label for label in labelled}
    taken: set[Key] = set()

    def is_open(row: tuple[Any, ...]) -> bool:
        key = key_of(*row[2:6])
        return key not in taken and not (key in labels and labels[key].fits(row[6]))

    streams = [("unsure", iter(unsure)), ("sampled", iter(sampled))]
    items: list[Item] = []
    while len(items) < most and streams:
        place = (len(items) % SAMPLED_EVERY == SAMPLED_EVERY - 1) if len(streams) == 2 else 0
        why, rows = streams[place]
        row = next(filter(is_open, rows), None)
        if row is None:
            streams.pop(place)
            continue
        taken.add(key_of(*row[2:6]))
        why = "audit" if row[-1] is not None else why
        items.append(Item(*(*row, why, options.get(row[5], ()))))
    return items


def _options(connection: duckdb.DuckDBPyConnection, store: Store, job: str) -> dict[str, tuple[str, ...]]:
    """What questions may be answered with: as asked, where the options are written out, else as seen in answers."""
    found = {question: tuple(seen) for question, seen in _seen(connection, job)}
    hashes = connection.execute("SELECT DISTINCT recipe_hash FROM media WHERE job = $job", {"job": job}).fetchall()
    for (recipe_hash,) in hashes:
        kept = recall(store, recipe_hash) if recipe_hash else None
        for question in kept.question_set.questions if kept else ():
            if question.answer.is_categorical:
                words = question.answer.allowed
                if not any("{" in word for word in words):
                    found[question.id] = words
    return {question: words for question, words in found.items() if len(words) <= MOST_OPTIONS}


def _seen(connection: duckdb.DuckDBPyConnection, job: str) -> Iterator[tuple[str, Any]]:
    yield from connection.execute(
        "SELECT question_id, CASE WHEN count(answer_boolean) > 0 THEN ['yes', 'no'] "
        "ELSE list_sort(list(DISTINCT answer)) END FROM answers "
        "WHERE job = $job AND answer IS NOT NULL AND list_contains($kinds, answer_type) GROUP BY question_id",
        {"job": job, "kinds": kinds(lambda one: one.is_categorical)},
    ).fetchall()
