"""What a storyboard shows, computed from one clip asked again: numbers by layer, answers side by side, maps of tokens.

Promises: plain values in the page's own order (a clip's video tokens by temporal patch, row and column, then its audio
tokens in time), small however long the clip. Knows nothing about HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omnidrop.answers import Answer, Trace
from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.questions import Question, Scored
from pipeline.asking.answered_file import shown as shown_answer
from pipeline.explain.pictures import evenly, spectrogram_picture, thumbnails
from pipeline.explain.replay import AskedAgain

MOST_PATCHES = 96
"""Temporal patches shown; of a longer clip every so many."""
PICTURE_BYTES = 620_000
MAP_BYTES = 900_000
"""Attention values before compression, one byte each; at worst, as noise, 16 levels compress to a half."""
LEVELS = 15
MOST_OPTIONS = 6
"""Probabilities shown of one question."""
LIKELY = 0.005
"""Less probable answers are left out, but for the second."""


@dataclass(frozen=True)
class Option:
    """One allowed answer and its probability in both runs."""

    name: str
    pruned: float
    dense: float | None


@dataclass(frozen=True)
class AnswerFacts:
    """One question, its answers, and how much of what it looks at is still there."""

    id: str
    text: str
    kind: str
    answer: str
    dense: str | None
    """None where the dense pass did not fit into memory."""
    is_same: bool | None
    options: tuple[Option, ...]
    """The most probable ones."""
    pass_number: int
    """Which pass, and so which keep-set, answered it."""
    covered: tuple[float, ...]
    """Per layer, the share of the question's attention that falls on tokens still there, of what it pays to all."""


