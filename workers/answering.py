"""One loaded model that answers one clip's whole question set per call.

Promises: whatever the model does with a clip, that clip comes back as a `ClipResult` or a `ClipFailure`, with its own
id; memory trouble shrinks the clip's token budget and says so in the notes. Knows nothing about Ray, files or stores.
"""

from __future__ import annotations

import gc
import logging
import math
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
import transformers

from omnidrop.answers import ClipAnswers
from omnidrop.errors import ModelError, ModelOutOfMemory, OmniDropError
from omnidrop.geometry import Geometry, geometry_of
from omnidrop.model import OmniModel, Pruning
from omnidrop.models.checkpoints import resolve_checkpoint
from omnidrop.modes import DENSE_MODES
from omnidrop.questions import Question
from workers.auditing import is_audited, is_dense_first
from workers.memory import peak_rss_bytes
from workers.records import ClipAudit, ClipFailure, ClipOutcome, ClipResult, DecodedClip

log = logging.getLogger(__name__)

SMALLEST_SIDE = 56
"""Pictures are not scaled below this many pixels a side: two patches of the published vision encoders."""

HALVINGS = 4
"""How often the video tokens are halved when memory runs out."""
HALVED = 0.75
"""A smaller clip that has more than this share of the tokens is not tried: models scale small pictures up to a least
size (128 tokens in the published checkpoints), so that fewer pixels are often no fewer tokens."""
LEAST_PIXEL_SHARE = 0.25


class DeviceBroken(ModelError):
    """The device cannot be used any more by this process, which must end: later clips would all fail."""


@dataclass(frozen=True)
class AnswererSettings:
    """What is loaded, and how it answers."""

    model: str
    """A directory, a hub id or the name of an embedded checkpoint."""
    device: str = "auto"
    dtype: str = "auto"
    pruning: Pruning = field(default_factory=Pruning)
    near_duplicate: float = 0.0
    """See `OmniModel.load`: 0 is exact."""
    system_prompt: str | None = None
    torch_threads: int | None = None
    """None leaves torch's own choice."""
    audit_share: float = 0.0
    """Share of clips that are also run dense with prefix reuse, to measure what pruning saves and changes."""


@dataclass(frozen=True)
class AnswererDescription:
    """What answered: for the record of a run."""

    model: str
    family: str
    weights_hash: str
    device: str
    """Name of the device, as its driver gives it."""
    dtype: str
    versions: tuple[tuple[str, str], ...]
    load_s: float
    clips: int
    shrunk: int
    """Clips answered with a smaller token budget for want of memory."""
    peak_rss_bytes: int

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions)
        return (
            f"{self.model} ({self.family}, {self.dtype}) on {self.device}: {self.clips} clips, loaded in "
            f"{self.load_s:.1f} s, peak {self.peak_rss_bytes / 2**20:.0f} MiB resident, {versions}, weights "
            f"{self.weights_hash[:12]}"
        )


