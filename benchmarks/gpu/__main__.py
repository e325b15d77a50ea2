"""Everything that only a GPU can tell, in steps of at most eight minutes, into one JSON file and one page.

Promises: every step is a process of its own that can fail or run out of time alone; what is done is not done again, so
a run that was cut off goes on where it was; no network. Steps of the method need torch, transformers, safetensors and
numpy; a step that needs more says what is missing. Knows nothing about what the steps measure.

    python -m benchmarks.gpu                       # all steps on the first CUDA device, into build/gpu
    python -m benchmarks.gpu --step peak --again   # one of them once more
    python -m benchmarks.gpu --shape test --device cpu --folder /tmp/gpu   # shows on a CPU that all of it runs
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 480.0
BUDGET_S = 1800.0
"""Nothing new is begun after so many seconds; the next run goes on."""
ROOT = Path(__file__).parents[2]
PUBLISHED_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}
"""Dense bfloat16 FLOPs a second by what the device's name contains, as the makers state them."""


@dataclass(frozen=True)
class Step:
    """One process."""

    name: str
    tells: str
    module: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Beside what the method needs."""

    def command(self, shape: str, device: str, report: Path) -> list[str]:
        """What is run; `{shape}` is the asked shape, or the step's own where it names one."""
        own = [one.format(shape=shape) for one in self.arguments]
        return [sys.executable, "-m", self.module, *own, "--device", device, "--json", str(report)]


def steps(shape: str) -> list[Step]:
    """In the order of what is wanted first. `test` is a toy's shape, for trying this out on a CPU."""
    method, whole = "benchmarks.gpu.method", "benchmarks.speed.whole_model"
    seconds = ("--seconds", "8", "--questions", "2", "--rounds", "1") if shape == "test" else ()
    found = [
        Step("selfcheck", "the method equals the stock model at the true shape", method, ("selfcheck", "{shape}")),
        Step("peak", "FLOPs a second of one large product", method, ("peak", "{shape}")),
        Step("whole", "seconds, memory and encoders of every mode", whole, ("--shape", "{shape}", *seconds)),
        Step("decode", "one step of text answers, pruned and dense", method, ("decode", "{shape}")),
        Step("together", "clips in one pass", method, ("together", "{shape}")),
        Step("job", "share of time the model works in a real job", "benchmarks.gpu.job", needs=("ray", "duckdb")),
    ]
    if shape == "7b":
        found.append(Step("whole-3b", "the same as `whole` at the 3B shape", whole, ("--shape", "3b")))
    return found


def run(step: Step, shape: str, device: str, folder: Path) -> dict[str, Any]:
    """What came of a step."""
    if missing := [name for name in step.needs if importlib.util.find_spec(name) is None]:
        return {"status": "skipped", "said": f"needs {', '.join(missing)}"}
    report = folder / f"{step.name}.json"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    command = step.command(shape, device, report)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
        status, said = "done" if done.returncode == 0 else "failed", done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        status, said = "out of time", f"ended after {error.timeout:.0f} s"
    if status == "done" and not report.exists():
        status, said = "failed", f"wrote no report\n{said}"
    found = json.loads(report.read_text()) if status == "done" else None
    seconds = time.monotonic() - started
    return {"status": status, "seconds": seconds, "command": command[1:], "said": said[-2000:], "found": found}


def device_name(device: str) -> str:
    """Of the device that is measured. Exits where there is none."""
    import torch

    if device == "cpu":
        return "CPU"
    if not torch.cuda.is_available():
        sys.exit("gpu: error: torch sees no CUDA device; `--device cpu --shape test` tries the steps out")
    return torch.cuda.get_device_name(device)


def page(report: dict[str, Any]) -> str:
    """The JSON report for people, as Markdown."""
    lines = [
        f"# {report['device']}, shape {report['shape']}",
        "",
        "| step | what it tells | came to | s |",
        "|---|---|---|---|",
    ]
    for name, one in report["steps"].items():
        last = (one["said"].strip().splitlines() or [""])[-1].replace("|", "/")[:120]
        came = one["status"] if one["status"] == "done" else f"**{one['status']}**: {last}"
        lines.append(f"| {name} | {report['tells'][name]} | {came} | {one.get('seconds', 0):.0f} |")
    measured = (report["steps"].get("peak", {}).get("found") or {}).get("flops_per_s")
    stated = next((peak for name, peak in PUBLISHED_PEAK.items() if name in report["device"]), None)
    for name in ("whole", "whole-3b"):
        if not (found := report["steps"].get(name, {}).get("found")):
            continue
        lines += [
            "",
            f"## {name}: {found['shape']}, {found['tokens']} tokens, encoders {found['encoders_s']:.3f} s",
            "",
        ]
        lines += [
            "| mode | policy | left out | questions | kept | s | TFLOP | of measured peak | of stated peak | peak GB |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        for row in found["rows"]:
            rate = row["flops"] / row["seconds"]
            shares = [f"{rate / peak:.0%}" if peak else "" for peak in (measured, stated)]
            memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f}"
            left_out = "read" if row["read_left_out"] else ""
            cells = (row["mode"], row["policy"], left_out, row["questions"], f"{row['retained_ratio']:.0%}")
            cells += (f"{row['seconds']:.3f}", f"{row['flops'] / 1e12:.2f}", *shares, memory)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    for name in ("peak", "selfcheck", "decode", "together", "job"):
        if found := report["steps"].get(name, {}).get("found"):
            lines += ["", f"## {name}", "", "```json", json.dumps(found, indent=1), "```"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is left, write what came of it. Exits 1 where a step failed or is left."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--shape", default="7b", choices=("7b", "3b", "test"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--step", action="append", help="only this one; may be given more than once")
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S)
    given = parser.parse_args(arguments)
    table = steps(given.shape)
    if unknown := set(given.step or ()) - {step.name for step in table}:
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in table)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    written = given.folder / "gpu.json"
    started, name = time.monotonic(), device_name(given.device)
    report: dict[str, Any] = {"device": name, "shape": given.shape, "tells": {}, "steps": {}}
    if written.exists():
        before = json.loads(written.read_text())
        # Another card's numbers are not this one's.
        if (before["device"], before["shape"]) == (name, given.shape):
            report = before
    report["tells"] = {step.name: step.tells for step in table}
    for step in table:
        is_done = report["steps"].get(step.name, {}).get("status") == "done"
        if (given.step and step.name not in given.step) or (is_done and not given.again):
            continue
        if time.monotonic() - started > given.budget_s:
            break
        print(f"{step.name}: {step.tells}", flush=True)
        report["steps"][step.name] = came = run(step, given.shape, given.device, given.folder)
        print(
            f"  {came['status']}" + ("" if came["status"] == "done" else f": {came['said'].strip()[-500:]}"), flush=True
        )
        written.write_text(json.dumps(report, indent=1))
        (given.folder / "gpu.md").write_text(page(report))
    wanted = [step.name for step in table if not given.step or step.name in given.step]
    left = [one for one in wanted if report["steps"].get(one, {}).get("status") not in ("done", "skipped")]
    print(f"{written} and gpu.md beside it" + (f"; not done: {', '.join(left)}: run again" if left else ""))
    if left:
        sys.exit(1)


if __name__ == "__main__":
    main()
