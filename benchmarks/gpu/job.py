"""The step of a real job: rendered clips through the whole pipeline, and the share of time in which the model worked.

Promises: the run's own record of its actors, by number of actors on the card; the embedded checkpoint, so nothing is
fetched, which makes the model's part far smaller than a published one's: what is seen is the pipeline's own share.
Knows nothing about the method.

    python -m benchmarks.gpu.job --device cuda --json FILE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.config.job import load_job
from pipeline.planning.open_job import open_output


def measured(device: str, actors: int) -> dict[str, Any]:
    """One run of the demo's job with so many actors on the device."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "demo"
        omnidrop = [sys.executable, "-m", "jobs.cli"]
        subprocess.run([*omnidrop, "demo", "--folder", str(folder)], check=True, capture_output=True)
        share = "0" if device == "cpu" else f"{1 / actors:g}"
        again = [str(folder / "job.yaml"), "--output", str(folder / "again"), "--model-device", device]
        again += ["--model-actors", str(actors), "--model-gpus-per-actor", share]
        subprocess.run([*omnidrop, "index", *again], check=True, capture_output=True, cwd=folder)
        _, _, index = open_output(load_job(folder / "job.yaml", {"output": str(folder / "again")}))
        try:
            (record,) = index.runs()
        finally:
            index.close()
        time = record.time
        return {
            "actors": actors,
            "clips": record.counts.clips_answered,
            "wall_s": time.wall_s,
            "busy_share": time.actor_busy_share,
            "bottleneck": time.bottleneck,
        }


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    rows = [measured(given.device, actors) for actors in ((1,) if given.device == "cpu" else (1, 2))]
    given.json.write_text(json.dumps({"rows": rows}, indent=1))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
