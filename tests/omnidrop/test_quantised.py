"""Checkpoints with quantised weights load by transformers' own integration, and our loop runs on them unchanged."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from omnidrop.errors import CheckpointError
from omnidrop.models import quantised
from omnidrop.models.registry import geometry_of, load
from omnidrop.selfcheck import sample_clip, selfcheck
from tests.support.quantised_checkpoints import quantise
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni  # noqa: F401


def in_model(name: str) -> str:
    """A published name as transformers has it."""
    return name.replace("thinker.model.", "model.language_model.")


@pytest.mark.parametrize("bits", ["FP8", "INT4"])
def test_a_dense_checkpoint_is_what_its_weights_say_and_passes_the_selfcheck(
    small_qwen2_5_omni,  # noqa: F811
    tmp_path,
    monkeypatch,
    bits,
):
    directory = tmp_path / bits
    values = quantise(small_qwen2_5_omni, directory, bits)
    loaded = load(str(directory), dtype="float32")
    plain = load(str(small_qwen2_5_omni), dtype="float32").model.state_dict()
    weights = loaded.model.state_dict()
    assert weights.keys() == plain.keys()
    for name, value in values.items():
        torch.testing.assert_close(weights[in_model(name)], value, rtol=2e-3, atol=1e-6)
        assert not torch.equal(value, plain[in_model(name)])
    assert torch.equal(weights["lm_head.weight"], plain["lm_head.weight"])
    assert f"quantised as {bits} (compressed-tensors)" in quantised.stored(directory)
    assert geometry_of(directory).layers == len(loaded.layers)
    if bits == "FP8":
        monkeypatch.setattr("omnidrop.selfcheck.sample_clip", lambda: sample_clip(2, 112, 112))
        report = selfcheck(str(directory), "cpu", "float32")
        assert report.passed, list(report.lines())
        assert "quantised as FP8" in report.stored


def test_weights_that_are_here_are_counted_and_others_are_what_the_index_says(small_qwen2_5_omni, tmp_path):  # noqa: F811
    for name in ("config.json", "model.safetensors"):
        shutil.copy(small_qwen2_5_omni / name, tmp_path)
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    size = (tmp_path / "model.safetensors").stat().st_size
    assert quantised.weight_bytes(tmp_path) == size
    index = {"metadata": {"total_size": 7e9}, "weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert quantised.weight_bytes(tmp_path) == 7_000_000_000


def test_the_experts_of_a_mixture_are_what_their_weights_say(small_qwen3_omni, tmp_path):  # noqa: F811
    values = quantise(small_qwen3_omni, tmp_path / "fp8", "FP8")
    weights = load(str(tmp_path / "fp8"), dtype="float32").model.state_dict()
    layer, expert = "thinker.model.layers.1.", 2
    torch.testing.assert_close(
        weights[in_model(f"{layer}self_attn.q_proj.weight")], values[f"{layer}self_attn.q_proj.weight"]
    )
    parts = [values[f"{layer}mlp.experts.{expert}.{part}_proj.weight"] for part in ("gate", "up")]
    torch.testing.assert_close(weights[in_model(f"{layer}mlp.experts.gate_up_proj")][expert], torch.cat(parts))
    down = weights[in_model(f"{layer}mlp.experts.down_proj")][expert]
    torch.testing.assert_close(down, values[f"{layer}mlp.experts.{expert}.down_proj.weight"])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"quant_method": "bitsandbytes", "bits": 4},
            r"by 'bitsandbytes'.*taken are compressed-tensors, awq",
        ),
        ({"quant_method": "awq", "bits": 4}, r"INT4 \(awq\).*pip install gptqmodel accelerate"),
        ({"quant_method": "gptq", "bits": 8}, r"INT8 \(gptq\).*pip install gptqmodel optimum"),
        ("awq", r"quantised by '\?'"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4}}, "b": {}}},
            "in 2 ways",
        ),
    ],
)
def test_what_cannot_be_loaded_here_is_refused_by_name(small_qwen2_5_omni, tmp_path, monkeypatch, told, said):  # noqa: F811
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)  # as without the packages
    directory = tmp_path / "model"
    shutil.copytree(small_qwen2_5_omni, directory)
    config = json.loads((directory / "config.json").read_text()) | {"quantization_config": told}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        load(str(directory))


def test_awq_and_gptq_want_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: object())
    awq = quantised.Quantisation("awq", "INT4", {"quant_method": "awq", "bits": 4})
    with pytest.raises(CheckpointError, match="runs on a GPU only"):
        quantised.words_for(awq, "cpu", tmp_path)
    assert quantised.words_for(awq, "cuda", tmp_path)["modules_to_not_convert"]


def test_weights_that_are_not_quantised_as_said_are_refused(small_qwen2_5_omni, tmp_path):  # noqa: F811
    quantise(small_qwen2_5_omni, tmp_path / "m", "INT4")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="lack 28 tensors"):
        load(str(tmp_path / "m"))
