"""Several clips of one shape in the same passes are answered as each would be alone: both families, every mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from omnidrop.engine import modes
from omnidrop.engine.attention import own_attention
from omnidrop.engine.state import ClipTokens
from omnidrop.errors import UserError
from omnidrop.model import Media, Request
from omnidrop.models.base import ClipPrompt
from omnidrop.pruning import Pruning
from tests.support.method_clip import FRAMES, QUESTIONS, SOUND, Loaded, same
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni  # noqa: F401

DRAWN = np.random.default_rng(8)
CLIPS: tuple[Media, ...] = (
    (FRAMES, SOUND),
    (DRAWN.integers(0, 256, FRAMES.shape, dtype=np.uint8), SOUND[::-1].copy()),
    (FRAMES[::-1].copy(), (DRAWN.standard_normal(len(SOUND)) * 0.1).astype(np.float32)),
)


@pytest.fixture(scope="module", params=["qwen2_5_omni", "qwen3_omni"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.getfixturevalue(f"small_{request.param}"))


@pytest.fixture(scope="module")
def encoded(loaded: Loaded) -> list[ClipTokens]:
    def tokens(clip: Media) -> ClipTokens:
        return ClipTokens.of(loaded.adapter.prefix(*clip, ClipPrompt(2.0)))

    return [tokens(clip) for clip in CLIPS]


def run(
    loaded: Loaded, clips: list[ClipTokens], pruning: Pruning, *, watch: bool = False
) -> list[list[modes.Prefilled]]:
    """Per pass, one of every clip."""
    policy, asked = pruning.build(), loaded.asked
    with torch.inference_mode(), own_attention(loaded.adapter):
        schedule = policy.plan(clips[0].av, len(loaded.adapter.layers), pruning.retained_ratio)
        passes = modes.run(loaded.adapter, clips, asked, pruning.mode, policy, schedule, pruning.guidance, watch=watch)
        return list(passes)


@pytest.mark.parametrize(
    "pruning",
    [
        *(Pruning(retained_ratio=0.4, guidance=guidance) for guidance in ("max", "quota")),
        Pruning("staged", retained_ratio=0.4),
        Pruning("staged", retained_ratio=0.4, read_left_out=False),
        Pruning("per_question", retained_ratio=0.4),
        Pruning(policy="fastv", retained_ratio=0.6),
        Pruning.off("dense_shared"),
        Pruning.off("dense"),
    ],
    ids=lambda p: f"{p.mode}-{p.policy}-{p.guidance}-{p.read_left_out}",
)
def test_logits_and_surviving_tokens_are_those_of_each_clip_alone(
    loaded: Loaded, encoded: list[ClipTokens], pruning: Pruning
) -> None:
    together = run(loaded, encoded, pruning, watch=True)
    for number, clip in enumerate(encoded):
        for done, (alone,) in zip(together, run(loaded, [clip], pruning, watch=True), strict=True):
            got = done[number]
            assert got.questions == alone.questions
            assert got.work == alone.work
            same(got.logits, alone.logits)
            for entered, wanted in zip(got.state.entered, alone.state.entered, strict=True):
                assert torch.equal(entered, wanted)
            for seen, wanted in zip(got.state.watched or (), alone.state.watched or (), strict=True):
                same(seen, wanted)


def test_each_clip_keeps_tokens_of_its_own(loaded: Loaded, encoded: list[ClipTokens]) -> None:
    """What makes the test above worth something: neither logits nor keep-sets are the same in all clips."""
    (done,) = run(loaded, encoded, Pruning(retained_ratio=0.4))
    assert len({tuple(one.state.entered[-1].tolist()) for one in done}) == len(CLIPS)
    assert not torch.allclose(done[0].logits, done[1].logits, rtol=1e-3)


def test_a_batch_is_answered_clip_by_clip(loaded: Loaded) -> None:
    """Scored and text answers, cost and trace; a batch's time is shared out equally. Encoders are left out of the cost:
    frames that were seen before have their features remembered."""

    def comparable(given: Any) -> Any:
        answers = [replace(a, probability=None, margin=None, probabilities=None) for a in given.answers]
        cost = replace(given.cost, seconds=0.0, as_run=replace(given.cost.as_run, encoder_flops=0))
        dense = [replace(one, encoder_flops=0) for one in (cost.dense, cost.dense_shared)]
        return answers, cost.as_run, dense, given.trace

    pruning = Pruning(retained_ratio=0.4)
    asked = (QUESTIONS[0], replace(QUESTIONS[1], retained_ratio=0.7), *QUESTIONS[2:])  # one has a pass of its own
    together = loaded.model.answer_batch(CLIPS, Request(asked, fps=2.0, pruning=pruning))
    assert len({given.cost.seconds for given in together}) == 1
    for clip, given in zip(CLIPS, together, strict=True):
        alone = loaded.model.answer(*clip, Request(asked, fps=2.0, pruning=pruning))
        assert comparable(given) == comparable(alone)
        for answer, wanted in zip(given.answers[:3], alone.answers[:3], strict=True):
            assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)


def test_clips_of_different_shapes_are_refused(loaded: Loaded) -> None:
    shorter = (FRAMES[:8], SOUND)
    with pytest.raises(UserError, match=r"\(8, 112, 112, 3\).*answer them one by one"):
        loaded.model.answer_batch([CLIPS[0], shorter], Request(QUESTIONS, fps=2.0))
