"""Talking to S3: a connection that retries, listings page by page, and errors that say what to do.

Promises: flat memory for any listing; credentials come from the environment (variables, profile, role) alone. Knows
nothing about archives or results.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from pipeline.storage.errors import StorageError, StorageUnavailable
from workers.media.remote import filesystem, within
from workers.media.store_failures import is_refusal, redirect_refused
from workers.redaction import without_secrets

S3_PAGE = 1000
"""Objects asked for in one page of a listing: the most that S3 gives."""
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 15
"""A request that brings no byte for so long is tried again."""
MAX_RETRIES = 5
"""Further tries of one request, with pauses that grow from half a second to ten on average."""

PAGE_S = 180.0
"""One page of a listing, retries included: a server that trickles does not hold a run."""
KEY_BYTES = 4096
"""Four times what S3 allows."""
ETAG_CHARS = 256
OBJECT_BYTES = 1 << 50
"""Twenty times the largest object of S3."""
EMPTY_PAGES = 1000
MOST_OBJECTS = 1_000_000_000
"""Where a server goes on making up keys."""

_TEACHES = {
    "SignatureDoesNotMatch": "the secret key does not belong to the access key (AWS_SECRET_ACCESS_KEY, or the profile "
    "in AWS_PROFILE); copy both again, or give the endpoint_url of the server they are for",
    "InvalidAccessKeyId": "it does not know the access key (AWS_ACCESS_KEY_ID, or the profile in AWS_PROFILE); "
    "check it, or give the endpoint_url of the server it is for",
    "ExpiredToken": "the session has expired; log in again, or run with a role, which renews itself",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
}
"""What to do about credentials that a server names as wrong."""

PASSING_CODES = frozenset(
    {
        *("500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown", "Throttling"),
        *("ThrottlingException", "RequestTimeout", "RequestLimitExceeded", "BandwidthLimitExceeded"),
        *("ConditionalRequestConflict", "OperationAborted", "QuotaExceeded", "XMinioStorageFull"),
    }
)
"""Failures that pass by themselves or when space is freed."""
_PASSING_ERRORS = frozenset(
    {
        *("HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError", "FlexibleChecksumError"),
        *("ClientConnectionError", "ClientPayloadError", "IncompleteRead", "TimeoutError", "FSTimeoutError"),
        "ReplyTooLong",
    }
)
"""Classes of what clients raise when a connection or a body breaks: by name, because they have no common tree."""


def s3_options(
    endpoint_url: str | None = None, *, anonymous: bool = False, max_retries: int | None = None
) -> dict[str, Any]:
    """How any process of a job reaches S3, for `fsspec.filesystem("s3", ...)`: never credentials.

    botocore's `standard` mode retries throttling, 5xx and lost connections with growing, jittered pauses.
    """
    return {
        "anon": anonymous,
        "endpoint_url": endpoint_url,
        "use_listings_cache": False,
        "config_kwargs": {
            "retries": {
                "mode": "standard",
                "total_max_attempts": 1 + (MAX_RETRIES if max_retries is None else max_retries),
            },
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
        },
    }


def s3_filesystem(endpoint_url: str | None = None, *, anonymous: bool = False, max_retries: int | None = None) -> Any:
    """An s3fs file system of its own, without caches."""
    options = s3_options(endpoint_url, anonymous=anonymous, max_retries=max_retries)
    return filesystem("s3", options | {"skip_instance_cache": True})


def s3_objects(filesystem: Any, bucket: str, prefix: str, *, after: str = "") -> Iterator[dict[str, Any]]:
    """Objects under a prefix in ascending order of keys (UTF-8), one page of at most 1,000 in memory at a time; with
    `after` from the first on whose key is larger."""
    where, token, last, empty, listed = f"s3://{bucket}/{prefix}", dict[str, str](), after, 0, 0
    if after:
        token = {"StartAfter": after}
    while True:
        try:
            asked = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": S3_PAGE}
            page = within(filesystem, PAGE_S, "list_objects_v2", **asked, **token)
        except Exception as error:
            raise explain_s3_error(error, where) from error
        if not page.get("Contents") and "IsTruncated" not in page:
            # A login page, or a reply that lost its content: what is not listed would look deleted.
            raise StorageError(
                f"{where}: the server's reply is not an object listing; check the server and endpoint_url"
            )
        for item in page.get("Contents", ()):
            key = _checked_entry(item, prefix, where)
            if last and key.encode() <= last.encode():
                raise StorageError(
                    f"{where}: the server lists {key[:200]!r} after {last[:200]!r}: not in S3's order, or repeated; "
                    "check the server"
                )
            last = key
            yield item
        listed += len(page.get("Contents", ()))
        empty = 0 if page.get("Contents") else empty + 1
        if not page.get("IsTruncated"):
            return
        following = page.get("NextContinuationToken")
        if not following or token.get("ContinuationToken") == following or empty > EMPTY_PAGES or listed > MOST_OBJECTS:
            raise StorageError(
                f"{where}: the listing does not end: after {listed} objects the server reports more objects but does "
                "not return them; check the server"
            )
        token = {"ContinuationToken": following}


def _checked_entry(item: Any, prefix: str, where: str) -> str:
    """The key of a listed object. Raises StorageError for what no S3 server lists."""
    key, etag, size = item.get("Key"), item.get("ETag"), item.get("Size")
    if (
        isinstance(key, str)
        and key.startswith(prefix)
        and 0 < len(key.encode("utf-8", "replace")) <= KEY_BYTES
        and isinstance(etag, str)
        and 0 < len(etag) <= ETAG_CHARS
        and isinstance(size, int)
        and 0 <= size <= OBJECT_BYTES
    ):
        return key
    found = f"key {str(key)[:100]!r}, etag {str(etag)[:100]!r}, size {str(size)[:40]}"
    raise StorageError(f"{where}: the server lists an impossible object ({found}); check the server")


MOST_SAID, MOST_CODE = 1000, 60
"""Characters of a server's words that are repeated: it may send eight million."""


