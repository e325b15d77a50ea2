"""Rendering a checkpoint's chat template, which is a stranger's program, in a process with limits.

Promises: what transformers would render, or CheckpointError within `LIMIT_S`; nothing of this process's environment is
there to be read. Knows nothing about tokenizers or clips.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from omnidrop.errors import CheckpointError

LIMIT_S = 30.0
"""Wall clock; a template of the supported families takes 0.1 s, nearly all of it Python's start."""
_CHILD = Path(__file__).with_name("_chat_template_child.py")


def render(template: str, **values: Any) -> str:
    """Render with plain JSON `values`. Raises CheckpointError."""
    return _rendered(json.dumps({"template": template, "values": values}, sort_keys=True))


@lru_cache(maxsize=64)
def _rendered(given: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
    command = [sys.executable, "-I", "-B", str(_CHILD)]
    try:
        done = subprocess.run(
            command, input=given.encode(), capture_output=True, timeout=LIMIT_S, check=False, env=kept, cwd="/"
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise CheckpointError(
            "the checkpoint's chat template does not end, or takes more than 3 s and 1 GiB; take the published one"
        ) from error
    if "rendered" not in found:
        raise CheckpointError(f"the checkpoint's chat template cannot be rendered: {found.get('error')}")
    return found["rendered"]
