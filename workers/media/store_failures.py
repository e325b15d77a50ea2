"""What an object store's client raised, as one of our errors.

Promises: a file that is gone, one that is refused, and a store that fails are told apart, and no message holds a
credential. Knows nothing about whether it is the file's fault or the whole store's: who sees many files tells that.
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
"""What botocore raises where it finds no credentials, by name: workers without S3 do not import it."""
_BROKEN_BODIES = frozenset({"ClientPayloadError", "IncompleteReadError", "ResponseStreamingError"})


def store_failure(name: str, error: Exception) -> MediaError:
    """The error to raise for what happened to the file `name`."""
    if isinstance(error, FileNotFoundError):
        return MediaMissing(f"{name}: the object is no longer in the store")
    if type(error).__name__ == "FileExpired":
        return MediaChanged(f"{name}: the object was replaced while being read; run again")
    kind = MediaRefused if is_refusal(error) else StorageFailed
    return kind(without_secrets(f"{name}: {type(error).__name__}: {error}")[:1000])


def is_broken_body(error: BaseException | None) -> bool:
    """Whether a reply began and broke off: who asks again may get it whole, and the client does not."""
    return type(error).__name__ in _BROKEN_BODIES


def is_refusal(error: BaseException) -> bool:
    """Whether the server, or the search for credentials, says no. A reply to HEAD says so by its status alone: 400 for
    a token that has expired, 403 for all else."""
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
    """Have an s3fs file system look for credentials again: logging in or fixing a profile while a run waits needs no
    new run."""
    if (session := getattr(store, "session", None)) is not None:
        session._credentials = None
        store.connect(refresh=True)
