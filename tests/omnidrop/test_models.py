"""Adapters of both families against the stock models, and everything that can be wrong with a checkpoint."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as qwen2_5
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as qwen3

from omnidrop.errors import CheckpointError
from omnidrop.models.base import AUDIO, TEXT, VIDEO, ClipPrompt, Prefix
from omnidrop.models.checkpoints import checkpoint_hash, resolve_checkpoint
from omnidrop.models.registry import load, read_geometry, weights_hash
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni, write_checkpoint

__all__ = ["small_qwen2_5_omni", "small_qwen3_omni"]

QUESTION = "What colour is the circle?"
CLIPS = {
    # frames, height, width, samples, frames a second
    "video and audio": (8, 64, 96, 64_000, 2.0),
    "audio outlasts video": (4, 64, 96, 100_000, 2.0),
    "video outlasts audio": (12, 64, 96, 30_000, 2.0),
    "one short chunk more of audio": (4, 64, 96, 33_000, 2.0),
    "shorter than its rows": (2, 160, 40, 4_000, 2.0),
    "video only": (7, 51, 133, 0, 2.0),
    "audio only": (0, 0, 0, 70_001, 2.0),
    "slow sampling": (3, 64, 96, 96_000, 0.5),
    "odd sampling": (20, 64, 96, 64_000, 3.7),
}


@pytest.fixture(scope="module", params=["qwen2_5_omni", "qwen3_omni_moe"])
def directory(request: pytest.FixtureRequest) -> Path:
    name = "small_qwen2_5_omni" if request.param == "qwen2_5_omni" else "small_qwen3_omni"
    return request.getfixturevalue(name)


@pytest.fixture(scope="module")
def adapter(directory: Path) -> Any:
    return load(str(directory), dtype="float32")


@pytest.fixture(scope="module")
def stock(directory: Path, adapter: Any) -> Any:
    cls = {
        "qwen2_5_omni": Qwen2_5OmniThinkerForConditionalGeneration,
        "qwen3_omni_moe": Qwen3OmniMoeThinkerForConditionalGeneration,
    }[adapter.family]
    return cls.from_pretrained(str(directory), config=adapter.read_config(directory), dtype=torch.float32).eval()


def clip(name: str) -> dict[str, Any]:
    frames, height, width, samples, fps = CLIPS[name]
    rng = np.random.default_rng(sum(name.encode()))
    return {
        "frames": rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8) if frames else None,
        "audio": (rng.normal(size=samples) * 0.1).astype(np.float32) if samples else None,
        "fps": fps,
    }


def prefix_of(adapter: Any, name: str) -> Prefix:
    given = clip(name)
    return adapter.prefix(
        given["frames"], given["audio"], ClipPrompt(given["fps"], instruction="Answer with one word.")
    )


def stock_arguments(adapter: Any, name: str, input_ids: Tensor) -> dict[str, Any]:
    """The stock forward's arguments for the same clip and these token ids."""
    given = clip(name)
    inputs = adapter.processor.inputs(given["frames"], given["audio"], ClipPrompt(given["fps"]))
    arguments: dict[str, Any] = {"input_ids": input_ids[None], "attention_mask": torch.ones_like(input_ids[None])}
    if given["frames"] is not None:
        pixels, grid = adapter.processor.pixels(given["frames"])
        arguments |= {
            "pixel_values_videos": pixels,
            "video_grid_thw": torch.tensor([grid]),
            "video_second_per_grid": torch.tensor([2 / given["fps"]]),
        }
    if inputs.mel is not None:
        arguments |= {
            "input_features": inputs.mel[None],
            "feature_attention_mask": torch.ones(1, inputs.mel.shape[1], dtype=torch.int64),
        }
    if given["frames"] is not None and inputs.mel is not None:
        arguments["use_audio_in_video"] = True
    return arguments


