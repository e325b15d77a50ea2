"""The archive job: configuration, planning, execution on Ray, journal, tables, savings index.

`pipeline.ask("video.mp4", "Is a circle shown? [yes/no]")` asks one file, without any of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.asking.ask import ask

__all__ = ["ask"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: most modules of this package must not cost the seconds that torch takes.
    if name == "ask":
        from pipeline.asking.ask import ask

        return ask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
