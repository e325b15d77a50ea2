"""Weights that can never be held are refused before they are loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from omnidrop.errors import CheckpointError
from omnidrop.models import room
from omnidrop.models.registry import load
from tests.support.small_checkpoints import small_qwen2_5_omni  # noqa: F401


@pytest.mark.parametrize(
    ("gigabytes", "said"),
    [(1.5, r"Take dtype bfloat16 \(1\.\d GB\), or use a smaller model"), (0.5, "Use a smaller model, or a machine")],
)
def test_weights_larger_than_the_memory_are_refused_before_they_are_loaded(
    small_qwen2_5_omni: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    gigabytes: float,
    said: str,
) -> None:
    weights = room.weights_in(small_qwen2_5_omni)
    loaded = load(str(small_qwen2_5_omni), dtype="float32").model
    assert weights == sum(tensor.numel() for tensor in loaded.state_dict().values())

    # As if there were 1 GB of them in bfloat16.
    monkeypatch.setattr(room, "weights_in", lambda _: 500_000_000)
    monkeypatch.setattr(room, "memory_of", lambda _: int(gigabytes * 1e9))
    monkeypatch.setattr("omnidrop.models.qwen_omni.load_thinker", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(CheckpointError, match=rf"as float32 take 2\.0 GB; this process has {gigabytes} GB.*{said}"):
        load(str(small_qwen2_5_omni), dtype="float32")


def test_only_what_is_loaded_is_counted(small_qwen2_5_omni: Path, tmp_path: Path) -> None:  # noqa: F811
    whole = small_qwen2_5_omni / "model.safetensors"
    for name in ("part-1.safetensors", "part-2.safetensors", "another.safetensors"):
        (tmp_path / name).symlink_to(whole)
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    one = room.weights_in(small_qwen2_5_omni)
    assert room.weights_in(tmp_path) == 2 * one
    with safe_open(whole, "pt") as file:
        assert any(name.startswith("talker.") for name in file.keys())  # noqa: SIM118, it is no dict
        assert one == sum(file.get_tensor(name).numel() for name in file.keys() if name.startswith("thinker."))  # noqa: SIM118


def test_what_a_control_group_allows_counts(tmp_path: Path) -> None:
    (own := tmp_path / "own").write_text("4:memory,hugetlb:/jobs/one\n3:cpu:/jobs\n0::/slice/two\n")
    for name, said in (
        ("memory/jobs/one/memory.limit_in_bytes", "3000\n"),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("slice/two/memory.max", "max\n"),
        ("slice/memory.max", "2000\n"),
        ("cpu/jobs/memory.max", "1\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(said)
    assert sorted(room.group_limits(tmp_path, own)) == [2000, 3000, 9223372036854771712]
    assert room.group_limits(tmp_path, tmp_path / "absent") == []
    assert 0 < room.memory_of(torch.device("cpu")) < 1 << 50


def test_more_tensors_than_any_model_has_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    head = json.dumps(dict.fromkeys(map(str, range(room.MOST_TENSORS + 1)), entry)).encode()
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    with pytest.raises(CheckpointError, match="more than 200000 tensors"):
        room.weights_in(tmp_path)
