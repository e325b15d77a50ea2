"""Who vouches for a published generation: a minisign signature of its manifest, beside it.

The manifest has the digest of every table file, so what a signature holds for is every published row. Promises: a
signature is of the manifest that counts, as it was when it was read; the key never leaves this machine and nothing is
sent. The same file is made and checked by `minisign` itself: `minisign -Vm tables/current.json -p KEY.pub`. Knows
nothing about what the rows say.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minisign import Error, KeyPair, PublicKey, SecretKey, Signature

from omnidrop.errors import UserError
from pipeline.storage.store import Store
from pipeline.tables import manifest

SIGNATURE = f"{manifest.MANIFEST}.minisig"
"""Where minisign itself looks for it."""
MOST_BYTES = 4096
"""Of keys and signatures."""


class SigningError(UserError):
    """A key that cannot be used, or nothing to sign."""

    error_class = "signing"


@dataclass(frozen=True)
class Checked:
    """What a signature is worth."""

    state: Literal["good", "missing", "wrong"]
    what: str


def make_keys(secret: Path, password: str) -> Path:
    """A new pair of keys: the secret one at `secret` (for this user alone; encrypted unless the password is empty), the
    public one beside it, whose path is returned. Raises SigningError where one of them is there already."""
    public = secret.with_name(f"{secret.name}.pub")
    pair = KeyPair.generate()
    if password:
        pair.secret_key.encrypt(password)
    try:
        for path, key, mode in ((public, pair.public_key, 0o644), (secret, pair.secret_key, 0o600)):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(bytes(key).rstrip(b"\n") + b"\n")
    except OSError as error:
        raise SigningError(f"{path}: cannot be written: {error.strerror}; choose another file") from error
    return public


def is_encrypted(secret: Path) -> bool:
    """Whether a secret key needs a password. Raises SigningError."""
    return bool(_secret_key(secret).is_encrypted())


def sign(store: Store, secret: Path, password: str = "") -> int:
    """Sign the generation that is published, and return its number. Raises SigningError."""
    published, content = _published(store)
    if published is None:
        raise SigningError(f"{store.uri}: nothing is published; run `omnidrop index` first")
    if not published.files:
        raise SigningError(
            f"{store.uri}: these tables were published by an older version, without file digests; `omnidrop rebuild` "
            "publishes them again"
        )
    key = _secret_key(secret)
    try:
        if key.is_encrypted():
            key.decrypt(password)
        comment = f"omnidrop generation {published.generation} of {published.published_at}"
        signature = key.sign(content, trusted_comment=comment)
    except Error as error:
        raise SigningError(f"{secret}: cannot sign: {error}; check the password") from error
    store.write(SIGNATURE, bytes(signature) + b"\n")
    return published.generation


def check(store: Store, public: str) -> Checked:
    """Whether the published manifest was signed with the secret key of `public`, a file or the key itself (it begins
    with RW). Raises SigningError for what is no key."""
    key = _public_key(public)
    if not store.exists(SIGNATURE):
        return Checked("missing", "the published tables are not signed")
    try:
        signature = Signature.from_bytes(store.read_bytes(SIGNATURE)[:MOST_BYTES])
        key.verify(store.read_bytes(manifest.MANIFEST), signature)
    except (Error, FileNotFoundError) as error:
        return Checked("wrong", f"the signature does not match this key and the published tables: {error}")
    return Checked("good", f"signed with this key: {signature.trusted_comment}")


def _published(store: Store) -> tuple[manifest.Published | None, bytes]:
    """The manifest and its bytes, of one moment: a run may publish meanwhile."""
    while (published := manifest.current(store)) is not None:
        content = store.read_bytes(manifest.MANIFEST)
        if manifest.current(store) == published and store.read_bytes(manifest.MANIFEST) == content:
            return published, content
    return None, b""


def _secret_key(path: Path) -> SecretKey:
    try:
        with path.open("rb") as file:
            return SecretKey.from_bytes(file.read(MOST_BYTES))
    except OSError as error:
        raise SigningError(
            f"--key {path}: {error.strerror}; create one with `omnidrop sign --new-key {path}`"
        ) from error
    except Error as error:
        raise SigningError(f"--key {path}: not a minisign secret key ({error})") from error


def _public_key(given: str) -> PublicKey:
    try:
        if given.startswith("RW") and not Path(given).exists():
            return PublicKey.from_base64(given)
        with open(given, "rb") as file:
            return PublicKey.from_bytes(file.read(MOST_BYTES))
    except OSError as error:
        raise SigningError(
            f"--public-key {given}: {error.strerror}; give the file, or the key itself (RW...)"
        ) from error
    except Error as error:
        raise SigningError(f"--public-key {given}: not a minisign public key ({error})") from error
