"""Talking to S3: a connection that retries, listings page by page, and errors that say what to do.

Promises: flat memory for any listing; credentials come from the environment (variables, profile, role) alone. Knows
nothing about archives or results.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from omnidrop.errors import UserError

S3_PAGE = 1000
"""Objects asked for in one page of a listing: the most that S3 gives."""


class StorageError(UserError):
    """A place in S3, or the place for results, cannot be reached, read or written as configured."""

    error_class = "storage"


def s3_filesystem(endpoint_url: str | None = None, *, anonymous: bool = False, max_retries: int = 5) -> Any:
    """An s3fs file system without caches. botocore's `standard` mode retries throttling, 5xx and lost connections with
    growing, jittered pauses; s3fs adds one more try for bodies that break off.
    """
    import s3fs  # here, because it takes half a second and local archives do without

    filesystem = s3fs.S3FileSystem(
        anon=anonymous,
        endpoint_url=endpoint_url,
        config_kwargs={"retries": {"mode": "standard", "total_max_attempts": max_retries + 1}},
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    filesystem.retries = 2
    return filesystem


def s3_objects(filesystem: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Objects under a prefix in ascending order of keys (UTF-8), one page of at most 1,000 in memory at a time."""
    token: dict[str, str] = {}
    while True:
        try:
            page = filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=S3_PAGE, **token)
        except Exception as error:
            raise explain_s3_error(error, f"s3://{bucket}/{prefix}") from error
        yield from page.get("Contents", ())
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def s3_error_code(error: BaseException) -> str | None:
    """S3's own code, which s3fs hides behind an OSError."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
    return None


def explain_s3_error(error: Exception, uri: str) -> Exception:
    """What to raise instead of an S3 client's error: FileNotFoundError for a missing object, else a StorageError that
    says what to do.
    """
    code, name = s3_error_code(error), type(error).__name__
    if code == "NoSuchBucket" or "bucket does not exist" in str(error):
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return StorageError(f"{uri}: there is no bucket {bucket}; check the name, the region and endpoint_url")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", uri)
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"):
        return StorageError(
            f"{uri}: no S3 credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or "
            "run with a role (a public bucket: archive.anonymous: true)"
        )
    if isinstance(error, PermissionError) or code in ("403", "401"):
        return StorageError(
            f"{uri}: S3 refuses access ({code or error}); check the credentials in use and that they allow "
            "s3:ListBucket and s3:GetObject, for results also s3:PutObject and s3:DeleteObject"
        )
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ConnectionError", "ReadTimeoutError"):
        return StorageError(f"{uri}: the S3 server cannot be reached ({error}); check endpoint_url and the network")
    return StorageError(f"{uri}: S3 failed ({code or name}): {error}")