def decode_stack(adapter: Any, prefix: Prefix, question: Tensor) -> Tensor:
    """Logits of every position from the adapter's parts alone: its prefix, its layers, a causal mask."""
    embeddings = torch.cat([prefix.embeddings, adapter.embed(question)])
    behind = torch.arange(len(question)).to(prefix.positions.dtype) + prefix.next_position
    positions = torch.cat([prefix.positions, behind.expand(3, -1)], dim=1)
    hidden = embeddings[None]
    rotary = adapter.rotary(hidden, positions[:, None, :])
    mask = torch.full((len(embeddings), len(embeddings)), float("-inf")).triu(1)[None, None]
    for number, layer in enumerate(adapter.layers):
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        if number < len(prefix.deepstack):
            hidden[:, : len(prefix.input_ids)] += prefix.deepstack[number]
    return adapter.lm_head(adapter.norm(hidden))[0]


@pytest.mark.parametrize("name", CLIPS)
@torch.inference_mode()
def test_prefix_and_question_give_the_stock_logits(adapter: Any, stock: Any, name: str) -> None:
    prefix = prefix_of(adapter, name)
    question = torch.tensor(adapter.question_ids(QUESTION))
    ours = decode_stack(adapter, prefix, question)
    theirs = stock(**stock_arguments(adapter, name, torch.cat([prefix.input_ids, question]))).logits[0]
    assert theirs.std() > 0.05, "logits that hardly differ would prove nothing"
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CLIPS)
def test_positions_are_the_stock_models(adapter: Any, stock: Any, name: str) -> None:
    prefix = prefix_of(adapter, name)
    question = torch.tensor(adapter.question_ids(QUESTION))
    given = stock_arguments(adapter, name, torch.cat([prefix.input_ids, question]))
    lengths = given["feature_attention_mask"].sum(-1) if "feature_attention_mask" in given else None
    theirs, _ = stock.model.get_rope_index(
        given["input_ids"],
        video_grid_thw=given.get("video_grid_thw"),
        attention_mask=given["attention_mask"],
        use_audio_in_video=given.get("use_audio_in_video", False),
        audio_seqlens=lengths,
        second_per_grids=given.get("video_second_per_grid"),
    )
    assert torch.equal(prefix.positions, theirs[:, 0, : len(prefix.input_ids)])
    assert prefix.positions.dtype == theirs.dtype
    assert prefix.next_position == theirs[0, 0, len(prefix.input_ids)]


@pytest.mark.parametrize("fps", [0.3, 0.7, 1.0, 1.3, 1.75, 2.7, 3.0, 3.5, 6.5, 29.97 / 4])
def test_every_token_stands_at_its_own_place(adapter: Any, fps: float) -> None:
    """Also at the rates where the stock processor and the stock model round differently."""
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    audio = (rng.normal(size=int(16_000 * 24 / fps)) * 0.1).astype(np.float32)
    prefix = adapter.prefix(frames, audio, ClipPrompt(fps))
    geometry = adapter.geometry
    seen, heard = prefix.modality == VIDEO, prefix.modality == AUDIO
    start = prefix.positions[0, heard].min()
    assert torch.equal(prefix.positions[0, heard] - start, torch.arange(heard.sum()).to(prefix.positions.dtype))
    times = prefix.grid[seen, 0] * (2 / fps) * geometry.positions_per_second
    slack = 1.0 if adapter.family == "qwen2_5_omni" else 1e-3
    assert ((prefix.positions[0, seen] - start) - times).abs().max() <= slack
    assert torch.equal(prefix.positions[1, seen] - start, prefix.grid[seen, 1].to(prefix.positions.dtype))
    assert torch.equal(prefix.positions[2, seen] - start, prefix.grid[seen, 2].to(prefix.positions.dtype))
    assert prefix.chunk[seen | heard].max() == int(
        (prefix.positions[0, seen | heard] - start).max() // (geometry.positions_per_second * 2)
    )


