"""Where results lie: whole objects under keys, in a local folder or in S3, behind one small interface.

Promises: an object is there whole or not at all, whatever dies while it is written; `write_once` never replaces an
object; listing streams; a failure that may pass (no answer, no room) is a `StorageUnavailable`, which a `PatientStore`
waits for. Knows nothing about what the objects hold. Credentials come from the environment (variables, profile, role),
never from a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol

from pipeline.config.locations import is_s3
from pipeline.config.sections import StorageConfig
from pipeline.storage.local_store import LocalStore
from pipeline.storage.outage import Patience
from pipeline.storage.s3_store import S3Store


class Store(Protocol):
    """Objects under keys such as `journal/units/0a/1b.parquet`: relative, with forward slashes."""

    uri: str
    """The folder or `s3://` prefix that keys are relative to."""

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        ...

    def read_bytes(self, key: str) -> bytes:
        """A whole object. Raises FileNotFoundError."""
        ...

    def open(self, key: str) -> IO[bytes]:
        """An object as a seekable binary file. Raises FileNotFoundError."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Create or replace an object; readers see the old or the new one, never a part."""
        ...

    def write_once(self, key: str, data: bytes) -> bool:
        """Create an object unless there is one; False where there was another.

        True also for a request that had to be repeated because the reply to it was lost.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that start with `prefix`, with sizes in bytes, streaming, in ascending order of keys."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        ...

    def sweep(self, prefix: str) -> None:
        """Remove what writers that were killed left below `prefix`; a writer at work there begins again."""
        ...


def open_store(uri: str, storage: StorageConfig | None = None) -> Store:
    """A store for a local folder (made when something is written) or an `s3://bucket/prefix`."""
    if is_s3(uri):
        return S3Store(uri, storage or StorageConfig())
    return LocalStore(Path(uri).absolute())


def caveats(store: Store, key: str) -> tuple[str, ...]:
    """What a store does not do that results rely on, in sentences; tried on the object `key`, which must be there."""
    if isinstance(store, S3Store) and not store.keeps_first(key):
        return (
            "this S3 server ignores If-None-Match: let no two runs write to this output at the same time, or the index "
            "may hold one run's costs for the other's rows until `omnidrop rebuild`",
        )
    return ()


class PatientStore:
    """Another store, which has answered before, and whose failures that may pass are waited for."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store, self._patience = store, patience
        self.uri = store.uri

    def exists(self, key: str) -> bool:
        """See Store."""
        return self._patience.call(lambda: self._store.exists(key))

    def read_bytes(self, key: str) -> bytes:
        """See Store."""
        return self._patience.call(lambda: self._store.read_bytes(key))

    def open(self, key: str) -> IO[bytes]:
        """See Store."""
        return self._patience.call(lambda: self._store.open(key))

    def write(self, key: str, data: bytes) -> None:
        """See Store."""
        self._patience.call(lambda: self._store.write(key, data))

    def write_once(self, key: str, data: bytes) -> bool:
        """See Store."""
        return self._patience.call(lambda: self._store.write_once(key, data))

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store."""
        return self._patience.listing(lambda: self._store.list(prefix), key=lambda item: item[0], has_answered=True)

    def delete(self, keys: Iterable[str]) -> None:
        """See Store."""
        named = list(keys)
        self._patience.call(lambda: self._store.delete(named))

    def sweep(self, prefix: str) -> None:
        """See Store."""
        self._patience.call(lambda: self._store.sweep(prefix))
