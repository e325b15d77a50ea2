"""Looks through the published answers of a job: words by SQLite's full-text index, conditions by their type.

Promises: what is looked for only ever travels as a bound value; the index of words is made from the published tables
for one search and gone after it, so what is forgotten is found no more. Clips that touch are one moment, a video whose
own answers fit is one as a whole; the best come first: those whose words fit best (BM25), then by probability. Knows
nothing about how moments are shown.
"""

from __future__ import annotations

import contextlib
import difflib
import heapq
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from omnidrop.answer_types import column_of, kinds
from pipeline.find.grammar import All, Any, Condition, FindError, Node, Not, Words, parse
from pipeline.tables.chosen import IS_CHOSEN, answers_instead, chosen_media

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)

MOST = 20
BATCH_ROWS = 10_000
TOUCH_S = 1e-6
_TOKENIZER = "porter unicode61 remove_diacritics 2"
_WHOLE = "'whole ' || media_id"
_SAID = f"""
    SELECT
        clip_id AS place, question_id, answer, answer_type, answer_boolean, answer_number, probability,
        false AS is_whole
    FROM answers WHERE job = $job
    UNION ALL
    SELECT {_WHOLE}, question_id, answer, answer_type, answer_boolean, answer_number, probability, true
    FROM whole_answers WHERE job = $job
"""
"""All answers of a job: `place` is a clip, or a video as a whole."""
_PLACES = f"""
    SELECT clip_id AS place, {_WHOLE} AS video, media_id, media_key, start_s, end_s, false AS is_whole
    FROM clips WHERE job = $job
    UNION ALL
    SELECT DISTINCT {_WHOLE}, {_WHOLE}, media_id, media_key, 0, NULL, true FROM whole_answers WHERE job = $job
"""
_UNSPACED = 0x0E00
"""From Thai on, scripts are written without spaces, and the index would take a sentence for a word: it is not used."""


@dataclass(frozen=True)
class Found:
    """A time range in which it holds."""

    media_id: str
    media_key: str
    uri: str
    start_s: float
    end_s: float
    clips: int
    """0 where the video as a whole fits."""
    score: float
    """How well words fit the best of its clips, higher is better; 0 where none were looked for."""
    probability: float | None
    """The least of the answers that fit, of all clips; None where they have none."""
    answers: tuple[str, ...]
    """What fits in its clips, each once: `question: answer`; the best clip's first, then in the order of time."""
    is_whole: bool = False
    """Whether it was answered about the video as a whole."""


@dataclass(frozen=True)
class _Asked:
    """A question that there are answers to."""

    kind: str
    is_only_whole: bool
    is_also_whole: bool


@dataclass
class _Search:
    """The leaves of a tree as common table expressions, and the values they are bound to."""

    has_whole: bool
    """Whether anything was answered about videos as a whole."""
    leaves: list[str] = field(default_factory=list)
    of_wholes: list[bool] = field(default_factory=list)
    """Whether such a leaf is a condition on a question that only videos as a whole were asked."""
    wanted: list[bool] = field(default_factory=list)
    """False below a not: such a leaf does not rank."""
    values: dict[str, object] = field(default_factory=dict)

    def of(self, leaf: int, column: str) -> str:
        """What a leaf says of a place, or of the video that it lies in."""
        own = f"leaf{leaf}.{column}"
        return f"coalesce({own}, above{leaf}.{column})" if self.has_whole else own

    def joins(self) -> str:
        """The leaves, joined to `places`."""
        own = "LEFT JOIN leaf{0} ON leaf{0}.place = places.place "
        above = "LEFT JOIN leaf{0} AS above{0} ON above{0}.place = places.video AND NOT is_whole "
        return "".join((own + above * self.has_whole).format(n) for n in range(len(self.leaves)))

    def bind(self, value: object) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f"${name}"


