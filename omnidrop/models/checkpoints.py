"""Finding a checkpoint, checking that it is one we can load, and naming its content.

Promises: a local directory with every file that loading needs, safetensors weights only, or a CheckpointError that says
what is missing; a content hash that is the same wherever the files lie, on the hub too. Knows nothing about tensors or
model classes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidrop.errors import CheckpointError, OmniDropError, first_line
from omnidrop.json_text import parse_json
from omnidrop.models import hub
from omnidrop.models.families import titles
from omnidrop.models.file_digests import DigestMemory

EMBEDDED = {name: Path(__file__).parent.parent / "checkpoints" / name for name in ("tiny", "tiny-v2", "tiny-v3")}
"""Checkpoints that come with the package, by the name they are loaded by."""

TOY_NOTE = (
    "the embedded models know only their toy worlds of coloured shapes, sounds and some words. Their answers about "
    "other videos are meaningless; use a real checkpoint, for example --model Qwen/Qwen2.5-Omni-3B or a local folder"
)
"""What everything says that shows or promises answers of an embedded model."""

_NEEDED = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
_TOKENIZERS = ("tokenizer.json", "vocab.json")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_HASHED_SUFFIXES = (".json", ".jinja", ".txt", hub.WEIGHTS)
_NOT_HASHED = ("model.safetensors.index.json", "generation_config.json")
"""The index only says which file holds what; generation defaults are not used."""

MOST_TEXT_BYTES = 128 << 20
"""Of each file but the weights: tokenizers of published models have up to 35 MB, and reading a file takes several times
its size."""
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
    place = _place(model)
    directory = place if isinstance(place, Path) else hub.fetch(place, weights=True)
    with loading(directory):
        check_files(directory)
    return directory


@dataclass(frozen=True)
class Described:
    """A checkpoint before it is loaded."""

    directory: Path
    """Has all that says how the model is asked; the weights may lie on the hub alone."""
    weights_hash: str
    """As `checkpoint_hash` of the whole directory."""
    revision: str | None
    """The commit, of a checkpoint that comes from the hub."""


def describe_checkpoint(model: str) -> Described:
    """What `model` is, as `resolve_checkpoint` takes it, without fetching the weights of a hub id: the hub knows what
    they contain. Raises CheckpointError, also where the hub lacks files that loading needs."""
    place = _place(model)
    if isinstance(place, Path):
        with loading(place):
            check_files(place)
        return Described(place, checkpoint_hash(place), hub.hub_revision(place))
    directory = hub.fetch(place, weights=False)
    listed = hub.listed_files(place, directory)
    with loading(directory):
        _check_configuration(directory)
        _check_weights(directory, listed)
    digests = {name: digest for name, digest in listed.items() if digest is not None}
    return Described(directory, checkpoint_hash(directory, digests), hub.hub_revision(directory))


def configuration_of(model: str) -> Path:
    """A directory with the files of `model` that say how it is asked; of a hub id no weights are fetched. Raises
    CheckpointError."""
    place = _place(model)
    directory = place if isinstance(place, Path) else hub.fetch(place, weights=False)
    with loading(directory):
        _check_configuration(directory)
    return directory


def _place(model: str) -> Path | hub.HubName:
    if model in EMBEDDED:
        return EMBEDDED[model]
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser().resolve()
    if (named := hub.hub_name(model)) is not None:
        return named
    raise CheckpointError(
        f"no checkpoint {model!r}: it is neither a folder, nor a hub id such as Qwen/Qwen2.5-Omni-7B, nor one "
        f"of the embedded names ({', '.join(EMBEDDED)})"
    )


def check_files(directory: Path) -> None:
    """Raise CheckpointError unless `directory` has configuration, tokenizer, chat template and safetensors weights."""
    _check_configuration(directory)
    _check_weights(directory, {path.name for path in directory.iterdir() if path.is_file()})


def _check_configuration(directory: Path) -> None:
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
    texts = (path for path in directory.iterdir() if path.suffix in _HASHED_SUFFIXES and path.suffix != hub.WEIGHTS)
    for path in texts:
        if path.is_file() and (size := path.stat().st_size) > MOST_TEXT_BYTES:
            raise CheckpointError(f"{path} has {size >> 20} MB; at most {MOST_TEXT_BYTES >> 20} MB are taken")
    family_of(directory)
    _check_what_else_is_loaded(directory)
    if code := read_json(directory / "config.json").get("auto_map"):
        raise CheckpointError(
            f"the checkpoint {directory} wants its own code to be run (auto_map in config.json: {code}), which never "
            "happens here; take one for transformers' own classes, or remove auto_map if the weights fit them"
        )
    read_chat_template(directory)


def _check_what_else_is_loaded(directory: Path) -> None:
    """A checkpoint is known by the hash of the files beside its configuration: nothing else may change its answers."""
    config = read_json(directory / "config.json")
    tokenizer = read_json(directory / "tokenizer_config.json")
    named = {
        "transformers_weights in config.json": [config.get("transformers_weights")]
        + [part.get("transformers_weights") for part in config.values() if isinstance(part, dict)],
        "fast_tokenizer_files in tokenizer_config.json": [tokenizer.get("fast_tokenizer_files")],
    }
    for where, files in named.items():
        if found := [one for one in files if one]:
            raise CheckpointError(
                f"the checkpoint {directory} names other files to be loaded ({where}: {found[0]}); remove that, and "
                "leave weights and tokenizer under their usual names"
            )
    if (directory / "adapter_config.json").exists():
        raise CheckpointError(
            f"the checkpoint {directory} holds an adapter (adapter_config.json), which would count or not depending on "
            "whether peft is installed; merge it into the weights (merge_and_unload), or remove it"
        )


def _check_weights(directory: Path, files: Collection[str]) -> None:
    """`files` are the names of those that are there, or that the hub has."""
    if not any(name.endswith(hub.WEIGHTS) for name in files):
        pickles = sorted(name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
        found = f"only {', '.join(pickles)}" if pickles else "no weights at all"
        raise CheckpointError(
            f"the checkpoint {directory} has no .safetensors weights ({found}). Pickled weights can run code when they "
            "are opened and are never loaded; convert them with `save_pretrained` in a place you trust"
        )
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        named = set(read_json(index).get("weight_map", {}).values())
        absent = sorted(named - set(files))
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


def checkpoint_hash(directory: Path, known: Mapping[str, str] | None = None) -> str:
    """Hash (hex, 32 digits) over the content of the weights and of the files that shape prompts and inputs.

    `known` has the SHA-256 of files by name, which are not read and need not be there. Others are read once: their
    digests are remembered in the user's cache folder (a 22 GB checkpoint takes about 20 s to hash).
    """
    remembered, digests = DigestMemory(), dict(known or {})
    for path in directory.iterdir():
        if path.name not in digests and path.suffix in _HASHED_SUFFIXES and path.is_file():
            digests[path.name] = remembered.digest(path)
    remembered.save()
    whole = hashlib.sha256()
    for name in sorted(set(digests).difference(_NOT_HASHED)):
        whole.update(f"{name}\0{digests[name]}\0".encode())
    return whole.hexdigest()[:32]


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
