"""The probing process: for each request on stdin it opens one file with libav and writes its findings as JSON lines.

Promises: for each line `scan SIZE` or `glance SIZE`, lines `{"info": ...}`, each more exact than the one before, then
`{"done": true}`; or `{"error_class": ..., "message": ...}`. For `subtitles:N SIZE` (N: stream index), lines
`{"cues": ...}`. The process requests bytes with `{"read": [offset, length]}` and gets them on stdin, so it needs no
path, network or credentials. Knows nothing about pools, limits or retries: `_prober.py` keeps it alive, ends it on time
and trusts only the JSON it parses, since a hostile file may crash this process or take it over.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import av
import av.error
import av.logging

from workers.media._bytes import Part, Seekable
from workers.media._container import Refused, opened
from workers.media._findings import findings
from workers.media._subtitles import Unreadable, cues
from workers.records import RawCue

SERVED_BYTES = 1 << 20
"""Maximum size of one read request to the parent."""


class Served(Seekable):
    """A file whose bytes the parent delivers on request."""

    def read(self, size: int = -1) -> bytes:
        """Up to `SERVED_BYTES`."""
        length = min(SERVED_BYTES if size < 0 else size, SERVED_BYTES, max(0, self.size - self._at))
        if not length:
            return b""
        _say({"read": [self._at, length]})
        content = sys.stdin.buffer.read(length)
        if len(content) != length:
            raise EOFError("the parent is gone")
        self._at += length
        return content


def words(file: Served, read_timeout_s: float, index: int) -> Iterator[list[RawCue]]:
    """The cues of a text subtitle stream, in container time. Raises Refused."""
    with opened(Part(file, 0, file.size), read_timeout_s) as container:
        try:
            yield from cues(container, index)
        except Unreadable as error:
            raise Refused("media_error", str(error)) from error


def main() -> None:
    """Serve until stdin ends."""
    av.logging.set_level(None)
    read_timeout_s = float(sys.argv[1])
    while line := sys.stdin.buffer.readline():
        how, size = line.decode().split()
        file = Served(int(size))
        try:
            if how.startswith("subtitles:"):
                for said in words(file, read_timeout_s, int(how.partition(":")[2])):
                    _say({"cues": said})
            else:
                for found in findings(file, read_timeout_s, scans=how == "scan"):
                    _say({"info": found})
            _say({"done": True})
        except Refused as error:
            _say({"error_class": error.error_class, "message": str(error)})
        except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError) as error:
            _say({"error_class": "not_media", "message": f"{type(error).__name__}: {error}"[:300]})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
