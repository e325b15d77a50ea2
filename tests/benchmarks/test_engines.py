"""Our loop beside another engine: what is compared must be the same weights, the same tokens and the same answers."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.speed import clips_omnidrop, end_to_end, engines
from benchmarks.speed.engine_omnidrop import Engine, write_checkpoint
from benchmarks.speed.engines import Case, Measured, cases, prefix_tokens, ratios
from benchmarks.speed.random_text_model import ClipShape, RandomTextModel
from omnidrop.model import OmniModel
from omnidrop.models.base import ClipPrompt
from omnidrop.models.checkpoints import EMBEDDED
from omnidrop.models.stock import stock_logits

SHAPE = ClipShape(chunks=4, rows=2, columns=5, audio=5)


def test_a_plain_text_model_with_the_written_weights_picks_the_same_tokens(tmp_path):
    """What vLLM loads, loaded here by transformers: every question alone behind the same prefix."""
    model = RandomTextModel("test", 8, dtype=torch.float32)
    write_checkpoint(model, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32).eval()
    drawn = random.Random(1)
    prefix = [drawn.randrange(10, 4000) for _ in range(prefix_tokens(SHAPE))]
    questions = [[drawn.randrange(10, 4000) for _ in range(9)] for _ in range(3)]
    with torch.inference_mode():
        expected = [int(plain(torch.tensor([prefix + one])).logits[0, -1].argmax()) for one in questions]
    engine = Engine(model, 8, SHAPE)
    asked = {"prefix": prefix, "questions": questions}
    for mode in ("dense_shared", "dense"):
        got = engine.ask({**asked, "mode": mode})
        assert got["first_tokens"] == expected
        assert got["retained_ratio"] == 1.0
    pruned = engine.ask({**asked, "mode": "set_guided", "ratio": 0.3})
    assert pruned["retained_ratio"] == pytest.approx(0.3, abs=0.03)
    assert pruned["cpu_s"] > 0


def test_ratios_are_of_one_rounds_own_pair():
    def measured(case: Case, *seconds: float) -> Measured:
        rounds = ({"cpu_s": s, "peak_bytes": 7, "retained_ratio": 1.0, "first_tokens": [1, 2]} for s in seconds)
        return Measured(case, 100, tuple(rounds))

    base, ours, *_, alone = cases(4, full=True)
    found = ratios([measured(base, 2.0, 4.0, 1.0), measured(ours, 1.0, 3.0, 2.0), measured(alone, 1.0, 1.0, 1.0)])
    assert [one["cpu_s_of_vllm"] for one in found] == [1.0, 0.75, 2.0]  # the last one counts four times
    assert (found[1]["lowest"], found[1]["highest"]) == (0.5, 2.0)
    assert [one["same_first_token"] for one in found] == [1.0, 1.0, None]
    assert measured(alone, 1.0, 0.5).row()["cpu_s"] == 2.0
    assert ratios([measured(ours, 1.0)]) == []


@pytest.mark.long
def test_without_the_other_engine_ours_is_measured_and_the_reason_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engines, "ENGINE_PYTHON", tmp_path / "none" / "python")
    monkeypatch.setattr(engines, "ROOT", tmp_path)  # without a Makefile
    assert "`make engines` says" in str(engines.no_vllm())
    monkeypatch.undo()
    monkeypatch.setattr(engines, "no_vllm", lambda: "there is no network")
    monkeypatch.setattr(engines, "QUICK_SIZE", "test")
    written = tmp_path / "engines.json"
    monkeypatch.setattr("sys.argv", ["engines", "--quick", "--rounds", "1", "--json", str(written)])
    engines.main()
    assert "skipped: there is no network" in capsys.readouterr().out
    report = json.loads(written.read_text())
    assert [(row["engine"], row["mode"]) for row in report["rows"]] == [
        ("omnidrop", c.mode) for c in cases(8, full=False)[1:]
    ]
    assert {"engine", "mode", "questions", "tokens", "retained_ratio", "cpu_s", "peak_bytes"} <= report["rows"][
        0
    ].keys()
    assert report["skipped"] == ["there is no network"]
    assert report["ratios"] == []


def test_whole_clips_are_decoded_answered_and_kept_for_the_other_engine(tmp_path):
    (one,) = end_to_end.clips(tmp_path, 1, 2.0)
    texts = [text for text, _ in one.questions]
    checkpoint = EMBEDDED["tiny-v3"]
    ours = clips_omnidrop.Clips(str(checkpoint), "float32")
    ours.probe([str(one.path)])
    asked = end_to_end.request("omnidrop", one, {}, 0.0)
    dense = ours.ask({**asked, "mode": "dense_shared"})
    pruned = ours.ask({**asked, "mode": "set_guided", "ratio": 0.3})
    assert pruned["retained_ratio"] < 0.5 < dense["retained_ratio"] == 1.0
    assert 0 < dense["decode_cpu_s"] < dense["cpu_s"]
    # What vLLM is given is the clip that was answered: as many tokens as the stock model reads, and its first token.
    theirs = end_to_end.request("vllm", one, end_to_end.picture_size(checkpoint), dense["fps"])
    clip = np.load(theirs["clip"])
    model = OmniModel.load(str(checkpoint), device="cpu", dtype="float32")
    inputs = model.adapter.processor.inputs(clip["frames"], clip["audio"], ClipPrompt(theirs["fps"]))
    own = [len(model.adapter.question_ids(text)) for text in texts]
    assert dense["prompt_tokens"] == [inputs.layout.input_ids.shape[0] + tokens for tokens in own]
    logits = stock_logits(model.adapter, clip["frames"], clip["audio"], ClipPrompt(theirs["fps"]), texts[0])
    firsts = [model.adapter.answer_ids(option)[0] for option in one.questions[0][1]]
    assert dense["first_tokens"][0] == max(firsts, key=lambda token: float(logits[token]))


def test_a_round_of_whole_clips_adds_up_and_counts_the_decoding_given():
    answers = [
        {"cpu_s": 2.0, "peak_bytes": 7, "retained_ratio": 1.0, "first_tokens": [1, 2], "prompt_tokens": [9, 8]},
        {"cpu_s": 1.0, "peak_bytes": 9, "retained_ratio": 0.5, "first_tokens": [3], "prompt_tokens": [7]},
    ]
    assert end_to_end.round_of(answers, [0.25, 0.25]) == {
        "cpu_s": 3.5,
        "peak_bytes": 9,
        "retained_ratio": 0.75,
        "first_tokens": [1, 2, 3],
        "prompt_tokens": [9, 8, 7],
    }
