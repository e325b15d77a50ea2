"""How fast a model answers on a device, as it was measured there: the record that plans turn FLOPs into hours with,
and that `auto` settings of a job take their values from.

Promises: a record says what it was measured on and how far it was off on passes that it was not fitted to. Kept with
the results, one for each model, device and number type, replaced when measured again. Knows nothing about measuring.

    calibrations/<weights_hash[:16]>-<device>-<dtype>.json
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from omnidrop.errors import UserError
from omnidrop.json_text import parse_json
from pipeline.cost.throughput import MeasuredPass, Throughput, fit
from pipeline.execution.actor_metering import HOUR_S

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.config.sections import ModelConfig
    from pipeline.storage.store import Store

PREFIX = "calibrations/"
WORTH = 0.03
"""What a larger pass must gain: it takes more memory, and more clips are tried again where it fails."""
DEVICE_SHARE = 0.9
"""Of a device's memory, for actors: an archive may hold larger clips than those that were measured."""
MOST_ACTORS_PER_GPU = 8
"""Each takes a core and main memory of its own, and more of them only hide what a few did not."""


class CalibrationError(UserError):
    """A calibration record cannot be read, or nothing could be measured for one."""

    error_class = "calibration"


@dataclass(frozen=True)
class Calibration:
    """One model on one device. Seconds are an actor's, from a decoded clip to its answers."""

    model: str
    weights_hash: str
    device: str
    """As the device's driver names it; a CPU with its number of threads."""
    dtype: str
    measured_at: str
    throughput: Throughput
    """Fitted to all passes."""
    passes: int
    lowest_ratio: float
    """Measured over fitted seconds of a held-out clip, at least; 1 at most."""
    highest_ratio: float
    """The same at most; 1 at least."""
    mean_relative_error: float
    """Of a held-out clip: mean of |fitted - measured| / measured."""
    load_s: float
    """Loading the model; no part of the estimates."""
    together: tuple[tuple[int, float], ...] = ()
    """(clips in a pass, seconds a clip) of the job's longest clip, where the job asked for it to be measured."""
    peak_device_bytes: int | None = None
    """What the passes took of the device's memory at most, weights and the driver's own included; None on a CPU, and in
    records of older versions, as the next."""
    device_bytes: int | None = None
    """All that the device has."""
    weights: str = ""
    """Bytes and form of the weights as they are stored, quantised or not; empty in records of older versions."""

    @property
    def clips_per_pass(self) -> int:
        """The fewest clips in a pass that are answered nearly as fast as any number."""
        best = min((seconds for _, seconds in self.together), default=0.0)
        return min((clips for clips, seconds in self.together if seconds <= best * (1 + WORTH)), default=1)

    @property
    def actors_per_gpu(self) -> int:
        """How many models answer beside each other in the device's memory; 1 where that was not measured."""
        if not self.peak_device_bytes or not self.device_bytes:
            return 1
        return min(MOST_ACTORS_PER_GPU, max(1, int(self.device_bytes * DEVICE_SHARE / self.peak_device_bytes)))

    @property
    def doubt(self) -> str | None:
        """What is wrong with it, in a sentence; None where nothing is known to be."""
        if self.throughput.is_complete:
            return None
        return (
            "the calibration does not tell the time of the encoders from that of the decoder, as where other programs "
            "ran beside it: hours and money may be far off for clips of other sizes; run `omnidrop calibrate` again "
            "when the machine is idle"
        )

    @property
    def path(self) -> str:
        """Key in the store."""
        device = re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")
        return f"{PREFIX}{self.weights_hash[:16]}-{device}-{self.dtype}.json"

    def gpu_hours(self, seconds: float, gpus: float) -> GpuHours:
        """So many fitted seconds of actors with `gpus` GPUs each: as far off, at most, as the worst held-out clip."""
        expected = seconds * gpus / HOUR_S
        return GpuHours(expected, expected * self.lowest_ratio, expected * self.highest_ratio)


@dataclass(frozen=True)
class Judgement:
    """A fit against passes that had no part in it."""

    lowest_ratio: float
    highest_ratio: float
    mean_relative_error: float


def judge(halves: tuple[Sequence[MeasuredPass], Sequence[MeasuredPass]]) -> Judgement:
    """Fit to each half and compare with the other. Raises ValueError where a half holds no pass that took time."""
    fitted, measured = [], []
    for known, held_out in (halves, halves[::-1]):
        throughput = fit(known)
        fitted += [throughput.seconds(one.cost) for one in held_out]
        measured += [one.seconds for one in held_out]
    ratios = [there / here for here, there in zip(fitted, measured, strict=True)]
    errors = [abs(here - there) / there for here, there in zip(fitted, measured, strict=True)]
    return Judgement(min(1.0, *ratios), max(1.0, *ratios), sum(errors) / len(errors))


def resolved(job: JobConfig, known: Calibration | None) -> JobConfig:
    """The job with numbers in place of `auto`, where they were measured."""
    if known is None:
        return job
    found: dict[str, object] = {}
    if job.model.clips_per_pass == "auto":
        found["clips_per_pass"] = known.clips_per_pass
    if job.model.gpus_per_actor == "auto" and known.device_bytes:
        # Ray counts in ten thousandths, and rounds up.
        found["gpus_per_actor"] = math.floor(1e4 / known.actors_per_gpu) / 1e4
    return job.model_copy(update={"model": job.model.model_copy(update=found)})


def unresolved(job: JobConfig, known: Calibration | None) -> tuple[str, ...]:
    """What `auto` stands for where nothing was measured, in sentences."""
    missing = []
    if job.model.clips_per_pass == "auto" and not (known and known.together):
        missing.append("model.clips_per_pass: auto is 1")
    if job.model.gpus_per_actor == "auto" and not (known and known.device_bytes):
        missing.append("model.gpus_per_actor: auto is one actor per GPU")
    return tuple(
        f"{one}, because `omnidrop calibrate` has not measured it for this model and device" for one in missing
    )


def keep(store: Store, calibration: Calibration) -> None:
    """Store a record in place of an older one of the same model, device and type."""
    store.write(calibration.path, json.dumps(asdict(calibration), indent=1).encode())


def find(store: Store, weights_hash: str, model: ModelConfig) -> Calibration | None:
    """The newest record of these weights on a device and of a type that the job allows. Raises CalibrationError."""
    kept = [_read(store, path) for path, _ in store.list(f"{PREFIX}{weights_hash[:16]}-") if path.endswith(".json")]
    fitting = [one for one in kept if one.weights_hash == weights_hash and _is_allowed(one, model)]
    return max(fitting, key=lambda one: one.measured_at, default=None)


def _is_allowed(one: Calibration, model: ModelConfig) -> bool:
    on_cpu = one.device.startswith("cpu")
    return model.dtype in ("auto", one.dtype) and (model.device == "auto" or on_cpu == (model.device == "cpu"))


def _read(store: Store, path: str) -> Calibration:
    try:
        given = parse_json(store.read_bytes(path))
        together = tuple((int(clips), float(seconds)) for clips, seconds in given.get("together", ()))
        return Calibration(**given | {"throughput": Throughput(**given["throughput"]), "together": together})
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"{store.uri}/{path} is not a calibration ({error}); delete it and run `omnidrop calibrate` again"
        ) from error


@dataclass(frozen=True)
class GpuHours:
    """An estimate and how far it may be off."""

    expected: float
    low: float
    high: float
