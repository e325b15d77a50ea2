"""What the Qwen Omni families share: loading the thinker, encoding a clip, laying out the prefix.

Promises: the `Adapter` protocol of `base.py` on top of the stock transformers classes; the published checkpoint layout,
whose talker and vocoder weights are left unread. Knows nothing about pruning or question sets; the families differ in
the hooks that `qwen2_5_omni.py` and `qwen3_omni.py` fill in.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from omnidrop.errors import CheckpointError
from omnidrop.imports import uncollected
from omnidrop.models import still_cells
from omnidrop.models.base import AUDIO, TEXT, VIDEO, Prefix, ReadyClip, SomeOf
from omnidrop.models.checkpoints import checkpoint_hash, family_of, thinker_config_dict
from omnidrop.models.configuration import differences
from omnidrop.models.encoders import (
    BlockAttention,
    EncoderSettings,
    FeatureMemory,
    PatchPlan,
    encoder_notes,
    first_of_each,
    patch_digests,
    patch_keys,
    plan_patches,
    silent_chunks,
)
from omnidrop.models.families import geometry_of
from omnidrop.models.geometry import SAMPLE_RATE, Geometry
from omnidrop.models.keys_and_values import keys_and_values
from omnidrop.models.patch_product import with_products
from omnidrop.models.processing import ClipProcessor, ModelInputs
from omnidrop.models.quantised import OF_ACTIVATIONS, quantisation_of, stored, words_for
from omnidrop.models.sent_ahead import send_ahead
from omnidrop.models.some_cells import EncodedCells, SeenCells, cells_key, encoder_words

_NOT_READ = ("talker.", "token2wav.", "code2wav.")
"""Parts of a published checkpoint that speak."""

PATCHES_AT_ONCE = 64
"""Temporal patches encoded in one call. They do not see each other, so this bounds memory and changes nothing: 64 of
448x252 pixels are 170 MB of float32."""


@dataclass(frozen=True, eq=False)
class _Picture:
    """(T, H, W, 3) uint8 frames, and what was worked out about them before."""

    frames: npt.NDArray[np.uint8]
    digests: tuple[bytes, ...] | None = None
    resized: Tensor | None = None


class QwenOmniAdapter:
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
        return checkpoint_hash(directory), _load_thinker(
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

    def last_full_attention(self) -> nn.Module:
        """The attention of the vision encoder's last block in which a temporal patch attends to all of itself."""
        raise NotImplementedError

    def token_order(self, received: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Attention received per group of merged patches, as the encoder orders them -> per video token."""
        raise NotImplementedError

    def encoder_words(self, grid: tuple[int, int, int], chosen: Tensor) -> dict[str, Any]:
        """What the stock vision encoder must be told to encode the `chosen` (temporal patches, cells) alone."""
        return encoder_words(grid, chosen, self.geometry.merge)

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
        return self.processor.words.definition()

    @torch.inference_mode()
    def make_ready(
        self,
        frames: npt.NDArray[np.uint8] | None,
        audio: npt.NDArray[np.float32] | None,
        *,
        fps: float,
        system_prompt: str | None,
        instruction: str,
    ) -> ReadyClip:
        """See `omnidrop.models.base.Adapter.make_ready`."""
        inputs = self.processor.inputs(frames, audio, fps=fps, system_prompt=system_prompt, instruction=instruction)
        digests: tuple[bytes, ...] = () if frames is None else patch_digests(frames, self.geometry.temporal_patch)
        resized = None if frames is None else send_ahead(self.processor.resized(frames), self.device)
        return ReadyClip(frames, audio, (fps, system_prompt, instruction), inputs, digests, resized)

    @torch.inference_mode()
    def prefix(
        self,
        frames: npt.NDArray[np.uint8] | None,
        audio: npt.NDArray[np.float32] | None,
        *,
        fps: float,
        system_prompt: str | None,
        instruction: str,
        some_of: SomeOf | None = None,
        ready: ReadyClip | None = None,
    ) -> Prefix:
        """Encode one clip and lay out everything before the questions. See `omnidrop.models.base.Adapter.prefix`."""
        if ready is None or not ready.fits(frames, audio, (fps, system_prompt, instruction)):
            ready = None
            inputs = self.processor.inputs(frames, audio, fps=fps, system_prompt=system_prompt, instruction=instruction)
        else:
            inputs = cast(ModelInputs, ready.inputs)
        layout = inputs.layout
        input_ids = layout.input_ids.to(self.device)
        modality = layout.modality.to(self.device)
        embeddings = self.embed(input_ids)
        deepstack: list[Tensor] = []
        audio_importance = video_importance = plan = silent = there = versions = None
        flops = dense_flops = 0
        # Counts are known on the host, so places are found there: no device synchronisation.
        if frames is not None and inputs.grid is not None:
            patches, rows, columns = inputs.grid
            picture = _Picture(frames)
            if ready is not None and ready.resized is not None:
                picture = _Picture(frames, ready.digests, ready.resized.taken())
            dense_flops += self.geometry.vision_flops(patches, rows, columns)
            where = (layout.modality == VIDEO).nonzero().squeeze(1)
            if some_of is None or (some_of.cells >= patches * rows * columns and not some_of.still_levels):
                plan, (seen, *deep, video_importance) = self._encode_video(picture, rows, columns)
                flops += self.geometry.vision_flops(len(plan.encode), rows, columns)
            else:
                some = self._encode_some(picture, rows, columns, some_of)
                plan, there, versions, flops = some.plan, some.there, some.versions, some.flops
                seen, *deep, received = some.features
                video_importance = received.new_zeros(len(there)).index_copy(
                    0, there.nonzero().squeeze(1).to(self.device), received
                )
                embeddings = embeddings.index_fill(0, where[~there].to(self.device), 0.0)
                where = where[there]
            where = where.to(self.device)
            embeddings = embeddings.index_copy(0, where, seen.to(embeddings.dtype))
            deepstack = [torch.zeros_like(embeddings).index_copy(0, where, d.to(embeddings.dtype)) for d in deep]
        if audio is not None and inputs.mel is not None:
            flops += self.geometry.audio_flops(inputs.mel.shape[1])
            dense_flops += self.geometry.audio_flops(inputs.mel.shape[1])
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
            encoded=there,
            versions=versions,
            deepstack=tuple(deepstack),
            encoder_flops=flops,
            encoder_flops_dense=dense_flops,
            notes=(*encoder_notes(plan, silent, self.encoders), *_left_out(audio, inputs.mel)),
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

    def _encode_video(self, picture: _Picture, rows: int, columns: int) -> tuple[PatchPlan, list[Tensor]]:
        """What was encoded, and by video token: features (tokens, D), those for deepstack (Qwen3), and last the
        attention received (tokens,)."""
        step, per_patch = self.geometry.temporal_patch, rows * columns
        frames = picture.frames
        name = repr((frames.shape[1:], rows, columns, str(self.dtype), self.weights_hash)).encode()
        plan = plan_patches(frames, step, name, self.memory, picture.digests)
        known: dict[bytes, tuple[Tensor, ...]] = {}
        # Fetched before anything is put in, which may push some of it out.
        for key in plan.keys:
            found = self.memory.get(key)
            if found is not None:
                known[key] = found
        for begin in range(0, len(plan.encode), PATCHES_AT_ONCE):
            patches = plan.encode[begin : begin + PATCHES_AT_ONCE]
            pixels, grid = self._pixels(picture, patches)
            *encoded, received = self._encode_pixels(pixels, grid)
            parts = [*encoded, self.token_order(received, grid)]
            for number, patch in enumerate(patches):
                features = tuple(part[number * per_patch : (number + 1) * per_patch] for part in parts)
                known[plan.keys[patch]] = features
                self.memory.put(plan.keys[patch], features)
        depths = len(next(iter(known.values())))
        return plan, [torch.cat([known[key][depth] for key in plan.keys]) for depth in range(depths)]

    def _encode_pixels(self, pixels: Tensor, grid: tuple[int, int, int], **words: Any) -> list[Tensor]:
        """The stock vision encoder's features, those for deepstack, and the attention received, by cell; the last in
        the encoder's own order."""
        with self.vision_attention.recording() as received:
            output = self.model.model.visual(
                pixels.to(self.dtype), grid_thw=torch.tensor([grid], device=self.device), **words
            )
        merged = torch.cat(received).view(-1, self.geometry.merge**2).mean(dim=1)
        deep = getattr(output, "deepstack_features", None) or []
        return [output.pooler_output, *deep, merged]

    def _encode_some(self, picture: _Picture, rows: int, columns: int, some_of: SomeOf) -> EncodedCells:
        """Choose cells by what their pixels embed to, and encode these alone."""
        # Features of whole pictures are other ones, even where their cells were chosen.
        frames = picture.frames
        name = repr(("some", frames.shape[1:], rows, columns, str(self.dtype), self.weights_hash)).encode()
        pixel_keys = patch_keys(frames, self.geometry.temporal_patch, name, self.memory, picture.digests)
        different = first_of_each(pixel_keys)
        place = {pixel_keys[patch]: number for number, patch in enumerate(different)}
        at_place = [place[key] for key in pixel_keys]
        seen = self._embed_cells(picture, different, rows * columns, look=some_of.still_levels > 0)
        cells = torch.cat([seen.means[number] for number in at_place])
        versions = None
        if some_of.still_levels:
            of_patches = torch.stack([seen.looks[number] for number in at_place])
            versions = still_cells.versions(of_patches, some_of.still_levels).cpu()
        chosen = self._chosen(cells, len(pixel_keys), versions, some_of)
        of_patch = chosen.view(len(pixel_keys), rows * columns)
        keys = [cells_key(key, of) for key, of in zip(pixel_keys, of_patch, strict=True)]
        known = {key: found for key in keys if (found := self.memory.get(key)) is not None}
        encode = [patch for patch in first_of_each(keys) if keys[patch] not in known and of_patch[patch].any()]
        for begin in range(0, len(encode), PATCHES_AT_ONCE):
            patches = encode[begin : begin + PATCHES_AT_ONCE]
            at = [at_place[patch] for patch in patches]
            if seen.pixels is None:
                # Prepared a second time: those of a long clip would be more than all else that is held.
                given, at = self._cell_pixels(picture, patches), list(range(len(patches)))
            else:
                given = seen.pixels
            parts = self._encode_cells(given, at, of_patch[patches], rows, columns)
            counts = of_patch[patches].sum(dim=1).tolist()
            by_patch = zip(*(torch.split_with_sizes(part, counts) for part in parts), strict=True)
            for patch, of_cells in zip(patches, by_patch, strict=True):
                known[keys[patch]] = of_cells
                self.memory.put(keys[patch], of_cells)
        found_in = [known[key] for key, of in zip(keys, of_patch, strict=True) if of.any()]
        features = [torch.cat(parts) for parts in zip(*found_in, strict=True)]
        there = chosen
        if versions is not None:
            there = chosen[versions]
            number = (torch.cumsum(chosen, dim=0) - 1)[versions[there]].to(self.device)
            features = [part.index_select(0, number) for part in features]
        count = int(chosen.sum())
        plan = PatchPlan(
            keys=tuple(keys),
            encode=tuple(encode),
            cells=count,
            all_cells=len(chosen),
            still=int(there.sum()) - count,
            still_levels=some_of.still_levels,
            without=int((~of_patch.any(dim=1)).sum()),
        )
        run = int(of_patch[encode].sum())
        flops = self.geometry.vision_flops(len(encode), rows, columns, run, len(different) * rows * columns)
        return EncodedCells(plan, there, versions if plan.still else None, features, flops)

    def _chosen(self, cells: Tensor, patches: int, versions: Tensor | None, some_of: SomeOf) -> Tensor:
        """(cells,) bool on the host: which are encoded, of those that stand for themselves."""
        candidates = None
        if versions is not None:
            candidates = (versions == torch.arange(len(versions))).nonzero().squeeze(1)
        count = min(some_of.cells, len(cells) if candidates is None else len(candidates))
        chosen = torch.zeros(len(cells), dtype=torch.bool)
        if candidates is not None and count == len(candidates):
            chosen[candidates] = True
            return chosen
        # A wait for the device, as for the versions: what is encoded is known on the host from here on.
        chosen[some_of.choose(cells, patches, count, candidates).cpu()] = True
        if int(chosen.sum()) != count:
            raise ValueError(f"{count} cells were to be encoded, {int(chosen.sum())} were chosen")
        return chosen

    def _embed_cells(self, picture: _Picture, patches: Sequence[int], per_patch: int, *, look: bool) -> SeenCells:
        """What is known of the cells of some temporal patches before they are encoded; their looks where asked for."""
        geometry, means, looked = self.geometry, list[Tensor](), list[Tensor]()
        held = None
        for begin in range(0, len(patches), PATCHES_AT_ONCE):
            normal, _ = self._pixels(picture, patches[begin : begin + PATCHES_AT_ONCE])
            cells = normal.shape[0] // geometry.merge**2
            if look:
                looks = still_cells.looks(normal, cells, geometry.temporal_patch, self.processor.deviation)
                looked += torch.split(looks, per_patch)
            pixels = normal.to(self.dtype)
            embedded = self.model.model.visual.patch_embed(pixels)
            means += torch.split(embedded.view(cells, geometry.merge**2, -1).mean(dim=1), per_patch)
            held = pixels.view(cells, -1) if len(patches) <= PATCHES_AT_ONCE else None
        return SeenCells(means, looked, held)

    def _encode_cells(self, pixels: Tensor, at: Sequence[int], some: Tensor, rows: int, columns: int) -> list[Tensor]:
        """As `_encode_pixels`, in the picture's order, of `some` (temporal patches, cells) alone; the temporal patches
        are `at` these places in `pixels`, as `_cell_pixels` gives them."""
        merge, per_patch = self.geometry.merge, rows * columns
        numbers = torch.cat([place * per_patch + of.nonzero().squeeze(1) for place, of in zip(at, some, strict=True)])
        picked = pixels.index_select(0, numbers.to(self.device)).view(len(numbers) * merge**2, -1)
        grid = (len(some), rows * merge, columns * merge)
        given = self.encoder_words(grid, some)
        words = {name: word.to(self.device) if isinstance(word, Tensor) else word for name, word in given.items()}
        *features, received = self._encode_pixels(picked, grid, **words)
        return [*features, received[torch.argsort(words["window_index"])] if "window_index" in words else received]

    def _cell_pixels(self, picture: _Picture, patches: Sequence[int]) -> Tensor:
        """(temporal patches x cells, pixels of a cell), model dtype."""
        pixels, _ = self._pixels(picture, patches)
        return pixels.to(self.dtype).view(pixels.shape[0] // self.geometry.merge**2, -1)

    def _pixels(self, picture: _Picture, patches: Sequence[int]) -> tuple[Tensor, tuple[int, int, int]]:
        """What the vision encoder takes of some temporal patches, and their grid; an odd last frame stands twice."""
        step = self.geometry.temporal_patch
        picked = [min(p * step + n, len(picture.frames) - 1) for p in patches for n in range(step)]
        if picture.resized is None:
            return self.processor.pixels(picture.frames[picked], self.device)
        return self.processor.patches(picture.resized[picked], self.device)

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


def _load_thinker(thinker: Any, directory: Path, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The thinker's weights alone, from safetensors, in evaluation mode on `device`."""
    from safetensors import SafetensorError
    from transformers.utils import is_accelerate_available, logging

    config = copy.deepcopy(config)
    quantisation = quantisation_of(directory)
    if quantisation is not None:
        config.quantization_config = words_for(quantisation, device.type, directory)
    # With accelerate the weights go straight to the device; without it through main memory.
    straight = {"device_map": {"": device}} if device.type != "cpu" and is_accelerate_available() else {}
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = thinker.from_pretrained(
            str(directory),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
            **straight,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
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
    left_over = sorted(
        name for name in report["unexpected_keys"] if not (name.startswith(_NOT_READ) or name.endswith(OF_ACTIVATIONS))
    )
    if quantisation is not None and left_over:
        raise CheckpointError(
            f"the weights in {directory} hold {len(left_over)} tensors that transformers has no place for, such as "
            f"{', '.join(left_over[:3])}; they are not quantised as config.json says ({quantisation})"
        )
    return model.to(device).eval()
