"""What a report says, asked of the published tables in SQL.

Promises: reads one published generation of one job, and memory stays bounded whatever the archive's size: sums are made
in DuckDB, and lists are cut there. Knows nothing about HTML.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from omnidrop.answer_types import Scored, kinds
from omnidrop.errors import UserError
from pipeline.batches import batches
from pipeline.config.sections import StorageConfig
from pipeline.evaluation.audit import Audit as Evaluated
from pipeline.evaluation.audit import Share, audit_of
from pipeline.report.explorer import MOST_ANSWERS, EncodedClip, EncodedMedia, encode
from pipeline.report.view_model import (
    Asked,
    Audit,
    Collection,
    Explorer,
    Failures,
    Interval,
    Kept,
    NoticedKind,
    QuestionFacts,
    Report,
    Run,
    Spent,
    Way,
    WholeQuestion,
)
from pipeline.storage.store import open_store
from pipeline.tables import manifest
from pipeline.tables.noticed import lines, noticed_in
from pipeline.tables.query import open_results, the_job

if TYPE_CHECKING:
    import duckdb

MOST_COLLECTIONS = 24
"""Further folders are shown as one."""
MOST_COUNTS = 8
"""Answers of a question that are counted apart; as many as there are colours."""
MOST_VIDEOS = 50
"""Videos whose answers as wholes are shown, by key."""
MOST_NOTICED = 20
"""Cases of one kind that are named."""
OTHER_FOLDERS = "other folders"

WAYS: tuple[Literal["as_run", "dense_shared", "dense"], ...] = ("as_run", "dense_shared", "dense")
LOSSY_CELLS = r"^lossy: ([0-9,]+) of ([0-9,]+) cells of the picture were encoded$"
"""The note of a clip whose picture was encoded in part, as `omnidrop.models.encoders` words it."""
WAY_COLUMNS = ("tokens", "encoder_flops", "prefill_flops", "selection_flops", "decode_flops", "kv_bytes")
SPENT = (
    "count(*) FILTER (copy_of IS NULL), "
    "sum(as_run_flops)::HUGEINT, sum(dense_shared_flops)::HUGEINT, sum(dense_flops)::HUGEINT, sum(model_s)"
)


def gather(uri: str, storage: StorageConfig, job: str | None = None, *, budget_bytes: int) -> Report:
    """Everything a report of one job shows; `job` may be None where the results hold only one.

    `budget_bytes` bounds the compressed answers that go into the page. Raises UserError where there is nothing to show.
    """
    # `open_results` raises where nothing is published.
    with open_results(uri, storage) as connection:
        store = open_store(uri, storage)
        published = manifest.current(store)
        assert published is not None
        results = _Results(connection, the_job(connection, uri, job))
        asked = results.asked()
        if not asked and not results.one("SELECT count(*) FROM quarantine WHERE job = $job")[0]:
            raise UserError(f"{uri}: job {results.job} has no answers yet; run `omnidrop index` first")
        media, complete, failed = results.one(
            "SELECT count(*), count(*) FILTER (status = 'complete'), count(*) FILTER (status = 'failed') "
            "FROM media WHERE job = $job"
        )
        clips, clips_asked, partial, answered_s = results.one(
            """
            SELECT count(*), count(*) FILTER (copy_of IS NULL), count(*) FILTER (status = 'partial'),
                coalesce(sum(greatest(end_s - greatest(start_s, before_s), 0)), 0)
            FROM (
                SELECT *, coalesce(max(end_s) OVER (
                    PARTITION BY media_id ORDER BY start_s, end_s ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ), 0) AS before_s
                FROM clips WHERE job = $job
            )
            """
        )
        questions = results.questions()
        return Report(
            job=results.job,
            uri=uri,
            generation=published.generation,
            published_at=published.published_at,
            asked=asked,
            media=media,
            media_complete=complete,
            media_failed=failed,
            answered_s=answered_s,
            clips=clips,
            clips_asked=clips_asked,
            clips_partial=partial,
            answers=sum(question.asked for question in questions),
            ways=results.ways(),
            runs=results.runs(),
            collections=results.collections(),
            kept=results.kept(),
            questions=questions,
            whole=results.whole(),
            failures=results.failures(),
            noticed=results.noticed(),
            explorer=results.explorer(questions, budget_bytes),
            audit=_audit(audit_of(store, published, results.job)),
        )


def _audit(found: Evaluated | None) -> Audit | None:
    """Only what has an interval is shown: one media item says nothing about others."""
    if found is None or found.saved_s is None or (saved := _interval(found.saved_s)) is None:
        return None
    shares = ((one.name, one.share.count, _interval(one.share)) for one in found.questions)
    return Audit(found.clips, saved, tuple((name, count, share) for name, count, share in shares if share is not None))


def _interval(share: Share) -> Interval | None:
    if share.low is None or share.high is None:
        return None
    return Interval(share.value, share.low, share.high)


class _Results:
    """The queries, over one job of one generation."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, job: str) -> None:
        self._connection, self.job = connection, job

    def all(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, {"job": self.job} | parameters).fetchall()

    def one(self, sql: str, **parameters: Any) -> tuple[Any, ...]:
        return self.all(sql, **parameters)[0]

    def asked(self) -> tuple[Asked, ...]:
        rows = self.all(
            "SELECT model, mode, policy, retained_ratio_target, question_set, question_set_version, count(*) AS clips "
            "FROM clips WHERE job = $job GROUP BY ALL ORDER BY clips DESC, 1, 2, 3"
        )
        return tuple(Asked(*row) for row in rows)

    def ways(self) -> tuple[Way, Way, Way]:
        sums = ", ".join(f"coalesce(sum({way}_{column}), 0)::HUGEINT" for way in WAYS for column in WAY_COLUMNS)
        *values, model_s = self.one(f"SELECT {sums}, coalesce(sum(model_s), 0) FROM clips WHERE job = $job")
        measured = {"as_run": model_s}
        run, shared, dense = (
            Way(way, model_s=measured.get(way), **dict(zip(WAY_COLUMNS, sums, strict=True)))
            for way, sums in zip(WAYS, batches(values, len(WAY_COLUMNS)), strict=True)
        )
        return run, shared, dense

    def runs(self) -> tuple[Run, ...]:
        spent = {
            row[0]: Spent(*row[1:])
            for row in self.all(f"SELECT run_id, {SPENT} FROM clips WHERE job = $job GROUP BY run_id")
        }
        rows = self.all(
            "SELECT run_id, started_at, status, wall_s, decode_s, answer_s, actors, bytes_fetched FROM runs "
            "WHERE job = $job ORDER BY started_at, run_id"
        )
        none = Spent(0, 0, 0, 0, 0.0)
        return tuple(
            Run(name, began, status, wall_s, decode_s, answer_s, tuple(actors or ()), spent.get(name, none), got or 0)
            for name, began, status, wall_s, decode_s, answer_s, actors, got in rows
        )

    def collections(self) -> tuple[Collection, ...]:
        rows = self.all(
            f"""
            WITH foldered AS (
                SELECT *, CASE WHEN contains(media_key, '/') THEN split_part(media_key, '/', 1) ELSE '' END AS folder
                FROM clips WHERE job = $job
            ), ranked AS (
                SELECT folder, row_number() OVER (ORDER BY count(*) DESC, folder) AS place FROM foldered GROUP BY folder
            )
            SELECT CASE WHEN place <= $most THEN folder ELSE $others END AS shown, {SPENT}
            FROM foldered JOIN ranked USING (folder) GROUP BY shown ORDER BY min(place)
            """,
            most=MOST_COLLECTIONS,
            others=OTHER_FOLDERS,
        )
        return tuple(Collection(row[0], Spent(*row[1:])) for row in rows)

    def kept(self) -> Kept:
        audio, video, ratio, of_audio, of_video = self.one(
            """
            SELECT coalesce(sum(audio_tokens), 0)::BIGINT, coalesce(sum(video_tokens), 0)::BIGINT,
                sum(retained_ratio * (audio_tokens + video_tokens)) / sum(audio_tokens + video_tokens),
                sum(retained_ratio_audio * audio_tokens) / sum(audio_tokens),
                sum(retained_ratio_video * video_tokens) / sum(video_tokens)
            FROM clips WHERE job = $job AND retained_ratio IS NOT NULL
            """
        )
        layers = self.all(
            """
            WITH layered AS (
                SELECT audio_tokens, video_tokens, unnest(layer_audio_tokens) AS audio,
                    unnest(layer_video_tokens) AS video, generate_subscripts(layer_audio_tokens, 1) AS layer
                FROM clips WHERE job = $job
            )
            SELECT sum(audio) / nullif(sum(audio_tokens), 0), sum(video) / nullif(sum(video_tokens), 0)
            FROM layered GROUP BY layer ORDER BY layer
            """
        )
        cells = self.one(
            """
            SELECT sum(replace(regexp_extract(note, $lossy, 1), ',', '')::BIGINT)::BIGINT,
                sum(replace(regexp_extract(note, $lossy, 2), ',', '')::BIGINT)::BIGINT
            FROM (SELECT unnest(notes) AS note FROM clips WHERE job = $job) WHERE regexp_matches(note, $lossy)
            """,
            lossy=LOSSY_CELLS,
        )
        return Kept(audio, video, ratio, of_audio, of_video, tuple((a, v) for a, v in layers), *cells)

    def questions(self) -> tuple[QuestionFacts, ...]:
        rows = self.all(
            """
            SELECT question_id, mode(question), count(DISTINCT question), any_value(answer_type), any_value(unit),
                count(*), count(error_class), avg(probability), min(answer_number), avg(answer_number),
                max(answer_number)
            FROM answers WHERE job = $job GROUP BY question_id ORDER BY question_id
            """
        )
        counts = defaultdict(list)
        for question_id, answer, count in self.all(
            """
            SELECT question_id, answer, count(*) AS clips
            FROM answers WHERE job = $job AND error_class IS NULL AND list_contains($kinds, answer_type)
            GROUP BY question_id, answer, answer_number
            QUALIFY row_number() OVER (PARTITION BY question_id ORDER BY count(*) DESC, answer) <= $most
            ORDER BY question_id, answer_number, clips DESC, answer
            """,
            most=MOST_COUNTS,
            kinds=kinds(lambda one: issubclass(one, Scored)),
        ):
            counts[question_id].append((answer, count))
        found = []
        for question_id, text, wordings, kind, unit, asked, unreadable, sure, lowest, mean, highest in rows:
            counted = tuple(counts[question_id])
            others = asked - unreadable - sum(count for _, count in counted)
            found.append(
                QuestionFacts(
                    *(question_id, text, wordings, kind, unit, asked, unreadable, sure, counted, others),
                    *(lowest, mean, highest),
                )
            )
        return tuple(found)

    def whole(self) -> tuple[WholeQuestion, ...]:
        rows = self.all(
            """
            SELECT question_id, mode(question), count(*), count(error_class), count(*) FILTER (clips_missing > 0)
            FROM whole_answers WHERE job = $job GROUP BY question_id ORDER BY question_id
            """
        )
        most = defaultdict(list)
        for question_id, *cells in self.all(
            """
            SELECT question_id, media_key, coalesce(answer, text), probability, clips_missing
            FROM whole_answers WHERE job = $job
            QUALIFY row_number() OVER (PARTITION BY question_id ORDER BY media_key, media_id) <= $most
            ORDER BY question_id, media_key, media_id
            """,
            most=MOST_VIDEOS,
        ):
            most[question_id].append(tuple(cells))
        return tuple(
            WholeQuestion(name, text, videos, unreadable, partial, tuple(most[name]))
            for name, text, videos, unreadable, partial in rows
        )

    def noticed(self) -> tuple[NoticedKind, ...]:
        found = []
        for case, (name, says) in zip(cases := noticed_in(self._connection, self.job), lines(cases), strict=True):
            most = self.all(
                "SELECT media_key, start_s, end_s, amount FROM noticed WHERE job = $job AND kind = $kind "
                "ORDER BY amount DESC, media_key, start_s LIMIT $most",
                kind=case.kind,
                most=MOST_NOTICED,
            )
            cells = tuple((key, start, end or 0.0, amount) for key, start, end, amount in most)
            found.append(NoticedKind(name.removeprefix("noticed: "), says, cells))
        return tuple(found)

    def failures(self) -> tuple[Failures, ...]:
        rows = self.all(
            """
            SELECT error_class, list(DISTINCT stage ORDER BY stage),
                count(*) FILTER (clip_id IS NULL AND stage <> 'whole'),
                count(*) FILTER (question_id IS NULL AND stage = 'whole'),
                count(*) FILTER (clip_id IS NOT NULL AND question_id IS NULL),
                count(*) FILTER (question_id IS NOT NULL),
                arg_min(media_key, (media_key, coalesce(start_s, 0), quarantine_id)),
                arg_min(message, (media_key, coalesce(start_s, 0), quarantine_id))
            FROM quarantine WHERE job = $job GROUP BY error_class ORDER BY count(*) DESC, error_class
            """
        )
        return tuple(Failures(row[0], tuple(row[1]), *row[2:]) for row in rows)

    def explorer(self, questions: tuple[QuestionFacts, ...], budget_bytes: int) -> Explorer:
        media = self._media([question.question_id for question in questions])
        of = self.one("SELECT count(DISTINCT media_id) FROM answers WHERE job = $job")[0]
        return encode(questions, media, media_of=of, budget_bytes=budget_bytes)

    def _media(self, question_ids: list[str]) -> Iterator[EncodedMedia]:
        """Media items with their clips and answers, by key; the first `MOST_ANSWERS` answers at most."""
        chosen = """
            WITH sized AS (
                SELECT media_id, media_key, sum(count(*)) OVER (ORDER BY media_key, media_id) AS so_far
                FROM answers WHERE job = $job GROUP BY media_id, media_key
            ), chosen AS (SELECT media_id FROM sized WHERE so_far <= $most)
        """
        most = {"most": MOST_ANSWERS}
        lost = defaultdict(list)
        for media_id, *span in self.all(
            "SELECT media_id, start_s, end_s, error_class FROM quarantine WHERE job = $job AND question_id IS NULL "
            "AND clip_id IS NOT NULL ORDER BY media_id, start_s"
        ):
            lost[media_id].append((span[0], span[1], span[2]))
        known = {
            row[0]: (row[1], row[2])
            for row in self.all(
                f"{chosen} SELECT media_id, uri, duration_s FROM media SEMI JOIN chosen USING (media_id) "
                "WHERE job = $job",
                **most,
            )
        }
        place = {question_id: i for i, question_id in enumerate(question_ids)}
        cursor = self._connection.execute(
            f"""{chosen} SELECT media_id, media_key, start_s, end_s, clip_id, question_id,
                coalesce(answer, text), probability, error_class
            FROM answers SEMI JOIN chosen USING (media_id) WHERE job = $job
            ORDER BY media_key, media_id, start_s, end_s, clip_id""",
            {"job": self.job} | most,
        )
        for (media_id, key), rows in groupby(_stream(cursor), key=lambda row: (row[0], row[1])):
            uri, duration_s = known.get(media_id, ("", None))  # a stranger's tables may lack it
            clips = []
            for (start_s, end_s, clip_id), asked in groupby(rows, key=lambda row: (row[2], row[3], row[4])):
                cells: list[tuple[str, float | None, str | None] | None] = [None] * len(question_ids)
                for row in asked:
                    cells[place[row[5]]] = (row[6] or "", row[7], row[8])
                clips.append(EncodedClip(clip_id, start_s, end_s, tuple(cells)))
            yield EncodedMedia(key, uri, duration_s, tuple(clips), tuple(lost[media_id]))


def _stream(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(4096):
        yield from rows
