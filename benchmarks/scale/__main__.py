"""How the archive job behaves at sizes no test can hold.

    python -m benchmarks.scale --part plan --clips 4000000 --json plan.json
    python -m benchmarks.scale --part executor --clips 100000 --json executor.json
    python -m benchmarks.scale --part busy --clips 200 --json busy.json
    python -m benchmarks.scale --part simulate --clips 1000000 --json simulate.json
    python -m benchmarks.scale --part index --clips 10000000 --json index.json
    python -m benchmarks.scale --part results --clips 2000000 --json results.json
    python -m benchmarks.scale --part fetch --megabytes 2000 500 50 50 --json fetch.json

`plan`: a made-up listing through the real planner, without and with cached probes.
`executor`: clips through the real execution loop on a real Ray, with a model that only waits.
`busy`: the same with a stand-in for the device, which should never wait for the next clip to be made ready.
`simulate`: the same loop as discrete events for 8, 64 and 512 GPUs; names what is short first.
`index`: clips in PostgreSQL; the five savings queries from rollups and from raw rows.
`results`: answers through journal, index and published tables, read by DuckDB.
`fetch`: files of a distant store, from the first byte to the last decoded clip, on machines with a cache each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.scale.simulate import Stages

PARTS = ("plan", "executor", "busy", "simulate", "index", "results", "fetch")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="plan")
    parser.add_argument("--clips", type=int, default=5_000, help="how many clips (default 5,000)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    for stage in fields(Stages):
        option = f"--{stage.name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=stage.default, help="simulate: seconds of a clip in this stage")
    parser.add_argument("--megabytes", type=float, nargs="+", default=(), help="fetch: the files' sizes")
    parser.add_argument("--machines", type=int, default=1, help="fetch: how many are simulated (default 1)")
    parser.add_argument("--cache-megabytes", type=float, default=20 << 10, help="fetch: of each machine")
    parser.add_argument("--as-before", action="store_true", help="fetch: one range in flight, clips dealt in turn")
    given = parser.parse_args()
    # Each part has its own heavy library: Ray, PostgreSQL, DuckDB.
    measure: Callable[..., Any] = import_module(f"benchmarks.scale.{given.part}").measure
    stages = Stages(given.decode_s, given.model_s, given.driver_s)
    if given.part == "fetch":
        cache_bytes = int(given.cache_megabytes * 1e6)
        found = measure(given.megabytes, given.machines, cache_bytes=cache_bytes, is_as_before=given.as_before)
    else:
        found = measure(given.clips, stages) if given.part == "simulate" else measure(given.clips)
    print(found)
    if given.json:
        report: Mapping[str, Any] = {given.part: asdict(found)}
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
