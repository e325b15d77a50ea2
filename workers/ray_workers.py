"""The thin Ray side of the workers: a decode task and a model actor around the plain functions.

Promises: nothing is retried or restarted by Ray itself (a clip that kills its worker must be seen by the driver, which
counts), and only references to decoded clips travel through the driver. Knows nothing about decoding or models.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from omnidrop.imports import own_process, uncollected
from workers.errors import DeviceBroken
from workers.media import nvdec
from workers.media.decode import (
    Looked,
    Source,
    decode_one,
    decoder_here,
    folder_of,
    is_local,
    looked_at,
    opened_for_words,
)
from workers.media.early import Early, EarlyClip, Wish
from workers.media.probing import ProbePool
from workers.media.remote import bytes_fetched
from workers.records import (
    Clip,
    ClipFailure,
    ClipOutcome,
    DecodedClip,
    DecodeReport,
    DecodeSettings,
    Loaded,
    Media,
    MediaInfo,
    RawCue,
    WorkUnit,
)

DECODE_RESOURCE = "decode"
"""Custom resource of machines that are meant for decoding, one per core. Ray by itself only tends to keep tasks without
GPU off machines with one; where a cluster has this resource, decode tasks run nowhere else."""

UNITS_PACKED = 256
"""Units of which what their clips share is kept ready."""

PROBERS = 2
"""Probers of a process that stay, each with a child of some 40 MB."""

NODE_ID_LABEL = "ray.io/node-id"
"""Ray gives every machine this label."""

MAKING_READY = "making_ready"
"""Calls of an actor that run beside its answers, in a thread of their own."""

if TYPE_CHECKING:
    # Decode workers import this module too, and must not hold torch: 0.4 GB and seconds in each of them.
    from omnidrop.pruning import Pruning
    from omnidrop.questions import Question
    from workers.model.description import AnswererDescription
    from workers.model.settings import AnswererSettings


def packed(*values: object) -> bytes:
    """What is the same for many calls, made ready to be sent once: Ray sends bytes as they are, and takes 0.07 ms of
    the driver for each other argument of each call."""
    return pickle.dumps(values, pickle.HIGHEST_PROTOCOL)


def _decode(shared: bytes, clip: Clip, early: DecodedClip | None = None) -> tuple[DecodeReport, DecodedClip | None]:
    """`early` is what the clip holds, where it was decoded before it was one."""
    media, info, settings, source = pickle.loads(shared)
    fetched = bytes_fetched()
    outcome = decode_one(media, info, clip, settings, source) if early is None else replace(early, clip=clip)
    machine = str(ray.get_runtime_context().get_node_id())
    said = (str(nvdec.level_here(settings)), machine, decoder_here(settings), bytes_fetched() - fetched)
    if isinstance(outcome, ClipFailure):
        return DecodeReport(outcome, 0, *said), None
    return DecodeReport(None, outcome.nbytes, *said), outcome


class _Actor:
    def __init__(self, settings: AnswererSettings) -> None:
        with own_process(), uncollected():
            import_module("transformers.modeling_utils")  # what loading a model takes
            from workers.model.answerer import Answerer

        self._answerer = Answerer(settings)

    def load(self) -> Loaded:
        """Load the model; says on which node, by which the driver tells a lost machine from a crash."""
        started = time.monotonic()
        self._answerer.load()
        return Loaded(str(ray.get_runtime_context().get_node_id()), time.monotonic() - started)

    def answer(
        self, decoded: DecodedClip, asked: bytes, may_audit: bool = True, pruning: Pruning | None = None
    ) -> ClipOutcome:
        """`asked` is `packed(questions, instruction)`; the rest as `Answerer.answer`."""
        questions, instruction = pickle.loads(asked)
        try:
            return self._answerer.answer(decoded, questions, instruction, may_audit=may_audit, pruning=pruning)
        except DeviceBroken:
            # The driver sees a death, starts another actor and gives this clip a second chance, counted.
            os._exit(1)

    @ray.method(concurrency_group=MAKING_READY)  # type: ignore[untyped-decorator]
    def make_ready(self, decoded: DecodedClip, asked: bytes) -> None:
        """Beside an answer to another clip; see `Answerer.make_ready`."""
        questions, instruction = pickle.loads(asked)
        self._answerer.make_ready(decoded, questions, instruction)

    def answer_batch(self, asked: bytes, *decoded: DecodedClip) -> list[ClipOutcome]:
        """Several clips that are asked the same."""
        # Ray hands over what references point to only where they are arguments themselves.
        questions, instruction = pickle.loads(asked)
        try:
            return self._answerer.answer_batch(decoded, questions, instruction)
        except DeviceBroken:
            os._exit(1)

    def answer_whole(self, video: Clip, asked: bytes) -> ClipOutcome:
        """A whole video; `asked` is `packed(questions, lines)`."""
        questions, lines = pickle.loads(asked)
        try:
            return self._answerer.answer_whole(video, lines, questions)
        except DeviceBroken:
            os._exit(1)

    def describe(self) -> AnswererDescription:
        return self._answerer.describe()


_decode_task = ray.remote(num_cpus=1, max_retries=0, num_returns=2)(_decode)
ACTOR_OPTIONS: Mapping[str, Any] = {
    "max_restarts": 0,
    "max_task_retries": 0,
    "concurrency_groups": {MAKING_READY: 1},
    # Of two calls the driver must know which came first, to tell which of them an actor died of.
    "allow_out_of_order_execution": False,
}
"""How every model actor is made, also one that stands in for it: the loop relies on it."""
_ActorClass = ray.remote(**ACTOR_OPTIONS)(_Actor)


_PROBERS: OrderedDict[tuple[bytes, str | None], ProbePool] = OrderedDict()


def _pool(shared: bytes, below: str | None = None) -> ProbePool:
    """A prober that stays for later tasks of this process. Only the last `PROBERS` keep their child."""
    key = shared, below
    if key not in _PROBERS:
        source, probe_timeout_s = pickle.loads(shared)
        _PROBERS[key] = ProbePool(
            1, timeout_s=probe_timeout_s, below=below, storage_options=dict(source.storage_options)
        )
        end_probers(PROBERS)
    _PROBERS.move_to_end(key)
    return _PROBERS[key]


def end_probers(kept: int = 0) -> None:
    """End all probers of this process but the last few."""
    while len(_PROBERS) > kept:
        _PROBERS.popitem(last=False)[1].close()


def _look(shared: bytes, media: Media, wish: Wish | None) -> Looked | tuple[Looked | DecodedClip | None, ...]:
    """What was decoded early comes beside the rest, so many values as were wished for: none of it through the
    driver."""
    source, _ = pickle.loads(shared)
    below = folder_of(media, source) if is_local(media.uri) else None

    def probed(path: str) -> MediaInfo | ClipFailure:
        ((_, found),) = _pool(shared, below).probe_many([(None, path)])
        return found

    if wish is None:
        return looked_at(media, source, probed)
    looked = looked_at(media, source, probed, Early(media, wish, _pool(shared, below)))
    decoded = [early.decoded for early in looked.early]
    told = replace(looked, early=tuple(replace(early, decoded=None) for early in looked.early))
    return told, *decoded, *(None for _ in range(wish.clips - len(decoded)))


def _subtitles(shared: bytes, media: Media, index: int) -> tuple[tuple[RawCue, ...] | ClipFailure, int]:
    """What a stream of text subtitles says, and the bytes that came from the store for it."""
    source, _ = pickle.loads(shared)
    fetched, opening = bytes_fetched(), partial(opened_for_words, media, DecodeSettings(), source)
    ((_, cues),) = _pool(shared).subtitles_many([(None, opening, index)])
    return cues, bytes_fetched() - fetched


_look_task = ray.remote(num_cpus=0, max_retries=0)(_look)
_subtitles_task = ray.remote(num_cpus=0, max_retries=0)(_subtitles)


class LookStarter:
    """Looks at files and objects where they will be decoded: no core is taken for what waits for a store or a disk."""

    def __init__(self, source: Source, probe_timeout_s: float) -> None:
        self._shared = packed(source, probe_timeout_s)

    def look(self, machine: str, media: Media, wish: Wish | None = None) -> Looked:
        """On one machine, by its node's id, if it is there; of clips decoded early, references. Raises
        ray.exceptions.RayError."""
        there = NodeAffinitySchedulingStrategy(machine, soft=True)
        values = 1 if wish is None else 1 + wish.clips
        refs = _look_task.options(scheduling_strategy=there, num_returns=values).remote(self._shared, media, wish)
        told, *decoded = [refs] if wish is None else refs
        found: Looked = ray.get(told)
        early = (replace(one, decoded=ref) for one, ref in zip(found.early, decoded, strict=False))
        return replace(found, early=tuple(early))

    def subtitles(self, machine: str, media: Media, index: int) -> tuple[tuple[RawCue, ...] | ClipFailure, int]:
        """What a stream of text subtitles says, read on one machine, and the bytes that came from the store for it.
        Raises ray.exceptions.RayError."""
        there = NodeAffinitySchedulingStrategy(machine, soft=True)
        task = _subtitles_task.options(scheduling_strategy=there)
        found: tuple[tuple[RawCue, ...] | ClipFailure, int] = ray.get(task.remote(self._shared, media, index))
        return found


class DecodeStarter:
    """Starts decode tasks, on machines with the custom resource `DECODE_RESOURCE` only where `is_placed`."""

    def __init__(
        self,
        settings: DecodeSettings,
        source: Source,
        *,
        is_placed: bool = False,
        task: Any = None,
        early: Callable[[Media, MediaInfo, Clip], EarlyClip | None] = lambda *_: None,
    ) -> None:
        """`task` is what is started, with the same arguments, where decoding itself is not what is measured; `early`
        gives what was decoded before, once."""
        self._early = early
        self._settings, self._source = settings, source
        self._anywhere = task or _decode_task
        self._placed = {"resources": {DECODE_RESOURCE: 1}} if is_placed else {}
        self._task = self._anywhere.options(**self._placed) if is_placed else self._anywhere
        self._at: dict[str, Any] = {}
        self._packed: OrderedDict[tuple[int, bool], tuple[WorkUnit, bytes]] = OrderedDict()

    def __call__(self, unit: WorkUnit, clip: Clip) -> tuple[ray.ObjectRef, ray.ObjectRef]:
        """Start decoding one clip (one CPU). Returns references to its DecodeReport and to the DecodedClip or None."""
        return self._started(self._task, unit, clip, is_helped=False)

    def at(self, machine: str, is_helped: bool, unit: WorkUnit, clip: Clip) -> tuple[ray.ObjectRef, ray.ObjectRef]:
        """The same on one machine while it is there, by its node's id, or on any; `is_helped` where another has the
        file."""
        if machine and machine not in self._at:
            there = NodeAffinitySchedulingStrategy(machine, soft=True)
            self._at[machine] = self._anywhere.options(scheduling_strategy=there, **self._placed)
        return self._started(self._at.get(machine, self._task), unit, clip, is_helped=is_helped)

    def _started(
        self, task: Any, unit: WorkUnit, clip: Clip, *, is_helped: bool
    ) -> tuple[ray.ObjectRef, ray.ObjectRef]:
        early = self._early(unit.media, unit.info, clip)
        report, decoded = task.remote(self._shared(unit, is_helped), clip, *([] if early is None else [early.decoded]))
        return report, decoded

    def _shared(self, unit: WorkUnit, is_helped: bool) -> bytes:
        """What a unit's clips have in common: they come one after the other, those of some units in turn."""
        key = (id(unit), is_helped)
        if key not in self._packed or self._packed[key][0] is not unit:
            source = replace(self._source, is_helping=is_helped)
            self._packed[key] = unit, packed(unit.media, unit.info, self._settings, source)
            if len(self._packed) > UNITS_PACKED:
                self._packed.popitem(last=False)
        return self._packed[key][1]

    def on(self, machine: str, unit: WorkUnit, clip: Clip) -> tuple[ray.ObjectRef, ray.ObjectRef]:
        """The same on one machine, by its node's id, and nowhere else."""
        there = self._anywhere.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(machine, soft=False), **self._placed
        )
        report, decoded = there.remote(packed(unit.media, unit.info, self._settings, self._source), clip)
        return report, decoded

    def leave_out(self, machines: Iterable[str]) -> None:
        """Start nothing on these machines any more."""
        elsewhere = {NODE_ID_LABEL: f"!in({','.join(machines)})"}
        self._task = self._anywhere.options(label_selector=elsewhere, **self._placed)


