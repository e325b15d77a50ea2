"""Where `omnidrop` begins: `jobs.cli` takes a while to import, and Ctrl-C may come before."""

from __future__ import annotations

from typing import NoReturn

from jobs._shared import interrupts


def main() -> NoReturn:
    """The command line."""
    interrupts.begin()
    from jobs.cli import main

    main()
