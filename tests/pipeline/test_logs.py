"""Log lines as JSON: run, unit and clip ids in every line that is about one, nothing else on standard error."""

from __future__ import annotations

import json
import logging

from tests.support.small_jobs import cli


def test_a_runs_log_is_json_with_its_ids(job, monkeypatch):
    monkeypatch.setenv("A_SECRET_TOKEN", "hunter2hunter2")
    (job.parent / "archive" / "long.mkv").unlink()
    before = logging.getLogger("pipeline").level
    result = cli("--log-format", "json", "index", job, "--run-id", "night-1")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    of_run = [line for line in lines if line.get("run_id") == "night-1"]
    assert [line["message"].split(":")[0] for line in of_run] == ["run begins", "unit finished", "run ends"]
    assert of_run[1] | {"clips": 1, "failed": 0, "level": "info", "logger": "pipeline.runs.logs"} == of_run[1]
    assert of_run[1]["unit_id"]
    assert of_run[1]["media_id"]
    # Afterwards everything is as it was.
    assert logging.getLogger("pipeline").level == before
    assert "run begins" not in cli("index", job).stderr
