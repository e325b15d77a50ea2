"""Audited savings: which clips are drawn, what is measured of them, what it says, and where it is kept."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import duckdb
import pyarrow as pa
import pytest
import torch

from omnidrop.answers import PassCost
from omnidrop.questions import Boolean, Question
from pipeline.config.job import load_job
from pipeline.evaluation import audit
from pipeline.evaluation.intervals import bootstrap_ratio
from pipeline.records.audited import count_audits
from pipeline.records.columns import AUDITS_SCHEMA
from pipeline.records.composed import EarlierRows, Held
from pipeline.records.rows import audits_table, clips_table
from pipeline.records.unit import decode_unit, encode_unit
from pipeline.storage.store import open_store
from pipeline.tables import manifest as manifests
from pipeline.tables.named_queries import VIEWS
from tests.support import rows
from tests.support.small_jobs import cli, run, select
from workers.errors import DeviceBroken
from workers.model.answerer import Answerer
from workers.model.audit_sample import is_audited, is_dense_first
from workers.model.settings import AnswererSettings
from workers.records import ClipAudit, ClipResult

CLIP_IDS = [f"{number:032x}" for number in range(4000)]


# Which clips


def test_the_same_clips_are_drawn_again_and_a_larger_share_only_adds_to_them():
    drawn = {share: {c for c in CLIP_IDS if is_audited(c, share)} for share in (0.0, 0.01, 0.1, 1.0)}
    assert drawn[0.0] < drawn[0.01] < drawn[0.1] < drawn[1.0] == set(CLIP_IDS)
    assert 20 < len(drawn[0.01]) < 60
    assert 0.4 < sum(map(is_dense_first, drawn[0.1])) / len(drawn[0.1]) < 0.6


# What is measured


@pytest.fixture(scope="module")
def decoded():
    import numpy as np

    from workers.records import Clip, DecodedClip

    chance = np.random.default_rng(1)
    frames = chance.integers(0, 255, (4, 56, 56, 3), dtype=np.uint8)
    return DecodedClip(Clip("c" * 32, 0, 0.0, 2.0), frames, None, 2.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def answerer():
    found = Answerer(AnswererSettings("tiny", device="cpu", audit_share=1.0))
    found.load()
    return found


class Watched:
    """The real model; says in which mode it was asked and what it remembered then, and fails where it is told to."""

    def __init__(self, model, error=None, fails="dense_shared"):
        self.model, self.error, self.fails = model, error, fails
        self.adapter, self.calls = model.adapter, []

    def answer(self, frames, audio, request):
        self.calls.append((request.pruning.mode, self.adapter.memory.held_bytes))
        if self.error is not None and request.pruning.mode == self.fails:
            raise self.error
        return self.model.answer(frames, audio, request)


def watched(answerer, monkeypatch, *failing):
    model = Watched(answerer._model, *failing)
    monkeypatch.setattr(answerer, "_model", model)
    return model


def test_both_ways_start_cold_in_an_order_drawn_by_clip(answerer, decoded, monkeypatch):
    model = watched(answerer, monkeypatch)
    for dense_first in (True, False):
        clip_id = next(c for c in CLIP_IDS if is_dense_first(c) == dense_first)
        result = answerer.answer(replace(decoded, clip=replace(decoded.clip, clip_id=clip_id)), rows.QUESTIONS)
        ways = ["dense_shared", "set_guided"] if dense_first else ["set_guided", "dense_shared"]
        assert model.calls == [(way, 0) for way in ways]
        assert result.audit.is_dense_first == dense_first
        # Measured on the dense run, and counted by the pruned one: the same work, unless texts differ in length.
        dense, claimed = result.audit.dense_shared.cost.as_run, result.answers.cost.dense_shared
        assert (dense.prefill_flops, dense.encoder_flops) == (claimed.prefill_flops, claimed.encoder_flops)
        assert result.answers.cost.as_run.prefill_flops < dense.prefill_flops
        assert result.answer_s < result.answers.cost.seconds + result.audit.dense_shared.cost.seconds
        model.calls.clear()


def test_a_clip_that_is_asked_otherwise_or_had_its_chance_is_not_audited(answerer, decoded, monkeypatch):
    from omnidrop.pruning import Pruning

    model = watched(answerer, monkeypatch)
    assert answerer.answer(decoded, rows.QUESTIONS, may_audit=False).audit is None
    assert answerer.answer(decoded, rows.QUESTIONS, pruning=Pruning(retained_ratio=0.5)).audit is None
    assert [mode for mode, _ in model.calls] == ["set_guided"] * 2


def test_dense_without_memory_is_recorded_and_costs_no_answer(answerer, decoded, monkeypatch):
    watched(answerer, monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    result = answerer.answer(decoded, rows.QUESTIONS)
    assert isinstance(result, ClipResult)
    assert len(result.answers.answers) == len(rows.QUESTIONS)
    assert (result.audit.dense_shared, result.audit.error_class) == (None, "model_out_of_memory")


def test_a_clip_that_only_fits_when_shrunk_is_not_compared_with_dense(answerer, decoded, monkeypatch):
    large = replace(decoded, frames=decoded.frames.repeat(2, axis=0))
    model = watched(answerer, monkeypatch)
    real = model.answer

    def small_device(frames, audio, request):
        if len(frames) > 4 and request.pruning.mode == "set_guided":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(frames, audio, request)

    monkeypatch.setattr(model, "answer", small_device)
    result = answerer.answer(large, rows.QUESTIONS)
    assert (result.frames, result.audit.dense_shared) == (4, None)
    assert result.audit.error_class == "model_out_of_memory"


def test_a_device_that_dense_breaks_is_not_kept(answerer, decoded, monkeypatch):
    watched(answerer, monkeypatch, torch.AcceleratorError("CUDA error: illegal memory access"))
    with pytest.raises(DeviceBroken):
        answerer.answer(decoded, rows.QUESTIONS)


# Where it is kept


def audited(clip, **changed):
    """A clip whose dense run said the same of `shape`, other of `heard`, and could not be read where JSON was asked."""
    result = rows.result(clip)
    shape, heard, count, unread = result.answers.answers
    dense = replace(
        result.answers,
        answers=(shape, replace(heard, value=not heard.value, text="no" if heard.value else "yes"), count, unread),
        cost=replace(result.answers.cost, seconds=0.5),
    )
    return replace(result, audit=replace(ClipAudit(True, dense), **changed))


def test_an_audit_is_part_of_its_units_object():
    unit = rows.unit(rows.media(), clips=3)
    first, second, third = unit.clips
    failed = audited(second, dense_shared=None, error_class="model_out_of_memory", message="no memory")
    stored = decode_unit(
        encode_unit(rows.meta(unit), [audited(first), failed, rows.result(third)], unit.questions), where="here"
    )
    one, two = audits_table(stored).to_pylist()
    assert (one["clip_id"], one["media_key"], one["run_id"]) == (first.clip_id, unit.media.key, "run-1")
    assert (one["model_s"], one["dense_shared_model_s"], one["is_dense_first"]) == (0.25, 0.5, True)
    assert (one["as_run_prefill_flops"], one["dense_shared_prefill_flops"]) == (500, 1_200)
    assert {a["question_id"]: a["agrees"] for a in one["answers"]} == {
        "shape": True,
        "heard": False,
        "count": True,
        "all": None,
    }
    assert (two["error_class"], two["dense_shared_model_s"], two["answers"]) == ("model_out_of_memory", None, [])
    # Done again without an audit, the other clips keep theirs.
    before = stored
    again = encode_unit(replace(rows.meta(unit, "run-2"), attempt=1), [rows.result(third)], unit.questions, before)
    assert audits_table(decode_unit(again, where="here")).num_rows == 2


def test_an_audit_stays_with_what_it_compared_when_questions_change():
    """What was `shape` is called `heard` now, and `shape` asks something new, in a run that audits nothing."""
    unit = rows.unit(rows.media(), clips=1)
    (clip,) = unit.clips
    stored = decode_unit(encode_unit(rows.meta(unit), [audited(clip)], unit.questions), where="here")
    before = unit.questions[0]
    now = (Question("heard", before.text, before.answer), Question("shape", "Is a tone heard?", Boolean()))
    held = Held((clip,), now, (EarlierRows((("heard", "shape"),), stored.rows, 5),))
    made = rows.result(clip)
    new = replace(made.answers.answers[1], question_id="shape")
    made = replace(made, answers=replace(made.answers, answers=(new,)))
    again = encode_unit(rows.meta(unit, "run-2"), [made], now[1:], held=held)
    (one,) = audits_table(decode_unit(again, where="here")).to_pylist()
    assert [(a["question_id"], a["answer"], a["agrees"]) for a in one["answers"]] == [("heard", "circle", True)]
    # Seconds of the one pass that was compared, not of both.
    assert (one["run_id"], one["model_s"], one["dense_shared_model_s"]) == ("run-1", 0.25, 0.5)
    assert clips_table(decode_unit(again, where="here"))["model_s"].to_pylist() == [0.5]
    held = Held((clip,), now[1:], (EarlierRows((("shape", "heard"),), stored.rows, 5),))
    again = encode_unit(rows.meta(unit, "run-2"), [], (), held=held)
    (one,) = audits_table(decode_unit(again, where="here")).to_pylist()
    assert [(a["question_id"], a["agrees"]) for a in one["answers"]] == [("shape", False)]


def test_each_run_that_asked_a_clip_keeps_its_audit():
    """`shape` and `heard` are asked and audited; then `count` is added, then `shape` reworded, audited each time."""
    unit = rows.unit(rows.media(), clips=1)
    (clip,) = unit.clips
    of = {q.id: q for q in unit.questions}

    def only(*ids):
        made = audited(clip)
        both = {
            "answers": replace(made.answers, answers=tuple(a for a in made.answers.answers if a.question_id in ids)),
            "audit": replace(
                made.audit,
                dense_shared=replace(
                    made.audit.dense_shared,
                    answers=tuple(a for a in made.audit.dense_shared.answers if a.question_id in ids),
                ),
            ),
        }
        return replace(made, **both)

    def told(stored):
        table = audits_table(stored).to_pylist()
        assert count_audits(stored.rows) == len(table)
        return {
            row["run_id"]: (row["model_s"], row["dense_shared_model_s"], [a["question_id"] for a in row["answers"]])
            for row in table
        }

    def asked(run_id, now, new, kept, before):
        ids = tuple((name, name) for name in kept)
        held = Held((clip,), tuple(of[name] for name in now), (EarlierRows(ids, before.rows, 5),))
        made = encode_unit(
            rows.meta(unit, run_id), [only(*new)] if new else [], tuple(of[name] for name in new), held=held
        )
        return decode_unit(made, where="here")

    first = decode_unit(encode_unit(rows.meta(unit), [only("shape", "heard")], unit.questions[:2]), where="here")
    second = asked("run-2", ("shape", "heard", "count"), ("count",), ("shape", "heard"), first)
    assert told(second) == {"run-1": (0.25, 0.5, ["shape", "heard"]), "run-2": (0.25, 0.5, ["count"])}
    third = asked("run-3", ("shape", "heard", "count"), ("shape",), ("heard", "count"), second)
    assert told(third) == {
        "run-1": (0.25, 0.5, ["heard"]),
        "run-2": (0.25, 0.5, ["count"]),
        "run-3": (0.25, 0.5, ["shape"]),
    }
    assert told(asked("run-4", ("shape",), (), ("shape",), third)) == {"run-3": (0.25, 0.5, ["shape"])}


def test_an_answer_of_another_run_than_the_audited_one_was_not_asked_unpruned():
    given = {
        "answers": [{"clip_id": "c", "question_id": name, "run_id": run} for name, run in (("a", "r1"), ("b", "r2"))],
        "audits": [{"clip_id": "c", "run_id": "r1"}, {"clip_id": "d", "run_id": "r2"}],
    }
    with duckdb.connect() as connection:
        for name, schema in manifests.SCHEMAS.items():
            connection.register(name, pa.Table.from_pylist(given.get(name, []), schema=schema))
        found = connection.execute(
            f"SELECT question_id, unpruned_too FROM ({VIEWS['provenance']}) ORDER BY 1"
        ).fetchall()
    assert found == [("a", True), ("b", False)]


def test_a_job_audits_publishes_rebuilds_and_forgets(job):
    summary = run(job, **{"audit.share": 1.0})
    clips = "SELECT clip_id FROM {} ORDER BY 1"
    assert select(job, clips.format("audits")) == select(job, clips.format("clips"))
    assert select(job, "SELECT DISTINCT unpruned_too FROM provenance") == [(True,)]
    found = audit.audit_of(open_store(load_job(job).output), summary.published, "test")
    assert found.clips == summary.totals.clips
    assert [one.name for one in found.questions] == ["shape", "heard"]
    same = select(job, "SELECT * FROM audits ORDER BY clip_id")
    assert run(job).did_nothing, "the share is no part of the recipe"

    said = cli("audit", job, "--min-agreement", "1", "--json", job.parent / "audit.json")
    assert said.exit_code == 0, said.output
    told = json.loads((job.parent / "audit.json").read_text())
    assert told["clips"] == summary.totals.clips
    assert told["claim"] is None, "too few clips to judge"
    assert cli("verify", job).exit_code == 0

    assert cli("rebuild", job).exit_code == 0
    assert select(job, "SELECT * FROM audits ORDER BY clip_id") == same
    assert cli("forget", job, "--media", "long.mkv").exit_code == 0
    assert {key for (key,) in select(job, "SELECT media_key FROM audits")} == {"short.mp4"}


def test_results_without_audits_say_how_to_get_some(job):
    summary = run(job, **{"audit.share": 0})
    assert audit.audit_of(open_store(load_job(job).output), summary.published, "test") is None
    refused = cli("audit", job)
    assert refused.exit_code == 2
    assert "--audit-share" in refused.output
    # A manifest of a version that had no such table.
    output = load_job(job).output
    store = open_store(output)
    manifest = json.loads(store.read_bytes(manifests.MANIFEST))
    for part in ("tables", "rows"):
        manifest[part].pop("audits")
    store.write(manifests.MANIFEST, json.dumps(manifest).encode())
    assert cli("audit", job).exit_code == 2
    assert select(job, "SELECT count(*) FROM audits") == [(0,)]


# What it says


def sample(count=200, agree=0.95, run_id="run-1", seed=1, slower=1.0, media=20):
    """Audited clips whose seconds follow their FLOPs; dense of the second half takes `slower` times as long."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        tera = chance.uniform(1, 9) * 1e12
        dense = PassCost(1000, int(tera), 0, int(tera / 4), 0, 10**6)
        ran = replace(dense, prefill_flops=int(tera * chance.uniform(0.2, 0.4)))
        noise = chance.uniform(0.98, 1.02)
        row = {
            "job": "job",
            "media_id": f"m{number % media}",
            "run_id": run_id,
            "clip_id": f"{run_id}/{number:032x}",
            "is_dense_first": number % 2 == 0,
            "model_s": (0.1 + 0.2 * ran.flops / 1e12) * noise,
            "dense_shared_model_s": (0.1 + 0.2 * dense.flops / 1e12) * noise,
            "peak_bytes": 60,
            "dense_shared_peak_bytes": 100,
            "answers": [
                {"question_id": "music", "answer_type": "boolean", "agrees": chance.random() < agree},
                {"question_id": "title", "answer_type": "text", "agrees": None if number % 2 else True},
            ],
        }
        from workers.model.audit_sample import is_fitted

        if not is_fitted(row["clip_id"]):
            row["dense_shared_model_s"] *= slower
        for way, cost in (("as_run", ran), ("dense_shared", dense)):
            row |= {f"{way}_{name}": value for name, value in vars(cost).items()}
        made.append(row)
    return made


