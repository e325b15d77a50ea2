"""What the encoders are spared: exact reuse of repeated frames, bounded memory, silence, and FLOPs that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from omnidrop.models import qwen_pictures
from omnidrop.models.base import VIDEO, ClipPrompt
from omnidrop.models.encoders import EncoderSettings, FeatureMemory, silent_chunks
from omnidrop.models.registry import load
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni

__all__ = ["small_qwen2_5_omni", "small_qwen3_omni"]


@pytest.fixture(params=["qwen2_5_omni", "qwen3_omni_moe"])
def directory(request: pytest.FixtureRequest) -> Path:
    name = "small_qwen2_5_omni" if request.param == "qwen2_5_omni" else "small_qwen3_omni"
    return request.getfixturevalue(name)


def adapter_of(directory: Path, **settings: Any) -> Any:
    return load(str(directory), dtype="float32", encoders=EncoderSettings(**settings))


def slides(*numbers: int, height: int = 70, width: int = 110) -> Any:
    """A clip of pictures by number: equal numbers are equal frames."""
    pictures = {n: np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8) for n in set(numbers)}
    return np.stack([pictures[n] for n in numbers])


def prefix_of(adapter: Any, frames: Any, audio: Any = None) -> Any:
    return adapter.prefix(frames, audio, ClipPrompt(2.0))


def test_repeated_frames_are_encoded_once_and_exactly(directory: Path) -> None:
    frames = slides(1, 1, 1, 1, 2, 3, 1, 1, 2, 3, 4)  # six temporal patches, the last one filled up
    remembering, forgetting = adapter_of(directory), adapter_of(directory, memory_bytes=0)
    # Without any memory a clip of different frames is encoded whole; its patches are the truth for the repeated ones.
    truth = prefix_of(forgetting, slides(1, 1, 2, 3, 4, 4))
    first, again = prefix_of(remembering, frames), prefix_of(remembering, frames)
    per_patch = int((truth.modality == VIDEO).sum()) // 3
    order = [0, 0, 1, 0, 1, 2]
    for found in (first, again, prefix_of(forgetting, frames)):
        for got, expected in zip(
            [found.embeddings, *found.deepstack], [truth.embeddings, *truth.deepstack], strict=True
        ):
            rows = expected[truth.modality == VIDEO].view(3, per_patch, -1)
            assert torch.allclose(got[found.modality == VIDEO].view(6, per_patch, -1), rows[order], atol=1e-6)
        importance = truth.video_importance.view(3, per_patch)[order].flatten()
        assert torch.allclose(found.video_importance, importance, atol=1e-5)
    assert first.encoder_flops * 2 == first.encoder_flops_dense
    assert first.notes == ("3 of 6 temporal patches repeat known frames and were not encoded again",)
    assert again.encoder_flops == 0
    assert torch.equal(first.embeddings, again.embeddings)


def test_a_long_clip_is_encoded_in_parts_alike(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = slides(*range(14))
    whole = prefix_of(adapter_of(directory), frames)
    monkeypatch.setattr(qwen_pictures, "PATCHES_AT_ONCE", 3)
    parts = prefix_of(adapter_of(directory), frames)
    for one, other in zip([whole.embeddings, *whole.deepstack], [parts.embeddings, *parts.deepstack], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_different_size_or_picture_is_not_a_repetition(small_qwen2_5_omni: Path) -> None:
    adapter = adapter_of(small_qwen2_5_omni)
    prefix_of(adapter, slides(1, 1))
    for other in (slides(1, 1, height=84), slides(1, 2), slides(2, 1)):
        found = prefix_of(adapter, other)
        assert found.encoder_flops == found.encoder_flops_dense > 0
        assert not found.notes


def test_memory_is_bounded_and_forgets_the_least_recently_used() -> None:
    memory = FeatureMemory(limit_bytes=3 * 40)
    for name in (b"a", b"b", b"c"):
        memory.put(name, (torch.ones(10),))
    assert memory.get(b"a") is not None
    memory.put(b"d", (torch.ones(10),))
    assert [memory.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    memory.put(b"large", (torch.ones(1000),))
    assert memory.get(b"large") is None
    assert memory.held_bytes == 120


def test_memory_too_small_for_a_clip_still_gives_its_features(small_qwen2_5_omni: Path) -> None:
    frames = slides(*range(8), 0, 1)
    one_patch = prefix_of(adapter_of(small_qwen2_5_omni), frames[:2]).embeddings.shape[1] * 4 * 8
    small, large = adapter_of(small_qwen2_5_omni, memory_bytes=one_patch), adapter_of(small_qwen2_5_omni)
    for _ in range(2):
        assert torch.equal(prefix_of(small, frames).embeddings, prefix_of(large, frames).embeddings)
        assert small.memory.held_bytes <= one_patch


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="memory_bytes must be 0 or more"):
        EncoderSettings(memory_bytes=-1)


def test_silence_is_found_on_the_waveform(small_qwen2_5_omni: Path) -> None:
    rate = 16_000
    tone = np.sin(np.arange(2 * rate) * 0.1).astype(np.float32)
    hiss = (np.random.default_rng(0).normal(size=2 * rate) * 1e-4).astype(np.float32)  # -80 dBFS
    audio = np.concatenate([tone, hiss, tone[: rate // 2]])
    assert silent_chunks(audio, 2 * rate).tolist() == [False, True, False]
    assert silent_chunks(audio, 2 * rate, floor_dbfs=-90.0).tolist() == [False, False, False]
    adapter = adapter_of(small_qwen2_5_omni)
    assert prefix_of(adapter, None, audio).notes == ("the sound is silent in 1 of 3 chunks (below -60 dBFS)",)
    assert prefix_of(adapter, None, hiss).notes == ("the sound is silent throughout (below -60 dBFS)",)
    assert prefix_of(adapter, None, tone).notes == ()


def test_sound_too_short_for_a_token_is_left_out_and_said(directory: Path) -> None:
    found = prefix_of(adapter_of(directory), slides(1, 2), np.zeros(300, np.float32))
    assert found.notes == ("the sound was left out: 300 samples are too few for a token",)
    assert found.audio_importance is None


def test_linear_flops_are_pytorchs_own_count(directory: Path) -> None:
    """Convolutions and matrices exactly; attention, which the counter does not see in a fused kernel, apart."""
    adapter = adapter_of(directory)
    # Whole encoder chunks: a short one is padded before the convolutions, which the counter sees and we leave out.
    audio = (np.random.default_rng(0).normal(size=16_000 * 4) * 0.1).astype(np.float32)
    frames = slides(*range(6), height=96, width=160)
    video = prefix_of(adapter, frames).encoder_flops
    sound = prefix_of(adapter, None, audio).encoder_flops
    tower, visual = adapter.model.model.audio_tower, adapter.model.model.visual
    pixels, grid = adapter.processor.pixels(frames)
    mel = adapter.processor.mel(audio)
    with torch.inference_mode(), FlopCounterMode(display=False) as seen:
        visual(pixels, grid_thw=torch.tensor([grid]))
    with torch.inference_mode(), FlopCounterMode(display=False) as heard:
        tower(mel, feature_lens=torch.tensor([mel.shape[1]]))
    rows, columns = grid[1], grid[2]
    if adapter.family == "qwen2_5_omni":
        # 96 x 160 becomes 84 x 140 pixels, 6 x 10 patches: one layer over all 60, two over windows of 48 and 12.
        assert (rows, columns) == (6, 10)
        between = 4 * 32 * 3 * (60**2 + 2 * (48**2 + 12**2))
        # 400 mel frames are two encoder chunks of 100 columns.
        heard_between = 4 * 32 * 2 * (2 * 100**2)
    else:
        between = 4 * 32 * 3 * 4 * (rows * columns) ** 2
        # 400 mel frames, 52 columns, are one window of 400.
        heard_between = 4 * 32 * 2 * 52**2
    assert video == seen.get_total_flops() + between
    assert sound == heard.get_total_flops() + heard_between
