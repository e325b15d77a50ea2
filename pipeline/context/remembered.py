"""What a sidecar or a subtitle track said when it was read, kept so that it need not be read again.

Promises: what was encoded comes back as it was; what another version of reading made is none. Knows nothing about where
it is kept or whether the file has changed since.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass

from pipeline.context.sidecars import Context, Cue

READING = 1
"""The version of reading and cleaning: raised when a file that has not changed may say something else."""


@dataclass(frozen=True)
class Read:
    """What reading a file came to."""

    sha256: str
    """Of the file's bytes; of a track, of its words."""
    context: Context | None
    """None where it can be read and says nothing that is taken."""
    failure: str = ""
    """Why it cannot be read."""
    error_class: str = ""
    """Of that."""


def encoded(read: Read) -> bytes:
    """As bytes."""
    return zlib.compress(json.dumps([READING, asdict(read)]).encode())


def decoded(content: bytes) -> Read | None:
    """The inverse; None for what another version of reading made."""
    reading, given = json.loads(zlib.decompress(content))
    if reading != READING:
        return None
    context = given["context"]
    if context is not None:
        cues = {name: tuple(Cue(**cue) for cue in context[name]) for name in ("cues", "chapters")}
        context = Context(**{**context, **cues, "used": tuple(context["used"]), "notes": tuple(context["notes"])})
    return Read(**{**given, "context": context})
