"""From logits to typed answers, what they cost, and the trace: both families, all modes."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import omnidrop
from omnidrop import cost
from omnidrop.answers import Answer
from omnidrop.engine import decode, question_rows
from omnidrop.engine.attention import ATTENTION
from omnidrop.engine.question_rows import END
from omnidrop.errors import QuestionError
from omnidrop.model import Request
from omnidrop.policies import following
from omnidrop.pruning import MODES, Pruning
from omnidrop.questions import Boolean, Choice, Json, Number, Question, Text
from tests.support.method_clip import FRAMES, QUESTIONS, SOUND, Loaded, stock_logits
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni  # noqa: F401

SCHEMA = {
    "type": "object",
    "properties": {"shape": {"enum": ["circle", "square"]}, "loud": {"type": "boolean"}},
    "required": ["shape", "loud"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["qwen2_5_omni", "qwen3_omni"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.getfixturevalue(f"small_{request.param}"))


def dense(loaded: Loaded, *questions: Question) -> tuple[Answer, ...]:
    answers: tuple[Answer, ...] = loaded.answer(Pruning.off(), questions).answers
    return answers


# --- scored answers ---------------------------------------------------------------------------------------------------


def test_multi_token_options_have_their_exact_probability(loaded: Loaded) -> None:
    """By teacher forcing through the stock model, an option that another one continues with its end."""
    options = ("1", "10", "12", "a low tone", "a low tone and a cross")
    question = Question("q", "What is it?", Choice(options))
    (asked,) = question_rows.ask(loaded.adapter, [question])
    ids = [tuple(loaded.adapter.answer_ids(text)) for text in options]
    assert max(map(len, ids)) > 3
    means = []
    for option in ids:
        logs = []
        continued = any(len(other) > len(option) and other[: len(option)] == option for other in ids)
        for done in range(len(option) + continued):
            log = stock_logits(loaded, [*asked.ids, *option[:done]]).log_softmax(0)
            ends = log[list(loaded.adapter.end_ids)].logsumexp(0)
            logs.append(float(log[option[done]] if done < len(option) else ends))
        means.append(sum(logs) / len(logs))
    wanted = torch.tensor(means).softmax(0)
    (answer,) = dense(loaded, question)
    assert answer.value == options[int(wanted.argmax())]
    assert answer.probability == pytest.approx(float(wanted.max()), rel=1e-4)
    best, second = wanted.topk(2).values.tolist()
    assert answer.margin == pytest.approx(best - second, rel=1e-3)


def test_answers_are_typed(loaded: Loaded) -> None:
    answers = dense(
        loaded,
        Question("a", "Which?", Choice(("red", "green"))),
        Question("b", "Is it?", Boolean()),
        Question("c", "How much?", Number(-2.0, 2.0, 0.5, "dB")),
        Question("d", "How many?", Number(0, 1000)),
        Question("e", "What?", Text(3)),
    )
    assert answers[0].value in ("red", "green")
    assert isinstance(answers[1].value, bool)
    assert answers[2].value in [i / 2 for i in range(-4, 5)]
    assert answers[3].value in range(1001)
    assert len(loaded.adapter.answer_ids(answers[4].text)) <= 3 or answers[4].text == answers[4].value
    for scored in answers[:4]:
        assert scored.probability is not None
        assert scored.margin is not None
        assert 0 < scored.probability <= 1
        assert 0 <= scored.margin <= scored.probability
    assert answers[4].probability is None


def test_a_thousand_numbers_share_their_digits(loaded: Loaded) -> None:
    (asked,) = question_rows.ask(loaded.adapter, [Question("d", "How many?", Number(0, 1000))])
    assert asked.options is not None
    assert len(asked.options.tokens) <= 1 + 10 + 100 + 1


token_lists = st.lists(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), min_size=2, max_size=12, unique=True
)


@given(token_lists, st.integers(0, 99))
def test_options_are_disjoint_paths_through_their_tree(ids: list[tuple[int, ...]], seed: int) -> None:
    question = Question("q", "?", Choice(("yes", "no")))
    tree = question_rows.option_tree(question, [str(i) for i in ids], ids)
    paths: list[tuple[int, ...]] = [()]
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        paths.append((*paths[parent], token))
    assert len(set(paths)) == len(paths)
    # Any model over the tree: six outcomes a node, the last one is the end.
    chance = torch.rand(len(paths), 6, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    total = 0.0
    for option, factors in zip(ids, tree.factors, strict=True):
        walked = [(paths[f.row], f.token) for f in factors]
        steps = [(option[:i], token) for i, token in enumerate(option)]
        assert walked == steps or walked == [*steps, (option, END)]
        total += math.prod(float(chance[f.row, f.token]) for f in factors)
    assert total <= 1.0 + 1e-5


def test_options_that_read_alike_are_refused() -> None:
    with pytest.raises(QuestionError, match="options 'a' and 'A' read as the same tokens"):
        question_rows.option_tree(Question("q", "?", Choice(("a", "A"))), ["a", "A"], [(1, 2), (1, 2)])


# --- text and JSON ----------------------------------------------------------------------------------------------------


def test_json_satisfies_its_schema_whatever_the_model(loaded: Loaded) -> None:
    """The weights are random, so only the grammar can make this JSON; a text question decodes in the same batch."""
    questions = [
        Question("j", "Describe it as JSON.", Json(json.dumps(SCHEMA))),
        Question("t", "What?", Text(5)),
    ]
    for mode in MODES:
        pruning = Pruning.off(mode) if mode.startswith("dense") else Pruning(mode, retained_ratio=0.4)
        answer, text = loaded.answer(pruning, questions).answers
        jsonschema.validate(answer.value, SCHEMA)
        assert answer.error_class is None
        assert json.loads(answer.text) == answer.value
        assert text.value == text.text


def test_json_cut_short_keeps_its_text_and_says_so(loaded: Loaded) -> None:
    (answer,) = dense(loaded, Question("j", "Describe it.", Json(json.dumps(SCHEMA), max_tokens=3)))
    assert answer.value is None
    assert answer.text.startswith("{")
    assert answer.error_class == "json_invalid"


def test_json_without_a_grammar_is_checked(loaded: Loaded) -> None:
    """A tokenizer that the grammar cannot use: decoding is free, and noise is not JSON."""
    question = Question("j", "Describe it.", Json(json.dumps(SCHEMA), max_tokens=5))
    written = decode.Generated(tuple(loaded.adapter.answer_ids('{"shape": "round", "loud": true}')), 4, ended=True)
    assert decode.read(question, written, loaded.adapter).error_class == "json_invalid"
    written = decode.Generated(tuple(loaded.adapter.answer_ids('{"shape": "circle", "loud": true}')), 4, ended=True)
    assert decode.read(question, written, loaded.adapter).value == {"shape": "circle", "loud": True}


def test_a_schema_that_is_none_is_refused(loaded: Loaded) -> None:
    with pytest.raises(QuestionError, match="question 'j': not a valid JSON Schema"):
        dense(loaded, Question("j", "?", Json('{"type": "thing"}')))


def test_a_set_needs_questions_with_different_ids(loaded: Loaded) -> None:
    for questions in ([], [QUESTIONS[0], QUESTIONS[0]]):
        with pytest.raises(QuestionError, match="at least one question and different ids"):
            loaded.answer(Pruning(), questions)


# --- cost -------------------------------------------------------------------------------------------------------------


def test_flops_of_one_layer_counted_by_hand() -> None:
    """D 8, queries 12, keys 4, MLP 10: 3 prefix rows and 2 + 1 question rows that do not see each other."""
    widths = cost.Widths(hidden=8, query=12, key_value=4, mlp_flops=(480,), vocabulary=20, value_bytes=2)
    work = cost.LayerWork(prefix_rows=3, suffix_rows=3, suffix_pairs=2**2 / 2 + 1**2 / 2, guiding_rows=2)
    projections = 2 * 6 * (8 * 12 + 8 * 4 + 8 * 4 + 12 * 8)
    assert widths.linear_flops(0, 6) == projections + 6 * 480
    pairs = 3 * 3 / 2 + 3 * 3 + 2 + 0.5
    assert cost.prefill_flops(widths, [work], reads=2) == projections + 6 * 480 + 4 * pairs * 12 + 2 * 2 * 8 * 20
    assert cost.selection_flops(widths, [work]) == 2 * 2 * 6 * 12
    assert cost.cache_bytes(widths, [work]) == 6 * 2 * 4 * 2
    reads = replace(work, read_rows=5)
    pairs += 3 * 5
    extra = 5 * 2 * (8 * 4 + 8 * 4)
    assert cost.prefill_flops(widths, [reads], 0) == projections + 6 * 480 + extra + 4 * pairs * 12
    assert cost.selection_flops(widths, [reads]) == 2 * 2 * 11 * 12
    assert cost.cache_bytes(widths, [reads]) == 11 * 2 * 4 * 2
    # As the last layer, one row of two computed: it sees the clip's 3, what is left out, and of its question 1.5.
    last = work.as_last(reads=1, pairs=1.5)
    alone = (3 + 2) * 2 * (8 * 4 + 8 * 4)
    assert cost.prefill_flops(widths, [last], 0) == projections // 6 + 480 + alone + 4 * (3 + 1.5) * 12
    assert cost.cache_bytes(widths, [last]) == cost.cache_bytes(widths, [work])
    assert (last.seen_rows, reads.as_last(1, 1.5).seen_rows) == (3, 3 + 5)
    # Two decoded rows see 3 + 4 rows and half of themselves: (3 + 4) + (3 + 5), minus half each.
    assert cost.decode_flops(widths, [3], 4, 2) == widths.linear_flops(0, 2) + 4 * 12 * 16 + 2 * 2 * 8 * 20


def test_a_question_alone_is_the_causal_square() -> None:
    """(P + q)^2 / 2 by parts, whatever the split between clip and question."""
    for prefix in range(0, 30, 7):
        work = cost.LayerWork(prefix, 30 - prefix, (30 - prefix) ** 2 / 2)
        assert work.pairs == 30**2 / 2


@pytest.mark.parametrize(("ratio", "reads"), [(None, False), (0.5, False), (0.4, True)])
def test_linear_flops_are_those_pytorch_counts(
    loaded: Loaded, ratio: float | None, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense and ragged. PyTorch's counter sees neither the CPU's attention kernel nor its grouped expert kernel, so
    experts run one by one here."""
    monkeypatch.setattr(loaded.adapter.config, "_experts_implementation", "eager", raising=False)
    pruning = Pruning.off("set_guided")
    if ratio:
        # Distances between tokens, by which the default entry chooses, are left out of the convention.
        settings = (("diversity", "off"), ("entry", "merged"), ("merge", False), ("read_left_out", reads))
        pruning = Pruning(retained_ratio=ratio, settings=settings)
        # So are those between what is left out and what enters.
        monkeypatch.setattr(
            following, "best_covering", lambda tokens, index: index[:1].expand(tokens.count - len(index))
        )
    with FlopCounterMode(display=False) as counter:
        (done,) = loaded.run("set_guided", pruning)
    widths = loaded.model.widths
    linear = sum(widths.linear_flops(layer, w.rows) for layer, w in enumerate(done.work))
    linear += widths.head_flops(done.state.packed.reads[-1])
    assert done.state.read == done.work[0].read_rows
    assert (done.state.read > 0) == reads
    linear += sum(widths.read_flops(w.read_rows + w.suffix_read_rows) for w in done.work)
    selection = cost.selection_flops(widths, done.work)
    # Averaging the guiding rows into questions is a product, too, and the one thing the convention leaves out.
    averaging = sum(
        2 * len(QUESTIONS) * w.guiding_rows * index.shape[0]
        for w, index in zip(done.work, done.state.entered, strict=True)
    )
    assert counter.get_total_flops() == linear + selection + averaging
    assert (selection > 0) == (ratio is not None)


