"""The public face of the method: load a model, ask a question set of a clip, get answers, cost and trace.

Promises: one call answers the whole set in the mode asked, with the same frozen values for every mode, about one clip
or several of one shape in the same passes; no clip sees another. Knows nothing about files, archives, Ray or where
answers go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omnidrop import cost, trace
from omnidrop.answers import Answer, ClipAnswers, Cost, PassCost
from omnidrop.engine import decode, modes, question_rows
from omnidrop.engine.attention import own_attention
from omnidrop.engine.constraint import Grammars
from omnidrop.engine.state import ClipTokens
from omnidrop.errors import ModelError, ModelOutOfMemory, PolicyError, QuestionError, UserError
from omnidrop.models.base import Adapter, ClipPrompt, ReadyClip
from omnidrop.pruning import Pruning, is_number
from omnidrop.questions import Question, Written

Media = tuple[npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None]
"""A clip's frames and audio, as `OmniModel.answer` takes them."""

_SMALLER_CLIP = "shorter clips, fewer frames a second or a lower retained_ratio"
RATIO_TOLERANCE = 0.01
"""A clip of very few tokens cannot meet every ratio; a note says so where it is off by more."""


@dataclass(frozen=True)
class Request:
    """What is asked of a clip, and how it is answered. Raises UserError when made."""

    questions: Sequence[Question]
    """Kept as a tuple: at least one, each with an id of its own."""
    fps: float
    """Frames a second at which the clip was sampled."""
    pruning: Pruning = field(default_factory=Pruning)
    system_prompt: str | None = None
    """None leaves the system turn to the family's chat template."""
    instruction: str = ""
    """Read once, before all questions."""
    positions: bool = False
    """Whether the answers bring along which tokens survived each layer and what each question looked at there."""

    @property
    def prompt(self) -> ClipPrompt:
        """What stands before the questions, beside the clip."""
        return ClipPrompt(self.fps, self.system_prompt, self.instruction)

    def __post_init__(self) -> None:
        object.__setattr__(self, "questions", tuple(self.questions))
        if not isinstance(self.pruning, Pruning):
            raise PolicyError(f"pruning is a Pruning, such as Pruning(retained_ratio=0.3), got {self.pruning!r}")
        if not is_number(self.fps):
            raise UserError(f"fps is the number of frames a second really sampled, got {self.fps!r}")
        for name in ("instruction", "system_prompt"):
            if not isinstance(text := getattr(self, name), str) and (text is not None or name == "instruction"):
                raise QuestionError(f"{name} is a text, got {text!r}")
        ids = [question.id for question in self.questions]
        if not ids or len(set(ids)) != len(ids):
            raise QuestionError(f"a question set needs at least one question and different ids, got {ids}")


@dataclass(frozen=True, eq=False)
class _Pass:
    """What is left of a finished prefill once its questions are answered and its cache is gone."""

    questions: tuple[int, ...]
    answers: tuple[Answer, ...]
    steps: tuple[int, ...]
    """Rows decoded, per question."""
    entered: tuple[Tensor, ...]
    watched: tuple[Tensor, ...] | None
    first_layer: int
    work: tuple[cost.LayerWork, ...]
    reads: int
    decode_flops: int
    kv_bytes: int


