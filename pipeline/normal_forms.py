"""Names that look the same: an accent is one character or two (Unicode's NFC and NFD), and systems differ in which they
write. What a person types, and what lies beside a file, may be in another form than the file's name.

Promises: the name as it is comes first. Knows nothing about files.
"""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """The form in which names are compared: accents as one character."""
    return unicodedata.normalize("NFC", name)


def normal_forms(name: str) -> tuple[str, ...]:
    """A name as it is, then its other forms; most names have none."""
    return tuple(dict.fromkeys((name, composed(name), unicodedata.normalize("NFD", name))))