@dataclass(frozen=True)
class Storyboard:
    """Everything the page shows. N tokens are shown: V of pictures, then A of sound."""

    clip_id: str
    media_key: str
    start_s: float
    end_s: float
    model: str
    mode: str
    policy: str
    retained_ratio: float | None
    layers: int
    questions: tuple[AnswerFacts, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    images: tuple[str, ...]
    """One per temporal patch shown."""
    image_times_s: tuple[float, ...]
    """When each begins, from the clip's start."""
    patch_s: float
    """Seconds from one picture shown to the next."""
    patches: int
    """Temporal patches there are."""
    width: int
    height: int
    rows: int
    columns: int
    """Of video tokens in a picture."""
    sound: str | None
    sound_s: float
    audio_tokens: int
    video_kept: tuple[tuple[float, ...], ...]
    """Per pass and layer, the share of all video tokens that enters."""
    audio_kept: tuple[tuple[float, ...], ...]
    map_layers: tuple[int, ...]
    """Layers whose attention is in `maps`."""
    is_dense_map: bool
    """Whether attention is the dense pass's, so that it also knows of tokens that were dropped."""
    maps: bytes
    """uint8: entered (passes, N), the number of layers each token entered; then looked_at (questions, map layers, N),
    0 to LEVELS by the square root of what is above the layer's mean, the brightest hundredth at LEVELS."""
    cells_encoded: int
    """Of all cells of the picture, as themselves; the others were left out before the vision encoder."""
    cells_still: int
    """Cells that have the features of an earlier moment of their place."""
    encoded: bytes
    """uint8 (N,): 0 for a cell of the picture that was never encoded, 2 for one that has an earlier moment's features,
    1 for all else; empty where all were encoded."""


def facts(asked: AskedAgain) -> Storyboard:
    """What can be shown of a clip that was asked again."""
    run, dense = asked.pruned, asked.dense
    trace = run.answers.positions
    assert trace is not None
    seen_by = trace if dense is None or dense.answers.positions is None else dense.answers.positions
    layers = len(trace.kept[0])
    order, shown, grid = _order(trace)
    patches, rows, columns = grid
    entered = [trace.layers_entered(number) for number in range(len(trace.kept))]
    pass_of = {name: number for number, names in enumerate(trace.question_ids) for name in names}
    attention = {question.id: _attention(seen_by, question.id) for question in asked.questions}
    map_layers = tuple(evenly(layers, max(1, MAP_BYTES // max(1, len(asked.questions) * len(order)))))
    looked_at = [_levels(attention[q.id][layer][order]) for q in asked.questions for layer in map_layers]
    frames, step = asked.decoded.frames, 0
    images: tuple[str, ...] = ()
    height = width = 0
    if frames is not None:
        step = -(-len(frames) // patches)
        images = thumbnails(frames[[min(patch * step, len(frames) - 1) for patch in shown]], PICTURE_BYTES)
        height, width = frames.shape[1:3]
    audio = asked.decoded.audio
    patch_s = step / asked.decoded.fps if step else 0.0
    answers = zip(asked.questions, run.answers.answers, _dense_answers(asked), strict=True)
    meta = asked.stored.meta
    return Storyboard(
        clip_id=asked.stored.clip.clip_id,
        media_key=meta.media.key,
        start_s=asked.stored.clip.start_s,
        end_s=asked.stored.clip.end_s,
        model=meta.asked.model,
        mode=asked.pruning.mode,
        policy=asked.pruning.policy,
        retained_ratio=run.answers.trace.retained_ratio(),
        layers=layers,
        questions=tuple(
            _answer(question, answer, other, number, attention[question.id], entered[number])
            for question, answer, other in answers
            for number in (pass_of[question.id],)
        ),
        changes=asked.changes,
        notes=(*run.notes, *(() if dense is not None else ("nothing pruned, the clip does not fit into memory",))),
        images=images,
        image_times_s=tuple(round(patch * patch_s, 3) for patch in shown),
        patch_s=round(patch_s * patches / len(shown), 4) if len(shown) else 0.0,
        patches=patches,
        width=width,
        height=height,
        rows=rows,
        columns=columns,
        sound=spectrogram_picture(audio) if audio is not None and (trace.modality == AUDIO).any() else None,
        sound_s=len(audio) / 16_000 if audio is not None else 0.0,
        audio_tokens=int((trace.modality == AUDIO).sum()),
        video_kept=tuple(_kept(trace, number, VIDEO) for number in range(len(entered))),
        audio_kept=tuple(_kept(trace, number, AUDIO) for number in range(len(entered))),
        map_layers=map_layers,
        is_dense_map=seen_by is not trace or run is dense,
        cells_encoded=_cells_encoded(trace),
        cells_still=0 if trace.is_still is None else int(trace.is_still.sum()),
        encoded=_encoded(trace, order),
        maps=np.stack([*(np.minimum(one[order], 255) for one in entered), *looked_at]).astype(np.uint8).tobytes(),
    )


def _cells_encoded(trace: Trace) -> int:
    cells = trace.modality == VIDEO
    if trace.encoded is not None:
        cells = cells & trace.encoded
    return int((cells if trace.is_still is None else cells & ~trace.is_still).sum())


def _encoded(trace: Trace, order: npt.NDArray[np.int64]) -> bytes:
    if trace.encoded is None:
        return b""
    there = trace.encoded.astype(np.uint8)
    return (there if trace.is_still is None else there + trace.is_still)[order].astype(np.uint8).tobytes()


def _order(trace: Trace) -> tuple[npt.NDArray[np.int64], Sequence[int], tuple[int, int, int]]:
    """The tokens shown in the page's order, the temporal patches shown, and (patches, rows, columns) of them all."""
    video, audio = np.flatnonzero(trace.modality == VIDEO), np.flatnonzero(trace.modality == AUDIO)
    audio = audio[np.argsort(trace.grid[audio, 0], kind="stable")]
    if not len(video):
        return audio, (), (0, 0, 0)
    patches, rows, columns = (int(n) + 1 for n in trace.grid[video].max(axis=0))
    shown = evenly(patches, MOST_PATCHES)
    by_place = video[np.lexsort((trace.grid[video, 2], trace.grid[video, 1], trace.grid[video, 0]))]
    of_shown = by_place.reshape(patches, rows * columns)[list(shown)].ravel()
    return np.concatenate([of_shown, audio]), shown, (patches, rows, columns)


def _attention(trace: Trace, question_id: str) -> list[npt.NDArray[np.float32]]:
    """Per layer (n,), 0 for tokens that were gone."""
    number = next(i for i, names in enumerate(trace.question_ids) if question_id in names)
    row = trace.question_ids[number].index(question_id)
    whole = []
    for kept, attention in zip(trace.kept[number], trace.attention[number], strict=True):
        of_all = np.zeros(trace.modality.shape[0], dtype=np.float32)
        of_all[kept] = attention[row]
        whole.append(of_all)
    return whole


def _levels(attention: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """0..LEVELS. Every token gets a little, so only what is above the mean counts; and the brightest hundredth is cut
    off, because single tokens that soak up attention would leave the rest dark."""
    above = np.clip(attention - attention.mean(), 0, None)
    top = float(np.quantile(above, 0.99)) or float(above.max()) or 1.0
    levels: npt.NDArray[np.uint8] = np.round(LEVELS * np.sqrt(np.clip(above / top, 0, 1))).astype(np.uint8)
    return levels


def _kept(trace: Trace, number: int, modality: int) -> tuple[float, ...]:
    total = int((trace.modality == modality).sum())
    if not total:
        return ()
    return tuple(round(int((trace.modality[kept] == modality).sum()) / total, 4) for kept in trace.kept[number])


def _dense_answers(asked: AskedAgain) -> Sequence[Answer | None]:
    return asked.dense.answers.answers if asked.dense is not None else [None] * len(asked.questions)


def _answer(
    question: Question,
    answer: Answer,
    dense: Answer | None,
    pass_number: int,
    attention: Sequence[npt.NDArray[np.float32]],
    entered: npt.NDArray[np.int64],
) -> AnswerFacts:
    covered = [
        float(seen[entered > layer].sum() / seen.sum()) if seen.sum() else 1.0 for layer, seen in enumerate(attention)
    ]
    return AnswerFacts(
        id=question.id,
        text=question.text,
        kind=question.answer.kind,
        answer=shown_answer(question, answer),
        dense=None if dense is None else shown_answer(question, dense),
        is_same=None if dense is None else (answer.value, answer.error_class) == (dense.value, dense.error_class),
        options=_options(question, answer, dense),
        pass_number=pass_number,
        covered=tuple(round(share, 4) for share in covered),
    )


def _options(question: Question, answer: Answer, dense: Answer | None) -> tuple[Option, ...]:
    if answer.probabilities is None or not isinstance(question.answer, Scored):
        return ()
    others = dense.probabilities if dense is not None else None
    rows = [
        Option(name, pruned, None if others is None else others[place])
        for place, (name, pruned) in enumerate(zip(question.answer.rendered(), answer.probabilities, strict=True))
    ]
    ranked = sorted(rows, key=lambda one: -max(one.pruned, one.dense or 0.0))
    likely = sum(max(one.pruned, one.dense or 0.0) >= LIKELY for one in rows)
    return tuple(ranked[: min(MOST_OPTIONS, max(2, likely))])