def find(
    connection: duckdb.DuckDBPyConnection, text: str, job: str, *, media: str | None = None, most: int | None = MOST
) -> tuple[list[Found], int]:
    """The best moments of a job, and how many there are; all of them, in the order of time, where `most` is None.

    Raises FindError, and QueryError for a `media` that fits nothing.
    """
    tree = parse(text)
    types = {
        name: _Asked(*asked)
        for name, *asked in connection.execute(
            "SELECT question_id, any_value(answer_type), bool_and(is_whole), bool_or(is_whole) "
            f"FROM ({_SAID}) GROUP BY question_id ORDER BY question_id",
            {"job": job},
        ).fetchall()
    }
    search = _Search(
        any(one.is_also_whole for one in types.values()), values={"job": job, **chosen_media(connection, job, media)}
    )
    holds = _holds(tree, search, types, connection, job, wanted=True)
    found = _moments(connection, search, holds)
    if most is None:
        everything = list(found)
        return everything, len(everything)
    counted = 0

    def counting() -> Iterator[Found]:
        nonlocal counted
        for one in found:
            counted += 1
            yield one

    best = heapq.nsmallest(most, counting(), key=_rank)
    return best, counted


def _rank(one: Found) -> tuple[float, float, str, float]:
    return -round(one.score, 6), -(one.probability or 0.0), one.media_key, one.start_s


def _moments(connection: duckdb.DuckDBPyConnection, search: _Search, holds: str) -> Iterator[Found]:
    wanted = [n for n, is_wanted in enumerate(search.wanted) if is_wanted]
    score = " + ".join(f"coalesce({search.of(n, 'score')}, 0)" for n in wanted) or "0"
    sure = f"least({', '.join(search.of(n, 'probability') for n in wanted)})" if wanted else "NULL"
    said = ", ".join(f"coalesce({search.of(n, 'said')}, [])" for n in wanted)
    # What is said of a video as a whole holds in all of its clips, and makes none of them a moment.
    own = " OR ".join(f"leaf{n}.place IS NOT NULL" for n in wanted)
    own = own or ("is_whole" if all(search.of_wholes) else "NOT is_whole")
    leaves = ", ".join(f"leaf{n} AS ({select})" for n, select in enumerate(search.leaves))
    cursor = connection.execute(
        f"""
        WITH said AS ({_SAID}), {leaves}, places AS ({_PLACES})
        SELECT places.media_id, places.media_key, media.uri, start_s, coalesce(end_s, media.duration_s, 0), is_whole,
            {score}, {sure}, list_distinct(flatten([{said}]))
        FROM places JOIN media ON media.job = $job AND media.media_id = places.media_id {search.joins()}
        WHERE {IS_CHOSEN.format("places")} AND ({holds}) AND ({own})
        ORDER BY places.media_key, places.media_id, is_whole, start_s, end_s
        """,
        search.values,
    )
    clips: list[Found] = []
    end_s = 0.0
    while rows := cursor.fetchmany(BATCH_ROWS):
        for media_id, key, uri, start_s, until_s, is_whole, points, probability, answers in rows:
            fits = tuple(sorted(answers or ()))
            one = Found(media_id, key, uri, start_s, until_s, int(not is_whole), points, probability, fits, is_whole)
            if clips and (is_whole or media_id != clips[0].media_id or start_s > end_s + TOUCH_S):
                yield _joined(clips)
                clips, end_s = [], 0.0
            clips.append(one)
            end_s = max(end_s, until_s)
    if clips:
        yield _joined(clips)


def _joined(clips: list[Found]) -> Found:
    """One moment of clips that touch, in the order of time."""
    best = min(clips, key=_rank)
    return replace(
        best,
        start_s=clips[0].start_s,
        end_s=max(one.end_s for one in clips),
        clips=sum(one.clips for one in clips),
        probability=min((one.probability for one in clips if one.probability is not None), default=None),
        answers=tuple(dict.fromkeys(answer for one in (best, *clips) for answer in one.answers)),
    )


