"""Tokenizers read without transformers are transformers' own, however a checkpoint's files are laid out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnidrop.errors import CheckpointError
from omnidrop.models import tokenizer
from omnidrop.models.checkpoints import EMBEDDED

TEXTS = ("Is a red shape shown? <|im_end|>", " I'LL  say:\r\n\n\t'falling sweep' 1234 ...", "Ｚürich é é 你好 🎈")
TINY = EMBEDDED["tiny-v3"]


def laid_out(folder: Path, *, whole: bool = True, **settings: Any) -> Path:
    """tiny-v3's tokenizer with `settings` in its configuration (None: without), as one file or as those of before."""
    config = json.loads((TINY / "tokenizer_config.json").read_text())
    file = json.loads((TINY / "tokenizer.json").read_text())
    if whole:
        (folder / "tokenizer.json").write_text(json.dumps(file))
    else:
        (folder / "vocab.json").write_text(json.dumps(file["model"]["vocab"]))
        merges = [" ".join(pair) for pair in file["model"]["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {name: value for name, value in (config | settings).items() if value is not None or name not in settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def published(**changed: Any) -> dict[str, Any]:
    """What tokenizer_config.json says in published Omni checkpoints; `changed` is of the first added token."""
    config = json.loads((TINY / "tokenizer_config.json").read_text())
    added = json.loads((TINY / "tokenizer.json").read_text())["added_tokens"]
    named = [name for name in config if name.endswith("_token") and name[:3] not in ("bos", "eos", "unk", "pad")]
    tokens = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    tokens[str(added[0]["id"])] |= changed
    return {
        "extra_special_tokens": {name: config[name] for name in named},
        "additional_special_tokens": ["<|im_start|>", "<|object_ref_start|>", "<|IMAGE|>"],
        "added_tokens_decoder": tokens,
        **dict.fromkeys(named),
    }


@pytest.mark.parametrize(
    ("whole", "settings"),
    [
        (True, {}),
        (True, published()),
        (False, published()),
        (False, published(normalized=True, lstrip=True, special=False)),
        (True, {"unk_token": None, "eos_token": "<|im_start|>", "mask_token": "<|nobody's|>"}),
        (True, {"extra_special_tokens": ["<|IMAGE|>", "<|new|>"], "split_special_tokens": True}),
        (False, {"add_prefix_space": True, "clean_up_tokenization_spaces": True}),
        (False, {"additional_special_tokens": ["<|new|>", "a"], "pad_token": "a"}),
    ],
)
def test_what_plans_read_is_what_transformers_reads(tmp_path: Path, whole: bool, settings: dict[str, Any]) -> None:
    directory = laid_out(tmp_path, whole=whole, **settings)
    stock, words = tokenizer.load(directory)  # which refuses a difference
    found = tokenizer._read(directory)
    for text in TEXTS:
        ids = stock(text, add_special_tokens=False)["input_ids"]
        assert found.ids(text) == words.ids(text) == ids
        assert found.text(ids) == words.text(ids) == stock.decode(ids, skip_special_tokens=True)
    assert found.named == stock.special_tokens_map


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_a_layout_of_another_age_is_left_to_transformers(tmp_path: Path, name: str) -> None:
    directory = laid_out(tmp_path, whole=False)
    said = {"special_tokens_map.json": {"eos_token": "<|of the map|>"}, "added_tokens.json": {"<|of the list|>": 1459}}
    (directory / name).write_text(json.dumps(said[name]))
    words = tokenizer.read(directory)
    stock = tokenizer.stock(directory)
    assert words.definition() == stock.backend_tokenizer.to_str()
    assert next(iter(said[name].values())) in (words.named["eos_token"], words.id("<|of the list|>"))


def test_a_checkpoint_that_plans_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    names = published()["extra_special_tokens"]
    directory = laid_out(tmp_path, **dict.fromkeys(names), model_specific_special_tokens=names)
    differ = r"\(the names of its tokens, its special tokens\)"
    with pytest.raises(CheckpointError, match=f"otherwise than transformers does {differ}; save it anew"):
        tokenizer.load(directory)


def test_a_tokenizer_that_cannot_be_read_is_said_by_transformers(tmp_path: Path) -> None:
    directory = laid_out(tmp_path, eos_token=7)
    with pytest.raises(CheckpointError, match="eos_token"):
        tokenizer.read(directory)
