"""Addresses that people write into a job: local folders, `s3://` prefixes and S3 servers.

Promises: a checked address is normalised and carries no credential, and a refusal never repeats an address that may
hold one. Knows nothing about what lies at an address.
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import AfterValidator, Field

SECRET_NAME = re.compile(
    r"pass(word|wd)?$|secret|token$|credential|signature|private_?key|access_?key|api_?key|^key$", re.IGNORECASE
)
"""Names of fields and query parameters whose values are credentials."""

NO_CREDENTIALS = (
    "put S3 credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an AWS profile or a role, never into a job: "
    "jobs are stored with their results"
)


class SecretFreeError(ValueError):
    """Raised by validators of fields whose value may hold a credential, so that messages do not repeat the value."""


def user_part(url: str) -> str | None:
    """What stands before the last @ of an address, None without one.

    Not what `urlsplit` calls the user: a password with a / or ? in it, unescaped, would end up in the path there.
    """
    before, at, _ = url.partition("://")[2].rpartition("@")
    return before if at else None


def secret_in_query(url: str) -> bool:
    """Whether an address's query has a parameter that is named like a credential."""
    query = parse_qsl(url.partition("?")[2].partition("#")[0], keep_blank_values=True)
    return any(SECRET_NAME.search(name.replace("-", "_")) for name, _ in query)


def is_s3(location: str) -> bool:
    """Whether a checked location lies in S3."""
    return location.startswith("s3://")


def as_typed(location: str, endpoint_url: str | None) -> str:
    """A location as a command line takes it: quoted, and with its S3 server where that is not AWS."""
    server = f" --endpoint-url {shlex.quote(endpoint_url)}" if endpoint_url and is_s3(location) else ""
    return shlex.quote(location) + server


def sqlite_url(path: str) -> str:
    """SQLAlchemy's address of a SQLite file, whatever its name holds."""
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def checked_key(key: str) -> str:
    """A store's key as it is. Raises ValueError for one that could lead out of the store."""
    if not key or key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"not a key of a store: {key!r}")
    return key


def _endpoint(url: str) -> str:
    if "@" in url or secret_in_query(url):
        raise SecretFreeError(f"the address seems to hold a credential; {NO_CREDENTIALS}")
    if not re.match(r"https?://[^/]", url):
        raise ValueError("must be an address such as http://host:9000")
    return url.rstrip("/")


def _location(location: str) -> str:
    scheme, separator, rest = location.partition("://")
    if not location.strip() or "\0" in location:
        raise ValueError("must be a folder or an s3://bucket/prefix address")
    if not separator:
        return location
    if scheme.lower() == "file":
        if not rest.startswith("/"):
            raise ValueError("a file:// address needs an absolute path, as in file:///data/videos")
        return rest.rstrip("/") or "/"
    bucket, _, prefix = rest.partition("/")
    # A key may hold an @; a bucket's name holds neither @ nor a colon.
    if ":" in bucket or "@" in bucket or secret_in_query(location):
        raise SecretFreeError(f"the address seems to hold a credential; {NO_CREDENTIALS}")
    if scheme.lower() != "s3":
        raise SecretFreeError(f"only local folders and s3:// addresses are supported, not {scheme}://")
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}", bucket):
        raise ValueError(f"{bucket!r} is not a valid bucket name; write s3://bucket/prefix")
    return f"s3://{bucket}/{prefix}".rstrip("/")


Location = Annotated[str, AfterValidator(_location)]
"""A local folder (`file://` becomes a plain path) or `s3://bucket/prefix`, without a slash at its end."""
EndpointUrl = Annotated[str, AfterValidator(_endpoint), Field(max_length=2048)]
"""An S3 server's address."""
