"""Every part of the scale benchmark, at a size of seconds: it measures what it says, and loses nothing on the way."""

from __future__ import annotations

import json

import pytest

from benchmarks.scale.__main__ import main
from benchmarks.scale.simulate import Stages, simulate

CLIPS = {"plan": 200, "simulate": 300, "index": 400, "results": 64}


def measured(part, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["scale", "--part", part, "--clips", str(clips), "--json", str(tmp_path / "a.json")]
    )
    main()
    return json.loads((tmp_path / "a.json").read_text())[part]


@pytest.mark.parametrize("part", ["plan", "simulate", "results"])
def test_parts_measure_what_they_are_asked(part, tmp_path, monkeypatch):
    found = measured(part, CLIPS[part], tmp_path, monkeypatch)
    if part == "plan":
        assert found["first"]["clips"] == found["cached"]["clips"] == CLIPS[part]
    elif part == "simulate":
        assert [cluster["gpus"] for cluster in found["clusters"]] == [8, 64, 512]
    else:
        assert found["answers"] == 5 * CLIPS[part]


@pytest.mark.cluster
def test_a_distant_archive_is_read_once(tmp_path, monkeypatch):
    report = tmp_path / "fetch.json"
    monkeypatch.setattr("sys.argv", ["scale", "--part", "fetch", "--megabytes", "4", "2", "--json", str(report)])
    main()
    found = json.loads(report.read_text())["fetch"]
    assert 1 <= found["bytes_read_over_archive"] <= 1.1
    assert 0 < found["decode_busy_share"] <= 1
    assert 0 < found["busy_share_from_first_clip"] <= 1
    assert 0 < found["first_clip_s"] <= found["all_s"]


@pytest.mark.cluster
@pytest.mark.long
def test_the_executor_loses_no_clip(ray_session, tmp_path, monkeypatch):
    found = measured("executor", 64, tmp_path, monkeypatch)
    assert found["driver_ms_per_clip"] > 0
    assert len(found["rss_bytes"]) == 10


@pytest.mark.cluster
def test_a_device_does_not_wait_for_the_next_clip_to_be_made_ready(ray_session, tmp_path, monkeypatch):
    """How busy it then is only a quiet machine tells: 0.98, one clip at a time 0.71."""
    found = measured("busy", 12, tmp_path, monkeypatch)
    assert found["ready_before"] >= 6
    assert found["ready_before_one_at_a_time"] == 0
    assert found["most_in_actor"] == 2
    assert 0 < found["one_at_a_time"] < 0.75


@pytest.mark.cluster
def test_savings_queries_find_the_same_in_sums_and_clips(postgres, tmp_path, monkeypatch):
    found = measured("index", CLIPS["index"], tmp_path, monkeypatch)
    assert {query["query"] for query in found["queries"]} == {
        *("total", "by_run", "by_day", "by_collection", "by_recipe"),
    }


@pytest.mark.parametrize(
    ("stages", "cores", "short"),
    [
        (Stages(decode_s=0.1, model_s=1.0, driver_s=0.0), 8, "gpu"),
        (Stages(decode_s=1.0, model_s=0.1, driver_s=0.0), 8, "decode"),
        (Stages(decode_s=0.1, model_s=0.1, driver_s=0.1), 8, "driver"),
    ],
)
def test_a_simulation_names_what_is_short(stages, cores, short):
    found = simulate(stages, 8, cores, 400)
    assert found.bottleneck == short
    # No cluster is faster than its slowest stage, and a busy one comes near it.
    bounds = {"gpu": 8 / stages.model_s, "decode": cores / stages.decode_s, "driver": 1 / (stages.driver_s or 1)}
    assert 0.8 * bounds[short] < found.clips_per_s <= 1.1 * bounds[short]
