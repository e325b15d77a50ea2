"""Moments: the time ranges of a video in which an answer holds, from the published tables.

Promises: only answers at or above their threshold count; clips that touch or overlap and agree are one moment, as in
`answer_ranges`. What strangers wrote comes as one printable line. Knows nothing about files or formats.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omnidrop.answer_types import kinds
from omnidrop.errors import UserError
from pipeline.export.timing import Clock, TimingError, clock_of
from pipeline.find.search import find
from pipeline.tables.chosen import IS_CHOSEN, answers_instead, check_questions, chosen_media
from pipeline.tables.named_queries import VIEWS

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)

THRESHOLD = 0.5
MOST_CHARS = 200
"""Of a line in a player or an editor."""


class ExportError(UserError):
    """Moments that cannot be selected or written as asked."""

    error_class = "export"


@dataclass(frozen=True)
class Moment:
    """One range of one video."""

    start_s: float
    end_s: float
    question_id: str
    question: str
    answer: str
    probability: float | None = None
    """Mean over its clips, the least of what was found; None where answers have none."""
    clips: int = 1

    @property
    def title(self) -> str:
        """What a marker is called."""
        return line(f"{self.question_id}: {self.answer}")

    @property
    def note(self) -> str:
        """What stands beside it."""
        sure = "" if self.probability is None else f" ({100 * self.probability:.0f} %)"
        return line(self.question, MOST_CHARS - len(sure)) + sure


@dataclass(frozen=True)
class Video:
    """A media item with its moments, in the order of time."""

    key: str
    uri: str
    duration_s: float | None
    frame_rate: float | None
    moments: tuple[Moment, ...]
    start_timecode: str | None = None
    model: str = ""
    whole: tuple[Moment, ...] = ()
    """What was answered about it as a whole (`scope: video`): from its beginning to its end."""
    clock: Clock | None = None
    """Set where the format counts frames."""

    def counted(self) -> Clock:
        """Its clock; an invariant of formats that count frames."""
        assert self.clock is not None
        return self.clock


@dataclass(frozen=True)
class Selection:
    """Which answers become moments."""

    threshold: float = THRESHOLD
    questions: tuple[str, ...] = ()
    """None: all yes/no and choice questions. Named ones may be of any type."""
    answers: tuple[str, ...] = ()
    """None: yes, and every choice."""
    media: str | None = None
    """Of keys: * and ? stand for any text and any character."""
    takes_whole: bool = True
    """Also answers about videos as a whole."""


def videos_with_moments(connection: duckdb.DuckDBPyConnection, selection: Selection, job: str) -> list[Video]:
    """The videos of a job that have moments or answers about the whole, by key. Raises ExportError."""
    check_questions(connection, job, selection.questions)
    _check_answers(connection, job, selection)
    given = {
        "job": job,
        **chosen_media(connection, job, selection.media),
        "questions": list(selection.questions),
        "answers": list(selection.answers),
        "threshold": selection.threshold,
        "kinds": kinds(lambda one: one.is_categorical),
    }
    rows = connection.execute(
        f"""
        WITH answers AS (SELECT found.* FROM main.answers AS found WHERE {_SELECTED}),
        ranges AS ({VIEWS["answer_ranges"]})
        SELECT media_id, media_key, question_id, answer, start_s, end_s, probability, clips,
            (SELECT any_value(question) FROM answers AS one
             WHERE one.media_id = ranges.media_id AND one.question_id = ranges.question_id) AS question
        FROM ranges ORDER BY media_key, start_s, end_s, question_id, answer
        """,
        given,
    ).fetchall()
    moments: dict[str, list[Moment]] = defaultdict(list)
    for media_id, _, question_id, answer, start_s, end_s, probability, clips, question in rows:
        moments[media_id].append(Moment(start_s, end_s, question_id, question or "", answer, probability, clips))
    whole: dict[str, list[Moment]] = defaultdict(list)
    if selection.takes_whole:
        about = connection.execute(
            f"""
            SELECT found.media_id, coalesce(duration_s, 0), question_id, question, answer, probability
            FROM whole_answers AS found JOIN media ON media.job = found.job AND media.media_id = found.media_id
            WHERE found.answer IS NOT NULL AND {_SELECTED} ORDER BY question_id
            """,
            given,
        ).fetchall()
        for media_id, end_s, *answered in about:
            whole[media_id].append(Moment(0.0, end_s, *answered))
    return with_media(connection, job, moments, whole)


_SELECTED = f"""
    found.job = $job
    AND {IS_CHOSEN.format("found")}
    AND (len($questions) = 0 AND list_contains($kinds, found.answer_type)
        OR list_contains($questions, found.question_id))
    AND (len($answers) = 0 AND found.answer_boolean IS DISTINCT FROM false OR list_contains($answers, found.answer))
    AND coalesce(found.probability, 1) >= $threshold
