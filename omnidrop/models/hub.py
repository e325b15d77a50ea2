"""Checkpoints of the hub: fetched whole or without their weights, and what the hub says that their weights contain.

Promises: files come into the hub's own cache (configuration, tokenizer and safetensors; no code, no pickles), and
nothing that a hub replies is written anywhere else; a weight file's SHA-256 is known without the file; a commit that
was listed once is not asked about again. Raises CheckpointError for whatever goes wrong on the way. Knows nothing about
what is in the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omnidrop.errors import CheckpointError, first_line
from omnidrop.json_text import parse_json
from omnidrop.models.file_digests import DigestMemory

WEIGHTS = ".safetensors"
_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.jinja")
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAGS = ("ETag", "X-Linked-ETag", "X-Repo-Commit")
_DIGESTS = ("sha", "oid", "xetHash")
_IN_FOLDER = re.compile(r"[\w=+:-][\w=+:.-]*", re.ASCII)
"""What may become the name of a file: no path."""


@dataclass(frozen=True)
class HubName:
    """A repository of the hub."""

    id: str
    revision: str | None
    """Commit, tag or branch; None for the newest."""


def hub_name(model: str) -> HubName | None:
    """`owner/name` or `owner/name@revision`; None for anything else."""
    named = None if model.startswith(".") else _NAME.fullmatch(model)
    return None if named is None else HubName(named[1], named[2])


def hub_revision(directory: Path) -> str | None:
    """The commit that the hub gave for a directory of its cache, None for any other."""
    return directory.name if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name) else None


def fetch(name: HubName, *, weights: bool) -> Path:
    """The directory with the repository's files; without `weights` those that say how the model is asked."""
    return _snapshot(name, [*_BESIDE_WEIGHTS, *(["*" + WEIGHTS] if weights else [])])


def listed_files(name: HubName, directory: Path) -> Mapping[str, str | None]:
    """By name the files of the commit that `fetch` gave: SHA-256 of weights, None for all others.

    Weights that the hub keeps in git (small ones) have no digest there and are fetched.
    """
    commit, memory = hub_revision(directory), DigestMemory()
    if commit is None:
        raise CheckpointError(f"the hub gave {directory} for {name.id!r}, which names no commit")
    listed: dict[str, str | None] = parse_json(memory.recall(_key(name, commit), lambda: _listing(name, commit)))
    if small := [file for file, digest in listed.items() if file.endswith(WEIGHTS) and digest is None]:
        fetched = _snapshot(HubName(name.id, commit), small)
        listed |= {file: memory.digest(fetched / file) for file in small}
    memory.save()
    return listed


def _key(name: HubName, commit: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}|{name.id}|{commit}"


def _listing(name: HubName, commit: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _asking(name):
        entries = [e for e in HfApi().list_repo_tree(name.id, revision=commit) if isinstance(e, RepoFile)]
    return json.dumps({e.path: e.lfs.sha256 if e.lfs and e.path.endswith(WEIGHTS) else None for e in entries})


def _snapshot(name: HubName, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with _asking(name):
        return Path(snapshot_download(name.id, revision=name.revision, allow_patterns=patterns))


@contextmanager
def _asking(name: HubName) -> Iterator[None]:
    _guard_clients()
    try:
        yield
    except Exception as error:  # the hub's client lets through what its HTTP client raises, which is another with time
        raise CheckpointError(
            f"there is no folder {name.id!r}, and it cannot be fetched from the hub ({type(error).__name__}: "
            f"{first_line(error)}); name a local checkpoint directory, or check the id, the network and "
            "HF_TOKEN"
        ) from error


@cache
def _guard_clients() -> None:
    """Have every HTTP client that the hub's client makes in this process look at what it gets."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    make = _http._GLOBAL_CLIENT_FACTORY

    def guarded() -> Any:
        client = make()
        client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], _check_reply]}
        return client

    set_client_factory(guarded)


def _check_reply(reply: Any) -> None:
    """Raise CheckpointError for tags and digests that would name a file outside of the cache: the hub's client makes
    names of them as they are."""
    found = []
    if reply.request.method == "HEAD":
        tags = (reply.headers.get(tag) for tag in _TAGS)
        found = [tag.removeprefix("W/").strip('"') for tag in tags if tag is not None]
    elif reply.request.url.path.startswith("/api/") and reply.is_success:
        reply.read()
        found = list(_digests(parse_json(reply.text)))
    if wrong := next((tag for tag in found if not _IN_FOLDER.fullmatch(tag)), None):
        raise CheckpointError(f"{reply.request.url.host} names a file's content {wrong!r}, which is not a digest")


def _digests(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (str(value[key]) for key in _DIGESTS if value.get(key) is not None)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _digests(item)