class OmniModel:
    """A loaded omni-modal model that answers question sets, one call at a time: calls of several threads wait."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.family = adapter.family
        self.weights_hash = adapter.weights_hash
        self._one_call = threading.Lock()
        """Attention is routed and recorded in the model itself while a call answers."""
        self._grammars: Grammars | None = None
        self._asked: tuple[tuple[Question, ...], tuple[question_rows.Asked, ...]] = ((), ())
        """The questions asked last, as tokens: nearly always those of the next clip."""
        self.widths = cost.Widths.of(adapter.config, adapter.dtype.itemsize)

    @classmethod
    def load(cls, model: str, *, device: str = "auto", dtype: str = "auto") -> OmniModel:
        """A local directory, a hub id, or the name of an embedded checkpoint (`tiny`).

        `auto` is the first CUDA device with bfloat16 where there is one, else the CPU with float32.
        Raises CheckpointError where it cannot be loaded as one of the supported families.
        """
        from omnidrop.models.registry import load

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "bfloat16"
        return cls(load(model, device=device, dtype=dtype))

    def make_ready(
        self, frames: npt.NDArray[np.uint8] | None, audio: npt.NDArray[np.float32] | None, request: Request
    ) -> ReadyClip:
        """Do what `answer` does before it needs the device, for the same arguments: in another thread, while it answers
        another clip. Raises ModelError for a clip that cannot be used."""
        return self.adapter.make_ready(frames, audio, request.prompt)

    def answer(
        self,
        frames: npt.NDArray[np.uint8] | None,
        audio: npt.NDArray[np.float32] | None,
        request: Request,
        ready: ReadyClip | None = None,
    ) -> ClipAnswers:
        """Answer every question about one clip.

        `frames` (T, H, W, 3) uint8 RGB sampled at `request.fps` frames a second and `audio` (samples,) float32 mono
        16 kHz, at least one of them. Answers come in the questions' order. `ready` is `make_ready` of the same arrays
        (of others it is of no use).

        Raises QuestionError, PolicyError (a ratio this depth cannot reach names the floor) and ModelOutOfMemory.
        """
        (answers,) = self._answer_batch([(frames, audio)], request, ready)
        return answers

    def answer_batch(self, clips: Sequence[Media], request: Request) -> list[ClipAnswers]:
        """Answer the same questions about several clips of one shape, each as `answer` would, in the same passes.

        Clips of as many frames of one size and as many samples have as many tokens, and counts follow a schedule, so
        every layer gets them as one batch; each keeps tokens of its own. Encoding, choosing tokens and decoding text
        are done clip by clip. FLOPs, tokens and KV bytes are each clip's own; `Cost.seconds` is an equal share of the
        call's, `Cost.peak_bytes` the call's.

        Raises what `answer` raises, and UserError where the clips are not of one shape.
        """
        return self._answer_batch(clips, request, None)

    def answer_text(
        self, text: str, questions: Sequence[Question], *, system_prompt: str | None = None, instruction: str = ""
    ) -> ClipAnswers:
        """Answer every question about a text, such as what was answered about a video's clips: no picture, no sound.

        One unpruned pass, the text read once for all questions; types, probabilities and costs as of a clip, the trace
        without tokens. Raises QuestionError, also where there is no text or text and a question are longer than what
        the model was made to read, and ModelOutOfMemory.
        """
        # Nothing is sampled: the rate says nothing.
        request = Request(questions, 1.0, Pruning.off(), system_prompt, instruction)
        if not isinstance(text, str) or not text.strip():
            raise QuestionError("there is no text to ask about")

        ids = self.adapter.processor.text_ids(text, system_prompt, instruction)
        longest = max(one.most_rows for one in self._as_tokens(request))
        # Rotary positions beyond the model's own are numbers too: it would answer, and worse.
        most: int | None = getattr(self.adapter.config, "max_position_embeddings", None)
        if most is not None and len(ids) + longest > most:
            raise QuestionError(
                f"the text is {len(ids)} tokens long, the longest question with its answer {longest}, and the model "
                f"was made to read {most}; ask about parts of the text, and then about what was answered"
            )
        (answers,) = self._answered(
            request, lambda: [ClipTokens.of(self.adapter.text_prefix(ids))], "this text", "a shorter text"
        )
        return answers

    def _answer_batch(self, clips: Sequence[Media], request: Request, ready: ReadyClip | None) -> list[ClipAnswers]:
        questions, pruning = request.questions, request.pruning
        for part in (part for clip in clips for part in clip):
            if not (part is None or isinstance(part, np.ndarray)):
                raise ModelError(f"frames and audio are numpy arrays, got {type(part).__name__}; see OmniModel.answer")
        shapes = {tuple(None if part is None else part.shape for part in clip) for clip in clips}
        if len(shapes) != 1:
            raise UserError(
                f"clips of one batch must have the same number of frames, picture size and samples, got "
                f"{', '.join(sorted(map(str, shapes))) or 'no clip'}; answer them one by one"
            )

        def encoded() -> list[ClipTokens]:
            some_of, prompt = None, request.prompt
            if pruning.encoder_share != 1.0 or pruning.still_levels:
                outline = self.adapter.processor.outline(*_size(clips[0]), prompt)
                some_of = pruning.some_of(outline, len(self.adapter.layers), questions)
            return [ClipTokens.of(self.adapter.prefix(*clip, prompt, some_of=some_of, ready=ready)) for clip in clips]

        about = "this clip" if len(clips) == 1 else f"{len(clips)} clips at once"
        return self._answered(request, encoded, about, _SMALLER_CLIP)

    def _answered(
        self, request: Request, prefixes: Callable[[], list[ClipTokens]], about: str, remedy: str
    ) -> list[ClipAnswers]:
        """The answers behind each of the `prefixes`, which are of one shape. Raises ModelOutOfMemory, which says what
        was asked `about` and the `remedy`."""
        with self._one_call:
            return self._answered_alone(request, prefixes, about, remedy)

    def _answered_alone(
        self, request: Request, prefixes: Callable[[], list[ClipTokens]], about: str, remedy: str
    ) -> list[ClipAnswers]:
        questions, pruning = request.questions, request.pruning
        device = self.adapter.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        missed: list[str] = []
        try:
            with torch.inference_mode(), own_attention(self.adapter):
                asked = self._as_tokens(request)
                tokens = prefixes()
                passes: list[list[_Pass]] = [[] for _ in tokens]
                policy = pruning.build()
                for ratio, numbers in pruning.together(questions):
                    schedule = policy.plan(tokens[0].av, len(self.adapter.layers), ratio)
                    missed += _missed(ratio, schedule.retained_ratio)
                    those = [asked[number] for number in numbers]
                    for done in modes.run(
                        self.adapter,
                        tokens,
                        those,
                        pruning.mode,
                        policy,
                        schedule,
                        pruning.guidance,
                        watch=request.positions,
                    ):
                        for of_clip, one in zip(passes, done, strict=True):
                            answered = self._answer_pass(one)
                            of_clip.append(replace(answered, questions=tuple(numbers[q] for q in answered.questions)))
                        del done, one  # their caches go before the next pass starts
        except RuntimeError as error:
            # On the CPU the allocator's failure is a plain RuntimeError.
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            raise ModelOutOfMemory(
                f"{len(questions)} questions about {about} do not fit into {device}'s memory; use {remedy} ({error})"
            ) from error
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - started) / len(tokens)
        return [
            self._collected(clip, asked, of_clip, seconds, missed, positions=request.positions)
            for clip, of_clip in zip(tokens, passes, strict=True)
        ]

    def _as_tokens(self, request: Request) -> tuple[question_rows.Asked, ...]:
        questions = tuple(request.questions)
        before, asked = self._asked
        if before != questions:
            asked = question_rows.ask(self.adapter, questions)
            self._asked = questions, asked
        return asked

    def _collected(
        self,
        clip: ClipTokens,
        asked: Sequence[question_rows.Asked],
        passes: Sequence[_Pass],
        seconds: float,
        missed: Sequence[str],
        *,
        positions: bool,
    ) -> ClipAnswers:
        """One clip's answers, cost and trace from its passes."""
        ids = [one.question.id for one in asked]
        entered = [one.entered for one in passes]
        by_question = {q: a for one in passes for q, a in zip(one.questions, one.answers, strict=True)}
        watched = [one.watched for one in passes if one.watched is not None]
        of_passes = [[ids[q] for q in one.questions] for one in passes]
        return ClipAnswers(
            answers=tuple(by_question[number] for number in range(len(ids))),
            cost=self._cost(clip, asked, passes, seconds),
            trace=trace.counts(clip.av, entered),
            notes=(*clip.prefix.notes, *missed),
            positions=trace.positions(clip.av, of_passes, entered, watched, clip.prefix) if positions else None,
        )

    def _answer_pass(self, done: modes.Prefilled) -> _Pass:
        packed, state = done.state.packed, done.state
        answers: dict[int, Answer] = {}
        steps = [0] * len(packed.asked)
        written = [n for n, one in enumerate(packed.asked) if one.options is None]
        for number, one in enumerate(packed.asked):
            if one.options is not None:
                rows = done.logits[packed.reads[number] : packed.reads[number + 1]]
                answers[number] = decode.score(one, rows, self.adapter.end_ids)
        if written:
            first = done.logits[[packed.reads[number] for number in written]]
            generated = decode.generate(self.adapter, state, written, first, self._grammars_for(packed.asked))
            for number, text in zip(written, generated, strict=True):
                answers[number] = decode.read(packed.asked[number].question, text, self.adapter)
                steps[number] = text.steps
        return _Pass(
            questions=done.questions,
            answers=tuple(answers[number] for number in range(len(packed.asked))),
            steps=tuple(steps),
            entered=tuple(state.entered),
            watched=None if state.watched is None else tuple(state.watched),
            first_layer=done.first_layer,
            work=done.work,
            reads=packed.reads[-1],
            decode_flops=sum(
                cost.decode_flops(self.widths, done.seen_rows, len(one.ids), steps[number])
                for number, one in enumerate(packed.asked)
            ),
            kv_bytes=sum(self.widths.cache_bytes(rows) for rows in done.cached_rows),
        )

    def _grammars_for(self, asked: Sequence[question_rows.Asked]) -> Grammars | None:
        definition = self.adapter.tokenizer_json
        answers = (one.question.answer for one in asked)
        if definition is None or not any(isinstance(a, Written) and a.schema is not None for a in answers):
            return None
        if self._grammars is None:
            self._grammars = Grammars(definition, self.widths.vocabulary, self.adapter.end_ids)
        return self._grammars

    def _cost(
        self, clip: ClipTokens, asked: Sequence[question_rows.Asked], passes: Sequence[_Pass], seconds: float
    ) -> Cost:
        widths, rows_in, prefix = self.widths, clip.prefix.input_ids.shape[0], clip.prefix
        steps = {q: s for one in passes for q, s in zip(one.questions, one.steps, strict=True)}
        rows = [question_rows.priced(one, steps[number]) for number, one in enumerate(asked)]
        as_run = PassCost(
            tokens=sum(one.work[0].rows for one in passes if one.first_layer == 0),
            prefill_flops=sum(cost.prefill_flops(widths, one.work, one.reads, one.first_layer) for one in passes),
            selection_flops=sum(cost.selection_flops(widths, one.work) for one in passes),
            encoder_flops=prefix.encoder_flops,
            decode_flops=sum(one.decode_flops for one in passes),
            kv_bytes=max(one.kv_bytes for one in passes),
        )
        device = self.adapter.device
        return Cost(
            as_run=as_run,
            dense=cost.dense(widths, rows_in, rows, prefix.encoder_flops_dense),
            dense_shared=cost.dense_shared(widths, rows_in, rows, prefix.encoder_flops_dense),
            seconds=seconds,
            peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )


def _missed(asked: float | None, planned: float) -> tuple[str, ...]:
    if asked is None or abs(asked - planned) <= RATIO_TOLERANCE:
        return ()
    return (f"retained_ratio {asked:g} was asked for, {planned:.3f} is what this clip's token counts allow",)


def _size(clip: Media) -> tuple[tuple[int, int, int], int]:
    """(frames, height, width) of a clip's picture, zeros without one, and its samples of sound."""
    frames, audio = clip
    count, height, width = (0, 0, 0) if frames is None else frames.shape[:3]
    return (count, height, width), 0 if audio is None else len(audio)
