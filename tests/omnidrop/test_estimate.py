"""What is priced before a run is what the run reports."""

from __future__ import annotations

import numpy as np
import pytest

from omnidrop.errors import ClipTooLong, ModelError, QuestionError
from omnidrop.estimate import Estimator
from omnidrop.model import OmniModel, Request
from omnidrop.pruning import DENSE_MODES, MODES, Pruning
from omnidrop.question_text import as_questions
from omnidrop.questions import Boolean, Choice, Json, Number, Question, Text, question_from_dict

SCORED = (
    Question("colour", "What colour is the circle?", Choice(("red", "green", "light blue"))),
    Question("heard", "Is a rising sweep heard?", Boolean()),
    Question("count", "How many shapes appear?", Number(0, 12)),
)


FETCHED = {"$ref": "http://127.0.0.1:1/schema"}


@pytest.fixture(scope="module")
def model():
    return OmniModel.load("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def estimator():
    return Estimator("tiny", value_bytes=4)


@pytest.mark.parametrize(
    ("mode", "media", "settings"),
    [
        *((mode, media, ()) for media in ("both", "picture", "sound") for mode in MODES),
        *((mode, "both", (("read_left_out", False),)) for mode in MODES if mode not in DENSE_MODES),
    ],
)
def test_tokens_and_flops_are_exact(model, estimator, mode, media, settings):
    # Other pixels every time: the encoder reuses features of frames it has seen.
    rng = np.random.default_rng([MODES.index(mode), len(media), len(settings)])
    frames = rng.integers(0, 255, (8, 150, 200, 3), dtype=np.uint8) if media != "sound" else None
    audio = rng.normal(0, 0.1, 16_000 * 4).astype(np.float32) if media != "picture" else None
    pruning = Pruning.off(mode) if mode in DENSE_MODES else Pruning(mode=mode, retained_ratio=0.4, settings=settings)
    got = model.answer(frames, audio, Request(SCORED, fps=2.0, pruning=pruning, instruction="Answer briefly."))
    priced = estimator.clip(
        SCORED,
        pruning,
        frames=0 if frames is None else 8,
        height=150,
        width=200,
        samples=0 if audio is None else len(audio),
        fps=2.0,
        instruction="Answer briefly.",
    )
    assert (priced.audio_tokens, priced.video_tokens) == (got.trace.audio_in, got.trace.video_in)
    assert priced.as_run == got.cost.as_run
    assert priced.dense == got.cost.dense
    assert priced.dense_shared == got.cost.dense_shared
    assert priced.retained_ratio == pytest.approx(got.trace.retained_ratio())


def test_the_dense_ways_encode_what_a_run_was_spared(model, estimator):
    """Repeated frames are a saving of the run: neither the unpruned ways' too, nor hidden by theirs."""
    still = np.repeat(np.random.default_rng(5).integers(0, 255, (1, 150, 200, 3), dtype=np.uint8), 8, axis=0)
    pruning = Pruning(retained_ratio=0.4)
    got = model.answer(still, None, Request(SCORED, fps=2.0, pruning=pruning)).cost
    priced = estimator.clip(SCORED, pruning, frames=8, height=150, width=200, samples=0, fps=2.0)
    assert 0 < got.as_run.encoder_flops < priced.as_run.encoder_flops
    assert (got.dense, got.dense_shared) == (priced.dense, priced.dense_shared)
    with model.adapter.memory.suspended():
        whole = model.answer(still, None, Request(SCORED, fps=2.0, pruning=Pruning.off())).cost
    assert whole.as_run == whole.dense_shared == priced.dense_shared


def test_text_is_priced_at_its_longest(model, estimator):
    rng = np.random.default_rng(1)
    asked = (*SCORED, Question("what", "What happens?", Text(6)))
    audio = rng.normal(0, 0.1, 32_000).astype(np.float32)
    got = model.answer(None, audio, Request(asked, fps=2.0, pruning=Pruning(retained_ratio=0.4)))
    priced = estimator.clip(asked, Pruning(retained_ratio=0.4), frames=0, height=0, width=0, samples=32_000, fps=2.0)
    assert priced.as_run.prefill_flops == got.cost.as_run.prefill_flops
    assert priced.as_run.decode_flops >= got.cost.as_run.decode_flops > 0


def test_a_clip_longer_than_the_models_positions_is_refused_by_run_and_price(model, estimator):
    """tiny has 10 positions a second and 32,768 of them."""
    frames = np.zeros((4, 56, 56, 3), np.uint8)
    for fps in (1e-3, 1e-9):
        with pytest.raises(ClipTooLong, match="made to read 32,768"):
            model.answer(frames, None, Request(SCORED, fps))
        with pytest.raises(ClipTooLong, match="shorter clips, or frames"):
            estimator.clip(SCORED, Pruning(), frames=4, height=56, width=56, samples=0, fps=fps)
    model.answer(frames, None, Request(SCORED, 2e-3))


def test_questions_and_arrays_of_another_kind_are_named(model):
    for given in ("Rot?", [None], [3]):
        with pytest.raises(QuestionError, match="got"):
            as_questions(given)
    with pytest.raises(QuestionError, match="type of its answer"):
        Question("a", "Is it red?", Boolean)
    for made in (
        lambda: Choice("red"),
        lambda: Choice((1, 2)),
        lambda: Number("0", 3),
        lambda: Json({"type": "string"}),
    ):
        with pytest.raises(QuestionError, match="got"):
            made()
    with pytest.raises(QuestionError, match="inside it"):
        question_from_dict({"id": "a", "text": "b", "answer": {"type": "json", "max_tokens": 9, "schema": FETCHED}})
    with pytest.raises(ModelError, match="got list"):
        model.answer([[[[0, 0, 0]]]], None, Request(SCORED, 2.0))
