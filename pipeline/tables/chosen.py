"""Which videos and questions of published results a person means by `--media` and `--question`.

Promises: what fits nothing is refused with what there is, and never taken for a result without rows. A key stands for
itself; in other texts `*` stands for any characters and `?` for one, and nothing else has a meaning. Accents may be
written as one character or as two. Knows nothing about what is done with what was chosen.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import re2

from pipeline.normal_forms import composed
from pipeline.tables.query import QueryError

if TYPE_CHECKING:
    import duckdb

MOST_NAMED = 9
"""Answers that are named where another was asked for."""
IS_CHOSEN = (
    "($media IS NULL OR {0}.media_key = $media OR regexp_full_match(nfc_normalize({0}.media_key), $pattern, 's'))"
)
"""Whether the row of a table is one of the videos; bind what `chosen_media` gives."""


def chosen_media(connection: duckdb.DuckDBPyConnection, job: str, given: str | None) -> dict[str, str | None]:
    """The values of `IS_CHOSEN` for a key or a pattern of keys, None for all. Raises QueryError where none fits."""
    if given is None:
        return {"media": None, "pattern": None}
    pattern = "".join({"*": ".*", "?": "."}.get(c) or re2.escape(c) for c in composed(given))
    values: dict[str, str | None] = {"media": given, "pattern": pattern}
    fits = f"SELECT 1 FROM media WHERE job = $job AND {IS_CHOSEN.format('media')} LIMIT 1"
    if connection.execute(fits, {"job": job, **values}).fetchone() is None:
        nearest = connection.execute(
            "SELECT media_key FROM media WHERE job = $job "
            "ORDER BY ends_with(media_key, '/' || $given) DESC, jaro_winkler_similarity(media_key, $given) DESC "
            "LIMIT 1",
            {"job": job, "given": given},
        ).fetchone()
        hint = f"; the nearest is {nearest[0]}" if nearest else ""
        raise QueryError(
            f"--media {given}: job {job} has no video with such a key{hint}. Give the whole key, or * and ? for parts "
            "of it"
        )
    return values


def answers_instead(
    connection: duckdb.DuckDBPyConnection, job: str, answer: str, questions: Iterable[str] = ()
) -> str | None:
    """None where some question, of these or of all, was answered so, in whatever case; else what was answered, in
    words: an answer that nobody gave may be a slip of the pen."""
    said = (
        "SELECT answer FROM ("
        "SELECT job, question_id, answer FROM answers UNION ALL SELECT job, question_id, answer FROM whole_answers) "
        "WHERE job = $job AND answer IS NOT NULL AND (len($questions) = 0 OR list_contains($questions, question_id))"
    )
    given = {"job": job, "questions": list(questions)}
    if connection.execute(f"{said} AND lower(answer) = lower($answer) LIMIT 1", {**given, "answer": answer}).fetchone():
        return None
    common = f"SELECT answer FROM ({said}) GROUP BY answer ORDER BY count(*) DESC, answer LIMIT {MOST_NAMED + 1}"
    there = [one for (one,) in connection.execute(common, given).fetchall()]
    more = ", ..." if len(there) > MOST_NAMED else ""
    return f"there are: {', '.join(there[:MOST_NAMED])}{more}" if there else "there are none"


def check_questions(connection: duckdb.DuckDBPyConnection, job: str, given: Iterable[str]) -> None:
    """Raise QueryError for a question that has no answers, of clips or of whole videos."""
    if not (wanted := list(given)):
        return
    asked = connection.execute(
        "SELECT question_id FROM answers WHERE job = $job "
        "UNION SELECT question_id FROM whole_answers WHERE job = $job ORDER BY 1",
        {"job": job},
    ).fetchall()
    ids = [name for (name,) in asked]
    for name in wanted:
        if name not in ids:
            close = difflib.get_close_matches(name, ids, n=1)
            hint = f" did you mean {close[0]}?" if close else ""
            raise QueryError(f"--question {name}: there is no such question;{hint} there are: {', '.join(ids)}")