def test_a_prefix_says_where_its_tokens_belong(adapter: Any) -> None:
    prefix = prefix_of(adapter, "video and audio")
    seen, heard, text = (prefix.modality == m for m in (VIDEO, AUDIO, TEXT))
    # 64 x 96 at 4 s: 4 temporal patches of the resized frame's rows x columns; 25 or 13 audio tokens a second.
    rows, columns = int(prefix.grid[:, 1].max()) + 1, int(prefix.grid[seen, 2].max()) + 1
    assert int(seen.sum()) == 4 * rows * columns
    assert int(heard.sum()) == 4 * adapter.geometry.positions_per_second
    assert prefix.chunk[seen].tolist() == [t // 2 for t in prefix.grid[seen, 0].tolist()]
    assert prefix.chunk[text].unique().tolist() == [-1]
    assert prefix.grid[text].unique().tolist() == [-1]
    assert prefix.grid[heard, 0].tolist() == list(range(int(heard.sum())))
    assert prefix.audio_importance is not None
    assert prefix.audio_importance.shape == (int(heard.sum()),)
    for rows_added in prefix.deepstack:
        assert rows_added[~seen].abs().max() == 0
        assert rows_added[seen].abs().min(dim=1).values.max() > 0
    assert len(prefix.deepstack) == (3 if adapter.family == "qwen3_omni_moe" else 0)


@torch.inference_mode()
def test_audio_importance_is_the_attention_received(adapter: Any, stock: Any) -> None:
    """Against eager attention weights of the stock encoder's last layer; every encoder chunk has the same mean."""
    inputs = adapter.processor.inputs(None, clip("audio only")["audio"], ClipPrompt(2.0))
    tower = stock.model.audio_tower
    last = tower.layers[-1].self_attn
    caught: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, args, kwargs: caught.extend([*args, *kwargs.values()]), with_kwargs=True)
    tower(inputs.mel, feature_lens=torch.tensor([inputs.mel.shape[1]]))
    hidden, bounds = caught[0], caught[1].tolist()
    sums = []
    for begin, end in itertools.pairwise(bounds):
        part = hidden[begin:end]
        query = last.q_proj(part).view(len(part), last.num_heads, -1).transpose(0, 1)
        key = last.k_proj(part).view(len(part), last.num_heads, -1).transpose(0, 1)
        weights = torch.softmax(query @ key.transpose(1, 2) * last.scaling, dim=-1)
        assert weights.sum(1).mean().item() == pytest.approx(1.0)
        sums.append(weights.mean(0).sum(0))
    expected = torch.cat(sums)
    if adapter.family == "qwen2_5_omni":
        expected = expected[: len(expected) // 2 * 2].view(-1, 2).mean(1)
    got = prefix_of(adapter, "audio only").audio_importance
    torch.testing.assert_close(got, expected)
    assert got.std() > 1e-4


@torch.inference_mode()
def test_video_importance_is_the_attention_received(adapter: Any, stock: Any) -> None:
    """Against attention weights computed from the stock encoder's own inputs; order found by matching its features."""
    frames = np.random.default_rng(5).integers(0, 256, (6, 84, 168, 3), dtype=np.uint8)
    adapter.memory.clear()
    prefix = adapter.prefix(frames, None, ClipPrompt(2.0))
    visual = stock.model.visual
    number = max(getattr(visual, "fullatt_block_indexes", [len(visual.blocks) - 1]))
    attention, caught, merged = visual.blocks[number].attn, {}, []
    attention.register_forward_pre_hook(
        lambda _, args, kwargs: caught.update(kwargs, hidden=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    visual.merger.register_forward_hook(lambda module, args, output: merged.append(output))
    pixels, grid = adapter.processor.pixels(frames)
    features = visual(pixels, grid_thw=torch.tensor([grid])).pooler_output
    hidden, (cos, sin) = caught["hidden"], caught["position_embeddings"]
    if adapter.family == "qwen2_5_omni":
        query, key = attention.q(hidden), attention.k(hidden)
        module = qwen2_5
    else:
        query, key, _ = attention.qkv(hidden).chunk(3, dim=-1)
        module = qwen3
    heads = attention.num_heads
    query, key = (part.reshape(len(hidden), heads, -1) for part in (query, key))
    query, key = module.apply_rotary_pos_emb_vision(query, key, cos, sin)
    sums = []
    per_patch = grid[1] * grid[2]
    for begin in range(0, len(hidden), per_patch):
        here = slice(begin, begin + per_patch)
        scores = torch.einsum("rhd,chd->hrc", query[here], key[here]) * attention.scaling
        sums.append(torch.softmax(scores, dim=-1).mean(0).sum(0))
    by_group = torch.cat(sums).view(-1, 4).mean(1)
    order = torch.cdist(features, merged[0]).argmin(dim=1)
    assert sorted(order.tolist()) == list(range(len(order)))
    if adapter.family == "qwen2_5_omni":
        assert order.tolist() != sorted(order.tolist()), "one window only would prove nothing about the order"
    torch.testing.assert_close(prefix.video_importance, by_group[order], atol=1e-5, rtol=1e-4)
    assert prefix.video_importance.view(3, -1).mean(1).tolist() == pytest.approx([1.0] * 3, rel=1e-4)


def test_weights_come_back_as_they_were_written(adapter: Any, directory: Path) -> None:
    written = load_file(directory / "model.safetensors")
    assert torch.equal(adapter.lm_head.weight, written["thinker.lm_head.weight"])
    assert torch.equal(
        adapter.layers[1].self_attn.q_proj.weight, written["thinker.model.layers.1.self_attn.q_proj.weight"]
    )
    last = "thinker.visual.merger.mlp.2.weight"
    assert torch.equal(adapter.model.model.visual.state_dict()["merger.mlp.2.weight"], written[last])
    assert not any("talker" in name for name, _ in adapter.model.named_parameters())
    assert all(not parameter.is_meta for parameter in adapter.model.parameters())
    assert not adapter.model.training


def test_dtype_is_the_one_asked_for(directory: Path) -> None:
    adapter = load(str(directory), dtype="bfloat16")
    prefix = prefix_of(adapter, "video and audio")
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {torch.bfloat16}
    assert prefix.embeddings.dtype == torch.bfloat16
    assert prefix.audio_importance is not None
    assert prefix.audio_importance.dtype == torch.float32


def test_answers_and_ends(adapter: Any) -> None:
    assert adapter.text(adapter.answer_ids("a rising sweep")) == "a rising sweep"
    assert adapter.text([*adapter.answer_ids("red"), *adapter.end_ids]) == "red"
    assert adapter.question_ids(QUESTION)[-1:] == adapter.processor.ids("\n")


def test_geometry_is_the_loaded_models(adapter: Any, directory: Path) -> None:
    geometry = read_geometry(str(directory))
    layer = adapter.layers[0]
    assert geometry.layers == len(adapter.layers)
    assert geometry.width == adapter.norm.weight.numel()
    assert geometry.query_width == layer.self_attn.q_proj.out_features
    assert geometry.kv_width == layer.self_attn.k_proj.out_features
    assert geometry.vocabulary == adapter.lm_head.out_features
    if adapter.family == "qwen3_omni_moe":
        assert geometry.active_experts == 2
        assert geometry.mlp_width == layer.mlp.experts.down_proj.shape[-1]
    else:
        assert geometry.mlp_width == layer.mlp.down_proj.in_features


def test_hash_follows_content_and_not_place(tmp_path: Path, small_qwen2_5_omni: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    shutil.copytree(small_qwen2_5_omni, copy)
    first = checkpoint_hash(small_qwen2_5_omni)
    assert first == checkpoint_hash(copy) == weights_hash(str(copy)) == checkpoint_hash(copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = checkpoint_hash(copy)
    assert changed != first
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "other"}))
    assert checkpoint_hash(copy) not in (first, changed)


def test_a_user_without_a_home_has_its_checkpoints_read_each_time(small_qwen2_5_omni: Path, no_home: None) -> None:
    assert checkpoint_hash(small_qwen2_5_omni) == checkpoint_hash(small_qwen2_5_omni)


class TestRefused:
    """Every message says what was given and what to do."""

    @pytest.fixture
    def copy(self, tmp_path: Path, small_qwen2_5_omni: Path) -> Path:
        return Path(shutil.copytree(small_qwen2_5_omni, tmp_path / "copy"))

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="neither a folder, nor a hub id"):
            load(str(tmp_path / "absent"))

    def test_hub_out_of_reach(self, monkeypatch: Any) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="it cannot be fetched from the hub"):
            load("nobody/no-such-omni-model")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
    def test_missing_file(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        with pytest.raises(CheckpointError, match=f"lacks {name}"):
            load(str(copy))

    def test_pickled_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"only pytorch_model\.bin.*never loaded"):
            load(str(copy))

    def test_code_of_its_own(self, copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
        (copy / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')")
        with pytest.raises(CheckpointError, match=r"evil\.Model.*never happens here"):
            load(str(copy))

    def test_other_family(self, copy: Path) -> None:
        (copy / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(CheckpointError, match=r"'llama'; supported are Qwen2\.5-Omni .*Qwen3-Omni"):
            load(str(copy))

    def test_missing_shard(self, copy: Path) -> None:
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=r"lacks 1 of 2 weight files: model-2\.safetensors"):
            load(str(copy))

    def test_incomplete_weights(self, copy: Path) -> None:
        from safetensors.torch import save_file

        tensors = load_file(copy / "model.safetensors")
        tensors.pop("thinker.lm_head.weight")
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"lack 1 tensors of the thinker, such as .*lm_head"):
            load(str(copy))

    def test_truncated_weights(self, copy: Path) -> None:
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            load(str(copy))

    def test_tokenizer_of_another_version(self, copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        config["thinker_config"]["video_token_index"] += 1
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r"media tokens do not agree .*video: 4"):
            load(str(copy))

    @pytest.mark.parametrize("part", ["text_config", "vision_config", "audio_config"])
    def test_more_layers_than_memory_holds(self, copy: Path, part: str) -> None:
        path = copy / "config.json"
        config = json.loads(path.read_text())
        thinker = config.get("thinker_config", config)
        thinker[part]["num_hidden_layers" if part == "text_config" else "depth"] = 2**31
        path.write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r"says .*: 2.14748e\+09; at most 4096"):
            load(str(copy))

    def test_unreadable_configuration(self, copy: Path) -> None:
        (copy / "config.json").write_text("{")
        with pytest.raises(CheckpointError, match="cannot be read as JSON"):
            load(str(copy))

    def test_no_chat_template(self, copy: Path) -> None:
        (copy / "chat_template.json").unlink()
        with pytest.raises(CheckpointError, match="no chat template"):
            load(str(copy))

    def test_unknown_dtype_and_device(self, copy: Path) -> None:
        with pytest.raises(CheckpointError, match="allowed: float32, bfloat16, float16"):
            load(str(copy), dtype="int8")
        with pytest.raises(CheckpointError, match="allowed: cpu, cuda"):
            load(str(copy), device="toaster")


def test_a_thinker_saved_alone_loads_too(tmp_path: Path) -> None:
    """`save_pretrained` of the thinker, without the outer configuration."""
    checkpoint = write_checkpoint(tmp_path / "whole", "qwen2_5_omni", layers=1)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config["thinker_config"]))
    assert load(str(checkpoint), dtype="float32").family == "qwen2_5_omni"


def test_resolve_gives_a_local_directory(small_qwen2_5_omni: Path) -> None:
    assert resolve_checkpoint(str(small_qwen2_5_omni)) == small_qwen2_5_omni.resolve()