def evaluated(*samples, min_agreement=0.9, runs=()):
    made = [row for one in samples for row in one]
    return audit.evaluate(pa.Table.from_pylist(made, schema=AUDITS_SCHEMA), min_agreement, runs)


def test_savings_and_agreement_come_with_intervals_counts_and_advice():
    found = evaluated(sample(agree=0.8))
    assert found.clips == 200
    assert found.saved_peak_bytes.value == pytest.approx(0.4)
    assert found.saved_s.low < found.saved_s.value < found.saved_s.high
    music, title = found.questions
    assert music.share.low < 0.8 < music.share.high
    assert (title.share.value, title.share.count, title.unreadable) == (1.0, 100, 100)
    assert title.share.low < 0.9, "where all agree nothing is certain"
    assert [one.name for one in found.below] == ["music"]
    assert not evaluated(sample(20, agree=0.5)).below, "too few to judge"
    assert not evaluated(sample(agree=0.5, media=2)).below, "too few media to judge"
    assert evaluated() is None


def test_claimed_seconds_are_judged_on_clips_they_were_not_fitted_to():
    claim = evaluated(sample()).claim
    assert claim.is_within
    assert claim.fitted_on + claim.judged_on == 200
    off = evaluated(sample(slower=1.25)).claim
    assert not off.is_within
    assert off.off < -0.05
    assert evaluated(sample(10)).claim is None


