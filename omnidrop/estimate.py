"""What a clip will cost before any model exists: exact tokens and FLOPs from a checkpoint's configuration files.

Promises: the same numbers that `OmniModel.answer` reports for a clip of that size, without loading weights; the only
unknown is how long texts get, which is priced at the most a question allows. Knows nothing about archives or seconds.
Loads no torch for the policies `omnidrop` and `none`: every command that plans would pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnidrop import cost
from omnidrop.answers import PassCost
from omnidrop.engine.question_rows import Asked, Rows, arrange, ask, priced
from omnidrop.models.base import ClipPrompt, Outline
from omnidrop.models.checkpoints import configuration_of, loading
from omnidrop.models.registry import processor_of
from omnidrop.policies.base import read_of
from omnidrop.policies.schedule import Schedule
from omnidrop.pruning import DENSE_MODES, SHARED_MODES, Pruning
from omnidrop.questions import Question, Scored, Written

_LONGEST = 16
"""Options whose tokens are counted: those with the most characters."""


@dataclass(frozen=True)
class Estimate:
    """One clip and its question set."""

    audio_tokens: int
    video_tokens: int
    video_encoded: int
    """Cells of the picture that are encoded: all, or those that `Pruning.encoder_share` leaves."""
    retained_ratio: float
    as_run: PassCost
    dense: PassCost
    dense_shared: PassCost


class Estimator:
    """Prices clips for one checkpoint, of the hub without fetching its weights. Raises CheckpointError."""

    def __init__(self, model: str, *, value_bytes: int = 2) -> None:
        """`model` as for `OmniModel.load`; `value_bytes` of one cached value (2 for bfloat16)."""
        directory = configuration_of(model)
        self._processor = processor_of(directory)
        self.geometry = self._processor.geometry
        with loading(directory):
            self._widths = cost.Widths.of(self.geometry.config.text_config, value_bytes)

    def clip(
        self,
        questions: Sequence[Question],
        pruning: Pruning,
        *,
        frames: int,
        height: int,
        width: int,
        samples: int,
        fps: float,
        system_prompt: str | None = None,
        instruction: str = "",
    ) -> Estimate:
        """Price one clip of `frames` frames of `height` x `width` pixels (0 frames: sound only) and `samples` samples.

        Raises PolicyError where the retained ratio cannot be reached for such a clip, SoundTooShort where there is
        nothing to hear and nothing to see.
        """
        shape = (frames, height, width)
        clip = self._processor.outline(shape, samples, ClipPrompt(fps, system_prompt, instruction))
        cells = pruning.cells(clip, self._widths.layers, questions)
        encoders = clip.encoder_flops
        if cells is not None:
            encoders -= self._encoder_flops_saved(clip.video, cells, shape)
        asked = ask(self._processor, questions)
        rows = [_question_rows(one) for one in asked]
        ratios, costs = [], []
        for ratio, numbers in pruning.together(questions):
            schedule = self._planned(clip, pruning, ratio)
            those = ([asked[n] for n in numbers], [rows[n] for n in numbers])
            costs.append(self._as_run(clip, encoders, *those, pruning, schedule))
            ratios += [schedule.retained_ratio] * (1 if pruning.mode in SHARED_MODES else len(numbers))
        return Estimate(
            audio_tokens=clip.audio,
            video_tokens=clip.video,
            video_encoded=clip.video if cells is None else cells,
            retained_ratio=sum(ratios) / len(ratios),
            as_run=cost.after_each_other(costs),
            dense=cost.dense(self._widths, clip.tokens, rows, clip.encoder_flops),
            dense_shared=cost.dense_shared(self._widths, clip.tokens, rows, clip.encoder_flops),
        )

    def text(self, tokens: int, questions: Sequence[Question], *, system_prompt: str | None = None) -> Estimate:
        """Price a text of so many tokens, asked as `OmniModel.answer_text` asks it."""
        rows = [_question_rows(one) for one in ask(self._processor, questions)]
        prefix = len(self._processor.text_ids("", system_prompt, "")) + tokens
        ran = cost.dense_shared(self._widths, prefix, rows, 0)
        return Estimate(0, 0, 0, 1.0, ran, cost.dense(self._widths, prefix, rows, 0), ran)

    def most_tokens(self, question: Question) -> int:
        """How long a question with its answer can be as a part of a text."""
        answer, tokens = question.answer, self._tokens
        if isinstance(answer, Written):
            return tokens(question.text) + answer.max_tokens
        texts = answer.rendered() if isinstance(answer, Scored) else ("",)
        longest = sorted(texts, key=len)[-_LONGEST:]  # a number has a thousand values
        return tokens(question.text) + max(map(tokens, longest)) + tokens(str(getattr(answer, "unit", None) or ""))

    def _tokens(self, text: str) -> int:
        return len(self._processor.answer_ids(text))

    def schedule(self, pruning: Pruning, *, frames: int, height: int, width: int, samples: int, fps: float) -> Schedule:
        """How many tokens of such a clip enter each layer, whatever is asked. Raises PolicyError, as `clip`."""
        clip = self._processor.media((frames, height, width), samples, fps=fps)
        return self._planned(clip, pruning, pruning.retained_ratio)

    def _planned(self, clip: Outline, pruning: Pruning, ratio: float | None) -> Schedule:
        return pruning.build().plan(clip, self._widths.layers, ratio)

    def _encoder_flops_saved(self, all_cells: int, cells: int, shape: tuple[int, int, int]) -> int:
        """By encoding `cells` of a picture's instead of all."""
        grid = self.geometry.grid(*shape)
        return self.geometry.vision_flops(*grid) - self.geometry.vision_flops(*grid, cells=cells, embedded=all_cells)

    def _as_run(
        self,
        clip: Outline,
        encoders: int,
        asked: Sequence[Asked],
        rows: Sequence[cost.QuestionRows],
        pruning: Pruning,
        schedule: Schedule,
    ) -> PassCost:
        if pruning.mode in DENSE_MODES:
            priced = cost.dense if pruning.mode == "dense" else cost.dense_shared
            return priced(self._widths, clip.tokens, rows, encoders)
        together = [arrange(asked)] if pruning.mode == "set_guided" else [arrange([one]) for one in asked]
        works = [self._work(clip, group, pruning, schedule) for group in together]
        seen_rows = [layer.seen_rows for layer in works[0]]
        tokens = sum(work[0].rows for work in works)
        kv_bytes = max(cost.cache_bytes(self._widths, work) for work in works)
        prefill_flops = sum(
            cost.prefill_flops(self._widths, work, group.reads[-1]) for work, group in zip(works, together, strict=True)
        )
        if pruning.mode == "staged" and schedule.first_drop is not None and len(asked) > 1:
            # Layers up to the first drop run once for the whole set; each question goes on alone from there.
            until = schedule.first_drop + 1
            shared = self._work(clip, arrange(asked), pruning, schedule)[:until]
            prefill_flops = cost.prefill_flops(self._widths, shared, 0) + sum(
                cost.prefill_flops(self._widths, work[until:], row.reads, until)
                for work, row in zip(works, rows, strict=True)
            )
            kv_bytes = max(cost.cache_bytes(self._widths, [*shared, *work[until:]]) for work in works)
            works = [shared, *(work[until:] for work in works)]
            tokens = shared[0].rows
        return PassCost(
            tokens=tokens,
            prefill_flops=prefill_flops,
            selection_flops=sum(cost.selection_flops(self._widths, work) for work in works),
            encoder_flops=encoders,
            decode_flops=sum(cost.decode_flops(self._widths, seen_rows, row.question_rows, row.steps) for row in rows),
            kv_bytes=kv_bytes,
        )

    def _work(self, clip: Outline, rows: Rows, pruning: Pruning, schedule: Schedule) -> list[cost.LayerWork]:
        policy, words, last = pruning.build(), len(rows.guiding), len(rows.last)
        guiding = {"nothing": 0, "states": 0, "question": words + last, "words": words, "last": last}[policy.guide]
        read = read_of(clip.count, policy, schedule)
        work = [
            cost.LayerWork(
                clip.text + entering, rows.count, rows.pairs, guiding if schedule.drops_after(layer) else 0, read
            )
            for layer, entering in enumerate(schedule.entering)
        ]
        return [*work[:-1], work[-1].as_last(rows.reads[-1], rows.read_pairs)]


def _question_rows(one: Asked) -> cost.QuestionRows:
    answer = one.question.answer
    # The first token comes from the prefill.
    return priced(one, answer.max_tokens - 1 if isinstance(answer, Written) else 0)
