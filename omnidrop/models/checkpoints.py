"""Finding a checkpoint, checking that it is one we can load, and naming its content.

Promises: a local directory with every file that loading needs, safetensors weights only, or a CheckpointError that says
what is missing; a content hash that is the same wherever the files lie. Knows nothing about tensors or model classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnidrop.errors import CheckpointError, OmniDropError, first_line
from omnidrop.json_text import parse_json
from omnidrop.models.families import titles

EMBEDDED = {name: Path(__file__).parent.parent / "checkpoints" / name for name in ("tiny", "tiny-v2")}
"""Checkpoints that come with the package, by the name they are loaded by."""

TOY_NOTE = (
    "the embedded models know only their toy worlds of coloured shapes and sounds: about other videos their answers "
    "mean nothing; name a real checkpoint with --model, as in Qwen/Qwen2.5-Omni-3B or a local directory"
)
"""What everything says that shows or promises answers of an embedded model."""

_NEEDED = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
_TOKENIZERS = ("tokenizer.json", "vocab.json")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
"""A name on the hub, and the revision of it."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASHED_SUFFIXES = (".json", ".jinja", ".txt", ".safetensors")
_NOT_HASHED = ("model.safetensors.index.json", "generation_config.json")
"""The index only says which file holds what; generation defaults are not used."""

MOST_COUNTED = 4096
"""Layers, heads or experts of a part of a model."""
MOST_NESTED = 20
_COUNTED = ("layers", "depth", "heads", "experts", "blocks")


def resolve_checkpoint(model: str) -> Path:
    """The local directory of `model`: an embedded name (`tiny`), a directory, or a hub id (`Qwen/Qwen2.5-Omni-7B`),
    with a revision if it is to stay the same (`Qwen/Qwen2.5-Omni-7B@0123abc`).

    A hub id is fetched into the hub's own cache (configuration, tokenizer and safetensors only; no code, no pickles).
    Raises CheckpointError where nothing is found or files are missing.
    """
    if model in EMBEDDED:
        directory = EMBEDDED[model]
    elif Path(model).expanduser().is_dir():
        directory = Path(model).expanduser().resolve()
    elif (named := _HUB_ID.fullmatch(model)) and not model.startswith("."):
        directory = _fetch(named[1], named[2])
    else:
        raise CheckpointError(
            f"no checkpoint {model!r}: it is neither a directory, nor a hub id such as Qwen/Qwen2.5-Omni-7B, nor one "
            f"of the embedded names ({', '.join(EMBEDDED)})"
        )
    with loading(directory):
        check_files(directory)
    return directory


def hub_revision(directory: Path) -> str | None:
    """The commit that the hub gave for a directory that `resolve_checkpoint` found, None for any other."""
    return directory.name if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name) else None


def _fetch(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.jinja", "*.safetensors"]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no directory {hub_id!r}, and the hub does not give it either ({type(error).__name__}: "
            f"{first_line(error)}); name a local checkpoint directory, or check the id, the network and "
            "HF_TOKEN"
        ) from error


def check_files(directory: Path) -> None:
    """Raise CheckpointError unless `directory` has configuration, tokenizer, chat template and safetensors weights."""
    if not directory.is_dir():
        raise CheckpointError(f"the checkpoint directory {directory} does not exist")
    missing = [name for name in _NEEDED if not (directory / name).is_file()]
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        missing.append(" or ".join(_TOKENIZERS))
    if missing:
        raise CheckpointError(
            f"the checkpoint {directory} lacks {', '.join(missing)}; copy the whole published repository, not the "
            "weights alone"
        )
    family_of(directory)
    if code := read_json(directory / "config.json").get("auto_map"):
        raise CheckpointError(
            f"the checkpoint {directory} wants its own code to be run (auto_map in config.json: {code}), which never "
            "happens here; take one for transformers' own classes, or remove auto_map if the weights fit them"
        )
    read_chat_template(directory)
    if not weight_files(directory):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in directory.glob(pattern))
        found = f"only {', '.join(pickles)}" if pickles else "no weights at all"
        raise CheckpointError(
            f"the checkpoint {directory} has no .safetensors weights ({found}). Pickled weights can run code when they "
            "are opened and are never loaded; convert them with `save_pretrained` in a place you trust"
        )
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        named = set(read_json(index).get("weight_map", {}).values())
        absent = sorted(name for name in named if not (directory / name).is_file())
        if absent:
            raise CheckpointError(
                f"the checkpoint {directory} lacks {len(absent)} of {len(named)} weight files: {', '.join(absent[:3])}"
                f"{' ...' if len(absent) > 3 else ''}; was the download interrupted?"
            )


