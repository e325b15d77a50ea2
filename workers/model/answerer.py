"""One loaded model that answers whole question sets about one clip, or about several that are asked the same, per call.

Promises: whatever the model does with a clip, that clip comes back as a `ClipResult` or a `ClipFailure`, with its own
id; several that fail together are tried in halves, down to one; memory trouble of one shrinks its token budget and says
so in the notes. Knows nothing about Ray, files or stores.
"""

from __future__ import annotations

import gc
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import transformers

from omnidrop.answers import ClipAnswers, Cost, TraceCounts
from omnidrop.cost import after_each_other
from omnidrop.errors import CheckpointError, ModelError, ModelOutOfMemory, OmniDropError, first_line
from omnidrop.model import OmniModel, Request
from omnidrop.models.base import ReadyClip
from omnidrop.pruning import DENSE_MODES, Pruning
from omnidrop.questions import Question
from workers.errors import DeviceBroken
from workers.model.audit_sample import is_audited, is_dense_first
from workers.model.description import AnswererDescription
from workers.model.memory import peak_rss_bytes
from workers.model.settings import AnswererSettings
from workers.model.token_budget import budgets
from workers.records import Clip, ClipAudit, ClipFailure, ClipOutcome, ClipResult, DecodedClip
from workers.whole_text import Line, read_whole

log = logging.getLogger(__name__)


def load_model(settings: AnswererSettings) -> OmniModel:
    """The model as it answers under these settings; for a job's, see `pipeline.config.worker_settings`.

    All that a job or an evaluation loads is loaded here, so that a setting cannot hold for one and not for the other.
    Raises CheckpointError.
    """
    model = OmniModel.load(settings.model, device=settings.device, dtype=settings.dtype)
    if settings.weights_hash not in (None, model.weights_hash):
        raise CheckpointError(
            f"the checkpoint {settings.model} on {platform.node()} differs from the planned one: its content "
            f"is {model.weights_hash[:12]}, not {settings.weights_hash[:12]}; copy the same files to every machine, or "
            "download damaged files again"
        )
    return model


