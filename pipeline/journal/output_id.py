"""Whose results these are: every output has an id of its own, to which its index is bound.

Promises: an output keeps its id while it stays or is moved, and is reached by whatever path; one that was copied is
another output and gets another id at its first run, so that neither touches the other's index. Knows nothing about what
the id is used for.

    journal/output.json     {"output_id": ..., "place": ..., "inode": ...}, written with the first command that writes

A folder is known again by its path, or by the inode of that file: a copy has neither. A prefix in S3 is known by its
address.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidrop.errors import UserError
from pipeline.config.locations import is_s3

if TYPE_CHECKING:
    from pipeline.storage.store import Store

PATH = "journal/output.json"


def claim_output(store: Store) -> str:
    """The output's id, given to it here where it has none of its own. Raises UserError for a damaged one."""
    found = _read(store)
    if found is not None and _is_itself(store, found):
        return str(found["output_id"])
    given = {"output_id": secrets.token_hex(16), "place": _place(store)}
    if is_s3(store.uri):
        if found is None:
            # Of two runs that begin at once, one comes first.
            return given["output_id"] if store.write_once(PATH, _json(given)) else claim_output(store)
        store.write(PATH, _json(given))
    else:
        _write_local(Path(store.uri) / PATH, given, replaces=found is not None)
    return claim_output(store)


def read_output_id(store: Store) -> str | None:
    """The id that the output has, be it a copy's or not; None where no run gave it one. Changes nothing."""
    found = _read(store)
    return None if found is None else str(found["output_id"])


def _read(store: Store) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(store.read_bytes(PATH))
        int(str(found["output_id"])[:12], 16)
        return found
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{store.uri}/{PATH} is damaged; delete it, the next run writes it again") from error


def _is_itself(store: Store, found: dict[str, Any]) -> bool:
    if found.get("place") == _place(store):
        return True
    return not is_s3(store.uri) and found.get("inode") == os.stat(Path(store.uri) / PATH).st_ino


def _place(store: Store) -> str:
    return store.uri if is_s3(store.uri) else os.path.realpath(store.uri)


def _json(given: dict[str, Any]) -> bytes:
    return json.dumps(given).encode()


def _write_local(target: Path, given: dict[str, Any], *, replaces: bool) -> None:
    """Write the file with its own inode in it; without `replaces`, whoever comes first wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp~")
    try:
        with temporary.open("xb") as file:
            file.write(_json(given | {"inode": os.fstat(file.fileno()).st_ino}))
            file.flush()
            os.fsync(file.fileno())
        if replaces:
            os.replace(temporary, target)
            return
        try:
            os.link(temporary, target)
        except FileExistsError:
            return
        except OSError:  # no hard links here
            os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder that you may write") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