def test_drift_is_told_against_the_run_before():
    before, after = sample(agree=0.95, run_id="a"), sample(agree=0.6, run_id="b", seed=2)
    drifted = evaluated(before, after, runs=("a", "b")).questions[0]
    assert drifted.drift_low < drifted.drift < drifted.drift_high < 0
    assert evaluated(before, after, runs=("b", "a")).questions[0].drift > 0
    assert evaluated(before, runs=("a",)).questions[0].drift is None


def test_a_dense_run_that_failed_is_counted_and_not_compared():
    made = sample(40)
    for row in made[:10]:
        row |= {"error_class": "model_out_of_memory", "dense_shared_model_s": None, "answers": []}
    found = evaluated(made)
    assert (found.clips, found.failed) == (30, (("model_out_of_memory", 10),))


def test_the_bootstrap_draws_media_and_not_clips():
    chance = random.Random(3)
    # Ten media of 50 clips that all agree or all do not: 500 clips tell no more than ten.
    over = [float(medium < 6) for medium in range(10) for _ in range(50)]
    value, low, high = bootstrap_ratio(over, [1.0] * 500, [number // 50 for number in range(500)])
    assert value == 0.6
    assert low <= 0.3
    assert high >= 0.8
    each = bootstrap_ratio(over, [1.0] * 500, chance.sample(range(500), 500))
    assert each[2] - each[1] < 0.1
    assert bootstrap_ratio([1.0], [2.0], ["only"]) == (0.5, None, None)