class Answerer:
    """Holds the model. Made cheaply; `load` is what takes time, once."""

    def __init__(self, settings: AnswererSettings) -> None:
        self._settings = settings
        self._model: OmniModel | None = None
        self._load_s = 0.0
        self._clips = 0
        self._shrunk = 0
        self._ready: dict[str, tuple[DecodedClip, ReadyClip]] = {}
        """Clips made ready and not answered yet, by id."""
        self._most_together: int | None = None
        """Clips that were too many for the device's memory are not tried together again."""

    @property
    def checkpoint(self) -> str:
        """What it loads."""
        return self._settings.model

    def load(self) -> None:
        """Load the checkpoint, if it is not loaded yet. Raises CheckpointError."""
        if self._model is not None:
            return
        started = time.monotonic()
        if self._settings.torch_threads is not None:
            torch.set_num_threads(self._settings.torch_threads)
        self._model = load_model(self._settings)
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
        """Answer all questions about one clip; `pruning` in place of the settings', `positions` as `Request`.

        A clip sampled for an audit (see `workers.model.audit_sample`) is also run dense, unless `pruning` is given.
        A failure of the model becomes a ClipFailure of the exception's class (`model_error` for one that is not ours).
        Raises CheckpointError (from a load that was not done before) and DeviceBroken.
        """
        self.load()
        settings = self._settings
        ready = self._ready.pop(decoded.clip.clip_id, None)
        if ready is not None:
            decoded = ready[0]  # the same clip, in the arrays that were looked at
        as_asked = may_audit and pruning is None and settings.pruning.mode not in DENSE_MODES
        if as_asked and is_audited(decoded.clip.clip_id, settings.audit_share):
            return self._audited(decoded, questions, instruction, positions)
        made = None if ready is None else ready[1]
        return self._answered(decoded, questions, instruction, pruning or settings.pruning, positions, made)

    def make_ready(self, decoded: DecodedClip, questions: Sequence[Question], instruction: str = "") -> None:
        """Do for a clip what needs no device, in another thread than the one that answers: `answer` then finds it done.

        Nothing is raised: what cannot be made ready is looked at again, and said, when the clip is answered.
        """
        if self._model is None:
            return
        try:
            request = self._request(decoded, questions, instruction)
            ready = self._model.make_ready(decoded.frames, decoded.audio, request)
        except Exception as error:
            log.debug("clip %s cannot be prepared: %s", decoded.clip.clip_id, error, exc_info=True)
            return
        # The one that is answered next may not have been fetched yet; older ones will not be any more.
        for clip_id in list(self._ready)[:-1]:
            self._ready.pop(clip_id, None)
        self._ready[decoded.clip.clip_id] = decoded, ready

    def _request(
        self, decoded: DecodedClip, questions: Sequence[Question], instruction: str, pruning: Pruning | None = None
    ) -> Request:
        pruning = pruning or self._settings.pruning
        return Request(questions, decoded.fps, pruning, self._settings.system_prompt, instruction)

    def answer_batch(
        self, decoded: Sequence[DecodedClip], questions: Sequence[Question], instruction: str = ""
    ) -> list[ClipOutcome]:
        """As `answer` for each clip, those of one shape in one pass; an audited clip is answered by itself.

        Raises CheckpointError (from a load that was not done before) and DeviceBroken.
        """
        self.load()
        groups: dict[object, list[DecodedClip]] = {}
        for number, one in enumerate(decoded):
            parts = [None if part is None else part.shape for part in (one.frames, one.audio)]
            is_audited_alone = is_audited(one.clip.clip_id, self._settings.audit_share)
            groups.setdefault(number if is_audited_alone else (*parts, one.fps), []).append(one)
        outcomes = [o for group in groups.values() for o in self._together(group, questions, instruction)]
        by_clip = {outcome.clip.clip_id: outcome for outcome in outcomes if outcome.clip is not None}
        return [by_clip[one.clip.clip_id] for one in decoded]

    def answer_text(self, text: str, questions: Sequence[Question]) -> ClipAnswers:
        """Answer all questions about a text; see `OmniModel.answer_text`.

        Raises QuestionError, ModelError whatever the model does with it (DeviceBroken where it is of no use any more),
        and CheckpointError from `load`.
        """
        self.load()
        assert self._model is not None
        try:
            return self._model.answer_text(text, questions, system_prompt=self._settings.system_prompt)
        except OmniDropError:
            raise
        except Exception as error:
            named = _named(error)
            broken = isinstance(named, DeviceBroken)
            raise (named if broken else ModelError(f"{type(error).__name__}: {first_line(error)}")) from error

    def answer_whole(
        self,
        video: Clip,
        lines: Sequence[Line],
        questions: Sequence[Question],
        *,
        between: Callable[[], None] = lambda: None,
    ) -> ClipOutcome:
        """Answer all questions about a whole video, of which these lines tell; see `workers.whole_text`.

        `video` stands for all of it. Raises DeviceBroken, and CheckpointError from `load`.
        """
        started = time.monotonic()
        read = read_whole(self, lines, questions, between=between)
        if read.error_class is not None:
            return ClipFailure(video, "whole", read.error_class, read.message)
        given = ClipAnswers(read.answers, _summed(read.costs), TraceCounts(0, 0, ()))
        answer_s = time.monotonic() - started
        return ClipResult(video, given, 0.0, 0, 0, 1.0, 0.0, answer_s, texts=read.costs)

    def text_tokens(self, text: str) -> int:
        """How many tokens a text is."""
        self.load()
        assert self._model is not None
        return len(self._model.adapter.answer_ids(text))

    def _together(
        self, clips: Sequence[DecodedClip], questions: Sequence[Question], instruction: str
    ) -> list[ClipOutcome]:
        """Clips of one shape. Raises DeviceBroken."""
        assert self._model is not None
        if len(clips) == 1:
            return [self.answer(clips[0], questions, instruction)]
        if len(clips) <= (self._most_together or len(clips)):
            started = time.monotonic()
            try:
                request = self._request(clips[0], questions, instruction)
                answers = self._model.answer_batch([(one.frames, one.audio) for one in clips], request)
            except Exception as error:
                named = _named(error)
                if isinstance(named, DeviceBroken):
                    raise named from error
                log.warning("a batch of %d clips failed: %s; retrying it in halves", len(clips), error)
                if _is_out_of_memory(error):
                    self._most_together = len(clips) // 2
            else:
                answer_s = (time.monotonic() - started) / len(clips)
                return [self._result(one, given, answer_s) for one, given in zip(clips, answers, strict=True)]
            # Only here, because a traceback keeps every frame's tensors alive.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        half = len(clips) // 2
        return [o for part in (clips[:half], clips[half:]) for o in self._together(part, questions, instruction)]

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
            message = "the clip was answered with a smaller token budget; a dense run needs more memory"
            audit = ClipAudit(dense_first, None, ModelOutOfMemory.error_class, message)
        return replace(outcome, audit=audit or self._dense(decoded, questions, instruction, dense_first))

    def _dense(
        self, decoded: DecodedClip, questions: Sequence[Question], instruction: str, dense_first: bool
    ) -> ClipAudit:
        """The clip as it is, dense with prefix reuse: where it does not fit there is nothing to compare with."""
        assert self._model is not None
        self._forget()
        try:
            request = self._request(decoded, questions, instruction, Pruning.off("dense_shared"))
            # The whole picture, repeated frames too: what is compared with is asking without any of this.
            with self._model.adapter.memory.suspended():
                answers = self._model.answer(decoded.frames, decoded.audio, request)
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
        ready: ReadyClip | None = None,
    ) -> ClipOutcome:
        started = time.monotonic()
        try:
            request = replace(self._request(decoded, questions, instruction, pruning), positions=positions)
            shrunk, answers, note = self._within_memory(decoded, request, ready)
        except DeviceBroken:
            raise
        except OmniDropError as error:
            return ClipFailure(decoded.clip, "answer", error.error_class, str(error))
        except Exception as error:
            # One clip's trouble must not reach the next.
            log.exception("clip %s", decoded.clip.clip_id)
            return ClipFailure(decoded.clip, "answer", "model_error", f"{type(error).__name__}: {error}"[:1000])
        return self._result(shrunk, answers, time.monotonic() - started, note)

    def _result(
        self, answered: DecodedClip, answers: ClipAnswers, answer_s: float, note: tuple[str, ...] = ()
    ) -> ClipResult:
        """Counts it, too. `note` says where it was shrunk."""
        self._clips += 1
        self._shrunk += bool(note)
        return ClipResult(
            clip=answered.clip,
            answers=answers,
            fps=answered.fps,
            frames=0 if answered.frames is None else len(answered.frames),
            samples=0 if answered.audio is None else len(answered.audio),
            decoded_share=answered.decoded_share,
            decode_s=answered.decode_s,
            answer_s=answer_s,
            notes=(*answered.notes, *note),
            noticed=answered.noticed,
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
                # A class of torch's own, which whoever unpickles it would import.
                ("torch", str(torch.__version__)),
                ("transformers", transformers.__version__),
            ),
            load_s=self._load_s,
            clips=self._clips,
            shrunk=self._shrunk,
            peak_rss_bytes=peak_rss_bytes(),
            **_device_memory(adapter.device),
        )

    def _within_memory(
        self, decoded: DecodedClip, request: Request, ready: ReadyClip | None
    ) -> tuple[DecodedClip, ClipAnswers, tuple[str, ...]]:
        """The answers, the clip as it fitted, and a note where it was shrunk. Raises what the model raises."""
        assert self._model is not None
        last: Exception | None = None
        smaller = budgets(decoded, self._model.adapter.geometry)
        while True:
            try:
                # Making a smaller clip takes memory, too; where that fails there is none to be tried.
                if (tried := next(smaller, None)) is None:
                    break
                budget, note = tried
                made = {} if ready is None else {"ready": ready}
                answers = self._model.answer(budget.frames, budget.audio, replace(request, fps=budget.fps), **made)
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


def _summed(costs: Sequence[Cost]) -> Cost:
    """What several texts, one after the other, cost."""
    peaks = [one.peak_bytes for one in costs if one.peak_bytes is not None]
    return Cost(
        as_run=after_each_other([one.as_run for one in costs]),
        dense=after_each_other([one.dense for one in costs]),
        dense_shared=after_each_other([one.dense_shared for one in costs]),
        seconds=sum(one.seconds for one in costs),
        peak_bytes=max(peaks, default=None),
    )


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA says it by class, the CPU allocator of torch only in words."""
    if isinstance(error, MemoryError | ModelOutOfMemory | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)


def _named(error: Exception) -> Exception:
    """A CUDA error other than memory stays with the process: every later call would report it again."""
    if isinstance(error, torch.AcceleratorError):
        return DeviceBroken(first_line(error))
    return error


def _device_memory(device: torch.device) -> dict[str, int]:
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    # The driver's own and other processes': the allocator knows nothing of them.
    others = total - free - torch.cuda.memory_reserved(device)
    return {"peak_device_bytes": others + torch.cuda.max_memory_reserved(device), "device_bytes": total}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
