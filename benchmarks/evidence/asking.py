"""Asks every row's questions about every clip: real files, decoded by the product, encoded once for all rows.

Promises: the same clips, questions and order for every row; rows that encode the same of a picture differ in the
decoder's pass alone, because the encoders' features of a clip are computed once and handed to each. Knows nothing
about tables.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.evidence import guides
from benchmarks.evidence.damage import CLEAN, FILTERS, NOISE, damaged_file, noisy
from benchmarks.evidence.rows import ABLATED, WHOLE, Row
from omnidrop.errors import PolicyError
from omnidrop.model import OmniModel, Request
from omnidrop.models.base import ClipPrompt, Prefix
from omnidrop.models.registry import weights_hash
from omnidrop.pruning import Pruning
from pipeline.evaluation.dataset import ArmClip, EvaluatedClip
from pipeline.evaluation.runner import RunSettings, answered, decoded_clip, sets_of
from workers.media.decode import Source, local_etag
from workers.media.probing import probe
from workers.records import ClipFailure, DecodedClip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Disagreement:
    """How differently the questions of one set would prune by themselves."""

    clip_id: str
    question_ids: tuple[str, ...]
    ratio: float
    set_size: int
    overlap: float
    """Mean over pairs of questions of |A and B| / |A or B|, A and B the tokens each keeps in the last layer."""


@dataclass(frozen=True)
class Asked:
    """What came of some clips."""

    answers: dict[str, tuple[ArmClip, ...]]
    """By row name."""
    refused: dict[str, str]
    """Rows that the model's depth does not allow, and why."""
    disagreements: tuple[Disagreement, ...]
    seeds: Mapping[str, int] = field(default_factory=dict)
    """Evaluation seed by clip."""


class Remembering:
    """An adapter that encodes a clip once: the next call with the same arrays and words gets the same prefix, with
    `noise` on its features."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self.noise = 0.0
        self._asked: tuple[Any, Any, ClipPrompt, dict[str, Any]] | None = None
        self._prefix: Prefix | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def prefix(self, frames: Any, audio: Any, prompt: ClipPrompt, **how: Any) -> Prefix:
        """As the adapter's."""
        known = self._asked
        is_known = known is not None and known[0] is frames and known[1] is audio and known[2:] == (prompt, how)
        if not is_known or self._prefix is None:
            # The arrays are held, so that no other ones can come to lie at their addresses.
            self._asked = frames, audio, prompt, how
            self._prefix = self._adapter.prefix(frames, audio, prompt, **how)
        return noisy(self._prefix, self.noise) if self.noise else self._prefix


def ask(
    model: str,
    clips: Sequence[EvaluatedClip],
    rows: Sequence[Row],
    processes: int = 1,
    progress: Callable[[], object] = lambda: None,
    state: Path | None = None,
) -> Asked:
    """All rows on all clips, the clips shared out over `processes` of one thread each.

    What is asked of a clip is kept in the folder `state`, so that a run that was stopped goes on where it was, and one
    with more rows asks only those.
    """
    jobs = [(model, clip, tuple(rows), state) for clip in clips]
    parts = []
    if processes == 1:
        for job in jobs:
            parts.append(_one(job))
            progress()
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for part in pool.imap(_one, jobs):
                parts.append(part)
                progress()
    answers = {row.name: tuple(one for part in parts for one in part.answers.get(row.name, ())) for row in rows}
    refused = {name: why for part in parts for name, why in part.refused.items()}
    # A row that some clip cannot be pruned to would be measured on the others alone: it is left out.
    return Asked(
        {name: found for name, found in answers.items() if name not in refused},
        refused,
        tuple(one for part in parts for one in part.disagreements),
    )


_loaded: dict[str, OmniModel] = {}


def _load(model: str) -> OmniModel:
    if model not in _loaded:
        torch.set_num_threads(1)
        loaded = OmniModel.load(model, device="cpu")
        _loaded[model] = OmniModel(Remembering(loaded.adapter))  # type: ignore[arg-type]
    return _loaded[model]


class _State:
    """What was asked of one clip, a file for each row, so that rows can be added. Keeps nothing without a folder."""

    def __init__(self, folder: Path | None, *about: object) -> None:
        self._folder, self._about = folder, about

    def _file(self, what: object) -> Path | None:
        if self._folder is None:
            return None
        named = hashlib.sha256(repr((self._about, what)).encode()).hexdigest()
        return self._folder / named[:2] / f"{named[2:32]}.pickle"

    def get(self, what: object) -> Any:
        """What is known of `what`; None where nothing is."""
        kept = self._file(what)
        return pickle.loads(kept.read_bytes()) if kept and kept.exists() else None  # our own, of this machine

    def put(self, what: object, found: object) -> None:
        """Keep it."""
        if kept := self._file(what):
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".part")
            partial.write_bytes(pickle.dumps(found))
            partial.rename(kept)