def start_actor(settings: AnswererSettings, *, num_gpus: float, num_cpus: float = 1) -> Any:
    """Start an actor with `load()`, `answer(decoded, packed(questions, instruction))`, `make_ready` of the same, which
    runs beside an answer, `answer_batch(packed(questions, instruction), *decoded)`, `answer_whole(video,
    packed(questions, lines))` and `describe()`, all called with `.remote`. It answers in the order of the calls.
    `num_gpus` 0 where there is no GPU."""
    return _ActorClass.options(num_gpus=num_gpus, num_cpus=num_cpus).remote(settings)


class RemoteAnswerer:
    """An actor that is asked one clip at a time, as an `Answerer` in this process would be.

    All calls raise ray.exceptions.RayError where the actor cannot be started or dies.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def answer(
        self,
        decoded: DecodedClip,
        questions: Sequence[Question],
        instruction: str = "",
        *,
        pruning: Pruning | None = None,
    ) -> ClipOutcome:
        """As `Answerer.answer`, without an audit."""
        asked = packed(questions, instruction)
        outcome: ClipOutcome = ray.get(self._actor.answer.remote(decoded, asked, may_audit=False, pruning=pruning))
        return outcome

    def answer_batch(
        self, decoded: Sequence[DecodedClip], questions: Sequence[Question], instruction: str = ""
    ) -> list[ClipOutcome]:
        """As `Answerer.answer_batch`."""
        # Only references that are arguments themselves are handed over as what they point to.
        clips = [ray.put(one) for one in decoded]
        outcomes: list[ClipOutcome] = ray.get(self._actor.answer_batch.remote(packed(questions, instruction), *clips))
        return outcomes

    def describe(self) -> AnswererDescription:
        """As `Answerer.describe`."""
        description: AnswererDescription = ray.get(self._actor.describe.remote())
        return description
