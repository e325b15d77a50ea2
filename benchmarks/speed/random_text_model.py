"""A text decoder of any size with random weights behind the adapter protocol, and a clip's prefix made of noise.

Promises: the real transformers layers at the asked shape, so that times, FLOPs and bytes are the real model's; what it
answers means nothing. Knows nothing about encoders or tokenizers: questions come as rows of token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniTextConfig, Qwen2_5OmniThinkerTextModel

from omnidrop.engine.question_rows import Asked, Factor, Options
from omnidrop.models.base import AUDIO, TEXT, VIDEO, Prefix, ReadyClip
from omnidrop.models.keys_and_values import keys_and_values
from omnidrop.questions import Boolean, Question, Text

SHAPES: dict[str, dict[str, int]] = {
    "qwen2_5_omni_3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "qwen2_5_omni_7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "middle": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "test": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2},
}
SECTIONS = {128: [16, 24, 24], 16: [2, 3, 3]}
"""Rotary sections by head size."""
TEMPLATE_ROWS = 5
"""The chat template's fixed words behind a question: end of turn, line break, start, role, line break."""


class RandomTextModel:
    """An `Adapter` without encoders and tokenizer."""

    family = "qwen2_5_omni"
    weights_hash = "random"

    def __init__(
        self,
        shape: str,
        layers: int,
        *,
        vocabulary: int = 4096,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        sizes = SHAPES[shape]
        head = sizes["hidden_size"] // sizes["num_attention_heads"]
        config: Any = Qwen2_5OmniTextConfig(
            **sizes,
            num_hidden_layers=layers,
            vocab_size=vocabulary,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": SECTIONS[head]},
        )
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model: Any = Qwen2_5OmniThinkerTextModel(config).to(dtype)
            self.lm_head = nn.Linear(sizes["hidden_size"], vocabulary, bias=False, dtype=dtype)
        model.to_empty(device=self.device)
        self.lm_head.to_empty(device=self.device)
        # Tiles of one block of noise: every layer has its own memory, without a minute of drawing numbers.
        noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(self.device, dtype)
        for number, parameter in enumerate((*model.parameters(), *self.lm_head.parameters())):
            flat = parameter.data.view(-1)
            if parameter.ndim == 1:
                flat.fill_(1.0)
                continue
            scale = parameter.shape[1] ** -0.5
            for start in range(0, flat.numel(), noise.numel()):
                piece = flat[start : start + noise.numel()]
                piece.copy_(noise.roll(number * 7919 + start // noise.numel())[: piece.numel()]).mul_(scale)
        for layer in model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.bias.data.zero_()
        # Its frequencies are no parameters, so that `to_empty` has left noise in them.
        model.rotary_emb = type(model.rotary_emb)(config=config).to(self.device)
        self.rotary = model.rotary_emb
        self.model = model.eval()
        self.layers: Sequence[nn.Module] = model.layers
        self.norm: nn.Module = model.norm
        self.config: object = config

    def embed(self, input_ids: Tensor) -> Tensor:
        """(S,) -> (S, D)."""
        embedded: Tensor = self.model.embed_tokens(input_ids)
        return embedded * self.embedding_scale

    def keys_and_values(self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """See `omnidrop.models.base.Adapter.keys_and_values`."""
        return keys_and_values(self.layers[layer], hidden, rotary)

    embedding_scale = 1.0

    @property
    def end_ids(self) -> tuple[int, ...]:
        """No text ends by itself, so that every question decodes as long as asked."""
        return ()

    def text(self, ids: Sequence[int]) -> str:
        """Numbers instead of words."""
        return " ".join(map(str, ids))

    @property
    def tokenizer_json(self) -> str | None:
        """None: there is no tokenizer."""
        return None

    def question_ids(self, text: str) -> list[int]:
        """Not needed: `questions` makes rows."""
        raise NotImplementedError

    def answer_ids(self, text: str) -> list[int]:
        """Not needed: `questions` makes rows."""
        raise NotImplementedError

    def make_ready(self, *_: object, **__: object) -> ReadyClip:
        """Not needed: see `clip`."""
        raise NotImplementedError

    def prefix(self, *_: object, **__: object) -> Prefix:
        """Not needed: see `clip`."""
        raise NotImplementedError


@dataclass(frozen=True)
class ClipShape:
    """A clip in tokens: per chunk `frames` temporal patches of `rows` x `columns` tokens, then `audio` audio tokens."""

    chunks: int = 10
    frames: int = 2
    rows: int = 7
    columns: int = 25
    audio: int = 50
    text_before: int = 24
    text_after: int = 16

    @property
    def tokens(self) -> int:
        """Audio and video tokens."""
        return self.chunks * (self.frames * self.rows * self.columns + self.audio)


def clip(model: RandomTextModel, shape: ClipShape, seed: int = 0) -> Prefix:
    """A prefix of noise with the positions that Qwen2.5-Omni gives to audio in video."""
    generator = torch.Generator().manual_seed(seed)
    modality = [TEXT] * shape.text_before
    chunk, grid = [-1] * shape.text_before, [(-1, -1, -1)] * shape.text_before
    positions = [(i, i, i) for i in range(shape.text_before)]
    start, heard = shape.text_before, 0
    for number in range(shape.chunks):
        for frame in range(shape.frames):
            time = number * 50 + frame * 50 // shape.frames
            for row in range(shape.rows):
                for column in range(shape.columns):
                    modality.append(VIDEO)
                    chunk.append(number)
                    grid.append((number * shape.frames + frame, row, column))
                    positions.append((start + time, start + row, start + column))
        for sound in range(shape.audio):
            modality.append(AUDIO)
            chunk.append(number)
            grid.append((heard, 0, 0))
            heard += 1
            positions.append((start + number * 50 + sound * 50 // shape.audio,) * 3)
    following = max(max(p) for p in positions) + 1
    positions += [(following + i,) * 3 for i in range(shape.text_after)]
    modality += [TEXT] * shape.text_after
    chunk += [-1] * shape.text_after
    grid += [(-1, -1, -1)] * shape.text_after
    count = len(modality)
    embeddings = torch.randn(count, model.config.hidden_size, generator=generator)  # type: ignore[attr-defined]
    device = model.device
    return Prefix(
        input_ids=torch.zeros(count, dtype=torch.int64, device=device),
        embeddings=embeddings.to(device, model.dtype),
        positions=torch.tensor(positions).T.contiguous().to(device),
        next_position=following + shape.text_after,
        modality=torch.tensor(modality, dtype=torch.int8, device=device),
        chunk=torch.tensor(chunk, dtype=torch.int32, device=device),
        grid=torch.tensor(grid, dtype=torch.int32, device=device),
        seconds=torch.tensor(
            [(p[0] - start) / 25 if m != TEXT else -1.0 for p, m in zip(positions, modality, strict=True)]
        ).to(device),
        audio_importance=torch.rand(shape.chunks * shape.audio, generator=generator).to(device),
    )


def questions(count: int, words: int = 24, *, text: int = 0, seed: int = 1) -> tuple[Asked, ...]:
    """`count` questions of `words` random tokens and the template's: yes/no, or text of `text` tokens where given."""
    generator = torch.Generator().manual_seed(seed)
    asked = []
    for number in range(count):
        ids = torch.randint(10, 4000, (words,), generator=generator).tolist() + list(range(TEMPLATE_ROWS))
        kind = Text(text) if text else Boolean()
        options = None if text else Options((), (), ((Factor(0, 5),), (Factor(0, 6),)))
        asked.append(Asked(Question(f"q{number}", "noise", kind), tuple(ids), (0, words), options))
    return tuple(asked)