def _one(job: tuple[str, EvaluatedClip, tuple[Row, ...], Path | None]) -> Asked:
    model, clip, rows, folder = job
    assert clip.failure is None, clip.failure
    state = _State(folder, weights_hash(model) if folder else "", clip.clip_id, clip.questions)
    by_condition = groupby(rows, key=lambda row: row.condition)
    with guides.registered(), TemporaryDirectory() as files:
        parts = [_in_condition(model, clip, name, list(of), state, Path(files)) for name, of in by_condition]
    return Asked(
        {name: answers for part in parts for name, answers in part.answers.items()},
        {name: why for part in parts for name, why in part.refused.items()},
        tuple(one for part in parts for one in part.disagreements),
    )


def _in_condition(
    name: str, clip: EvaluatedClip, condition: str, rows: Sequence[Row], state: _State, folder: Path
) -> Asked:
    """Rows of one condition: the clip is decoded once for those that were not asked before."""
    found: dict[str, ArmClip | str] = {row.name: kept for row in rows if (kept := state.get(row)) is not None}
    sizes = tuple(
        dict.fromkeys((r.ratio, r.set_size) for r in rows if r.way == "set_guided, max" and r.ratio in ABLATED)
    )
    disagreements: tuple[Disagreement, ...] | None = state.get(sizes) if condition == CLEAN else ()
    missing, started = [row for row in rows if row.name not in found], time.perf_counter()
    if missing or disagreements is None:
        model, decoded = _load(name), _decoded(clip, condition, folder)
        model.adapter.noise = NOISE.get(condition, 0.0)  # type: ignore[attr-defined]
        for row in missing:
            try:
                found[row.name] = answered(model, clip, decoded, row.arm, RunSettings(questions_per_set=row.set_size))
            except PolicyError as error:
                found[row.name] = str(error)
            state.put(row, found[row.name])
        if disagreements is None:
            possible = [row for row in rows if not isinstance(found[row.name], str)]
            disagreements = tuple(_disagreements(model, clip, decoded, possible))
            state.put(sizes, disagreements)
        model.adapter.noise = 0.0  # type: ignore[attr-defined]
        log.info("%s, %s: %d rows in %.1f s", clip.media.key, condition, len(missing), time.perf_counter() - started)
    return Asked(
        {name: (of,) for name, of in found.items() if not isinstance(of, str)},
        {name: of for name, of in found.items() if isinstance(of, str)},
        disagreements,
    )


def _decoded(clip: EvaluatedClip, condition: str, folder: Path) -> DecodedClip:
    if condition in FILTERS:
        path = damaged_file(Path(clip.media.uri), condition, folder)
        # Another file, so that neither its probe nor its features are taken for those of the clean one.
        media = replace(clip.media, uri=str(path), etag=local_etag(str(path)))
        clip = replace(clip, media=media, info=probe(str(path)))
    decoded = decoded_clip(clip, RunSettings(), Source())
    # A generated clip that cannot be decoded is a bug, not a result.
    assert not isinstance(decoded, ClipFailure), decoded
    return decoded


def _disagreements(
    model: OmniModel, clip: EvaluatedClip, decoded: DecodedClip, rows: Sequence[Row]
) -> Iterator[Disagreement]:
    """Of every set that `set_guided, max` rows were asked, at the ratios where pruning costs something."""
    guided = [row for row in rows if row.way == "set_guided, max"]
    for ratio in sorted({row.ratio for row in guided if row.ratio in ABLATED}):
        pruning = Pruning("per_question", "omnidrop", ratio, encoder_share=WHOLE)
        trace = model.answer(
            decoded.frames, decoded.audio, Request(clip.questions, fps=decoded.fps, pruning=pruning, positions=True)
        ).positions
        assert trace is not None
        kept = {ids[0]: set(entered[-1].tolist()) for ids, entered in zip(trace.question_ids, trace.kept, strict=True)}
        for size in sorted({row.set_size for row in guided if row.ratio == ratio}):
            for one in sets_of(clip.questions, size):
                pairs = list(combinations([kept[question.id] for question in one], 2))
                if pairs:
                    overlap = sum(len(a & b) / max(1, len(a | b)) for a, b in pairs) / len(pairs)
                    yield Disagreement(clip.clip_id, tuple(question.id for question in one), ratio, size, overlap)
