"""Answers to figures: accuracy per task, paired differences from dense and between ways, what disagreement costs.

Promises: plain values for JSON; every figure carries its count, and every comparison is paired by question and
clustered by clip. Knows nothing about Markdown or plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.evidence.asking import Asked
from benchmarks.evidence.rows import BASELINES, DENSE, Row, encoded
from pipeline.evaluation.dataset import ArmClip, Scored
from pipeline.evaluation.intervals import difference
from pipeline.evaluation.runner import Run
from pipeline.evaluation.summary import ArmSummary, summarise

BINS = ((0.0, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.7), (0.7, 1.01))
"""Overlap of the tokens that a set's questions would keep by themselves, Jaccard index."""


def figures(asked: Asked, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that the page shows of one world."""
    summary = summarise(Run(asked.answers, asked.refused), [row.arm for row in rows])
    by_name = {arm.name: arm for arm in summary.arms}
    return {
        "rows": [_row(row, by_name[row.name]) for row in rows if row.name in by_name],
        "refused": [{"way": row.way, "ratio": row.ratio} for row in rows if row.name in asked.refused],
        "comparisons": list(_comparisons(asked, rows)),
        "disagreement": _disagreement(asked, rows),
        "repeats": list(_repeats(asked, _default_ways(rows))),
    }


def _row(row: Row, arm: ArmSummary) -> dict[str, Any]:
    against = arm.against_dense
    return {
        "table": row.table,
        "way": row.way,
        "ratio": row.ratio,
        "set_size": row.set_size,
        "retained_ratio": _short(arm.retained_ratio),
        "retained_audio": _short(arm.retained_audio),
        "retained_video": _short(arm.retained_video),
        "saved_against_dense_shared": _short(arm.saved_against_dense_shared),
        "questions": arm.count,
        "clips": arm.clips,
        "accuracy": _short(arm.accuracy),
        "interval": [_short(edge) for edge in arm.interval],
        "guess": _short(arm.guess),
        "tasks": {task: {"accuracy": _short(of.accuracy), "count": of.count} for task, of in arm.tasks.items()},
        "agreement": _short(against.agreement) if against else None,
        "difference": _short(against.difference) if against else None,
        "difference_interval": [_short(edge) for edge in against.difference_interval or ()] if against else None,
    }


def _comparisons(asked: Asked, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """At every ratio the set-guided pass against each baseline and against one pass per question."""
    for row in rows:
        if row.table != "ways" or row.way != "set_guided, max" or row.set_size != DENSE.set_size:
            continue
        others = [
            o
            for o in rows
            if o.ratio == row.ratio
            and o.way in (*BASELINES, "seats, merged", "omnipack", "per_question")
            and o.table == "ways"
        ]
        for other in others:
            if row.name in asked.answers and other.name in asked.answers:
                yield {"ratio": row.ratio, "against": other.way} | paired(
                    asked.answers[row.name], asked.answers[other.name]
                )


def damage_figures(asked: Asked, rows: Sequence[Row]) -> dict[str, Any]:
    """Ways on damaged clips, each against the unpruned run on the same damaged clips."""
    return {"rows": list(_damage(asked, rows))}


def _damage(asked: Asked, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    unpruned = [row for row in rows if row.pruning.policy == "none" and row.name in asked.answers]
    dense = {row.condition: asked.answers[row.name] for row in unpruned}
    for row in rows:
        if row.table != "damage" or row.name not in asked.answers:
            continue
        scored = by_question(asked.answers[row.name]).values()
        yield {
            "condition": row.condition,
            "way": row.way,
            "ratio": row.ratio,
            "questions": len(scored),
            "accuracy": _short(sum(one.is_right for one in scored) / len(scored)),
        } | ({} if row.ratio is None else paired(asked.answers[row.name], dense[row.condition]))


def _repeats(asked: Asked, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """`rows` against no pruning, of every seed that they were asked of: what does not repeat is no finding."""
    dense = asked.answers[DENSE.name]
    for row in rows:
        for seed in sorted(set(asked.seeds.values())) if row.name in asked.answers else ():
            of_seed = [
                [one for one in of if asked.seeds[one.clip_id] == seed] for of in (asked.answers[row.name], dense)
            ]
            if all(of_seed):
                yield {"ratio": row.ratio, "seed": seed} | paired(*of_seed)


def _default_ways(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if (row.table, row.way, row.set_size) == ("ways", "set_guided, max", DENSE.set_size)]


def paired(one: Sequence[ArmClip], other: Sequence[ArmClip]) -> dict[str, Any]:
    """Accuracy of `one` minus that of `other` on the same questions, with its 95 % interval."""
    mine, theirs = by_question(one), by_question(other)
    common = [key for key in mine if key in theirs]
    gain = difference(
        [float(mine[key].is_right) - float(theirs[key].is_right) for key in common], [clip for clip, _ in common]
    )
    return {"difference": _short(gain.value), "interval": [_short(gain.low), _short(gain.high)], "count": gain.count}


def _share_clips(asked: Asked, *rows: Row) -> bool:
    """Whether some clip was asked in both `rows`: sittings differ in what they ask."""
    one, other = ({clip.clip_id for clip in asked.answers.get(row.name, ())} for row in rows)
    return not one.isdisjoint(other)


def by_question(results: Sequence[ArmClip]) -> dict[tuple[str, str], Scored]:
    """Scores by clip and question."""
    return {(one.clip_id, one.question_id): one for result in results for one in result.scored}


def user_figures(asked: Asked, rows: Sequence[Row]) -> dict[str, Any]:
    """What a user chooses between: the default, paired with every other way at its ratio, and seed by seed."""
    found = figures(asked, rows)
    default = next(row.way for row in rows if row.table == "user")
    compared = [
        {"ratio": row.ratio, "against": other.way} | paired(asked.answers[row.name], asked.answers[other.name])
        for row in rows
        for other in rows
        if row.way == default and row.ratio == other.ratio and other != row
        if _share_clips(asked, row, other)
    ]
    return {
        "rows": _uncosted(found["rows"]),
        "refused": found["refused"],
        "comparisons": compared,
        "repeats": list(_repeats(asked, [row for row in rows if row.way == default])),
    }


def encoder_figures(asked: Asked, rows: Sequence[Row]) -> dict[str, Any]:
    """Rows that encode less of the picture, each also paired with the one that encodes the whole at its ratio."""
    found = figures(asked, rows)
    whole = {row.ratio: row.name for row in rows if row.way == encoded(1.0)}
    compared = [
        {"way": row.way, "ratio": row.ratio} | paired(asked.answers[row.name], asked.answers[whole[row.ratio]])
        for row in rows
        if row.name in asked.answers and whole.get(row.ratio) in asked.answers and row.name != whole[row.ratio]
    ]
    return {"rows": _uncosted(found["rows"]), "refused": found["refused"], "comparisons": compared}


def _uncosted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what was saved: a clip that is encoded in several ways is not encoded again each time."""
    return [{name: value for name, value in row.items() if name != "saved_against_dense_shared"} for row in rows]


def _disagreement(asked: Asked, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By overlap of the questions' own keep-sets: the set's pass against a pass for each question."""
    found = []
    alone = {row.ratio: row.name for row in rows if row.way == "per_question"}
    for row in rows:
        if row.way != "set_guided, max" or row.name not in asked.answers or alone.get(row.ratio) not in asked.answers:
            continue
        together, apart = by_question(asked.answers[row.name]), by_question(asked.answers[alone[row.ratio]])
        sets = [one for one in asked.disagreements if (one.ratio, one.set_size) == (row.ratio, row.set_size)]
        for low, high in BINS:
            keys = [(s.clip_id, q) for s in sets if low <= s.overlap < high for q in s.question_ids]
            if keys:
                gain = difference(
                    [float(together[key].is_right) - float(apart[key].is_right) for key in keys],
                    [clip for clip, _ in keys],
                )
                found.append(
                    {
                        "ratio": row.ratio,
                        "set_size": row.set_size,
                        "overlap": [low, min(high, 1.0)],
                        "questions": gain.count,
                        "set_guided": _short(sum(together[key].is_right for key in keys) / len(keys)),
                        "per_question": _short(sum(apart[key].is_right for key in keys) / len(keys)),
                        "difference": _short(gain.value),
                        "interval": [_short(gain.low), _short(gain.high)],
                    }
                )
    return found


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