def test_the_counterfactuals_are_what_the_dense_modes_run(loaded: Loaded) -> None:
    given_ = {mode: loaded.answer(Pruning.off(mode)).cost for mode in ("dense", "dense_shared")}
    for other in given_.values():
        for mode in given_:
            wanted, counted = given_[mode].as_run, getattr(other, mode)
            assert counted.tokens == wanted.tokens
            assert counted.prefill_flops == wanted.prefill_flops
            assert counted.kv_bytes == wanted.kv_bytes
            assert counted.decode_flops == wanted.decode_flops
            assert wanted.selection_flops == 0
    assert given_["dense_shared"].as_run.flops < given_["dense"].as_run.flops


def test_the_modes_cost_what_they_promise(loaded: Loaded) -> None:
    scored = QUESTIONS[:3]
    ran = {}
    for mode in MODES:
        pruned = not mode.startswith("dense")
        pruning = Pruning(mode, retained_ratio=0.4, read_left_out=False) if pruned else Pruning.off(mode)
        ran[mode] = loaded.answer(pruning, scored).cost.as_run
    order = ["set_guided", "staged", "per_question", "dense"]
    flops = [ran[mode].prefill_flops for mode in order]
    assert flops == sorted(flops)
    assert ran["set_guided"].prefill_flops < ran["dense_shared"].prefill_flops
    assert ran["set_guided"].kv_bytes < 0.7 * ran["dense_shared"].kv_bytes
    assert all(one.decode_flops == 0 for one in ran.values())


