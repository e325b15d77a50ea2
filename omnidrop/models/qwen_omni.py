"""What the Qwen Omni families share: loading the thinker, encoding a clip, laying out the prefix.

Promises: the `Adapter` protocol of `base.py` on top of the stock transformers classes; the published checkpoint layout,
whose talker and vocoder weights are left unread. Knows nothing about pruning or question sets; the families differ in
the hooks that `qwen2_5_omni.py` and `qwen3_omni.py` fill in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from omnidrop.errors import CheckpointError
from omnidrop.models.base import AUDIO, VIDEO, Prefix
from omnidrop.models.checkpoints import checkpoint_hash, family_of
from omnidrop.models.encoders import (
    BlockAttention,
    EncoderSettings,
    FeatureMemory,
    PatchPlan,
    encoder_notes,
    plan_patches,
    silent_chunks,
)
from omnidrop.models.geometry import SAMPLE_RATE, Geometry, geometry_of, thinker_config
from omnidrop.models.processing import ClipProcessor

PATCHES_AT_ONCE = 64
"""Temporal patches encoded in one call. They do not see each other, so this bounds memory and changes nothing: 64 of
448x252 pixels are 170 MB of float32."""


class QwenOmniAdapter:
    """A loaded thinker. Subclasses name the family, its class and how its audio encoder's columns become tokens."""

    family: str

    def __init__(
        self,
        directory: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        encoders: EncoderSettings,
    ) -> None:
        found = family_of(directory)
        if found != self.family:
            raise CheckpointError(f"{directory} is a {found} checkpoint, not {self.family}")
        self.device, self.dtype, self.encoders = device, dtype, encoders
        self.geometry: Geometry = geometry_of(directory)
        self.processor = ClipProcessor(directory, self.geometry)
        self.weights_hash, self.model = self.weights(directory)
        decoder = self.model.model.language_model
        self.layers: Sequence[nn.Module] = decoder.layers
        self.norm: nn.Module = decoder.norm
        self.rotary: nn.Module = decoder.rotary_emb
        self.lm_head: nn.Module = self.model.lm_head
        self.config: Any = self.model.config.text_config
        self._embedding: nn.Module = decoder.embed_tokens
        self._check_token_ids()
        self.memory = FeatureMemory(encoders.memory_bytes)
        audio_tower, visual = self.model.model.audio_tower, self.model.model.visual
        self.audio_attention = BlockAttention(audio_tower, audio_tower.layers[-1].self_attn)
        self.vision_attention = BlockAttention(visual, self.last_full_attention())

    @staticmethod
    def thinker_class() -> Any:
        """The transformers class that holds the thinker."""
        raise NotImplementedError

    def weights(self, directory: Path) -> tuple[str, Any]:
        """Hash of the checkpoint's content, and its thinker on the device."""
        return checkpoint_hash(directory), _load_thinker(self.thinker_class(), directory, self.device, self.dtype)

    def pooled_importance(self, received: Tensor) -> Tensor:
        """Attention received per encoder column -> per audio token."""
        raise NotImplementedError

    def last_full_attention(self) -> nn.Module:
        """The attention of the vision encoder's last block in which a temporal patch attends to all of itself."""
        raise NotImplementedError

    def token_order(self, received: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Attention received per group of merged patches, as the encoder orders them -> per video token."""
        raise NotImplementedError

    def vision_flops(self, patches: int, rows: int, columns: int) -> int:
        """Of encoding `patches` temporal patches of `rows` x `columns` tokens."""
        raise NotImplementedError

    def audio_flops(self, mel_frames: int) -> int:
        """Of encoding so many mel frames."""
        raise NotImplementedError

    def _check_token_ids(self) -> None:
        """Tokenizer and configuration both name the media tokens; the model's own code goes by the configuration."""
        config, tokens = self.model.config, self.processor.media_tokens
        pairs = {
            "video": (tokens.video, config.video_token_id),
            "audio": (tokens.audio, config.audio_token_id),
            "start of vision": (tokens.vision_start, config.vision_start_token_id),
            "start of audio": (tokens.audio_start, config.audio_start_token_id),
        }
        wrong = [f"{name}: {by} by the tokenizer, {of} by config.json" for name, (by, of) in pairs.items() if by != of]
        if wrong:
            raise CheckpointError(
                f"the checkpoint's media tokens do not agree ({'; '.join(wrong)}): are its files of one version?"
            )

    def embed(self, input_ids: Tensor) -> Tensor:
        """(S,) int64 -> (S, D)."""
        return cast(Tensor, self._embedding(input_ids))

    def question_ids(self, text: str) -> list[int]:
        """Token ids of one question, up to and including the start of the assistant's turn."""
        return self.processor.question_ids(text)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer text as it would follow the assistant's start, without an end token."""
        return self.processor.answer_ids(text)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer."""
        return self.processor.end_ids

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids without special tokens."""
        return self.processor.text(ids)

    @property
    def tokenizer_json(self) -> str | None:
        """The tokenizer's whole definition in the format of the `tokenizers` library."""
        return str(self.processor.tokenizer.backend_tokenizer.to_str())

    @torch.inference_mode()
    def prefix(
        self,
        frames: npt.NDArray[np.uint8] | None,
        audio: npt.NDArray[np.float32] | None,
        *,
        fps: float,
        system_prompt: str | None,
        instruction: str,
    ) -> Prefix:
        """Encode one clip and lay out everything before the questions. See `omnidrop.models.base.Adapter.prefix`."""
        inputs = self.processor.inputs(frames, audio, fps=fps, system_prompt=system_prompt, instruction=instruction)
        layout = inputs.layout
        input_ids = layout.input_ids.to(self.device)
        modality = layout.modality.to(self.device)
        embeddings = self.embed(input_ids)
        deepstack: list[Tensor] = []
        audio_importance = video_importance = plan = silent = None
        flops = dense_flops = 0
        # Counts are known on the host, so places are found there: no device synchronisation.
        if frames is not None and inputs.grid is not None:
            patches, rows, columns = inputs.grid
            plan, (seen, *deep, video_importance) = self._encode_video(frames, rows, columns)
            flops += self.vision_flops(len(plan.encode), rows, columns)
            dense_flops += self.vision_flops(patches, rows, columns)
            where = (layout.modality == VIDEO).nonzero().squeeze(1).to(self.device)
            embeddings = embeddings.index_copy(0, where, seen.to(embeddings.dtype))
            deepstack = [torch.zeros_like(embeddings).index_copy(0, where, d.to(embeddings.dtype)) for d in deep]
        if audio is not None and inputs.mel is not None:
            flops += self.audio_flops(inputs.mel.shape[1])
            dense_flops += self.audio_flops(inputs.mel.shape[1])
            per_chunk = round(self.geometry.seconds_per_chunk * SAMPLE_RATE)
            silent = silent_chunks(audio, per_chunk, self.encoders.silence_dbfs)
            heard, audio_importance = self._encode_audio(inputs.mel)
            where = (layout.modality == AUDIO).nonzero().squeeze(1).to(self.device)
            embeddings = embeddings.index_copy(0, where, heard.to(embeddings.dtype))
        return Prefix(
            input_ids=input_ids,
            embeddings=embeddings,
            positions=layout.positions.to(self.device),
            next_position=layout.next_position,
            modality=modality,
            chunk=layout.chunk.to(self.device),
            grid=layout.grid.to(self.device),
            seconds=layout.seconds.to(self.device),
            audio_importance=audio_importance,
            video_importance=video_importance,
            deepstack=tuple(deepstack),
            encoder_flops=flops,
            encoder_flops_dense=dense_flops,
            notes=(*encoder_notes(plan, silent, self.encoders), *_left_out(audio, inputs.mel)),
        )

    def _encode_video(self, frames: npt.NDArray[np.uint8], rows: int, columns: int) -> tuple[PatchPlan, list[Tensor]]:
        """What was encoded, and by video token: features (tokens, D), those for deepstack (Qwen3), and last the
        attention received (tokens,)."""
        step, per_patch = self.geometry.temporal_patch, rows * columns
        name = repr((frames.shape[1:], rows, columns, str(self.dtype), self.weights_hash)).encode()
        plan = plan_patches(frames, step, name, self.memory, self.encoders)
        known: dict[bytes, tuple[Tensor, ...]] = {}
        # Fetched before anything is put in, which may push some of it out.
        for key in plan.keys:
            found = self.memory.get(key)
            if found is not None:
                known[key] = found
        for begin in range(0, len(plan.encode), PATCHES_AT_ONCE):
            patches = plan.encode[begin : begin + PATCHES_AT_ONCE]
            picked = [min(p * step + n, len(frames) - 1) for p in patches for n in range(step)]
            pixels, grid = self.processor.pixels(frames[picked], self.device)
            with self.vision_attention.recording() as received:
                output = self.model.model.visual(
                    pixels.to(self.dtype), grid_thw=torch.tensor([grid], device=self.device)
                )
            merged = torch.cat(received).view(-1, self.geometry.merge**2).mean(dim=1)
            deep = getattr(output, "deepstack_features", None) or []
            parts = [output.pooler_output, *deep, self.token_order(merged, grid)]
            for number, patch in enumerate(patches):
                features = tuple(part[number * per_patch : (number + 1) * per_patch] for part in parts)
                known[plan.keys[patch]] = features
                self.memory.put(plan.keys[patch], features)
        depths = len(next(iter(known.values())))
        return plan, [torch.cat([known[key][depth] for key in plan.keys]) for depth in range(depths)]

    def _encode_audio(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Features (audio tokens, D) and attention received in the last layer (audio tokens,) float32."""
        mel = mel.to(self.device, self.dtype)
        lengths = torch.tensor([mel.shape[1]], device=self.device)
        with self.audio_attention.recording() as received:
            output = self.model.model.audio_tower(mel, feature_lens=lengths)
        return output.last_hidden_state, self.pooled_importance(torch.cat(received))


def _left_out(audio: npt.NDArray[np.float32] | None, mel: Tensor | None) -> list[str]:
    if audio is None or mel is not None:
        return []
    return [f"the sound was left out: {len(audio)} samples are too few for a token"]


def _load_thinker(thinker: Any, directory: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The thinker's weights alone, from safetensors, in evaluation mode on `device`."""
    from safetensors import SafetensorError
    from transformers.utils import is_accelerate_available, logging

    # With accelerate the weights go straight to the device; without it through main memory.
    straight = {"device_map": {"": device}} if device.type != "cpu" and is_accelerate_available() else {}
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = thinker.from_pretrained(
            str(directory),
            config=thinker_config(directory),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
            **straight,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(f"the weights in {directory} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"the weights in {directory} lack {len(missing)} tensors of the thinker, such as {', '.join(missing[:3])}; "
            "they would be random"
        )
    return model.to(device).eval()
