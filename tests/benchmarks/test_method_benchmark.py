"""The prefill benchmark's parts at a size that takes a moment: every kind of row, and what its FLOPs are made of."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import batching
from benchmarks.speed.copied_cache import CopiedDecoder, StockDecoder
from benchmarks.speed.prefill import Bench, Case, cases, targets
from benchmarks.speed.random_text_model import ClipShape, questions
from benchmarks.speed.whole_model import Bench as WholeBench
from benchmarks.speed.whole_model import cases as whole_cases
from omnidrop.engine import decode, modes
from omnidrop.engine.attention import own_attention

SHAPE = ClipShape(chunks=4, rows=2, columns=5, audio=5)


@pytest.fixture(scope="module")
def bench() -> Bench:
    torch.set_num_threads(1)
    return Bench(SHAPE, 8, "test", torch.float32)


def test_every_row_runs_and_the_targets_find_theirs(bench: Bench) -> None:
    rows = []
    for case in cases(quick=False):
        got = bench.run(case)
        assert got.seconds > 0
        assert got.retained_ratio == pytest.approx(case.ratio or 1.0, abs=0.02)
        assert 0 <= got.choosing_share < 1
        assert (got.choosing["importance"] > 0) == (case.policy == "omnidrop")
        times = case.questions if case.once else 1
        rows.append(
            {
                "mode": case.mode,
                "policy": case.policy,
                "read_left_out": case.read,
                "questions": case.questions,
                "seconds": got.seconds * times,
                "flops": got.flops * times,
                "kv_bytes": got.kv_bytes,
                "asked_ratio": case.ratio,
                "guidance": case.guidance,
                "choosing_share": got.choosing_share,
            }
        )
    decoding = bench.decoding(1)
    assert all(seconds > 0 for seconds in decoding.values())
    checks = targets(rows, decoding)
    assert len(checks) == 14
    by_name = {check["what"]: check["measured"] for check in checks}
    assert by_name["the same, left out not read"] < by_name["KV bytes, set_guided 30 % / dense_shared"] < 1


def test_decoding_with_copied_caches_is_the_same_decoding(bench: Bench) -> None:
    """The baseline arms must compute what ours computes over a dense prefix, or their time would mean nothing."""
    case = Case("dense_shared", "none", 8, None)
    policy = bench.policy(case)
    steps = (torch.arange(8), torch.arange(8) + 3)
    with torch.inference_mode(), own_attention(bench.model):
        schedule = policy.plan(bench.clip.av, bench.layers, None)
        ((done,),) = modes.run(bench.model, [bench.clip], questions(8, text=4), case.mode, policy, schedule, "max")
        ours = decode.Decoder(bench.model, done.state, range(8), 4)
        copied = CopiedDecoder(bench.model, done.state)
        expected = [ours.step(ids) for ids in steps]
        for ids, logits in zip(steps, expected, strict=True):
            torch.testing.assert_close(copied.step(ids), logits, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        for padding in (0, 1):
            stock = StockDecoder(bench.model, done.state, padding)
            for ids, logits in zip(steps, expected, strict=True):
                torch.testing.assert_close(stock.step(ids), logits, rtol=1e-4, atol=1e-4)


def test_a_whole_random_model_answers_in_every_row_of_the_gpu_table() -> None:
    """Eight seconds have the paper's 288 video and 50 audio tokens every two; more questions cost pruning less."""
    whole = WholeBench("test", 8, "cpu")
    by_case = {case: whole.run(case) for case in whole_cases(3)}
    rows = {(c.mode, c.policy, c.questions, c.retained): row for c, row in by_case.items() if c.read is None}
    (unread,) = (row for case, row in by_case.items() if case.read is False)
    geometry = whole.model.adapter.geometry  # type: ignore[attr-defined]
    assert geometry.count_tokens(120, 252, 448, 960_000) == (30 * 288, 30 * 50)
    flops = {key: row["flops"] - row["encoder_flops"] for key, row in rows.items()}
    assert flops["set_guided", "omnidrop", 3, 0.3] < 0.5 * flops["dense_shared", "none", 3, None]
    assert flops["set_guided", "omnidrop", 3, 0.2] < flops["set_guided", "omnidrop", 3, 0.3]
    read = rows["set_guided", "omnidrop", 3, 0.2]
    assert (read["read_left_out"], unread["read_left_out"]) == (True, False)
    assert unread["kv_bytes"] < read["kv_bytes"]
    assert flops["per_question", "omnidrop", 3, 0.3] == 3 * flops["per_question", "omnidrop", 1, 0.3]
    assert rows["set_guided", "omnidrop", 3, 0.3]["retained_ratio"] == pytest.approx(0.3, abs=0.02)
    assert whole.encoders() > 0
    assert whole.head(64)["every_position_s"] > 0


def test_clips_in_a_pass_are_timed_beside_each_other() -> None:
    row = batching.decoder("test", 8, SHAPE, 2, rounds=1)
    assert row.tokens == SHAPE.tokens
    assert tuple(row.seconds_per_clip) == batching.SIZES
    assert all(seconds > 0 for seconds in row.seconds_per_clip.values())
    assert row.ratios[1] == 1.0
