"""A question with a retained ratio of its own is asked in a pass apart from the set's; nothing else changes by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml

from omnidrop.errors import QuestionError
from omnidrop.estimate import Estimator
from omnidrop.model import OmniModel, Request
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Choice, Number, Question, Text, question_from_dict
from pipeline.questions.question_set import QuestionSetError, load_question_set

SET = (
    Question("colour", "What colour is the circle?", Choice(("red", "green", "light blue"))),
    Question("heard", "Is a rising sweep heard?", Boolean()),
    Question("count", "How many shapes appear?", Number(0, 6)),
    Question("what", "What happens?", Text(4)),
)
GENTLE = (SET[0], replace(SET[1], retained_ratio=0.8), SET[2], replace(SET[3], retained_ratio=0.8))
PRUNING = Pruning(retained_ratio=0.4, encoder_share=0.35)


@pytest.fixture(scope="module")
def model():
    return OmniModel.load("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(1)
    return rng.integers(0, 255, (8, 120, 160, 3), np.uint8), rng.normal(0, 0.1, 16_000 * 4).astype(np.float32)


def ask(model, clip, questions, pruning=PRUNING, **given):
    # From cold: features of frames seen before cost nothing.
    model.adapter.memory.clear()
    return model.answer(*clip, Request(questions, fps=2.0, pruning=pruning, **given))


def test_each_ratio_is_a_pass_guided_by_its_own_questions(model, clip):
    whole = replace(PRUNING, encoder_share=1.0)
    both = ask(model, clip, GENTLE, whole, positions=True)
    rest = ask(model, clip, (SET[0], SET[2]), whole)
    gentle = ask(model, clip, (SET[1], SET[3]), replace(whole, retained_ratio=0.8))
    assert [a.question_id for a in both.answers] == ["colour", "heard", "count", "what"]
    assert both.answers == (rest.answers[0], gentle.answers[0], rest.answers[1], gentle.answers[1])
    assert both.positions.question_ids == (("colour", "count"), ("heard", "what"))
    assert both.trace.retained_ratio() == pytest.approx(0.6, abs=0.02)
    # The clip is encoded once; what is claimed to be saved is against one dense pass for all questions.
    as_run = both.cost.as_run
    assert as_run.prefill_flops == rest.cost.as_run.prefill_flops + gentle.cost.as_run.prefill_flops
    assert as_run.encoder_flops == rest.cost.as_run.encoder_flops
    assert both.cost.dense_shared.tokens == ask(model, clip, SET, Pruning.off()).cost.as_run.tokens


def test_the_clip_is_encoded_once_for_all_ratios_as_the_highest_needs_it(model, clip):
    both = ask(model, clip, GENTLE)
    gentle = ask(model, clip, (SET[1], SET[3]), replace(PRUNING, retained_ratio=0.8))
    assert both.cost.as_run.encoder_flops == gentle.cost.as_run.encoder_flops
    assert (both.notes, both.answers[1::2]) == (gentle.notes, gentle.answers)
    assert both.notes != ask(model, clip, (SET[0], SET[2])).notes


@pytest.mark.parametrize("mode", ["set_guided", "per_question", "staged"])
def test_it_is_priced_as_it_is_run(model, clip, mode):
    pruning = replace(PRUNING, mode=mode)
    got = ask(model, clip, GENTLE[:3], pruning)
    shape = {"frames": 8, "height": 120, "width": 160, "samples": 64_000, "fps": 2.0}
    priced = Estimator("tiny", value_bytes=4).clip(GENTLE[:3], pruning, **shape)
    assert priced.as_run == got.cost.as_run
    # Counts by layer are means over passes, rounded to tokens.
    assert priced.retained_ratio == pytest.approx(got.trace.retained_ratio(), abs=5e-3)


def test_without_pruning_there_is_nothing_to_be_gentle_with(model, clip):
    for mode in ("dense", "dense_shared"):
        assert ask(model, clip, GENTLE, Pruning.off(mode)).answers == ask(model, clip, SET, Pruning.off(mode)).answers


def test_it_is_part_of_what_is_asked_only_where_it_is_given(tmp_path):
    question = {"id": "heard", "text": "Is it heard?", "answer": {"type": "boolean"}}

    def fingerprint(**own):
        path = tmp_path / "set.yaml"
        path.write_text(yaml.safe_dump({"name": "s", "version": 1, "questions": [question | own]}))
        return load_question_set(path).fingerprint({})

    assert fingerprint() != fingerprint(retained_ratio=0.8) != fingerprint(retained_ratio=0.7)
    assert "retained_ratio" not in SET[0].to_dict()
    assert question_from_dict(GENTLE[1].to_dict()) == GENTLE[1]
    with pytest.raises(QuestionSetError, match="retained_ratio"):
        fingerprint(retained_ratio=30)
    with pytest.raises(QuestionError, match="above 0 and at most 1, got 30"):
        replace(SET[0], retained_ratio=30)
