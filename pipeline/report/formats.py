"""Numbers as a person reads them, with their units.

Promises: three significant digits, a decimal prefix where one helps, and an en dash for what is not known. Knows
nothing about what the numbers mean.
"""

from __future__ import annotations

from datetime import datetime

UNKNOWN = "–"
MOST_CHARS = 240
"""Longer texts are cut: the page shows what was answered, `omnidrop query` all of it."""
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def quantity(value: float, unit: str = "") -> str:
    """1230000, "B" -> "1.23 MB"."""
    for limit, prefix in PREFIXES:
        # From half a last digit below, so that 999,999 reads as 1 M and not as 1e+03 k.
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def percent(share: float | None, digits: int = 0) -> str:
    """0.3721 -> "37 %"; a share of less than one never reads as 100 %."""
    if share is None:
        return UNKNOWN
    shown = f"{100 * share:.{digits}f}"
    if float(shown) == 100 and share < 1:
        shown = f"{100 - 10**-digits:.{digits}f}"
    return f"{shown} %"


def seconds(value: float | None) -> str:
    """A duration: 0.42 s, 3 min 20 s, 2 h 5 min, 412 h."""
    if value is None:
        return UNKNOWN
    if value < 10:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(value / 60)
    if minutes < 6000:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    return f"{count(round(value / 3600))} h"


def hours(value_s: float) -> str:
    """Seconds in hours: 4.2 h."""
    return f"{value_s / 3600:,.3g} h" if value_s < 3.6e6 else f"{count(round(value_s / 3600))} h"


def dollars(value: float) -> str:
    """1234.5 -> "$1,234"."""
    return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"


def count(value: int) -> str:
    """12345 -> "12,345"."""
    return f"{value:,}"


def tokens(value: int) -> str:
    """Exact while it can be read at a glance: 4819 -> "4,819", 7419750 -> "7.42 M"."""
    return count(value) if value < 1_000_000 else quantity(value)


def day(iso: str | None) -> str:
    """An ISO time stamp as "23 Nov 2026"."""
    moment = _moment(iso)
    return UNKNOWN if moment is None else f"{moment.day} {moment:%b %Y}"


def minute(iso: str | None) -> str:
    """An ISO time stamp in UTC as "23 Nov 2026, 01:37 UTC"."""
    moment = _moment(iso)
    return UNKNOWN if moment is None else f"{day(iso)}, {moment:%H:%M} UTC"


def _moment(iso: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(iso or "")
    except ValueError:
        return None


def cut(text: str, most: int = MOST_CHARS) -> str:
    """The text, shortened where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