"""


def with_media(
    connection: duckdb.DuckDBPyConnection,
    job: str,
    moments: Mapping[str, Sequence[Moment]],
    whole: Mapping[str, Sequence[Moment]],
) -> list[Video]:
    """Videos by key, from moments, and answers about the whole, by media id."""
    rows = connection.execute(
        """
        SELECT media_id, media_key, uri, duration_s, frame_rate,
            list_extract(map_extract(tags, 'timecode'), 1),
            (SELECT any_value(model) FROM clips WHERE clips.job = media.job AND clips.media_id = media.media_id)
        FROM media WHERE job = $job AND list_contains($ids, media_id) ORDER BY media_key
        """,
        {"job": job, "ids": list({*moments, *whole})},
    ).fetchall()
    return [
        Video(
            *(key, uri, duration_s, rate, tuple(moments.get(media_id, ())), _usable(rate, timecode), model or ""),
            whole=tuple(whole.get(media_id, ())),
        )
        for media_id, key, uri, duration_s, rate, timecode, model in rows
    ]


def _usable(rate: float | None, timecode: str | None) -> str | None:
    """A file's own start timecode, None where it is none at the file's own rate: anything can stand in a tag."""
    try:
        clock_of(rate, timecode)
    except TimingError:
        return None
    return timecode


def videos_found(connection: duckdb.DuckDBPyConnection, text: str, job: str, media: str | None) -> list[Video]:
    """The videos in which something is found, all of its moments. Raises FindError."""
    moments: dict[str, list[Moment]] = defaultdict(list)
    whole: dict[str, list[Moment]] = defaultdict(list)
    for one in find(connection, text, job, media=media, most=None)[0]:
        answer = " · ".join(one.answers) or text
        found = Moment(one.start_s, one.end_s, "found", text, answer, one.probability, one.clips)
        (whole if one.is_whole else moments)[one.media_id].append(found)
    return with_media(connection, job, moments, whole)


def line(text: str, most: int = MOST_CHARS) -> str:
    """Other people's words as one printable line."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= most else words[: most - 1] + "…"


def _check_answers(connection: duckdb.DuckDBPyConnection, job: str, selection: Selection) -> None:
    """Refuse an answer that is only written otherwise than it was given; warn of one that nobody gave."""
    for answer in selection.answers:
        found = connection.execute(
            "SELECT answer FROM answers WHERE job = $job AND lower(answer) = lower($answer) UNION "
            "SELECT answer FROM whole_answers WHERE job = $job AND lower(answer) = lower($answer) ORDER BY answer",
            {"job": job, "answer": answer},
        ).fetchall()
        there = [given for (given,) in found]
        if there and answer not in there:
            raise ExportError(f"--answer {answer}: there is no such answer; did you mean {there[0]}?")
        instead = answers_instead(connection, job, answer, selection.questions)
        if instead is not None:
            log.warning("--answer %s: nothing was answered so; %s", answer, instead)
