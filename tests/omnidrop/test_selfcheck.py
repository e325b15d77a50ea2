"""The acceptance test itself: passes on both families, and fails, saying where, on a model that is subtly wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omnidrop.errors import CheckpointError
from omnidrop.model import OmniModel
from omnidrop.models import keys_and_values, processing, qwen_omni
from omnidrop.models.qwen2_5_omni import Qwen2_5Omni
from omnidrop.models.qwen_omni import QwenOmniAdapter
from omnidrop.selfcheck import _Bench, sample_clip, selfcheck
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni

__all__ = ["small_qwen2_5_omni", "small_qwen3_omni"]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("small_qwen2_5_omni", "float32"), ("small_qwen3_omni", "float32"), ("small_qwen3_omni", "bfloat16")],
)
def test_a_sound_model_passes(family: str, dtype: str, request: pytest.FixtureRequest) -> None:
    begun: list[tuple[str, int, int]] = []
    begins = lambda *check: begun.append(check)  # noqa: E731
    report = selfcheck(str(request.getfixturevalue(family)), device="cpu", dtype=dtype, begins=begins)
    lines = list(report.lines())
    assert report.passed, "\n".join(lines)
    assert begun == [(check.name, number, len(report.checks)) for number, check in enumerate(report.checks, 1)]
    assert lines[-1] == "passed"
    assert [run.mode for run in report.runs] == ["dense", "dense_shared", "per_question", "staged", "set_guided"]
    by_mode = {run.mode: run for run in report.runs}
    assert by_mode["set_guided"].flops < by_mode["dense_shared"].flops < by_mode["dense"].flops
    assert by_mode["set_guided"].retained_ratio == pytest.approx(0.3, abs=0.02)
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True


def test_positions_one_too_far_are_found(small_qwen2_5_omni: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = processing.lay_out

    def late(*args: Any, **kwargs: Any) -> Any:
        found = right(*args, **kwargs)
        return replace(found, next_position=found.next_position + 1)

    monkeypatch.setattr(processing, "lay_out", late)
    report = selfcheck(str(small_qwen2_5_omni), device="cpu", dtype="float32")
    assert [check.name for check in report.checks if not check.passed] == ["pruning off = stock model"]
    assert list(report.lines())[-1] == "FAILED: pruning off = stock model"


def test_encoders_that_lose_the_sound_are_found(small_qwen3_omni: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = QwenOmniAdapter._encode_audio

    def deaf(self: QwenOmniAdapter, mel: Any) -> Any:
        features, importance = right(self, mel)
        return features * 0.99, importance

    monkeypatch.setattr(QwenOmniAdapter, "_encode_audio", deaf)
    report = selfcheck(str(small_qwen3_omni), device="cpu", dtype="float32")
    assert not report.passed
    assert not report.checks[0].passed


def test_an_encoder_that_places_chosen_cells_elsewhere_is_found(
    small_qwen2_5_omni: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Qwen2_5Omni.encoder_words

    def shifted(self: Qwen2_5Omni, grid: Any, chosen: Any) -> Any:
        words = right(self, grid, chosen)
        return words | {"position_ids": words["position_ids"].roll(1, dims=0)}

    monkeypatch.setattr(Qwen2_5Omni, "encoder_words", shifted)
    report = selfcheck(str(small_qwen2_5_omni), device="cpu", dtype="float32")
    wrong = [check.name for check in report.checks if not check.passed]
    assert wrong == ["a part of the picture is encoded as in the whole"]


@torch.inference_mode()
def test_keys_that_are_turned_otherwise_are_found(small_qwen3_omni: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = keys_and_values.keys_and_values

    def turned(layer: Any, hidden: Any, rotary: Any) -> Any:
        cos, sin = rotary
        return right(layer, hidden, (cos, -sin))

    loaded = OmniModel.load(str(small_qwen3_omni), device="cpu", dtype="float32")
    bench = _Bench(loaded, loaded.adapter, *sample_clip(seconds=2))  # type: ignore[arg-type]
    assert bench.keys_alone()[0]
    monkeypatch.setattr(qwen_omni, "keys_and_values", turned)
    assert not bench.keys_alone()[0]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a folder"):
        selfcheck(str(tmp_path / "absent"))