def _check_counts(config: object, where: Path, depth: int = 0) -> None:
    """Raise CheckpointError for more layers, heads or experts than any model has: transformers makes a list of them."""
    fields = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for name, value in fields:
        if isinstance(value, dict | list) and depth < MOST_NESTED:
            _check_counts(value, where, depth + 1)
        is_count = isinstance(name, str) and any(word in name for word in _COUNTED)
        if is_count and isinstance(value, int | float) and not isinstance(value, bool) and value > MOST_COUNTED:
            raise CheckpointError(f"{where} says {name}: {value:g}; at most {MOST_COUNTED} are taken")


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files, by name."""
    return sorted(directory.glob("*.safetensors"))


def family_of(directory: Path) -> str:
    """The checkpoint's family by its name in `families`. Raises CheckpointError for any other `model_type`."""
    config = read_json(directory / "config.json")
    _check_counts(config, directory / "config.json")
    model_type = str(config.get("model_type"))
    family = model_type.removesuffix("_thinker")
    if family not in titles():
        supported = ", ".join(f"{title} ({name})" for name, title in titles().items())
        raise CheckpointError(
            f"the checkpoint {directory} is of model type {model_type!r}; supported are {supported}: models that take "
            "audio and video in one prompt"
        )
    return family


def thinker_config_dict(directory: Path) -> dict[str, Any]:
    """The configuration of the part that reads and answers, as a dictionary; the talker's is left aside."""
    config = read_json(directory / "config.json")
    _check_counts(config, directory / "config.json")
    thinker = config.get("thinker_config", config)
    if not isinstance(thinker, dict) or not isinstance(thinker.get("text_config"), dict):
        raise CheckpointError(f"{directory / 'config.json'} has no thinker_config with a text_config")
    return thinker


def video_bounds(directory: Path) -> tuple[int, int] | None:
    """Smallest and largest size of a video frame in pixels, where the checkpoint states its own.

    They are read from `videos_kwargs.size` in processor_config.json. The `min_pixels` and `max_pixels` of
    preprocessor_config.json speak of still images: the stock processor overrides them for videos, so do we.
    """
    path = directory / "processor_config.json"
    if not path.is_file():
        return None
    size = (read_json(path).get("videos_kwargs") or {}).get("size")
    if size is None:
        return None
    try:
        low, high = int(size["shortest_edge"]), int(size["longest_edge"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"videos_kwargs.size in {path} needs shortest_edge and longest_edge, got {size!r}"
        ) from error
    if not 0 < low <= high:
        raise CheckpointError(f"videos_kwargs.size in {path} needs 0 < shortest_edge <= longest_edge, got {size!r}")
    return low, high


def read_chat_template(directory: Path) -> str:
    """The chat template, wherever the checkpoint's age put it."""
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = directory / name
        template = read_json(path).get("chat_template") if path.is_file() else None
        if isinstance(template, str):
            return template
    raise CheckpointError(
        f"the checkpoint {directory} has no chat template ({', '.join(_TEMPLATES)}, or `chat_template` in "
        "tokenizer_config.json); without it no prompt can be laid out"
    )


def checkpoint_hash(directory: Path) -> str:
    """Hash (hex, 32 digits) over the content of the weights and of the files that shape prompts and inputs.

    Weights are read once: their digests are remembered in the user's cache folder by path, inode, size and both times
    (a 22 GB checkpoint takes about 20 s to hash).
    """
    remembered = _HashMemory()
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix in _HASHED_SUFFIXES and path.name not in _NOT_HASHED and path.is_file():
            digest.update(f"{path.name}\0{remembered.digest(path)}\0".encode())
    remembered.save()
    return digest.hexdigest()[:32]


class _HashMemory:
    """File digests by (path, inode, size, mtime, ctime): a modification time can be set, the others cannot. A lost or
    unwritable memory only costs time, one that others may write is not used."""

    def __init__(self) -> None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._path = root / "omnidrop" / "file_hashes.json"
        self._known: dict[str, str] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            status = self._path.stat()
            if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                loaded = parse_json(self._path.read_text())
                if isinstance(loaded, dict):
                    self._known = {key: value for key, value in loaded.items() if isinstance(value, str)}

    def digest(self, path: Path) -> str:
        status = path.stat()
        times = f"{status.st_mtime_ns}|{status.st_ctime_ns}"
        key = f"{path.resolve()}|{status.st_dev}|{status.st_ino}|{status.st_size}|{times}"
        if key not in self._known:
            with path.open("rb") as stream:
                self._known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        if not self._changed:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Several workers of one machine may write at once: each writes whole, the last one stays.
            handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".json")
            with os.fdopen(handle, "w") as stream:
                json.dump(self._known, stream)
            os.replace(name, self._path)


@contextlib.contextmanager
def loading(directory: Path) -> Iterator[None]:
    """The one wrapper around whatever reads a checkpoint: its files are somebody else's, and libraries that read them
    raise what they like. Raises CheckpointError, and as they are our own errors and those of memory."""
    try:
        yield
    except (OmniDropError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        raise CheckpointError(
            f"the checkpoint {directory} cannot be loaded ({type(error).__name__}: {first_line(error)[:300]}); one of "
            "its files is damaged, or not what its configuration says: copy the published one again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises CheckpointError where it cannot be read."""
    try:
        loaded = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # also numbers with more digits than Python reads
        raise CheckpointError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(loaded).__name__}")
    return loaded
