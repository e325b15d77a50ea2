"""Whose results these are: every output has an id of its own, to which its index is bound.

Promises: an output keeps its id while it stays or is moved, and is reached by whatever path; one that was copied is
another output and gets another id at its first run, so that neither touches the other's index. Knows nothing about what
the id is used for.

    journal/output.json     {"output_id": ..., "place": ..., "inode": ...}, written with the first command that writes

A folder is known again by its path, or by the inode of its `journal`: a copy has neither. A prefix in S3 is known by
its address.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidrop.errors import UserError
from omnidrop.json_text import parse_json
from pipeline.config.locations import is_s3
from pipeline.storage.errors import StorageError

if TYPE_CHECKING:
    from pipeline.storage.store import Store

PATH = "journal/output.json"


def claim_output(store: Store) -> str:
    """The output's id, given to it here where it has none of its own. Raises UserError for a damaged one, StorageError
    for a store that does not keep what is written."""
    found = _read(store)
    if found is not None and _is_itself(store, found):
        return str(found["output_id"])
    given = {"output_id": secrets.token_hex(16), "place": _place(store), "inode": _inode(store)}
    data = json.dumps(given).encode()
    if found is None:
        store.write_once(PATH, data)  # of two runs that begin at once, one comes first
    else:
        store.write(PATH, data)
    found = _read(store)
    if found is None or not _is_itself(store, found):
        raise StorageError(
            f"{store.uri}/{PATH} was written, and something else is read: the store does not keep what is written; "
            "check the server, and what lies between (a proxy that remembers replies?)"
        )
    return str(found["output_id"])


def read_output_id(store: Store) -> str | None:
    """The id that the output has, be it a copy's or not; None where no run gave it one. Changes nothing."""
    found = _read(store)
    return None if found is None else str(found["output_id"])


def _read(store: Store) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = parse_json(store.read_bytes(PATH))
        int(str(found["output_id"])[:12], 16)
        return found
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{store.uri}/{PATH} is damaged; delete it, the next run writes it again") from error


def _is_itself(store: Store, found: dict[str, Any]) -> bool:
    inode = _inode(store)
    return found.get("place") == _place(store) or (inode is not None and found.get("inode") == inode)


def _place(store: Store) -> str:
    return store.uri if is_s3(store.uri) else os.path.realpath(store.uri)


def _inode(store: Store) -> int | None:
    """Of the folder that the id lies in; None in S3."""
    if is_s3(store.uri):
        return None
    folder = (Path(store.uri) / PATH).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder.stat().st_ino
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose a folder that you may write") from error
