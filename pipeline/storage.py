"""Where results lie: whole objects under keys, in a local folder or in S3, behind one small interface.

Promises: an object is there whole or not at all, whatever dies while it is written; `write_once` never replaces an
object; listing streams; failures that may pass are tried again with growing pauses. Knows nothing about what the
objects hold. Credentials come from the environment (variables, profile, role), never from a job.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from pipeline.addresses import is_s3
from pipeline.s3 import StorageError, explain_s3_error, s3_error_code, s3_filesystem, s3_objects
from pipeline.sections import StorageConfig

S3_DELETE_BATCH = 1000
"""Most keys that one DeleteObjects request may name."""
_TEMPORARY = ".tmp~"
_CREATED_BY_ANOTHER = {"PreconditionFailed", "412", "ConditionalRequestConflict"}


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
        """Create an object unless there is one; False where there was.

        A request that was repeated after a lost reply may come back False although the object is its own.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that start with `prefix`, with sizes in bytes, streaming, in ascending order of keys."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        ...


def open_store(uri: str, storage: StorageConfig | None = None) -> Store:
    """A store for a local folder (made when something is written) or an `s3://bucket/prefix`."""
    if is_s3(uri):
        return S3Store(uri, storage or StorageConfig())
    return LocalStore(Path(uri).absolute())


def _checked(key: str) -> str:
    if not key or key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"not a key of a store: {key!r}")
    return key


class LocalStore:
    """Objects as files. A temporary file beside the target is filled first, then linked or renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def exists(self, key: str) -> bool:
        """See Store."""
        return self._path(key).is_file()

    def read_bytes(self, key: str) -> bytes:
        """See Store."""
        return self._path(key).read_bytes()

    def open(self, key: str) -> IO[bytes]:
        """See Store."""
        return self._path(key).open("rb")

    def write(self, key: str, data: bytes) -> None:
        """See Store."""
        target = self._path(key)
        temporary = self._temporary(target, data)
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise _local_error(error, target) from error
        finally:
            temporary.unlink(missing_ok=True)

    def write_once(self, key: str, data: bytes) -> bool:
        """See Store."""
        target = self._path(key)
        if target.exists():
            return False
        temporary = self._temporary(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise _local_error(error, target) from error
            # No hard links (exFAT, some network file systems): whole objects still, but two writers at the same
            # moment may both believe to be first.
            if target.exists():
                return False
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store."""
        folder = prefix.rpartition("/")[0]
        try:
            for key, status in walk_files(self.root / folder, folder):
                if key.startswith(prefix) and not key.endswith(_TEMPORARY):
                    yield key, status.st_size
        except OSError as error:
            raise StorageError(f"cannot list {self.root / folder}: {error.strerror}") from error

    def delete(self, keys: Iterable[str]) -> None:
        """See Store. Folders that become empty go, too."""
        for key in keys:
            path = self._path(key)
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break

    def _path(self, key: str) -> Path:
        return self.root / _checked(key)

    def _temporary(self, target: Path, data: bytes) -> Path:
        for attempt in range(10):
            path = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}{_TEMPORARY}"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                return path
            except FileNotFoundError as error:
                # A deletion beside us has removed the folder that had just become empty.
                if attempt == 9:
                    raise _local_error(error, target) from error
            except OSError as error:
                with suppress(OSError):
                    path.unlink()
                raise _local_error(error, target) from error
        raise AssertionError("the loop returns or raises")


def walk_files(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below a folder in ascending order of their keys, one folder's names in memory at a time."""
    try:
        with os.scandir(folder) as entries:
            # A folder sorts as its keys do: with the slash that follows its name.
            names = sorted(entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        key = f"{prefix}/{name}" if prefix else name
        if name.endswith("/"):
            yield from walk_files(folder / name, key[:-1])
            continue
        try:
            status = os.stat(folder / name)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield key, status


def _local_error(error: OSError, path: Path) -> StorageError:
    what = {
        errno.EACCES: "permission denied; choose a folder that you may write",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.ENOSPC: "the disk is full; make room or choose another folder",
        errno.EDQUOT: "the disk quota is used up; make room or choose another folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EEXIST: "a part of the path is a file, not a folder",
    }.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"cannot write {path}: {what}")


class S3Store:
    """Objects in S3, through s3fs for connections and retries and its plain calls for everything else.

    s3fs's own `find` collects whole listings; here a listing is one page at a time. A write is one request or one
    multipart upload, which S3 makes visible whole.
    """

    def __init__(self, uri: str, storage: StorageConfig) -> None:
        self.uri = uri
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._filesystem = s3_filesystem(storage.endpoint_url, max_retries=storage.max_retries)
        self._encryption: dict[str, str] = {}
        if storage.sse is not None:
            self._encryption["ServerSideEncryption"] = storage.sse
        if storage.sse_kms_key_id is not None:
            self._encryption["SSEKMSKeyId"] = storage.sse_kms_key_id

    def exists(self, key: str) -> bool:
        """See Store."""
        try:
            self._call("head_object", key)
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self, key: str) -> bytes:
        """See Store."""
        try:
            data: bytes = self._filesystem.cat_file(self._path(key))
        except Exception as error:
            raise explain_s3_error(error, f"s3://{self._path(key)}") from error
        return data

    def open(self, key: str) -> IO[bytes]:
        """See Store."""
        return io.BytesIO(self.read_bytes(key))

    def write(self, key: str, data: bytes) -> None:
        """See Store."""
        try:
            self._filesystem.pipe_file(self._path(key), data, **self._encryption)
        except Exception as error:
            raise explain_s3_error(error, f"s3://{self._path(key)}") from error

    def write_once(self, key: str, data: bytes) -> bool:
        """See Store. Servers that ignore If-None-Match (some S3 look-alikes) replace the object when two race."""
        if self.exists(key):
            return False
        try:
            self._filesystem.pipe_file(self._path(key), data, mode="create", **self._encryption)
        except Exception as error:
            # 412: there is one; 409: another writer is creating it at this moment and will have won.
            if isinstance(error, FileExistsError) or s3_error_code(error) in _CREATED_BY_ANOTHER:
                return False
            raise explain_s3_error(error, f"s3://{self._path(key)}") from error
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store."""
        for item in s3_objects(self._filesystem, self.bucket, self._prefix + prefix):
            yield item["Key"].removeprefix(self._prefix), item["Size"]

    def delete(self, keys: Iterable[str]) -> None:
        """See Store."""
        remaining = iter(keys)
        while batch := [{"Key": self._prefix + _checked(key)} for key in islice(remaining, S3_DELETE_BATCH)]:
            try:
                reply = self._filesystem.call_s3(
                    "delete_objects", Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            except Exception as error:
                raise explain_s3_error(error, self.uri) from error
            if failed := reply.get("Errors"):
                first = failed[0]
                raise StorageError(
                    f"{len(failed)} objects of {self.uri} could not be deleted, the first is {first.get('Key')}: "
                    f"{first.get('Message')}; check that s3:DeleteObject is allowed"
                )

    def _path(self, key: str) -> str:
        return f"{self.bucket}/{self._prefix}{_checked(key)}"

    def _call(self, method: str, key: str) -> Any:
        try:
            return self._filesystem.call_s3(method, Bucket=self.bucket, Key=self._prefix + _checked(key))
        except Exception as error:
            raise explain_s3_error(error, f"s3://{self._path(key)}") from error