class Answerer:
    """Holds the model. Made cheaply; `load` is what takes time, once."""

    def __init__(self, settings: AnswererSettings) -> None:
        self._settings = settings
        self._model: OmniModel | None = None
        self._geometry: Geometry | None = None
        self._load_s = 0.0
        self._clips = 0
        self._shrunk = 0

    def load(self) -> None:
        """Load the checkpoint, if it is not loaded yet. Raises CheckpointError."""
        if self._model is not None:
            return
        started = time.monotonic()
        if self._settings.torch_threads is not None:
            torch.set_num_threads(self._settings.torch_threads)
        settings = self._settings
        self._model = OmniModel.load(
            settings.model, device=settings.device, dtype=settings.dtype, near_duplicate=settings.near_duplicate
        )
        self._geometry = geometry_of(resolve_checkpoint(settings.model))
        self._load_s = time.monotonic() - started

    def answer(
        self,
        decoded: DecodedClip,
        questions: Sequence[Question],
        instruction: str = "",
        *,
        pruning: Pruning | None = None,
        positions: bool = False,
        may_audit: bool = True,
    ) -> ClipOutcome:
        """Answer all questions about one clip; `pruning` in place of the settings', `positions` as `OmniModel.answer`.

        A clip that is drawn for an audit (see `workers.auditing`) is also run dense, unless `pruning` is given.
        A failure of the model becomes a ClipFailure of the exception's class (`model_error` for one that is not ours).
        Raises CheckpointError (from a load that was not done before) and DeviceBroken.
        """
        self.load()
        settings = self._settings
        as_asked = may_audit and pruning is None and settings.pruning.mode not in DENSE_MODES
        if as_asked and is_audited(decoded.clip.clip_id, settings.audit_share):
            return self._audited(decoded, questions, instruction, positions)
        return self._answered(decoded, questions, instruction, pruning or settings.pruning, positions)

    def _audited(
        self, decoded: DecodedClip, questions: Sequence[Question], instruction: str, positions: bool
    ) -> ClipOutcome:
        """The outcome as asked, with what dense made of the same clip. Raises DeviceBroken."""
        dense_first = is_dense_first(decoded.clip.clip_id)
        audit = self._dense(decoded, questions, instruction, dense_first) if dense_first else None
        self._forget()
        outcome = self._answered(decoded, questions, instruction, self._settings.pruning, positions)
        if isinstance(outcome, ClipFailure):
            return outcome
        if outcome.is_shrunk:
            message = "the clip was answered with a smaller token budget; dense holds more than that"
            audit = ClipAudit(dense_first, None, ModelOutOfMemory.error_class, message)
        return replace(outcome, audit=audit or self._dense(decoded, questions, instruction, dense_first))

    def _dense(
        self, decoded: DecodedClip, questions: Sequence[Question], instruction: str, dense_first: bool
    ) -> ClipAudit:
        """The clip as it is, dense with prefix reuse: where it does not fit there is nothing to compare with."""
        assert self._model is not None
        self._forget()
        try:
            answers = self._model.answer(
                decoded.frames,
                decoded.audio,
                questions,
                fps=decoded.fps,
                pruning=Pruning.off("dense_shared"),
                system_prompt=self._settings.system_prompt,
                instruction=instruction,
            )
        except Exception as error:
            named = _named(error)
            if isinstance(named, DeviceBroken):
                raise named from error
            log.warning("audit of clip %s: %s", decoded.clip.clip_id, error)
            kind = error.error_class if isinstance(error, OmniDropError) else "model_error"
            if _is_out_of_memory(error):
                kind = ModelOutOfMemory.error_class
            return ClipAudit(dense_first, None, kind, f"{type(error).__name__}: {error}"[:1000])
        return ClipAudit(dense_first, answers)

    def _forget(self) -> None:
        """Cold caches: features of the clip, and memory that the allocator kept."""
        assert self._model is not None
        self._model.adapter.memory.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _answered(
        self,
        decoded: DecodedClip,
        questions: Sequence[Question],
        instruction: str,
        pruning: Pruning,
        positions: bool,
    ) -> ClipOutcome:
        started = time.monotonic()
        try:
            shrunk, answers, note = self._within_memory(decoded, questions, instruction, pruning, positions)
        except DeviceBroken:
            raise
        except OmniDropError as error:
            return ClipFailure(decoded.clip, "answer", error.error_class, str(error))
        except Exception as error:
            # One clip's trouble must not reach the next.
            log.exception("clip %s", decoded.clip.clip_id)
            return ClipFailure(decoded.clip, "answer", "model_error", f"{type(error).__name__}: {error}"[:1000])
        self._clips += 1
        self._shrunk += bool(note)
        return ClipResult(
            clip=decoded.clip,
            answers=answers,
            fps=shrunk.fps,
            frames=0 if shrunk.frames is None else len(shrunk.frames),
            samples=0 if shrunk.audio is None else len(shrunk.audio),
            decoded_share=decoded.decoded_share,
            decode_s=decoded.decode_s,
            answer_s=time.monotonic() - started,
            notes=(*decoded.notes, *note),
            is_shrunk=bool(note),
        )

    def describe(self) -> AnswererDescription:
        """What is loaded, and how it has fared so far."""
        self.load()
        assert self._model is not None
        adapter = self._model.adapter
        return AnswererDescription(
            model=self._settings.model,
            family=self._model.family,
            weights_hash=self._model.weights_hash,
            device=_device_name(adapter.device),
            dtype=str(adapter.dtype).removeprefix("torch."),
            versions=(
                ("python", platform.python_version()),
                ("torch", torch.__version__),
                ("transformers", transformers.__version__),
            ),
            load_s=self._load_s,
            clips=self._clips,
            shrunk=self._shrunk,
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _within_memory(
        self,
        decoded: DecodedClip,
        questions: Sequence[Question],
        instruction: str,
        pruning: Pruning,
        positions: bool,
    ) -> tuple[DecodedClip, ClipAnswers, tuple[str, ...]]:
        """The answers, the clip as it fitted, and a note where it was shrunk. Raises what the model raises."""
        assert self._model is not None
        assert self._geometry is not None
        last: Exception | None = None
        budgets = _budgets(decoded, self._geometry)
        while True:
            try:
                # Making a smaller clip takes memory, too; where that fails there is none to be tried.
                if (tried := next(budgets, None)) is None:
                    break
                budget, note = tried
                answers = self._model.answer(
                    budget.frames,
                    budget.audio,
                    questions,
                    fps=budget.fps,
                    pruning=pruning,
                    system_prompt=self._settings.system_prompt,
                    instruction=instruction,
                    positions=positions,
                )
            except (MemoryError, RuntimeError, ModelOutOfMemory) as error:
                if not _is_out_of_memory(error):
                    raise _named(error) from error
                log.warning("clip %s does not fit into memory: %s", decoded.clip.clip_id, error)
                # A traceback keeps every frame's tensors alive.
                last = error.with_traceback(None)
            else:
                return budget, answers, note
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        raise ModelOutOfMemory(f"even at the smallest token budget the clip does not fit into memory: {last}")


def shrink(decoded: DecodedClip, pixel_share: float, every: int) -> DecodedClip:
    """The same clip with fewer pixels a frame and every `every`-th frame; sound is left whole."""
    assert decoded.frames is not None
    frames = decoded.frames[::every]
    height, width = frames.shape[1:3]
    size = _scaled(height, width, pixel_share)
    if size != (height, width):
        frames = _resized(frames, size)
    return DecodedClip(
        clip=decoded.clip,
        frames=frames,
        audio=decoded.audio,
        fps=decoded.fps / every,
        decoded_share=decoded.decoded_share,
        decode_s=decoded.decode_s,
        notes=decoded.notes,
    )


def _budgets(decoded: DecodedClip, geometry: Geometry) -> Iterator[tuple[DecodedClip, tuple[str, ...]]]:
    """The clip as it is, then with half the video tokens, a quarter, ...; made one at a time.

    Pixels go first, since they cost detail only, then frames, which cost moments; what saves no tokens is not done.
    """
    yield decoded, ()
    if decoded.frames is None:
        return
    frames, height, width, _ = decoded.frames.shape
    pixel_share, every = 1.0, 1
    tokens = math.prod(geometry.grid(frames, height, width))
    for _ in range(HALVINGS):
        for share, step in ((pixel_share / 2, every), (pixel_share, every * 2)):
            left = math.prod(geometry.grid(-(-frames // step), *_scaled(height, width, share)))
            if share >= LEAST_PIXEL_SHARE and left <= HALVED * tokens:
                break
        else:
            return
        pixel_share, every, tokens = share, step, left
        smaller = shrink(decoded, pixel_share, every)
        assert smaller.frames is not None
        count, tall, wide, _ = smaller.frames.shape
        note = f"memory ran out: answered from {count} of {frames} frames at {wide}x{tall} instead of {width}x{height}"
        yield smaller, (note,)


def _scaled(height: int, width: int, pixel_share: float) -> tuple[int, int]:
    factor = pixel_share**0.5
    tall, wide = (min(side, max(SMALLEST_SIDE, round(side * factor))) for side in (height, width))
    return tall, wide


def _resized(frames: npt.NDArray[np.uint8], size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(T, H, W, 3) uint8 to (T, *size, 3), a frame at a time: memory is what is short."""
    out = np.empty((len(frames), *size, 3), np.uint8)
    for number, frame in enumerate(frames):
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None]
        scaled = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        out[number] = scaled[0].permute(1, 2, 0).numpy()
    return out


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA says it by class, the CPU allocator of torch only in words."""
    if isinstance(error, MemoryError | ModelOutOfMemory | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)


def _named(error: Exception) -> Exception:
    """A CUDA error other than memory stays with the process: every later call would report it again."""
    if isinstance(error, torch.AcceleratorError):
        return DeviceBroken(str(error).splitlines()[0])
    return error


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
