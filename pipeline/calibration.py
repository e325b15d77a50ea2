"""How fast a model answers on a device, as it was measured there: the record that plans turn FLOPs into hours with.

Promises: a record says what it was measured on and how far it was off on passes that it was not fitted to. Kept with
the results, one for each model, device and number type, replaced when measured again. Knows nothing about measuring.

    calibrations/<weights_hash[:16]>-<device>-<dtype>.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from omnidrop.errors import UserError
from pipeline.accounting import HOUR_S
from pipeline.spending import GpuHours
from pipeline.throughput import MeasuredPass, Throughput, fit

if TYPE_CHECKING:
    from pipeline.sections import ModelConfig
    from pipeline.storage import Store

PREFIX = "calibrations/"


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
        given = json.loads(store.read_bytes(path))
        return Calibration(**given | {"throughput": Throughput(**given["throughput"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"{store.uri}/{path} is no calibration ({error}); delete it and run `omnidrop calibrate` again"
        ) from error
