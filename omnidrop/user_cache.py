"""Where this user's programs keep what can be made again.

Promises: nothing is looked up but the environment and the user's entry. Knows nothing about what is kept there.
"""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """The folder `omnidrop` in the user's cache folder, not made; None where the user has neither one nor a home."""
    # As the XDG base directory specification has it. A container's user often has no entry, and expands to itself.
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if base.startswith("~") else Path(base, "omnidrop")
