"""Encoding a part of the picture: the stock encoder on chosen cells against one that masks the others, in both
families; what is planned, counted, remembered and said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from omnidrop.engine.state import ClipTokens
from omnidrop.errors import PolicyError
from omnidrop.estimate import Estimator
from omnidrop.model import OmniModel, Request
from omnidrop.models import qwen_pictures
from omnidrop.models.base import VIDEO, ClipPrompt, SomeOf
from omnidrop.models.encoders import EncoderSettings
from omnidrop.models.registry import load
from omnidrop.policies.intra_modality import choose_cells
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question
from tests.support.small_checkpoints import write_checkpoint

PIXELS = (64 * 64, 224 * 168)
"""Frames large enough for several windows a temporal patch, some of them cut short."""
ASKED = (Question("a", "Is it red?", Boolean()), Question("b", "Is it green?", Boolean(), retained_ratio=0.7))


@pytest.fixture(scope="module", params=["qwen2_5_omni", "qwen3_omni_moe"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("cells") / request.param, request.param, pixels=PIXELS)


@pytest.fixture(scope="module")
def adapter(directory: Path) -> Any:
    return load(str(directory), dtype="float32")


def noise(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 168, 224, 3), dtype=np.uint8)


def prefix_of(adapter: Any, frames: Any, some_of: SomeOf | None = None) -> Any:
    return adapter.prefix(frames, None, ClipPrompt(2.0), some_of=some_of)


def every_third(cells: Tensor, patches: int, keep: int, candidates: Tensor | None = None) -> Tensor:
    """A choice without arithmetic: of all cells but the first temporal patch's and a corner of the second."""
    return torch.arange(cells.shape[0] // patches + 13, cells.shape[0])[::3][:keep]


@contextmanager
def masking(adapter: Any, chosen: Tensor) -> Iterator[None]:
    """The stock vision encoder over everything, in which nobody looks at a cell that is not among the `chosen`."""
    from transformers import AttentionInterface
    from transformers.vision_utils import get_vision_window_index

    visual, per_cell = adapter.model.model.visual, adapter.geometry.merge**2

    def attend(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any, scaling: float, **words: Any) -> Any:
        block = torch.bucketize(torch.arange(query.shape[2]), words["cu_seq_lens_q"][1:], right=True)
        there = chosen.flatten()
        if adapter.family == "qwen2_5_omni":  # its rows stand window by window
            sizes = (visual.spatial_merge_size, visual.window_size, visual.patch_size)
            there = there[get_vision_window_index(grid, *sizes)[0]]
        looks = there.repeat_interleave(per_cell)[None] | torch.eye(query.shape[2], dtype=torch.bool)
        looks = looks & (block[:, None] == block[None])
        weights = (query @ key.transpose(2, 3) * scaling).masked_fill(~looks, float("-inf")).softmax(dim=-1)
        return (weights @ value).transpose(1, 2), None

    rows, columns = adapter.geometry.grid(2, 168, 224)[1:]
    merge = adapter.geometry.merge
    grid = torch.tensor([[len(chosen), rows * merge, columns * merge]])
    AttentionInterface.register("masking_flash", attend)
    configs = [visual.config, visual.blocks[-1].attn.config]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "masking_flash"
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


@pytest.mark.parametrize("choose", [choose_cells, every_third])
def test_chosen_cells_are_encoded_as_if_the_others_were_masked(adapter: Any, choose: Any) -> None:
    frames = noise(8)
    found = prefix_of(adapter, frames, SomeOf(30, choose))
    chosen = found.encoded.view(4, -1)
    assert chosen.sum() == 30
    pixels, grid = adapter.processor.pixels(frames)
    with torch.inference_mode(), masking(adapter, chosen):
        oracle = adapter.model.model.visual(pixels, grid_thw=torch.tensor([grid]))
    wanted = [oracle.pooler_output, *(getattr(oracle, "deepstack_features", None) or [])]
    got = [found.embeddings, *found.deepstack]
    for one, other in zip(got, wanted, strict=True):
        seen = one[found.modality == VIDEO]
        scale = float(other.abs().max())
        torch.testing.assert_close(seen[found.encoded], other[found.encoded], rtol=1e-5, atol=1e-5 * scale)
        assert not seen[~found.encoded].any()
    whole = prefix_of(adapter, frames)
    # And that is another feature than the whole picture would give it.
    in_whole = whole.embeddings[whole.modality == VIDEO][found.encoded]
    assert not torch.allclose(got[0][found.modality == VIDEO][found.encoded], in_whole, atol=1e-3 * scale)
    assert torch.equal(found.positions, whole.positions)
    # Attention received averages 1 in every temporal patch, over what was encoded there.
    for received, some in zip(found.video_importance.view(4, -1), chosen, strict=True):
        assert not received[~some].any()
        assert not some.any() or float(received[some].mean()) == pytest.approx(1.0, abs=1e-4)


def test_the_whole_share_is_bitwise_as_without_a_choice(adapter: Any) -> None:
    frames = noise(6)
    adapter.memory.clear()
    whole = prefix_of(adapter, frames)
    adapter.memory.clear()
    asked_for_all = prefix_of(adapter, frames, SomeOf(int((whole.modality == VIDEO).sum()), choose_cells))
    assert torch.equal(whole.embeddings, asked_for_all.embeddings)
    assert asked_for_all.encoded is None
    assert asked_for_all.notes == ()
    assert asked_for_all.encoder_flops == whole.encoder_flops == whole.encoder_flops_dense


def test_a_long_clip_is_encoded_in_parts_alike(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, some_of = noise(14), SomeOf(60, choose_cells)
    whole = prefix_of(adapter, frames, some_of)
    monkeypatch.setattr(qwen_pictures, "PATCHES_AT_ONCE", 3)
    adapter.memory.clear()
    parts = prefix_of(adapter, frames, some_of)
    assert torch.equal(whole.encoded, parts.encoded)
    for one, other in zip([whole.embeddings, *whole.deepstack], [parts.embeddings, *parts.deepstack], strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(one.abs().max()))
    assert whole.encoder_flops == parts.encoder_flops


def test_features_of_another_choice_are_never_reused(directory: Path) -> None:
    remembering = load(str(directory), dtype="float32")
    forgetting = load(str(directory), dtype="float32", encoders=EncoderSettings(memory_bytes=0))
    frames = np.concatenate([noise(4), noise(4)])  # the second half repeats the first
    some_of, other = SomeOf(70, choose_cells), SomeOf(90, choose_cells)
    still = SomeOf(70, choose_cells, still_levels=200.0)  # half of it and more is like the first moment
    for choice in (None, some_of, other, still, some_of, still, None):
        got, truth = prefix_of(remembering, frames, choice), prefix_of(forgetting, frames, choice)
        assert torch.allclose(got.embeddings, truth.embeddings, atol=1e-5 * float(truth.embeddings.abs().max()))
        assert (got.encoded is None) == (truth.encoded is None) == (choice is None)
    again = prefix_of(remembering, frames, some_of)
    assert again.notes[-1].endswith("of 4 temporal patches repeat known frames and were not encoded again")
    per_patch = len(again.encoded) // 4
    # What is left is embedding the two different temporal patches, to choose by.
    size = remembering.geometry.grid(2, 168, 224)[1:]
    assert again.encoder_flops == remembering.geometry.vision_flops(0, *size, cells=0, embedded=2 * per_patch)


def test_linear_flops_are_pytorchs_own_count(adapter: Any) -> None:
    frames = noise(8, seed=3)
    adapter.memory.clear()
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        found = prefix_of(adapter, frames, SomeOf(30, every_third))
    visual, (rows, columns) = adapter.model.model.visual, adapter.geometry.grid(2, 168, 224)[1:]
    per_cell = adapter.geometry.merge**2
    # Attention, which the counter does not see in a fused kernel: less than a picture's cells, as if in one picture.
    assert rows * columns > 30
    inside, depth = 4 * 32 * (per_cell * 30) ** 2, len(visual.blocks)
    if adapter.family == "qwen2_5_omni":
        corners = [(row, column) for row in range(0, rows, 4) for column in range(0, columns, 4)]
        windows = sorted((min(4, rows - row) * min(4, columns - column) for row, column in corners), reverse=True)
        assert windows[:2] == [16, 16]
        inside += (depth - 1) * 4 * 32 * ((per_cell * 16) ** 2 + (per_cell * 14) ** 2)
    else:
        inside *= depth
    # What columns receive is recorded in one layer, and not counted as encoding: scores once more, in real blocks.
    recorded = sum(2 * 32 * (per_cell * int(some.sum())) ** 2 for some in found.encoded.view(4, -1))
    assert found.encoder_flops == counted.get_total_flops() - recorded + inside
    assert found.encoder_flops_dense == prefix_of(adapter, frames).encoder_flops_dense


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_what_is_planned_is_what_is_run(directory: Path, share: float) -> None:
    """Counts are host integers, known from sizes alone; questions of two ratios are read from one encoding."""
    model = OmniModel.load(str(directory), device="cpu", dtype="float32")
    frames, sound = noise(10, seed=5), np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    pruning = Pruning(retained_ratio=0.4, encoder_share=share)
    got = model.answer(frames, sound, Request(ASKED, fps=2.0, pruning=pruning))
    priced = Estimator(str(directory), value_bytes=4).clip(
        ASKED, pruning, frames=10, height=168, width=224, samples=80_000, fps=2.0
    )
    assert priced.as_run == got.cost.as_run
    assert (priced.dense, priced.dense_shared) == (got.cost.dense, got.cost.dense_shared)
    # The ratio of 0.7 lets so many in that a lower share changes nothing: as many are encoded as may enter.
    alone = model.answer(frames, sound, Request(ASKED[1:], fps=2.0, pruning=pruning))
    cells = max(alone.trace.layers[0].video, math.ceil(got.trace.video_in * share))
    if share == 1.0:
        assert got.notes == ()
    else:
        assert f"lossy: {cells:,.0f} of {got.trace.video_in:,} cells of the picture were encoded" in got.notes


def test_only_encoded_cells_enter_and_the_ratio_counts_all(directory: Path) -> None:
    model = OmniModel.load(str(directory), device="cpu", dtype="float32")
    frames = noise(10, seed=6)
    for ratio in (0.5, 0.3):
        pruning = Pruning(retained_ratio=ratio, encoder_share=0.35)
        found = model.answer(frames, None, Request(ASKED[:1], fps=2.0, pruning=pruning, positions=True))
        trace = found.positions
        assert trace is not None
        assert trace.encoded is not None
        assert trace.encoded[trace.kept[0][0]].all()
        assert trace.encoded.sum() < len(trace.encoded)
        assert found.trace.retained_ratio() == pytest.approx(ratio, abs=0.01)


def test_a_partly_encoded_clip_cannot_be_read_whole(directory: Path) -> None:
    model = OmniModel.load(str(directory), device="cpu", dtype="float32")
    clip = ClipTokens.of(prefix_of(model.adapter, noise(8), SomeOf(50, choose_cells)))
    policy = Pruning.off().build()
    with pytest.raises(ValueError, match="that were encoded"):
        clip.entering(policy, policy.plan(clip.av, 4, None))


def test_the_choice_is_shared_out_over_time_and_the_same_again() -> None:
    cells = torch.randn(12 * 28, 16, generator=torch.Generator().manual_seed(0))
    for keep in (40, 100, 118, 336):
        chosen = choose_cells(cells, 12, keep)
        assert chosen.tolist() == sorted(set(choose_cells(cells, 12, keep).tolist()))
        assert len(chosen) == keep
        # As many in every window that holds one picture's worth of them.
        window = -(-12 * 28 // keep)
        of_window = torch.bincount(chosen // (28 * window))
        if 12 % window == 0:
            assert int(of_window.max() - of_window.min()) <= 1
    # What is unlike everything is chosen, wherever it stands.
    usual = torch.ones(12 * 28, 16) + 0.05 * cells
    usual[200] = torch.tensor([1.0, -1.0] * 8)
    assert 200 in choose_cells(usual, 12, 60).tolist()


@pytest.mark.parametrize(
    ("settings", "share", "levels"),
    [
        ({}, 1.0, 0.0),
        ({"encoder_share": 0.5}, 0.5, 2.0),
        ({"encoder_share": 0.5, "still_levels": 0.0}, 0.5, 0.0),
        ({"still_levels": 3.0}, 1.0, 3.0),
        ({"mode": "dense_shared", "policy": "none", "retained_ratio": None, "encoder_share": 0.5}, 1.0, 0.0),
        ({"mode": "dense_shared", "policy": "none", "retained_ratio": None, "still_levels": 5.0}, 1.0, 0.0),
        ({"policy": "random"}, 1.0, 0.0),
        ({"settings": (("entry", "merged"),)}, 1.0, 0.0),
    ],
)
def test_what_is_encoded_where_nothing_is_said(settings: dict[str, Any], share: float, levels: float) -> None:
    made = Pruning(**settings)
    assert (made.encoder_share, made.still_levels) == (share, levels)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"encoder_share": 0.0}, "above 0 and at most 1"),
        ({"encoder_share": 1.5}, "above 0 and at most 1"),
        ({"policy": "seats", "encoder_share": 0.35}, "policy 'seats' chooses among all tokens"),
        ({"policy": "seats", "still_levels": 2.0}, "policy 'seats' chooses among all tokens"),
        ({"still_levels": -1.0}, "still_levels must be 0 to 255"),
        ({"settings": (("entry", "merged"),), "encoder_share": 0.35}, "entry merged chooses among all tokens"),
    ],
)
def test_a_share_that_cannot_be_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        Pruning(**settings)