# --- trace ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["per_question", "staged", "set_guided"])
def test_the_traces_counts_are_its_positions(loaded: Loaded, mode: Any) -> None:
    pruning = Pruning(mode, retained_ratio=0.4)
    answers = loaded.model.answer(FRAMES, SOUND, Request(QUESTIONS, fps=2.0, pruning=pruning, positions=True))
    trace = answers.positions
    assert answers.answers == loaded.model.answer(FRAMES, SOUND, Request(QUESTIONS, fps=2.0, pruning=pruning)).answers
    assert (trace.modality == 1).sum() == answers.trace.audio_in
    assert (trace.modality == 2).sum() == answers.trace.video_in
    ids = [question.id for question in QUESTIONS]
    assert trace.question_ids == ((tuple(ids),) if mode == "set_guided" else tuple((one,) for one in ids))
    for number, of_pass in enumerate(trace.kept):
        for layer, (kept, counted) in enumerate(zip(of_pass, answers.trace.layers, strict=True)):
            assert counted.layer == layer
            attention = trace.attention[number][layer]
            assert attention.shape == (len(trace.question_ids[number]), len(kept))
            assert (attention > 0).all()
            assert (attention.sum(axis=1) < 1).all()  # a row's attention sums to 1 over text, audio and video together
            assert len(kept) == counted.audio + counted.video
            if layer:
                assert set(kept.tolist()) <= set(of_pass[layer - 1].tolist())
        entered = trace.layers_entered(number)
        assert entered.mean() / len(answers.trace.layers) == pytest.approx(answers.trace.retained_ratio())
    if mode == "set_guided":
        audio = [int((trace.modality[kept] == 1).sum()) for kept in trace.kept[0]]
        assert audio == [counted.audio for counted in answers.trace.layers]


