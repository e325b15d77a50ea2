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

from omnidrop.encoders import AttentionReceived
from omnidrop.errors import CheckpointError
from omnidrop.geometry import Geometry, geometry_of, thinker_config
from omnidrop.models.base import AUDIO, VIDEO, Prefix
from omnidrop.models.checkpoints import checkpoint_hash, family_of
from omnidrop.processing import ClipProcessor, ModelInputs


class QwenOmniAdapter:
    """A loaded thinker. Subclasses name the family, its class and how its audio encoder's columns become tokens."""

    family: str

    def __init__(self, directory: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        found = family_of(directory)
        if found != self.family:
            raise CheckpointError(f"{directory} is a {found} checkpoint, not {self.family}")
        self.device, self.dtype = device, dtype
        self.weights_hash = checkpoint_hash(directory)
        self.geometry: Geometry = geometry_of(directory)
        self.processor = ClipProcessor(directory, self.geometry)
        self.model: Any = _load_thinker(self.thinker_class(), directory, device, dtype)
        decoder = self.model.model.language_model
        self.layers: Sequence[nn.Module] = decoder.layers
        self.norm: nn.Module = decoder.norm
        self.rotary: nn.Module = decoder.rotary_emb
        self.lm_head: nn.Module = self.model.lm_head
        self.config: Any = self.model.config.text_config
        self._embedding: nn.Module = decoder.embed_tokens
        self._audio_attention = AttentionReceived(self.model.model.audio_tower.layers[-1].self_attn)

    @staticmethod
    def thinker_class() -> Any:
        """The transformers class that holds the thinker."""
        raise NotImplementedError

    def pooled_importance(self, received: Tensor) -> Tensor:
        """Attention received per encoder column -> per audio token."""
        raise NotImplementedError

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
        audio_importance = None
        # Counts are known on the host, so places are found there: no device synchronisation.
        if inputs.pixels is not None:
            seen, deep = self._encode_video(inputs)
            where = (layout.modality == VIDEO).nonzero().squeeze(1).to(self.device)
            embeddings = embeddings.index_copy(0, where, seen.to(embeddings.dtype))
            deepstack = [torch.zeros_like(embeddings).index_copy(0, where, rows.to(embeddings.dtype)) for rows in deep]
        if inputs.mel is not None:
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
            audio_importance=audio_importance,
            deepstack=tuple(deepstack),
        )

    def _encode_video(self, inputs: ModelInputs) -> tuple[Tensor, list[Tensor]]:
        """Features (video tokens, D), and those for deepstack (none in Qwen2.5)."""
        assert inputs.pixels is not None
        grid = torch.tensor([inputs.patch_grid], device=self.device)
        output = self.model.model.visual(inputs.pixels.to(self.device, self.dtype), grid_thw=grid)
        return output.pooler_output, list(getattr(output, "deepstack_features", None) or [])

    def _encode_audio(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Features (audio tokens, D) and attention received in the last layer (audio tokens,) float32."""
        mel = mel.to(self.device, self.dtype)
        lengths = torch.tensor([mel.shape[1]], device=self.device)
        with self._audio_attention.recording() as received:
            output = self.model.model.audio_tower(mel, feature_lens=lengths)
        return output.last_hidden_state, self.pooled_importance(torch.cat(received))


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
