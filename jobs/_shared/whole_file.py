"""The files that commands write where a person says.

Promises: a file is there whole or not at all, and a link to it stays one; a device or a pipe is written to and never
replaced, which root could do to `/dev/null`. Knows nothing about what is written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from omnidrop.errors import UserError

_DEVICES = ("/dev/", "/proc/")


@contextmanager
def replaced(path: Path, option: str = "-o") -> Iterator[IO[bytes]]:
    """A file that takes `path`'s place when all of it is written. Raises UserError, naming `option`."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if str(path).startswith(_DEVICES) or (path.exists() and not (path.is_file() or path.is_dir())):
            with path.open("wb") as file:
                yield file
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, target)
    except BrokenPipeError:
        raise  # whoever read has gone
    except OSError as error:
        advice = "; choose another place" if option == "-o" else ""
        raise UserError(f"{option} {path}: cannot be written: {error.strerror}{advice}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
