"""What the Qwen Omni families share: loading the thinker, encoding a clip, laying out the prefix.

Promises: the `Adapter` protocol of `base.py` on top of the stock transformers classes; the published checkpoint layout,
whose talker and vocoder weights are left unread. Knows nothing about pruning or question sets; the families differ in
the hooks that `qwen2_5_omni.py` and `qwen3_omni.py` fill in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from omnidrop.errors import CheckpointError
from omnidrop.imports import uncollected
from omnidrop.models.base import AUDIO, TEXT, VIDEO, ClipPrompt, Prefix, ReadyClip, SomeOf
from omnidrop.models.checkpoints import checkpoint_hash, family_of, thinker_config_dict
from omnidrop.models.configuration import differences
from omnidrop.models.encoders import (
    BlockAttention,
    EncoderSettings,
    FeatureMemory,
    encoder_notes,
    patch_digests,
    silent_chunks,
)
from omnidrop.models.families import geometry_of
from omnidrop.models.geometry import SAMPLE_RATE, Geometry
from omnidrop.models.keys_and_values import keys_and_values
from omnidrop.models.packed_weights import pack
from omnidrop.models.patch_product import with_products
from omnidrop.models.processing import ClipProcessor, ModelInputs
from omnidrop.models.quantised import stored
from omnidrop.models.qwen_pictures import Picture, QwenPictures
from omnidrop.models.sent_ahead import send_ahead
from omnidrop.models.some_cells import EncodedCells
from omnidrop.models.thinker_weights import load_thinker


class QwenOmniAdapter(QwenPictures):
    """A loaded thinker. Subclasses name its geometry, its class and how its audio encoder's columns become tokens."""

    def __init__(
        self,
        directory: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        encoders: EncoderSettings,
    ) -> None:
        self.device, self.dtype, self.encoders = device, dtype, encoders
        self.geometry: Geometry = geometry_of(family_of(directory)).read(directory)
        self.processor = ClipProcessor(directory, self.geometry)
        # A chat template that cannot be used ends the run here, where plans did not render it, and not each clip.
        self.processor.question_ids("")
        self.family = self.geometry.family
        self.weights_hash, self.model = self.weights(directory)
        self.stored = stored(directory)
        decoder = self.model.model.language_model
        pack(decoder.layers)
        self.layers: Sequence[nn.Module] = decoder.layers
        self.norm: nn.Module = decoder.norm
        self.rotary: nn.Module = decoder.rotary_emb
        self.lm_head: nn.Module = self.model.lm_head
        self.config: Any = self.model.config.text_config
        self._embedding: nn.Module = decoder.embed_tokens
        self._check_token_ids()
        self.memory = FeatureMemory(encoders.memory_bytes)
        audio_tower, visual = self.model.model.audio_tower, self.model.model.visual
        with_products(visual)
        self.audio_attention = BlockAttention(audio_tower, audio_tower.layers[-1].self_attn)
        self.vision_attention = BlockAttention(visual, self.last_full_attention())

    @classmethod
    def load(cls, directory: Path, *, device: torch.device, dtype: torch.dtype, encoders: EncoderSettings) -> Self:
        """See `omnidrop.models.base.Adapter.load`."""
        return cls(directory, device=device, dtype=dtype, encoders=encoders)

    @staticmethod
    def config_class() -> Any:
        """The transformers class of the configuration."""
        raise NotImplementedError

    @staticmethod
    def thinker_class() -> Any:
        """The transformers class that holds the thinker."""
        raise NotImplementedError

    def weights(self, directory: Path) -> tuple[str, Any]:
        """Hash of the checkpoint's content, and its thinker on the device."""
        with uncollected():
            thinker = self.thinker_class()
        return checkpoint_hash(directory), load_thinker(
            thinker, directory, self.read_config(directory), self.device, self.dtype
        )

    def read_config(self, directory: Path) -> Any:
        """The thinker's configuration as transformers reads it. Raises CheckpointError where we read it otherwise."""
        # Not by `from_dict`, which only writes it down for a log besides: three quarters of its 0.05 CPU s.
        config = self.config_class()(**thinker_config_dict(directory))
        if found := list(differences(self.geometry.config, config)):
            raise CheckpointError(
                f"{directory / 'config.json'} is read in two ways, so that clips would be counted wrongly: "
                f"{', '.join(found[:3])} in transformers"
            )
        return config

    def pooled_importance(self, received: Tensor) -> Tensor:
        """Attention received per encoder column -> per audio token."""
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

    def keys_and_values(self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """See `omnidrop.models.base.Adapter.keys_and_values`."""
        return keys_and_values(self.layers[layer], hidden, rotary)

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
    def make_ready(
        self, frames: npt.NDArray[np.uint8] | None, audio: npt.NDArray[np.float32] | None, prompt: ClipPrompt
    ) -> ReadyClip:
        """See `omnidrop.models.base.Adapter.make_ready`."""
        inputs = self.processor.inputs(frames, audio, prompt)
        digests: tuple[bytes, ...] = () if frames is None else patch_digests(frames, self.geometry.temporal_patch)
        resized = None if frames is None else send_ahead(self.processor.resized(frames), self.device)
        return ReadyClip(frames, audio, prompt, inputs, digests, resized)

    @torch.inference_mode()
    def prefix(
        self,
        frames: npt.NDArray[np.uint8] | None,
        audio: npt.NDArray[np.float32] | None,
        prompt: ClipPrompt,
        *,
        some_of: SomeOf | None = None,
        ready: ReadyClip | None = None,
    ) -> Prefix:
        """Encode one clip and lay out everything before the questions. See `omnidrop.models.base.Adapter.prefix`."""
        if ready is None or not ready.fits(frames, audio, prompt):
            ready = None
            inputs = self.processor.inputs(frames, audio, prompt)
        else:
            inputs = cast(ModelInputs, ready.inputs)
        layout, seen, heard = inputs.layout, None, None
        input_ids = layout.input_ids.to(self.device)
        embeddings = self.embed(input_ids)
        deepstack: list[Tensor] = []
        video_importance = silent = None
        flops = dense_flops = 0
        # Counts are known on the host, so places are found there: no device synchronisation.
        if frames is not None and inputs.grid is not None:
            picture = Picture(frames)
            if ready is not None and ready.resized is not None:
                picture = Picture(frames, ready.digests, ready.resized.taken())
            seen = self.encoded(picture, *inputs.grid[1:], some_of)
            dense_flops += self.geometry.vision_flops(*inputs.grid)
            flops += seen.flops
            embeddings, deepstack, video_importance = self._with_picture(embeddings, layout.modality, seen)
        if audio is not None and inputs.mel is not None:
            heard = self._encode_audio(inputs.mel)
            spent = self.geometry.audio_flops(inputs.mel.shape[1])
            flops, dense_flops = flops + spent, dense_flops + spent
            per_chunk = round(self.geometry.seconds_per_chunk * SAMPLE_RATE)
            silent = silent_chunks(audio, per_chunk, self.encoders.silence_dbfs)
            where = (layout.modality == AUDIO).nonzero().squeeze(1).to(self.device)
            embeddings = embeddings.index_copy(0, where, heard[0].to(embeddings.dtype))
        plan = None if seen is None else seen.plan
        return Prefix(
            input_ids=input_ids,
            embeddings=embeddings,
            positions=layout.positions.to(self.device),
            next_position=layout.next_position,
            modality=layout.modality.to(self.device),
            chunk=layout.chunk.to(self.device),
            grid=layout.grid.to(self.device),
            seconds=layout.seconds.to(self.device),
            audio_importance=None if heard is None else heard[1],
            video_importance=video_importance,
            encoded=None if seen is None else seen.there,
            versions=None if seen is None else seen.versions,
            deepstack=tuple(deepstack),
            encoder_flops=flops,
            encoder_flops_dense=dense_flops,
            notes=(
                *encoder_notes(plan, silent, self.encoders),
                *_left_out(audio, inputs.mel),
            ),
        )

    @torch.inference_mode()
    def text_prefix(self, ids: Sequence[int]) -> Prefix:
        """See `omnidrop.models.base.Adapter.text_prefix`."""
        input_ids = torch.tensor(ids, device=self.device)
        rows = input_ids.shape[0]
        counted: torch.dtype = getattr(torch, self.geometry.position_dtype)
        nowhere = torch.full((rows, 3), -1, dtype=torch.int32, device=self.device)
        return Prefix(
            input_ids=input_ids,
            embeddings=self.embed(input_ids),
            positions=torch.arange(rows, dtype=counted, device=self.device).expand(3, -1),
            next_position=rows,
            modality=torch.full((rows,), TEXT, dtype=torch.int8, device=self.device),
            chunk=nowhere[:, 0],
            grid=nowhere,
            seconds=torch.full((rows,), -1.0, device=self.device),
            audio_importance=None,
        )

    def _with_picture(
        self, embeddings: Tensor, modality: Tensor, seen: EncodedCells
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Embeddings (N, D) with the picture's features in place, rows (N, D) for deepstack, and (video tokens,) the
        attention received; cells that were not encoded are zero in all of them."""
        features, *deep, received = seen.features
        where = (modality == VIDEO).nonzero().squeeze(1)
        if (there := seen.there) is not None:
            of_all = received.new_zeros(len(there))
            received = of_all.index_copy(0, there.nonzero().squeeze(1).to(self.device), received)
            embeddings = embeddings.index_fill(0, where[~there].to(self.device), 0.0)
            where = where[there]
        where = where.to(self.device)
        embeddings = embeddings.index_copy(0, where, features.to(embeddings.dtype))
        rows = [torch.zeros_like(embeddings).index_copy(0, where, d.to(embeddings.dtype)) for d in deep]
        return embeddings, rows, received

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
