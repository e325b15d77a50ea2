"""What a run's record tells a person beside its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.config.job import JobConfig
from pipeline.records.run_record import RunCounts, RunRecord, RunResources, RunTime
from pipeline.runs.notes import idle_cores

JOB = {"name": "cores", "archive": {"uri": "/archive"}, "output": "/results", "question_set": "toy"}
ON_CPU = "tiny (qwen2_5_omni, float32) on cpu (x86_64, 1 threads): 9 clips"
RUN = RunRecord(
    run_id="one", job="cores", recipe_hash="", recipe={}, started_at="", counts=RunCounts(),
    time=RunTime(900.0, 5.0, 800.0, 790.0, 0.95, "model"), resources=RunResources(0, 0, (ON_CPU,), ""),
)  # fmt: skip


def test_a_model_that_had_one_core_of_many_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    job = JobConfig.model_validate(JOB)
    (said,) = idle_cores(job, RUN, 16)
    assert said.startswith("the model answered on 1 of 16 CPU cores")
    assert "--model-cpus-per-actor 8" in said
    two = JobConfig.model_validate(JOB | {"model": {"actors": 2, "cpus_per_actor": 2}})
    assert "--model-cpus-per-actor 4" in idle_cores(two, RUN, 16)[0]

    assert idle_cores(job, RUN, 3) == ()
    assert idle_cores(two, RUN, 8) == ()
    assert idle_cores(job, replace(RUN, time=replace(RUN.time, bottleneck="decode")), 16) == ()
    assert idle_cores(job, replace(RUN, time=replace(RUN.time, model_s=9.0)), 16) == ()
    on_gpu = replace(RUN.resources, actors=("tiny (qwen2_5_omni, bfloat16) on NVIDIA H100: 9 clips",))
    assert idle_cores(job, replace(RUN, resources=on_gpu), 16) == ()
    for address in ("auto", "in-process"):
        elsewhere = JobConfig.model_validate(JOB | {"execution": {"ray_address": address}})
        assert idle_cores(elsewhere, RUN, 16) == ()
