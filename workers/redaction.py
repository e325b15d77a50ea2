"""Keeps credentials out of texts: what other programs' errors quote must not end up in logs, results or on a screen.

Promises: the values of this process's secret environment variables, credentials that were noted (of a profile, of a
role), what stands before the @ of an address, and query parameters named like credentials are masked wherever they
occur, in time linear in the text. Knows nothing about where a text goes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

MASK = "***"
MIN_CHARS = 8
"""Shorter values are ordinary words, too (`testing`): masking them would make messages unreadable."""

_SECRET = r"pass(?:word|wd)?|secret|token|credential|signature|private_?key|access_?key|api_?key"
_VARIABLE = re.compile(rf"(?:{_SECRET})", re.IGNORECASE)
_NO_SECRET = re.compile(r"_(?:FILE|PATH|DIR|MODE|URL|URI)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.IGNORECASE)
"""Variables that say where a credential is."""
_USER_PART = r"(://)[^\s/?#@'\"<>]*(?::[^\s@'\"<>]*)?@"
_NAMED = rf"[^\s=&;'\"<>]*(?:{_SECRET})[^\s=&;'\"<>]*|sig|pwd|auth"
"""Also a signature of Azure's, and short forms that as a part of a name mean other things."""
_PARAMETER = rf"(?i)([?&;](?:{_NAMED})=)[^\s&;#'\"<>]+"


_noted: set[str] = set()


def keep_secret(value: str | None) -> None:
    """Have a value masked from now on in whatever this process says."""
    if value and len(value) >= MIN_CHARS:
        _noted.add(value)


def without_secrets(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with every credential masked."""
    for name, value in environ.items():
        if len(value) >= MIN_CHARS and _VARIABLE.search(name) and not _NO_SECRET.search(name):
            text = text.replace(value, MASK)
    for value in tuple(_noted):
        text = text.replace(value, MASK)
    data = text.encode("utf-8", "surrogatepass")
    for pattern, masked in _patterns():
        data = pattern.sub(masked, data)
    return data.decode("utf-8", "surrogatepass")


@cache
def _patterns() -> tuple[tuple[Any, bytes], ...]:
    """With what takes the place of each. RE2's: a server's error may be megabytes long, and Python's own would take
    time that grows with its square."""
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are: names of files may hold any
    mask = rf"\1{MASK}".encode()
    return (
        (re2.compile(_USER_PART.encode(), options), mask + b"@"),
        (re2.compile(_PARAMETER.encode(), options), mask),
    )
