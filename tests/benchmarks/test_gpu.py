"""The steps that wait for a GPU, tried out on a CPU at a toy's shape: they run, and one that fails fails alone."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import method
from benchmarks.gpu.__main__ import Step, main, steps

CPU = torch.device("cpu")


def test_the_methods_steps_measure_what_they_say(monkeypatch):
    monkeypatch.setattr(method, "TOGETHER", (1, 2))
    monkeypatch.setattr(method, "STEPS", 2)
    assert method.peak("test", CPU)["flops_per_s"] > 1e8
    found = method.decoding("test", CPU)
    assert found["pruned_step_ms"] > 0
    assert found["dense_step_ms"] > 0
    rows = method.together("test", CPU)["rows"]
    assert [row["clips"] for row in rows] == [1, 2]
    assert all(row["seconds_per_clip"] > 0 for row in rows)


def test_every_step_of_a_published_shape_is_there_and_within_eight_minutes():
    assert [step.name for step in steps("7b")] == [
        *("selfcheck", "peak", "whole", "decode", "together", "job", "whole-3b"),
    ]
    assert gpu.LIMIT_S <= 480
    command = steps("3b")[2].command("3b", "cuda", gpu.ROOT / "whole.json")
    assert command[1:5] == ["-m", "benchmarks.speed.whole_model", "--shape", "3b"]


def test_a_step_fails_alone_and_the_next_run_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "begun").mkdir()
    writes = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text('{\"flops_per_s\": 5}')"
    script = {
        "good": writes,
        "bad": f"import os, sys\nif not os.path.exists('{tmp_path}/mended'): sys.exit('no memory')\n{writes}",
        "slow": f"import time, os\nif not os.path.exists('{tmp_path}/mended'): time.sleep(60)\n{writes}",
        "lacking": writes,
    }

    def command(step, shape, device, report):
        (tmp_path / "begun" / f"{step.name}-{len(list((tmp_path / 'begun').glob(step.name + '-*')))}").touch()
        return [gpu.sys.executable, "-c", script[step.name], str(report)]

    table = [Step(name, "something", "none", needs=("no_such_module",) * (name == "lacking")) for name in script]
    monkeypatch.setattr(gpu, "steps", lambda shape: table)
    monkeypatch.setattr(Step, "command", command)
    monkeypatch.setattr(gpu, "LIMIT_S", 2.0)
    asked = ["--device", "cpu", "--shape", "test", "--folder", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 1
    assert "not done: bad, slow: run again" in capsys.readouterr().out
    written = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {name: one["status"] for name, one in written.items()} == {
        **{"good": "done", "bad": "failed", "slow": "out of time", "lacking": "skipped"},
    }
    assert "**failed**: no memory" in (tmp_path / "gpu.md").read_text()
    (tmp_path / "mended").touch()
    main(asked)
    begun = sorted(path.name for path in (tmp_path / "begun").iterdir())
    assert begun == ["bad-0", "bad-1", "good-0", "slow-0", "slow-1"]
    # Another card's numbers are not this one's.
    monkeypatch.setattr(gpu, "device_name", lambda device: "another card")
    main([*asked, "--step", "good"])
    assert json.loads((tmp_path / "gpu.json").read_text())["steps"].keys() == {"good"}


def test_the_page_says_what_share_of_the_peak_was_reached():
    row = {"mode": "set_guided", "policy": "omnidrop", "questions": 8, "retained_ratio": 0.3, "seconds": 0.5}
    row |= {"flops": 2e14, "peak_bytes": 20_000_000_000, "read_left_out": True}
    whole = {"shape": "7b", "tokens": 10140, "encoders_s": 0.1, "rows": [row]}
    report = {
        **{"device": "NVIDIA H100 80GB HBM3", "shape": "7b", "tells": {"peak": "a", "whole": "b"}},
        "steps": {
            "peak": {"status": "done", "said": "", "found": {"flops_per_s": 8e14}},
            "whole": {"status": "done", "said": "", "found": whole},
        },
    }
    assert "| set_guided | omnidrop | read | 8 | 30% | 0.500 | 200.00 | 50% | 40% | 20.0 |" in gpu.page(report)
