"""Metrics: what a real run on Ray leaves at Ray's metrics endpoint, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config.sections import CostConfig
from pipeline.execution.actor_metering import ActorTime, Load, Statistics
from pipeline.runs import metrics
from tests.support import rows
from tests.support.small_jobs import ANSWERS, run, select

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy/grafana/omnidrop.json").read_text())
IN_TIME_S = 60
"""Ray hands on what it was given every 10 s."""


def exported(job_name):
    """{(metric, values of its tags): number} of one job, from this machine's metrics port."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {}
    for metric in metrics.ALL:
        for sample in (s for f in families for s in f.samples if s.name == metrics.PREFIX + metric.name):
            if sample.labels[metrics.JOB] == job_name:
                found[metric, *(sample.labels[tag] for tag in metric.tags)] = sample.value
    return found


@pytest.mark.cluster
def test_a_run_on_ray_gives_the_same_answers_and_its_numbers_arrive_where_prometheus_looks(job, ray_session):
    run(job)
    in_process = select(job, ANSWERS)
    job.write_text(job.read_text().replace("output: results", "output: on-ray"))
    summary = run(job, name="measured", **{"execution.ray_address": None})
    assert summary.run.counts.clips_answered == 4
    assert len(summary.run.resources.actors) == 1
    assert select(job, ANSWERS) == in_process
    flops_of_a_clip = " + ".join(f"as_run_{part}_flops" for part in ("prefill", "selection", "encoder", "decode"))
    clips, flops, decode_s = select(job, f"SELECT count(*), sum({flops_of_a_clip}), sum(decode_s) FROM clips")[0]
    (quarantined,) = select(job, "SELECT count(*) FROM quarantine")[0]
    (answers,) = select(job, "SELECT count(answer) FROM answers")[0]
    (gpu_hours,) = select(job, "SELECT gpu_hours FROM runs")[0]
    deadline = time.monotonic() + IN_TIME_S
    while True:
        found = exported("measured")
        counted = {key[1]: value for key, value in found.items() if key[0] is metrics.CLIPS}
        if sum(counted.values()) - counted.get("failed", 0) >= clips or time.monotonic() > deadline:
            break
        time.sleep(1)
    of = {metric: sum(v for k, v in found.items() if k[0] is metric) for metric in metrics.ALL}
    assert of[metrics.CLIPS] == clips + sum(v for k, v in found.items() if k == (metrics.CLIPS, "failed"))
    assert of[metrics.ANSWERS] == answers
    assert of[metrics.FAILURES] == quarantined
    assert found[metrics.FLOPS, "as_run"] == pytest.approx(float(flops))
    assert found[metrics.FLOPS, "as_run"] < found[metrics.FLOPS, "dense_shared"]
    assert found[metrics.STAGE_S, "decode"] == pytest.approx(decode_s)
    assert 0 < found[metrics.ACTOR_S, "busy"] <= gpu_hours * 3600
    assert of[metrics.GPU_HOURS] == pytest.approx(gpu_hours)


@pytest.mark.cluster
def test_gauges_stay_as_long_as_the_run_goes_on(ray_session):
    of_run = metrics.RunMetrics("watched", CostConfig(usd_per_gpu_hour=2))
    unit = rows.unit(rows.media(), clips=3)
    of_run.finished(unit, rows.outcomes(unit, fail=1))
    held = Statistics(load=Load(7_000, queued=5, decoding=2, ready=1, actors_loading=0, actors_busy=3, actors_idle=1))
    deadline = time.monotonic() + IN_TIME_S
    while not (found := exported("watched")) and time.monotonic() < deadline:
        of_run.watch(held)
        time.sleep(0.5)
    assert found[metrics.BYTES_IN_FLIGHT,] == 7_000
    queues = {key[1]: value for key, value in found.items() if key[0] is metrics.QUEUED}
    assert queues == {"planned": 5, "decode": 2, "ready": 1, "answer": 3}
    assert [found[metrics.ACTORS, state] for state in ("loading", "busy", "idle")] == [0, 3, 1]
    # As `rows.result` has it: two layers, 20 tokens of sound and 60 of picture before pruning.
    assert [found[metrics.RETAINED, modality] for modality in ("audio", "video")] == [15 / 40, 45 / 120]
    assert [found[metrics.CLIPS, status] for status in ("answered", "failed")] == [2, 1]
    assert found[metrics.FAILURES, "decode", "decode_failed"] == 1
    assert found[metrics.FAILURES, "answer", "json_invalid"] == 2


def test_the_dashboard_asks_for_what_exists_and_leaves_nothing_out():
    asked = set()
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            names = re.findall(rf"{metrics.PREFIX}omnidrop_\w+", target["expr"])
            assert names, panel["title"]
            asked |= set(names)
            tags = {metrics.JOB}.union(*(m.tags for m in metrics.ALL if metrics.PREFIX + m.name in names))
            by = re.findall(r"by \(([\w, ]+)\)", target["expr"])
            shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
            filtered = re.findall(r"(\w+)(?:=~|!=|=)\"", target["expr"])
            assert {*re.split(", ", ", ".join(by)), *shown, *filtered} - {""} <= tags, panel["title"]
    assert asked == {metrics.PREFIX + metric.name for metric in metrics.ALL}
    rows_shown = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows_shown == ["Throughput", "Bottleneck", "Savings", "Failures", "Cost"]


def test_counters_say_what_kind_and_unit_they_are():
    for metric in metrics.ALL:
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metrics.JOB not in metric.tags


def test_held_time_is_loading_busy_and_idle():
    now = 0.0
    time_of = ActorTime(clock=lambda: now)
    assert (time_of.busy_share, time_of.bottleneck) == (None, None)
    now = 20.0
    time_of.start("actor", load_s=5)
    time_of.book_idle(idle=0, waits_for="decode")
    now = 30.0
    time_of.book_planning(1)
    time_of.book_idle(idle=1, waits_for="decode")
    time_of.book_answer(rows.result(rows.unit(rows.media()).clips[0]))
    assert (time_of.held_s, time_of.loaded_s) == (15, 10)
    assert time_of.idle_s == {"planning": 1, "decode": 9}
    assert time_of.busy_share == pytest.approx(0.03)
    assert time_of.bottleneck == "decode"
