"""Hostile media through the whole job:

    python -m tests.robustness.fuzz_media --files 2400 --seed 6 --json fuzz.json

Exits with 1 where anything was not as promised. `--trace` runs it under strace and checks every file, address and
process that a confined child opened.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.robustness.fuzz_media.harness import Report, Settings, fuzz
from tests.robustness.fuzz_media.tracing import audit, traced
from workers.media.ffmpeg import ffmpeg_version


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[], help="only these kinds")
    parser.add_argument("--part", default="0/1", help="as in 0/4: every fourth of the files, to run side by side")
    parser.add_argument("--decode-only", action="store_true", help="probe, plan and decode; ask nothing")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no batch after this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trace", action="store_true", help="under strace (which must be installed)")
    given = parser.parse_args()
    if given.trace:
        sys.exit(_traced(given.json))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    part, parts = (int(number) for number in given.part.split("/"))
    settings = Settings(
        given.files,
        given.seed,
        tuple(given.kinds),
        part=part,
        parts=parts,
        seconds=given.seconds,
        is_answering=not given.decode_only,
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        report = fuzz(settings, Path(folder))
    show(report)
    print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        found = {"ffmpeg": ffmpeg_version(), "settings": asdict(settings), "seconds": time.monotonic() - started}
        given.json.write_text(json.dumps(found | {"outcomes": report.outcomes} | vars(report), indent=1))
    sys.exit(1 if report.violations else 0)


def _traced(result: Path | None) -> int:
    """Run this command again under strace, then judge what its confined children asked for."""
    own = [argument for argument in sys.argv[1:] if argument != "--trace"]
    with tempfile.TemporaryDirectory(prefix="hostile-trace-") as place:
        log, media = Path(place) / "strace.log", Path(place) / "media"
        media.mkdir()
        os.environ["TMPDIR"] = str(media)
        status = traced([sys.executable, "-m", "tests.robustness.fuzz_media", *own], log)
        with log.open(errors="surrogateescape") as lines:
            found = audit(lines)
    print(f"{found.children} confined children opened media {found.media_opened} times; all calls: {dict(found.calls)}")
    for violation in found.violations[:100]:
        print("NOT AS PROMISED:", violation)
    if result is not None and result.exists():
        trace = {"children": found.children, "media_opened": found.media_opened, "violations": found.violations}
        result.write_text(json.dumps(json.loads(result.read_text()) | {"trace": trace}, indent=1))
    return 1 if found.violations else status


def show(report: Report) -> None:
    """The counts as a table, then what was not as promised."""
    for kind, counts in sorted(report.counts.items()):
        print(f"{kind:20} {sum(counts.values()):5}  " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    print(f"{'all':20} {report.files:5}  " + ", ".join(f"{n} {what}" for what, n in report.outcomes.most_common()))
    print(
        f"{report.clips} clips; worst probe {report.worst_probe_s[0]:.1f} s ({report.worst_probe_s[1]!r}), worst unit "
        f"{report.worst_unit_s[0]:.1f} s ({report.worst_unit_s[1]!r}), longest ffmpeg {report.worst_decode_s:.1f} s; "
        f"peak resident: ffmpeg {report.peak_ffmpeg_bytes / 2**20:.0f} MiB, probing "
        f"{report.peak_probe_bytes / 2**20:.0f} MiB; bait watched {report.bait_looks} times"
    )
    for violation in report.violations:
        print("NOT AS PROMISED:", violation)


if __name__ == "__main__":
    main()