# --- the public call --------------------------------------------------------------------------------------------------


def test_one_call_answers_a_clip(loaded: Loaded) -> None:
    given_ = omnidrop.answer(FRAMES, SOUND, QUESTIONS, fps=2.0, model=loaded.model)
    assert [answer.question_id for answer in given_.answers] == [question.id for question in QUESTIONS]
    assert given_.trace.retained_ratio() == pytest.approx(0.3, abs=0.01)
    assert given_.cost.seconds > 0
    assert given_.cost.peak_bytes is None
    assert given_.cost.as_run.flops < given_.cost.dense_shared.flops < given_.cost.dense.flops


def test_threads_that_ask_one_model_get_what_one_gets(loaded: Loaded) -> None:
    questions = [[question] for question in QUESTIONS[:4]]
    alone = [loaded.answer(Pruning(), one).answers for one in questions]
    with ThreadPoolExecutor(len(questions)) as threads:
        assert list(threads.map(lambda one: loaded.answer(Pruning(), one).answers, questions)) == alone


def test_the_model_is_left_as_it_was(loaded: Loaded) -> None:
    before = loaded.adapter.config._attn_implementation
    loaded.answer(Pruning())
    with pytest.raises(QuestionError):
        loaded.answer(Pruning(), [Question("j", "?", Json('{"type": "thing"}'))])
    assert loaded.adapter.config._attn_implementation == before != ATTENTION


def test_half_precision_runs_in_every_mode(loaded: Loaded, request: pytest.FixtureRequest) -> None:
    """bfloat16 through every kernel, decoding included; the dense modes agree within its rounding."""
    directory = request.getfixturevalue(f"small_{loaded.model.family.removesuffix('_moe')}")
    model = omnidrop.OmniModel.load(str(directory), device="cpu", dtype="bfloat16")
    given_ = {}
    for mode in MODES:
        pruning = Pruning.off(mode) if mode.startswith("dense") else Pruning(mode, retained_ratio=0.4)
        given_[mode] = model.answer(FRAMES, SOUND, Request(QUESTIONS, fps=2.0, pruning=pruning))
        assert all(answer.error_class is None for answer in given_[mode].answers)
        assert given_[mode].cost.as_run.kv_bytes < loaded.answer(pruning).cost.as_run.kv_bytes
    for alone, shared in zip(given_["dense"].answers[:3], given_["dense_shared"].answers[:3], strict=True):
        assert alone.probability == pytest.approx(shared.probability, abs=0.1)
