"""The shape of the embedded checkpoint, its deterministic start, and its files in the published layout.

Promises: `save` writes a directory that loads like Qwen2.5-Omni 3B or 7B (weights named `thinker.*`, no talker), and
`fresh` gives the same weights for the same seed on every machine. Knows nothing about worlds, data or training.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
)

from training.tiny.tokenizer import SPOKEN, same_word_ids

FRAME_PIXELS = 32 * 28 * 28
"""Pixels a frame after resizing, at most: 112 x 196 (28 cells of 28 x 28) for a 16:9 picture, 112 x 168 for 4:3 and
140 x 140 for a square one; a shape of half-size 13 % then spans at least 29 pixels."""
MIN_FRAME_PIXELS = 20 * 28 * 28
ALL_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""What `save` writes."""
HOP = 400
"""Samples between mel frames (25 ms). Two halvings later that is 10 audio tokens a second, which keeps video in the
majority (56 video to 20 audio tokens in 2 s at 2 frames a second)."""
MELS = 64
POSITIONS_PER_S = 10
CHUNK_S = 2
WIDTH = 256
LAYERS = 12
LOOKUP_AT = (0, 5)
"""Behind how many layers `deepen` puts one that finds a token's like: at the start, where a token is nothing but its
name, and where every token has come to name its moment."""


def thinker_config(tokenizer: Qwen2Tokenizer, layers: int = LAYERS) -> Qwen2_5OmniThinkerConfig:
    """The configuration of the small thinker; token numbers come from its own tokenizer."""
    number = tokenizer.convert_tokens_to_ids
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": MELS,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "d_model": 128,
            "max_source_positions": 1500,
            # One encoder window of 2 * n_window mel frames is one chunk: 80 frames of 25 ms.
            "n_window": CHUNK_S * 16_000 // HOP // 2,
            "output_dim": WIDTH,
        },
        vision_config={
            "depth": 5,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3, 4],
            "out_hidden_size": WIDTH,
        },
        text_config={
            "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
            "hidden_size": WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "max_window_layers": layers,
            # Sections [16, 8, 8] give time the 16 fastest of 32 frequencies; with theta 1e6 their wavelengths reach
            # from 6 to about 4,000 positions, that is past the longest clip.
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 8, 8]},
            "tie_word_embeddings": False,
            "pad_token_id": number("<|endoftext|>"),
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
        },
        audio_token_index=number("<|AUDIO|>"),
        image_token_index=number("<|IMAGE|>"),
        video_token_index=number("<|VIDEO|>"),
        audio_start_token_id=number("<|audio_bos|>"),
        audio_end_token_id=number("<|audio_eos|>"),
        vision_start_token_id=number("<|vision_bos|>"),
        vision_end_token_id=number("<|vision_eos|>"),
        user_token_id=number("user"),
        pad_token_id=number("<|endoftext|>"),
        position_id_per_seconds=POSITIONS_PER_S,
        seconds_per_chunk=CHUNK_S,
        tie_word_embeddings=False,
    )


def fresh(tokenizer: Qwen2Tokenizer, seed: int = 0) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The untrained model in float32.

    Linear maps start at 1 / sqrt(fan-in), word embeddings at unit scale. Four starts shorten the long plateau before
    attention finds anything: each decoder query map begins close to its key map (mimetic initialisation), one head of
    the early layers looks at its own moment, output maps begin close to the transposed value maps so that attending
    copies, and the head begins as the embeddings, all forms of one word (case, leading space) side by side.
    """
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(tokenizer)).float()
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv3d):
                fan_in = module.weight[0].numel()
                module.weight.copy_(noise(*module.weight.shape) / math.sqrt(fan_in))
                if module.bias is not None:
                    module.bias.zero_()
        embedding = model.get_input_embeddings().weight
        embedding.copy_(noise(*embedding.shape))
        for same in same_word_ids(tokenizer):
            embedding[same] = noise(1, WIDTH) + 0.3 * noise(len(same), WIDTH)
        model.lm_head.weight.copy_(embedding / math.sqrt(WIDTH))
        for number, layer in enumerate(model.model.language_model.layers):
            _start_attention(layer.self_attn, number)
            layer.mlp.down_proj.weight.mul_(0.5)
    return model


def _start_attention(attention: nn.Module, number: int) -> None:
    """Mimetic start of one decoder layer, in place; weights hold noise of 1 / sqrt(fan-in) before."""
    groups, kv_heads, size = attention.num_key_value_groups, attention.num_key_value_heads, attention.head_dim
    pairs = torch.arange(size) % (size // 2)
    # Meaning is matched where rotation is slow, so that a word finds its like at any distance; the fast pairs are left
    # to position.
    emphasis = torch.where(pairs >= 10, 1.3, 0.4)[:, None]
    keys = attention.k_proj.weight.view(kv_heads, size, WIDTH)
    keys.mul_(emphasis)
    share, rest = (0.7, 0.7) if number < LAYERS // 3 else (1.0, 0.3)
    queries = attention.q_proj.weight.view(kv_heads, groups, size, WIDTH)
    queries.mul_(rest * emphasis).add_(share * keys[:, None])
    if number < LAYERS // 2:
        # One head looks at its own moment: equal biases on temporal pairs whose wavelengths are 20 to 130 positions.
        near = (pairs >= 3) & (pairs <= 7)
        attention.k_proj.bias.view(kv_heads, size)[0, near] = 2.8
        attention.q_proj.bias.view(kv_heads, groups, size)[0, 0, near] = 2.8
        queries[0, 0].mul_(0.2)
    values = attention.v_proj.weight.view(kv_heads, 1, size, WIDTH)
    copying = values.expand(-1, groups, -1, -1).reshape(-1, WIDTH).T
    attention.o_proj.weight.mul_(0.5).add_(0.3 * copying)


def deepen(
    model: Qwen2_5OmniThinkerForConditionalGeneration, tokenizer: Qwen2Tokenizer
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A trained model that is to learn new words: the words get rows of their own, and more layers (LOOKUP_AT) find,
    before any training, tokens that name the same thing.

    What a trained decoder looks up it looks up by the few names it was taught: questions keyed by a new word stayed at
    guessing for 600 steps.
    """
    untrained = fresh(tokenizer)
    layers = list(model.model.language_model.layers)
    for at in reversed(LOOKUP_AT):
        looking = untrained.model.language_model.layers[LAYERS - 1 - at]
        _start_lookup(looking)
        layers.insert(at, looking)
    deeper = Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(tokenizer, len(layers))).float()
    deeper.model.language_model.layers.load_state_dict(nn.ModuleList(layers).state_dict())
    rest = {n: value.clone() for n, value in model.state_dict().items() if ".language_model.layers." not in n}
    new = slice(len(tokenizer) - len(SPOKEN), len(tokenizer))
    rest["model.language_model.embed_tokens.weight"][new] = untrained.get_input_embeddings().weight.detach()[new]
    rest["lm_head.weight"][new] = untrained.lm_head.weight.detach()[new]
    deeper.load_state_dict(rest, strict=False)
    return deeper