def _holds(
    node: Node,
    search: _Search,
    types: dict[str, _Asked],
    connection: duckdb.DuckDBPyConnection,
    job: str,
    *,
    wanted: bool,
) -> str:
    """A boolean expression over the leaves. Only numbers of leaves and our own words are in it."""
    match node:
        case Not(part=part):
            return f"NOT {_holds(part, search, types, connection, job, wanted=not wanted)}"
        case All(parts=parts) | Any(parts=parts):
            word = " AND " if isinstance(node, All) else " OR "
            return f"({word.join(_holds(p, search, types, connection, job, wanted=wanted) for p in parts)})"
        case Condition():
            fits = _fits(node, search, types)
            if column_of(types[node.question].kind) is None:
                instead = answers_instead(connection, job, node.value, [node.question])
                if instead is not None:
                    log.warning("no answer to %s is %s; %s", node.question, node.value, instead)
            score = "0"
            source = "said AS found"
        case Words(terms=terms) if any(ord(c) >= _UNSPACED and c.isalpha() for term in terms for c in term):
            fits = " AND ".join(f"contains(lower(found.answer), {search.bind(term.lower())})" for term in terms)
            score = "1"
            source = "said AS found"
        case Words(terms=terms):
            matched = f"matched{len(search.leaves)}"
            connection.register(matched, _matched(connection, job, terms))
            fits, score = "true", "matched.score"
            source = (
                f"said AS found JOIN {matched} AS matched "
                "ON matched.question_id = found.question_id AND matched.answer = found.answer"
            )
    search.leaves.append(
        f"SELECT found.place, max({score}) AS score, min(found.probability) AS probability, "
        "list(DISTINCT found.question_id || ': ' || found.answer) AS said "
        f"FROM {source} WHERE found.answer IS NOT NULL AND {fits} GROUP BY found.place"
    )
    search.wanted.append(wanted)
    search.of_wholes.append(isinstance(node, Condition) and types[node.question].is_only_whole)
    return f"{search.of(len(search.leaves) - 1, 'place')} IS NOT NULL"


def _fits(condition: Condition, search: _Search, types: dict[str, _Asked]) -> str:
    """Which answers fulfil a condition. Raises FindError."""
    name, operator, value = condition.question, condition.operator, condition.value
    if name not in types:
        close = difflib.get_close_matches(name, types, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise FindError(f"there is no question {name}; {hint}there are: {', '.join(sorted(types)) or 'none'}")
    kind = types[name].kind
    column = column_of(kind)
    its = f"found.question_id = {search.bind(name)} AND "
    if column == "answer_number":
        try:
            number = float(value)
        except ValueError:
            raise FindError(
                f"{name} {operator} {value}: {name} takes a number, for example {name} {operator} 2"
            ) from None
        if operator in ("=", "!="):
            return f"{its}abs(found.answer_number - {search.bind(number)}) {'<' if operator == '=' else '>='} 1e-9"
        return f"{its}found.answer_number {operator} {search.bind(number)}"
    if kind in kinds(lambda one: not one.is_compared):
        raise FindError(
            f"{name} {operator} {value}: {name} is {kind.upper()}; search for its words, or use `omnidrop query`"
        )
    if operator not in ("=", "!="):
        raise FindError(
            f"{name} {operator} {value}: {name} is not a number ({kind}); write {name} = ... or {name} != ..."
        )
    if column == "answer_boolean":
        said = {"yes": True, "true": True, "no": False, "false": False}.get(value.lower())
        if said is None:
            raise FindError(f"{name} {operator} {value}: {name} takes yes or no, for example {name} = yes")
        return f"{its}found.answer_boolean = {search.bind(said == (operator == '='))}"
    return f"{its}lower(found.answer) {operator} lower({search.bind(value)})"


def _matched(connection: duckdb.DuckDBPyConnection, job: str, terms: tuple[str, ...]) -> pa.Table:
    """Which answers in words hold all terms, and how well they fit."""
    # Equal answers are indexed once: a choice among three is three texts, however many clips there are.
    texts = connection.execute(
        f"SELECT DISTINCT question_id, answer FROM ({_SAID}) WHERE answer IS NOT NULL AND "
        "list_contains($kinds, answer_type)",
        {"job": job, "kinds": kinds(lambda one: one.is_searched)},
    )
    # "" is a database of SQLite's own on disk, gone when it is closed.
    with contextlib.closing(sqlite3.connect("")) as index:
        index.execute(f"CREATE VIRTUAL TABLE words USING fts5(question_id UNINDEXED, answer, tokenize='{_TOKENIZER}')")
        while rows := texts.fetchmany(BATCH_ROWS):
            index.executemany("INSERT INTO words VALUES (?, ?)", rows)
        wanted = " ".join('"' + term.replace('"', " ") + '"' for term in terms)
        matched = index.execute("SELECT question_id, answer, -bm25(words) FROM words WHERE words MATCH ?", (wanted,))
        columns = list(zip(*matched.fetchall(), strict=True)) or [(), (), ()]
    names = {"question_id": pa.string(), "answer": pa.string(), "score": pa.float64()}
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, names.values(), strict=True)], names=list(names)
    )
