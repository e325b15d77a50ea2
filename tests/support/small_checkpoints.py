"""Small random checkpoints of both model families, written as the published ones are laid out.

Promises: real transformers classes a few layers deep, a whole checkpoint directory (configuration with
`thinker_config`, safetensors with `thinker.` names beside talker weights that must be ignored, a byte-level BPE
tokenizer, preprocessor configuration, chat template), the same bytes every time. Knows nothing about the adapters that
load them.

Fixtures `small_qwen2_5_omni`, `small_qwen3_omni` (session) give the directories; a test module imports them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedModel,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

SPECIAL = {
    "qwen2_5_omni": {
        "image_token": "<|IMAGE|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    },
    "qwen3_omni_moe": {
        "image_token": "<|image_pad|>",
        "audio_token": "<|audio_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    },
}
CORPUS = (
    "What colour is the circle? Is a rising sweep heard? Answer with one word. Which shape is shown first, the square "
    "or the triangle? You are a helpful assistant. How many events are there while the low tone is heard? yes no red "
    "green blue yellow purple white cross noise clicks silence high falling 0 1 2 3 4 5 6 7 8 9"
)
VOCABULARY = 420


def chat_template(family: str) -> str:
    """A ChatML template with the family's media marks; Qwen2.5's adds a default system turn, Qwen3's does not."""
    names = SPECIAL[family]
    video = names["vision_bos_token"] + names["video_token"] + names["vision_eos_token"]
    audio = names["audio_bos_token"] + names["audio_token"] + names["audio_eos_token"]
    default_system = (
        "{% if loop.first and message['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        if family == "qwen2_5_omni"
        else ""
    )
    return (
        "{% for message in messages %}" + default_system + "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'video' %}" + video + "{% elif part['type'] == 'audio' %}" + audio + "{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def build_tokenizer(family: str) -> Qwen2Tokenizer:
    """A byte-level BPE of `VOCABULARY` tokens, special tokens included, with the attributes the processors need."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL[family].values()]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([CORPUS], trainer)
    bpe = json.loads(trained.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens={**SPECIAL[family], "chat_start_token": "<|im_start|>"},
    )


def _token_ids(tokenizer: Qwen2Tokenizer, family: str) -> dict[str, int]:
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL[family].items()}
    suffix = "index" if family == "qwen2_5_omni" else "id"
    return {
        f"audio_token_{suffix}": ids["audio_token"],
        f"image_token_{suffix}": ids["image_token"],
        f"video_token_{suffix}": ids["video_token"],
        "audio_start_token_id": ids["audio_bos_token"],
        "audio_end_token_id": ids["audio_eos_token"],
        "vision_start_token_id": ids["vision_bos_token"],
        "vision_end_token_id": ids["vision_eos_token"],
    }


def _text_config(layers: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }


AUDIO = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "output_dim": 64,
    "num_mel_bins": 128,
}


def _qwen2_5_thinker(tokenizer: Qwen2Tokenizer, layers: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5OmniThinkerConfig(
        text_config=_text_config(layers, 4) | {"rope_parameters": rope},
        vision_config=vision,
        audio_config=AUDIO,
        **_token_ids(tokenizer, "qwen2_5_omni"),
    )
    return Qwen2_5OmniThinkerForConditionalGeneration(config)


def _qwen3_thinker(tokenizer: Qwen2Tokenizer, layers: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    mixture = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "head_dim": 16,
        "mlp_only_layers": [],
    }
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "deepstack_visual_indexes": [0, 1, 2],
        "num_position_embeddings": 64,
    }
    config = Qwen3OmniMoeThinkerConfig(
        # Six heads of 16 on width 64: as in the published model, the projections are wider than the hidden state.
        text_config=_text_config(layers, 6) | mixture | {"rope_parameters": rope},
        vision_config=vision,
        audio_config=AUDIO | {"downsample_hidden_size": 8, "n_window": 50, "n_window_infer": 400},
        position_id_per_seconds=13,
        seconds_per_chunk=2,
        **_token_ids(tokenizer, "qwen3_omni_moe"),
    )
    return Qwen3OmniMoeThinkerForConditionalGeneration(config)


def write_checkpoint(directory: Path, family: str, *, layers: int = 4, pixels: tuple[int, int] | None = None) -> Path:
    """Write a random checkpoint of `family` ("qwen2_5_omni" or "qwen3_omni_moe") and return its directory.

    `pixels` are the smallest and largest frame in pixels; by default small ones, so that tests stay fast.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(family)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        thinker = (_qwen2_5_thinker if family == "qwen2_5_omni" else _qwen3_thinker)(tokenizer, layers)
        with torch.no_grad():
            for parameter in thinker.parameters():
                # Five times the usual scale, so that tokens differ and mistakes show far above rounding.
                if parameter.ndim > 1:
                    parameter.mul_(5.0)
    thinker.save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    published = {f"thinker.{name}": tensor for name, tensor in tensors.items()}
    published["talker.model.norm.weight"] = torch.ones(8)
    save_file(published, directory / "model.safetensors", metadata={"format": "pt"})

    thinker_config = json.loads((directory / "config.json").read_text())
    architecture = "Qwen2_5OmniModel" if family == "qwen2_5_omni" else "Qwen3OmniMoeForConditionalGeneration"
    config = {
        "architectures": [architecture],
        "model_type": family,
        "enable_audio_output": False,
        "thinker_config": thinker_config,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))

    tokenizer.save_pretrained(directory)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": chat_template(family)}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    patch = thinker.config.vision_config.patch_size
    preprocessor = {
        "chunk_length": 300,
        "feature_size": 128,
        "hop_length": 160,
        "n_fft": 400,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "return_attention_mask": True,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "merge_size": 2,
        "patch_size": patch,
        "temporal_patch_size": 2,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))
    factor = 2 * patch
    low, high = pixels or (4 * factor * factor, 16 * factor * factor)
    (directory / "processor_config.json").write_text(
        json.dumps({"videos_kwargs": {"size": {"shortest_edge": low, "longest_edge": high}}}, indent=1)
    )
    return directory


@pytest.fixture(scope="session")
def small_qwen2_5_omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Qwen2.5-Omni checkpoint: 4 layers, width 64, 2 s chunks, 25 audio tokens a second."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "qwen2_5_omni", "qwen2_5_omni")


@pytest.fixture(scope="session")
def small_qwen3_omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Qwen3-Omni checkpoint: 4 layers, 4 experts of which 2 are active, deepstack on 3 layers."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "qwen3_omni_moe", "qwen3_omni_moe")
