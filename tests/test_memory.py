"""What happens without room: in memory, on disk, in Ray's object store. What fails is always the real thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_memory_that_runs_out_halves_the_clips_tokens_and_the_row_says_so():
    # Large blocks are given back at once, and no thread claims a heap of its own: the limit means what it says.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", "tests.short_of_memory"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    roomy, tight, _, again = map(json.loads, done.stdout.splitlines())
    assert roomy == {"video_tokens": 800, "frames": 64, "notes": []}
    assert (tight["video_tokens"], tight["frames"]) == (400, 32)
    assert tight["notes"] == ["memory ran out: answered from 32 of 64 frames at 140x140 instead of 140x140"]
    assert "DefaultCPUAllocator: can't allocate memory" in done.stderr
    # The next clip has what it needs again.
    assert again == roomy
