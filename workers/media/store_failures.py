"""Translates an object store client's exceptions into our errors.

Promises: a missing file, a refused file and a failing store give different errors; no message contains a credential.
Knows nothing about whether the file or the whole store is at fault: callers that see many files decide that.
"""

from __future__ import annotations

from typing import Any

from workers.errors import MediaChanged, MediaError, MediaMissing, MediaRefused, StorageFailed
from workers.redaction import without_secrets

_NO_CREDENTIALS = frozenset(
    {
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"),
        *("UnauthorizedSSOTokenError", "SSOTokenLoadError", "ProfileNotFound"),
    }
)
"""botocore's exceptions for missing credentials, by name: workers without S3 do not import botocore."""
_BROKEN_BODIES = frozenset({"ClientPayloadError", "IncompleteReadError", "ResponseStreamingError"})
REDIRECTS = (301, 302, 303, 307, 308)
REDIRECTED = 421
"""The status that replaces a redirect: botocore neither follows nor retries it."""


def store_failure(name: str, error: Exception) -> MediaError:
    """The error to raise for `error` on the file `name`."""
    if isinstance(error, FileNotFoundError):
        return MediaMissing(f"{name}: the object is no longer in the store")
    if type(error).__name__ == "FileExpired":
        return MediaChanged(f"{name}: the object was replaced while being read; run again")
    said = without_secrets(f"{name}: {type(error).__name__}: {error}")[:1000]
    if is_refusal(error):
        return MediaRefused(f"{said}; check that the credentials have not expired and allow s3:GetObject")
    return StorageFailed(said)


def is_broken_body(error: BaseException | None) -> bool:
    """Whether a reply was cut off: a retry may succeed, and the client does not retry."""
    return type(error).__name__ in _BROKEN_BODIES


def is_refusal(error: BaseException) -> bool:
    """Whether the server refused, or no credentials were found. A HEAD reply has only a status: 400 for an expired
    token, 403 for everything else."""
    for one in (error, error.__cause__):
        if isinstance(one, PermissionError) or type(one).__name__ in _NO_CREDENTIALS:
            return True
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code"))
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status in (400, 401, 403) and code != "RequestTimeout"
    return False


def forget_credentials(store: Any) -> None:
    """Make an s3fs file system look up credentials again: then logging in or fixing a profile helps a waiting run."""
    if (session := getattr(store, "session", None)) is not None:
        session._credentials = None
        store.connect(refresh=True)


def redirect_refused(error: BaseException) -> str | None:
    """The message if the server answered with a redirect, None for any other error."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            answered = response.get("ResponseMetadata", {})
            if answered.get("HTTPStatusCode") in (*REDIRECTS, REDIRECTED):
                to = answered.get("HTTPHeaders", {}).get("location", "another place")[:300]
                return (
                    f"the server redirects to {to}; redirects are not followed, set endpoint_url to the right address"
                )
    return None
