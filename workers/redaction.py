"""Keeps credentials out of texts: what other programs' errors quote must not end up in logs, results or on a screen.

Promises: the values of this process's secret environment variables, credentials that were noted (of a profile, of a
role), what stands before the @ of an address, and query
parameters named like credentials are masked wherever they occur. Knows nothing about where a text goes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

MASK = "***"
MIN_CHARS = 8
"""Shorter values are ordinary words, too (`testing`): masking them would make messages unreadable."""

_SECRET = r"pass(?:word|wd)?|secret|token|credential|signature|private_?key|access_?key|api_?key"
_VARIABLE = re.compile(rf"(?:{_SECRET})", re.IGNORECASE)
_NO_SECRET = re.compile(r"_(?:FILE|PATH|DIR|MODE|URL|URI)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.IGNORECASE)
"""Variables that say where a credential is."""
_USER_PART = re.compile(r"(?<=://)[^\s/?#@'\"<>]*(?::[^\s@'\"<>]*)?@")
_NAMED = rf"[^\s=&;'\"<>]*(?:{_SECRET})[^\s=&;'\"<>]*|sig|pwd|auth"
"""Also a signature of Azure's, and short forms that as a part of a name mean other things."""
_PARAMETER = re.compile(rf"([?&;](?:{_NAMED})=)[^\s&;#'\"<>]+", re.IGNORECASE)


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
    return _PARAMETER.sub(rf"\1{MASK}", _USER_PART.sub(f"{MASK}@", text))
