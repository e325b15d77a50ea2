"""A checkpoint's tokenizer, with transformers and without: importing it takes a second, `tokenizers` alone 40 ms.

Promises: `read` gives what `Qwen2Tokenizer` makes of the files of published and of newly saved checkpoints, by the same
steps, and asks it where a checkpoint is laid out otherwise; `load` is always by it, and refuses a checkpoint of which
`read` says anything else, so that no plan counts what a model is not given. Knows nothing about prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from omnidrop.errors import CheckpointError
from omnidrop.models.checkpoints import loading, read_json

_DEFAULTS = {"bos_token": None, "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_DEFAULTS |= {"sep_token": None, "pad_token": "<|endoftext|>", "cls_token": None, "mask_token": None}
_PRETOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OF_ANOTHER_AGE = ("special_tokens_map.json", "added_tokens.json")
"""Read by transformers where tokenizer_config.json has no `added_tokens_decoder`; published ones of Qwen's have it."""


class _Unfamiliar(Exception):
    """The files say something that only transformers knows to read."""


@dataclass(frozen=True)
class Words:
    """A tokenizer, and what its checkpoint calls some of its tokens."""

    tokenizer: tokenizers.Tokenizer
    named: Mapping[str, str]
    """The tokens by their names: `eos_token`, `video_token`."""
    special: Sequence[str]
    """The named tokens, and further ones that the checkpoint calls special."""

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens recognised and none added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def id(self, token: str) -> int | None:
        """The id of a whole token, None where there is no such token."""
        found = self.tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def added(self) -> list[AddedToken]:
        """The tokens beside the vocabulary."""
        return list(self.tokenizer.get_added_tokens_decoder().values())

    def definition(self) -> str:
        """The whole of it in the format of the `tokenizers` library."""
        return str(self.tokenizer.to_str())


def read(directory: Path) -> Words:
    """The tokenizer of a checkpoint directory. Raises CheckpointError."""
    try:
        return _read(directory)
    except Exception:  # noqa: BLE001 - `tokenizers` raises nothing narrower; what is wrong, transformers says
        return words_of(stock(directory))


def load(directory: Path) -> tuple[Any, Words]:
    """The `Qwen2Tokenizer` of a checkpoint directory, and its words. Raises CheckpointError, also where `read` gives
    other words."""
    loaded = stock(directory)
    words, found = words_of(loaded), read(directory)
    # What would follow a text, and never does.
    found.tokenizer.post_processor = words.tokenizer.post_processor
    by_them, by_us = _ways(words), _ways(found)
    if differ := [what for what in by_them if by_them[what] != by_us[what]]:
        raise CheckpointError(
            f"plans would read the tokenizer of {directory} otherwise than transformers does ({', '.join(differ)}); "
            "save it anew with transformers' Qwen2Tokenizer (`save_pretrained`)"
        )
    return loaded, words


def stock(directory: Path) -> Any:
    """The `Qwen2Tokenizer` of transformers. Raises CheckpointError."""
    from transformers import Qwen2Tokenizer

    with loading(directory):
        try:
            found = Qwen2Tokenizer.from_pretrained(str(directory))
            found("a")  # used once where what is wrong is the checkpoint's, as a setting that is none
            return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the tokenizer of {directory} cannot be loaded: {error}") from error


def words_of(stock: Any) -> Words:
    """Those of a tokenizer of transformers."""
    backend = stock.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return Words(backend, stock.special_tokens_map, tuple(stock.all_special_tokens))


def _ways(words: Words) -> dict[str, Any]:
    """All by which two tokenizers can give other ids."""
    apart = words.tokenizer.encode_special_tokens
    return {
        "its vocabulary or steps": words.definition(),
        "the names of its tokens": dict(words.named),
        "its special tokens": (tuple(words.special), apart),
    }


def _read(directory: Path) -> Words:
    """The steps of `Qwen2Tokenizer.from_pretrained` of transformers 5.23. Raises Exception where it would do others."""
    config = read_json(directory / "tokenizer_config.json")
    file = directory / "tokenizer.json"
    whole = read_json(file) if file.is_file() else None
    if "init_inputs" in config:
        raise _Unfamiliar
    words = tokenizers.Tokenizer(_model(directory, whole))
    words.decoder = decoders.ByteLevel()
    words.normalizer = normalizers.NFC()
    pretokens = pre_tokenizers.Split(Regex(_PRETOKENS), behavior="isolated", invert=False)
    leading = bool(config.get("add_prefix_space"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pretokens, pre_tokenizers.ByteLevel(add_prefix_space=leading, use_regex=False)]
    )
    words.encode_special_tokens = bool(config.get("split_special_tokens", False))
    named, further = _special(config)
    added = _added(directory, config, whole)
    contents = {token.content for token in added}
    for token in added:
        token.special = token.special or token.content in named.values()
    beside = [token for token in (*named.values(), *further) if token not in contents]
    special = tuple(dict.fromkeys((*named.values(), *further)))
    words.add_tokens([*added, *(AddedToken(token, special=True) for token in dict.fromkeys(beside))])
    words.add_tokens([AddedToken(token, special=True) for token in special])
    return Words(words, named, special)


def _model(directory: Path, whole: Mapping[str, Any] | None) -> BPE:
    """Vocabulary and merges of tokenizer.json (`whole`), or of the files of before."""
    if whole is None:
        vocabulary, merges = BPE.read_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    else:
        if whole["model"]["type"] != "BPE":
            raise _Unfamiliar
        vocabulary = whole["model"]["vocab"]
        merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in whole["model"]["merges"]]
    how: dict[str, Any] = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "unk_token": None}
    return BPE(vocab=vocabulary, merges=merges, dropout=None, fuse_unk=False, byte_fallback=False, **how)


def _special(config: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The tokens that have a name, and special ones without."""
    given = _DEFAULTS | {name: config[name] for name in _DEFAULTS if name in config}
    own = {name: token for name, token in config.items() if name.endswith("_token") and name not in _DEFAULTS}
    extra, further = config.get("extra_special_tokens") or [], config.get("additional_special_tokens") or []
    if isinstance(extra, dict):
        own |= extra
    else:
        further = extra or further
    named = {name: token for name, token in (given | own).items() if token is not None}
    if not all(isinstance(token, str) for token in (*named.values(), *further)):
        raise _Unfamiliar
    return named, list(further)


def _added(directory: Path, config: Mapping[str, Any], whole: Mapping[str, Any] | None) -> list[AddedToken]:
    """The tokens beside the vocabulary, in the order of their ids."""
    if (listed := config.get("added_tokens_decoder")) is None:
        if any((directory / name).exists() for name in _OF_ANOTHER_AGE):
            raise _Unfamiliar
        beside = (whole or {}).get("added_tokens", ())
        listed = {token["id"]: {name: said for name, said in token.items() if name != "id"} for token in beside}
    return [AddedToken(**token) for _, token in sorted((int(number), token) for number, token in listed.items())]