def s3_error_code(error: BaseException) -> str | None:
    """S3's own code, which s3fs hides behind an OSError."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return " ".join(str(response.get("Error", {}).get("Code"))[:MOST_CODE].split())
    return None


def explain_s3_error(error: Exception, uri: str) -> Exception:
    """What to raise instead of an S3 client's error: FileNotFoundError for a missing object, else a StorageError that
    says what to do. Refused credentials are a StorageUnavailable: they work again after a login, and
    what was never allowed is found before anything is waited for.
    """
    if (refused := redirect_refused(error)) is not None:
        return StorageError(f"{uri}: {without_secrets(refused)}")
    code, name = s3_error_code(error), type(error).__name__
    said = " ".join(without_secrets(str(error))[:MOST_SAID].split())
    if code == "NoSuchBucket" or "bucket does not exist" in str(error):
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return StorageError(f"{uri}: there is no bucket {bucket}; check the name, the region and endpoint_url")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", uri)
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"):
        return StorageUnavailable(
            f"{uri}: no S3 credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or "
            "run with a role (a public bucket: archive.anonymous: true)"
        )
    if code in _TEACHES:
        return StorageUnavailable(f"{uri}: the S3 server refuses the credentials ({code}): {_TEACHES[code]}")
    if is_refusal(error):
        return StorageUnavailable(
            f"{uri}: S3 refuses access ({code or said}); check the credentials in use and that they allow "
            "s3:ListBucket and s3:GetObject, for results also s3:PutObject and s3:DeleteObject"
        )
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"):
        return StorageUnavailable(
            f"{uri}: the S3 server cannot be reached ({said}); check endpoint_url and the network"
        )
    names = {cls.__name__ for e in (error, error.__cause__) if e is not None for cls in type(e).__mro__}
    if code in PASSING_CODES or names & _PASSING_ERRORS:
        return StorageUnavailable(f"{uri}: S3 failed ({code or name}): {said}; check the server, or try again later")
    return StorageError(f"{uri}: S3 failed ({code or name}): {said}")
