"""Results in S3: the objects of a `Store` in a bucket, one request each.

Promises: a write is one request or one multipart upload, which S3 makes visible whole; `write_once` is one conditional
create; a listing is one page in memory (s3fs's own `find` collects all of it). Knows nothing about what objects hold.
"""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import IO, Any, TypeVar

from pipeline.config.locations import checked_key
from pipeline.config.sections import StorageConfig
from pipeline.storage.errors import StorageError, StorageUnavailable
from pipeline.storage.s3_client import PASSING_CODES, explain_s3_error, s3_error_code, s3_filesystem, s3_objects
from workers.media.store_failures import forget_credentials, is_broken_body, is_refusal

DELETE_BATCH = 1000
"""Most keys that one DeleteObjects request may name."""
BODY_TRIES = 3
"""Of an object whose body breaks off."""
CONFLICTS = 5
"""Attempts to create an object while the server reports a concurrent creation or deletion (409)."""
CONFLICT_PAUSE_S = 0.05

Given = TypeVar("Given")


class S3Store:
    """A `Store` in S3, through s3fs for connections and retries and its plain calls for everything else."""

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
            self._call(key, lambda: self._look(key))
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self, key: str) -> bytes:
        """See Store."""
        for _ in range(BODY_TRIES - 1):
            try:
                return self._read(key)
            except StorageUnavailable as error:
                if not is_broken_body(error.__cause__):
                    raise
        return self._read(key)

    def _read(self, key: str) -> bytes:
        data: bytes = self._call(key, lambda: self._filesystem.cat_file(self._path(key)))
        return data

    def open(self, key: str) -> IO[bytes]:
        """See Store."""
        return io.BytesIO(self.read_bytes(key))

    def write(self, key: str, data: bytes) -> None:
        """See Store."""
        self._call(key, lambda: self._filesystem.pipe_file(self._path(key), data, **self._encryption))

    def write_once(self, key: str, data: bytes) -> bool:
        """See Store. Servers that ignore If-None-Match (`keeps_first`) replace the object when two race."""
        for attempt in range(CONFLICTS):
            if self.exists(key):
                return False
            try:
                self._call(key, lambda: self._create(key, data))
            except FileExistsError:
                # Another writer's, or our own: a request that is repeated after a lost reply finds its own object.
                with suppress(FileNotFoundError):
                    return self.read_bytes(key) == data
            except _Conflict:
                # Somebody is creating or deleting it at this moment: only another look tells which.
                time.sleep(CONFLICT_PAUSE_S * 2**attempt)
            else:
                return True
        raise StorageUnavailable(f"s3://{self._path(key)}: the server reports conflicting requests again and again")

    def keeps_first(self, key: str) -> bool:
        """Whether the server refuses to replace an object under If-None-Match, as S3 does; tried on an object that is
        there, which is written again as it is.
        """
        data = self.read_bytes(key)
        try:
            self._call(key, lambda: self._create(key, data))
        except (FileExistsError, _Conflict):
            return True
        return False

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store."""
        for item in s3_objects(self._filesystem, self.bucket, self._prefix + prefix):
            yield item["Key"].removeprefix(self._prefix), item["Size"]

    def sweep(self, prefix: str) -> None:
        """See Store. An upload that was not finished shows nowhere; a lifecycle rule of the bucket ends it."""

    def delete(self, keys: Iterable[str]) -> None:
        """See Store."""
        remaining = iter(keys)
        while batch := [{"Key": self._prefix + checked_key(key)} for key in islice(remaining, DELETE_BATCH)]:
            try:
                reply = self._filesystem.call_s3(
                    "delete_objects", Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            except Exception as error:
                raise explain_s3_error(error, self.uri) from error
            if failed := reply.get("Errors"):
                lasting = [one for one in failed if one.get("Code") not in PASSING_CODES]
                first = (lasting or failed)[0]
                said = f"could not be deleted, one is {first.get('Key')}: {first.get('Code')}: {first.get('Message')}"
                if not lasting:
                    raise StorageUnavailable(f"{len(failed)} objects of {self.uri} {said}; try again later")
                raise StorageError(f"{len(failed)} objects of {self.uri} {said}; check that s3:DeleteObject is allowed")

    def _path(self, key: str) -> str:
        return f"{self.bucket}/{self._prefix}{checked_key(key)}"

    def _look(self, key: str) -> None:
        try:
            self._request("head_object", key)
        except Exception as error:
            if not is_refusal(error):
                raise
            # A reply to HEAD has no body, and so no reason.
            self._request("get_object", key)

    def _request(self, method: str, key: str) -> Any:
        return self._filesystem.call_s3(method, Bucket=self.bucket, Key=self._prefix + checked_key(key))

    def _create(self, key: str, data: bytes) -> None:
        try:
            self._filesystem.pipe_file(self._path(key), data, mode="create", **self._encryption)
        except Exception as error:
            code = s3_error_code(error)
            if code in ("PreconditionFailed", "412"):
                raise FileExistsError(errno.EEXIST, "there is one", key) from error
            if code == "ConditionalRequestConflict":
                raise _Conflict(key) from error
            raise

    def _call(self, key: str, request: Callable[[], Given]) -> Given:
        try:
            return request()
        except (FileExistsError, _Conflict):
            raise
        except Exception as error:
            if is_refusal(error):
                forget_credentials(self._filesystem)
            raise explain_s3_error(error, f"s3://{self._path(key)}") from error


class _Conflict(Exception):
    """409 to a conditional create."""