@torch.no_grad()
def _start_lookup(layer: nn.Module) -> None:
    """Queries equal to keys on the pairs that a whole clip hardly turns, so that a token finds its like; equal and
    opposite biases on pairs that turn within a second or two, so that it finds neither itself nor its neighbours. What
    is found is copied with a small weight."""
    attention = layer.self_attn
    kv_heads, groups, size = attention.num_key_value_heads, attention.num_key_value_groups, attention.head_dim
    pairs = torch.arange(size) % (size // 2)
    keys = attention.k_proj.weight.view(kv_heads, 1, size, WIDTH)
    keys.mul_(torch.where(pairs >= 14, 1.3, 0.1)[:, None])
    attention.q_proj.weight.view(kv_heads, groups, size, WIDTH).copy_(keys.expand(-1, groups, -1, -1))
    away = (pairs >= 4) & (pairs <= 9)
    attention.k_proj.bias.view(kv_heads, size)[:, away] = 2.0
    attention.q_proj.bias.view(kv_heads, groups, size)[:, :, away] = -2.0
    values = attention.v_proj.weight.view(kv_heads, 1, size, WIDTH)
    attention.o_proj.weight.copy_(0.3 * values.expand(-1, groups, -1, -1).reshape(-1, WIDTH).T)
    layer.mlp.down_proj.weight.zero_()


def preprocessor() -> dict[str, object]:
    """What `preprocessor_config.json` holds: picture sizes and the Whisper feature extractor's settings."""
    return {
        "processor_class": "Qwen2_5OmniProcessor",
        "image_processor_type": "Qwen2VLImageProcessor",
        "feature_extractor_type": "WhisperFeatureExtractor",
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": MIN_FRAME_PIXELS,
        "max_pixels": FRAME_PIXELS,
        "size": {"shortest_edge": MIN_FRAME_PIXELS, "longest_edge": FRAME_PIXELS},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "feature_size": MELS,
        "sampling_rate": 16_000,
        "hop_length": HOP,
        "n_fft": 400,
        "chunk_length": 300,
        "n_samples": 300 * 16_000,
        "nb_max_frames": 300 * 16_000 // HOP,
        "padding_side": "right",
        "padding_value": 0.0,
        "dither": 0.0,
        "return_attention_mask": True,
        "seconds_per_chunk": float(CHUNK_S),
        "position_id_per_seconds": POSITIONS_PER_S,
    }


def save(model: Qwen2_5OmniThinkerForConditionalGeneration, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write `folder` in the published layout: bf16 weights under `thinker.`, configurations, tokenizer, template."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = len(model.model.language_model.layers)
    whole = Qwen2_5OmniForConditionalGeneration(
        Qwen2_5OmniConfig(thinker_config=thinker_config(tokenizer, layers).to_dict(), enable_audio_output=False)
    )
    whole.thinker.load_state_dict(model.state_dict())
    whole.to(torch.bfloat16).save_pretrained(folder)
    # The talker's configuration describes a model that is not here; readers of the thinker never look at it.
    config = json.loads((folder / "config.json").read_text())
    for unused in ("talker_config", "token2wav_config"):
        config.pop(unused, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    GenerationConfig(
        eos_token_id=[tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|endoftext|>")],
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        do_sample=False,
    ).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(), indent=2, sort_keys=True) + "\n")
    bounds = {"shortest_edge": MIN_FRAME_PIXELS, "longest_edge": FRAME_PIXELS}
    processor = {
        "processor_class": "Qwen2_5OmniProcessor",
        "videos_kwargs": {"size": bounds},
        "seconds_per_chunk": float(CHUNK_S),
        "position_id_per_seconds": POSITIONS_PER_S,
    }
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)
    for name in ALL_FILES:
        (folder / name).chmod(0o644)


def load(folder: Path) -> tuple[Qwen2_5OmniThinkerForConditionalGeneration, Qwen2Tokenizer]:
    """The thinker in float32 and its tokenizer from `folder`."""
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, Qwen2Tokenizer.from_pretrained(folder)
