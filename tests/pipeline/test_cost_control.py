"""What a run spends: prices and caps of a job, what is measured, what a calibration says it would be."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from pipeline.config.job import JobError, load_job
from pipeline.config.sections import CostConfig
from pipeline.cost import calibrate, calibration
from pipeline.cost.budget import Spending
from pipeline.cost.calibration import Calibration
from pipeline.cost.throughput import Throughput, fit
from pipeline.execution.actor_metering import ActorTime
from pipeline.planning.open_job import open_job
from pipeline.records.columns import run_row
from pipeline.records.heads_and_runs import decode_run
from tests.conftest import write_job
from tests.support import rows
from tests.support.small_jobs import cli, run, select
from workers.whole_text import Line

TINY_CAP = 1e-9
"""GPU hours: a few microseconds."""


def test_a_budget_in_money_needs_a_price(job):
    with pytest.raises(JobError, match=r"cost.*budget_usd \(5\) needs a price: set usd_per_gpu_hour"):
        load_job(job, {"cost.budget_usd": 5})
    cost = load_job(job, {"cost.budget_usd": 5, "cost.usd_per_gpu_hour": 2.5}).cost
    assert cost.gpu_hours_cap == 2
    assert (
        load_job(
            job, {"cost.budget_gpu_hours": 1, "cost.budget_usd": 5, "cost.usd_per_gpu_hour": 2.5}
        ).cost.gpu_hours_cap
        == 1
    )


def test_a_text_about_a_whole_video_fits_a_budget_by_its_length():
    clips, *texts = (rows.unit(rows.media(n), clips=1) for n in range(4))
    short, other, long = (
        replace(of, lines=(Line(0, 1, "x" * length),)) for of, length in zip(texts, (100, 100, 1000), strict=True)
    )
    spending = Spending(CostConfig(budget_gpu_hours=10 / 3600), None, ActorTime)
    for unit, seconds in ((clips, 0.1), (short, 2.0)):
        assert list(spending.admit([unit])) == [unit]
        spending.add(unit, [replace(rows.result(unit.clips[0]), answer_s=seconds)])
    assert list(spending.admit([other])) == [other]  # two seconds more
    assert list(spending.admit([long])) == []  # twenty
    assert spending.is_capped


def test_what_it_costs_is_no_part_of_the_recipe(job):
    hashes = set()
    for cost in ({}, {"cost.usd_per_gpu_hour": 2.5, "cost.budget_usd": 5}):
        parts = open_job(load_job(job, cost))
        parts.index.close()
        hashes.add(parts.recipe.hash)
    assert len(hashes) == 1


def test_an_actor_counts_from_loading_until_it_is_given_back():
    now = 100.0
    held = ActorTime(gpus=0.5, clock=lambda: now)
    held.start("first", load_s=20)
    held.start("first")
    now += 40
    held.start("second")
    now += 30
    held.stop("first")
    held.stop("first")
    now += 10
    assert held.gpu_hours == pytest.approx(0.5 * (20 + 70 + 40) / 3600)


def test_at_the_cap_what_was_taken_is_finished_and_the_next_run_goes_on(job):
    result = cli("index", job, "--budget-gpu-hours", TINY_CAP, "--json", job.parent / "summary.json")
    assert result.exit_code == 4, result.output
    assert "budget spent" in result.output
    first = json.loads((job.parent / "summary.json").read_text())["run"]
    assert first["status"] == "budget"
    assert first["units_finished"] == 1
    assert first["clips_answered"] >= 1
    assert first["gpu_hours"] > first["answering_gpu_hours"] > TINY_CAP
    assert first["gpu_hours_cap"] == TINY_CAP
    second = run(job, **{"cost.usd_per_gpu_hour": 2.0, "cost.budget_usd": 1000}).run
    assert (second.status, second.counts.units_done_before) == ("complete", 1)
    assert second.spending.usd == pytest.approx(2 * second.spending.gpu_hours)
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(4, 4)]
    spent = select(job, "SELECT status, gpu_hours > 0, usd > 0 FROM runs ORDER BY started_at")
    assert spent == [("budget", True, None), ("complete", True, True)]


def test_a_run_with_nothing_to_do_spends_nothing(job):
    run(job)
    again = run(job, **{"cost.budget_gpu_hours": TINY_CAP})
    assert again.did_nothing
    assert again.run.spending.gpu_hours == 0


def test_records_of_older_versions_are_read(job):
    given = run_row(run(job).run)
    older = {name: value for name, value in given.items() if "gpu_hours" not in name and name != "usd"}
    assert decode_run(json.dumps(older).encode(), where="a run").run.spending is None


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, videos):
    """A folder with a priced job whose model has been measured on this machine, and what was measured."""
    job, passes = write_job(tmp_path_factory.mktemp("calibrated"), videos), []
    with job.open("a") as file:
        file.write("cost: {usd_per_gpu_hour: 3600}\nmodel: {clips_per_pass: auto, gpus_per_actor: auto}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "fit", lambda measured: passes.extend(measured) or fit(measured))
        result = cli("calibrate", job, "--json", job.parent / "calibration.json")
    assert result.exit_code == 0, result.output
    assert json.loads((job.parent / "calibration.json").read_text())["weights"] in result.output
    return job.parent, passes


@pytest.fixture
def priced(calibrated, tmp_path):
    """A copy of its job."""
    return Path(shutil.copytree(calibrated[0], tmp_path / "priced")) / "job.yaml"


def test_a_calibration_gives_plans_hours_and_money(priced):
    measured = json.loads((priced.parent / "calibration.json").read_text())
    assert measured["passes"] == 32
    assert measured["lowest_ratio"] <= 1 <= measured["highest_ratio"]
    result = cli("plan", priced, "--json", priced.parent / "plan.json")
    assert "GPU hours of answering" in result.output
    plan = json.loads((priced.parent / "plan.json").read_text())
    hours = plan["as_run_gpu_hours"]
    assert 0 < hours["low"] <= hours["expected"] <= hours["high"]
    # On a busy machine clips this small may cost the same whatever their FLOPs.
    assert hours["expected"] <= plan["dense_gpu_hours"]["expected"]
    assert plan["weights"] == measured["weights"]
    assert plan["usd"] == pytest.approx(3600 * hours["expected"])
    spent = run(priced).run.spending
    # Plans price repeated frames as encoded again; what a run counts may be less.
    assert 0.5 * hours["expected"] < spent.estimated_gpu_hours <= hours["expected"] * (1 + 1e-9)
    assert spent.estimated_gpu_hours_low <= spent.estimated_gpu_hours <= spent.estimated_gpu_hours_high
    assert spent.usd == pytest.approx(3600 * spent.gpu_hours)


@pytest.mark.parametrize(("ms", "is_said"), [(0.0, True), (1.0, False)])
def test_a_calibration_that_noise_has_spoiled_is_doubted(priced, ms, is_said):
    (record,) = (priced.parent / "results/calibrations").glob("*.json")
    found = json.loads(record.read_text())
    found["throughput"] |= {"encoder_s_per_tflop": ms, "prefill_s_per_tflop": 1.0}
    record.write_text(json.dumps(found))
    said = " ".join(cli("plan", priced).output.split())
    assert ("does not tell the time of the encoders from that of the decoder" in said) is is_said


def test_a_calibration_of_another_device_or_type_is_not_used(priced):
    for option, value in (("--model-dtype", "bfloat16"), ("--model-device", "cuda")):
        result = cli("plan", priced, option, value)
        assert "unknown; run `omnidrop calibrate`" in result.output, result.output


def test_no_measured_pass_reuses_frames_of_another(calibrated):
    _, passes = calibrated
    whole = {one.cost.tokens: one.cost.encoder_flops for one in passes if one.cost.encoder_flops}
    assert len(passes) == 32
    assert all(one.cost.encoder_flops == whole[one.cost.tokens] > 0 for one in passes)


def test_auto_takes_what_was_measured(priced):
    auto = load_job(priced)
    assert calibration.resolved(auto, None) == auto
    assert [note.split(",")[0] for note in calibration.unresolved(auto, None)] == [
        "model.clips_per_pass: auto is 1",
        "model.gpus_per_actor: auto is one actor per GPU",
    ]
    opened = open_job(auto)
    found = calibration.find(opened.store, opened.asked.weights_hash, auto.model)
    assert [clips for clips, _ in found.together] == [1, 2, 4, 8]
    assert all(seconds > 0 for _, seconds in found.together)
    assert calibration.resolved(auto, found).model.clips_per_pass == found.clips_per_pass
    # A CPU has no memory of its own to share.
    assert calibration.resolved(auto, found).model.gpus_per_actor == "auto"
    assert len(calibration.unresolved(auto, found)) == 1
    # Nothing else of the job changes, and what is given stays.
    given = load_job(priced, {"model.clips_per_pass": 2, "model.gpus_per_actor": 0.5})
    assert calibration.resolved(given, replace(found, peak_device_bytes=1, device_bytes=100)) == given
    assert calibration.unresolved(given, None) == ()


@pytest.mark.parametrize(
    ("seconds", "best"), [((4, 2.95, 2.9, 3), 2), ((1, 1.1, 1.2, 1.3), 1), ((4, 3, 2, 1), 8), ((4, 3, 2), 4), ((), 1)]
)
def test_a_larger_pass_must_be_worth_it(job, seconds, best):
    found = replace(measured(), together=tuple(zip((1, 2, 4, 8), seconds, strict=False)))
    assert found.clips_per_pass == best


@pytest.mark.parametrize(
    ("peak", "device", "actors"), [(30, 80, 2), (80, 80, 1), (23, 80, 3), (1, 80, 8), (10, 80, 7), (90, 80, 1)]
)
def test_actors_share_a_gpu_by_memory(job, peak, device, actors):
    found = replace(measured(), peak_device_bytes=peak << 30, device_bytes=device << 30)
    assert found.actors_per_gpu == actors
    share = calibration.resolved(load_job(job, {"model.gpus_per_actor": "auto"}), found).model.gpus_per_actor
    # Ray rounds shares up to ten thousandths.
    assert 1 - 0.001 * actors < actors * math.ceil(share * 1e4 - 1e-6) / 1e4 <= 1


def measured() -> Calibration:
    return Calibration(
        "m", "w", "NVIDIA H100", "bfloat16", "2026-01-01", Throughput(0, 0, 0, 0), 32, 0.9, 1.1, 0.1, 1.0
    )


@pytest.mark.cluster
@pytest.mark.long
def test_a_cluster_is_measured_by_an_actor_of_its_own(job, ray_session, monkeypatch):
    def not_here(settings):
        raise AssertionError("the model is not loaded in this process")

    monkeypatch.setattr(calibrate, "Answerer", not_here)
    settings = {"execution.ray_address": "auto", "model.cpus_per_actor": 1, "model.clips_per_pass": "auto"}
    found = calibrate.calibrate(load_job(job, settings))
    assert found.passes == 32
    assert len(found.together) == 4
    assert "1 threads" in found.device
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"], "the actor is gone"
    assert "GPU hours of answering" in cli("plan", job).output


def test_an_archive_of_nothing_cannot_be_calibrated(job):
    result = cli("calibrate", job, "--archive-include", "notes.mp4")
    assert result.exit_code == 2
    assert "no usable media item" in result.output
