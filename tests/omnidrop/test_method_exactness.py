"""The prefill against the stock model and against an oracle that masks instead of dropping, for both families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.evidence import guides
from omnidrop import policies
from omnidrop.engine import decode, layout, modes, prefill
from omnidrop.engine.attention import own_attention
from omnidrop.model import Request
from omnidrop.pruning import Pruning
from tests.support.method_clip import FRAMES, QUESTIONS, SOUND, Loaded, by_question, same, stock_logits
from tests.support.method_oracle import fixed, followed, masked_run, merged
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni  # noqa: F401


@pytest.fixture(scope="module", params=["qwen2_5_omni", "qwen3_omni"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.getfixturevalue(f"small_{request.param}"))


def test_without_pruning_the_logits_are_the_stock_models(loaded: Loaded) -> None:
    alone = by_question(loaded.run("dense"))
    for number, one in enumerate(loaded.asked):
        same(alone[number][0], stock_logits(loaded, list(one.ids)))


def test_a_packed_set_reads_as_its_questions_alone(loaded: Loaded) -> None:
    alone, packed = by_question(loaded.run("dense")), by_question(loaded.run("dense_shared"))
    for number in alone:
        same(packed[number], alone[number])


def test_option_rows_read_as_a_prompt_that_goes_on_with_the_option(loaded: Loaded) -> None:
    packed = by_question(loaded.run("dense_shared"))
    checked = 0
    for number, one in enumerate(loaded.asked):
        if one.options is None:
            continue
        paths: list[list[int]] = [[]]
        for row, (token, parent) in enumerate(zip(one.options.tokens, one.options.parents, strict=True), start=1):
            paths.append([*paths[parent], token])
            same(packed[number][row], stock_logits(loaded, [*one.ids, *paths[row]]))
            checked += 1
    assert checked > 3


@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_the_last_layer_leaves_what_the_whole_layer_leaves(loaded: Loaded, ratio: float) -> None:
    """Its caches, what is read from it, and what is recorded of it; all layers but that are run twice alike."""
    last, policy = len(loaded.adapter.layers) - 1, policies.named("omnidrop")
    schedule = policy.plan(loaded.clip.av, last + 1, ratio)
    packed = layout.pack(loaded.prefix, loaded.asked)
    with torch.inference_mode(), own_attention(loaded.adapter):
        part, whole = (
            [prefill.begin(loaded.adapter, loaded.clip, packed, policy, schedule, "max", watch=True)] for _ in range(2)
        )
        prefill.advance(loaded.adapter, part, last + 1)
        prefill.advance(loaded.adapter, whole, last)
        if schedule.drops_after(last - 1):
            prefill.drop(whole[0])
        prefill.run_layer(loaded.adapter, whole, last)
    (part,), (whole,) = part, whole
    same(part.hidden, whole.hidden.index_select(1, packed.read + whole.alive.shape[0]))
    for name in ("prefix_keys", "prefix_values", "suffix_keys", "suffix_values"):
        same(getattr(part.caches[last], name), getattr(whole.caches[last], name))
    assert part.watched is not None
    assert whole.watched is not None
    assert len(part.watched) == len(whole.watched) == last + 1
    same(part.watched[last], whole.watched[last])


def test_the_order_of_the_questions_changes_nothing_without_pruning(loaded: Loaded) -> None:
    order = [3, 0, 4, 2, 1]
    given = by_question(loaded.run("dense_shared"))
    turned = by_question(loaded.run("dense_shared", asked=[loaded.asked[i] for i in order]))
    for place, number in enumerate(order):
        same(turned[place], given[number])


def test_a_retained_ratio_of_one_is_the_identity(loaded: Loaded) -> None:
    whole = by_question(loaded.run("set_guided", Pruning(retained_ratio=1.0)))
    dense = by_question(loaded.run("dense_shared"))
    assert all(torch.equal(whole[number], dense[number]) for number in dense)


UNREAD = ("read_left_out", False)
PRUNINGS = [
    Pruning(retained_ratio=0.4, settings=(("diversity", "off"), UNREAD)),
    Pruning(retained_ratio=0.3, settings=(UNREAD,)),
    Pruning(retained_ratio=0.5, settings=(("diversity", "printed"), ("at_input", False), UNREAD)),
    Pruning(retained_ratio=0.3),
]


def entering_places(loaded: Loaded, done: modes.Prefilled) -> list[list[int]]:
    return [loaded.clip.av_places[index].tolist() for index in done.state.entered]


def follows(loaded: Loaded, done: modes.Prefilled) -> dict[int, int | None] | None:
    """Where what is left out is read: the tokens it moves with."""
    return followed(loaded.prefix, entering_places(loaded, done)[0]) if done.state.left_out else None


@pytest.mark.parametrize("pruning", PRUNINGS, ids=lambda p: f"{p.retained_ratio} {p.settings} {p.read_left_out}")
def test_the_pruned_prefill_is_an_oracle_that_masks(loaded: Loaded, pruning: Pruning) -> None:
    asked = [replace(one, options=None) for one in loaded.asked]
    (done,) = loaded.run("set_guided", pruning, asked)
    alive = entering_places(loaded, done)
    assert len(alive[-1]) < len(alive[0])
    assert (done.state.left_out is not None) == pruning.read_left_out
    prefix, moves = merged(loaded.prefix, alive[0]), follows(loaded, done)
    oracle = masked_run(loaded.adapter, prefix, [one.ids for one in asked], alive[0], fixed(alive), moves)
    rows = [loaded.prefix.input_ids.shape[0] + end - 1 for end in done.state.packed.starts[1:]]
    same(done.logits, oracle.logits[rows])


@pytest.mark.parametrize(("policy", "reads"), [("omnidrop", False), ("omnidrop_words", False), ("omnidrop", True)])
def test_the_tokens_kept_are_those_the_question_attends_to_most(loaded: Loaded, policy: str, reads: bool) -> None:
    """One question, no diversity: the oracle ranks by the mean over heads of what the question's own words pay and, for
    as much, its last token, and 0.7 of that of the layer before; or as in the paper by its words alone, now. What is
    left out and read takes its part of the attention."""
    paper = policy == "omnidrop_words"
    settings = (("diversity", "off"), *((("memory", 0.0),) if paper else ()), ("read_left_out", reads))
    one = replace(loaded.asked[1], options=None)
    with guides.registered():
        (done,) = loaded.run("per_question", Pruning("per_question", policy, 0.4, settings=settings), [one])
    alive = entering_places(loaded, done)
    rows = loaded.prefix.input_ids.shape[0]
    words = slice(rows + one.guiding[0], rows + one.guiding[1])
    layers: list[Tensor] = []

    def choose(layer: int, weights: Tensor, places: list[int]) -> list[int]:
        count = len(alive[min(layer + 1, len(alive) - 1)])
        if count == len(places):
            return places
        score = weights[:, words].mean(dim=(0, 1))[places]
        if not paper:
            layers.append((weights[:, words].mean(dim=(0, 1)) + weights[:, -1].mean(dim=0)) / 2)
            shares = [importance[places] / importance[places].sum() for importance in reversed(layers)]
            score = torch.stack([0.7**age * share for age, share in enumerate(shares)]).sum(dim=0)
        return sorted(places[int(number)] for number in score.topk(count).indices)

    prefix, moves = merged(loaded.prefix, alive[0]), follows(loaded, done)
    oracle = masked_run(loaded.adapter, prefix, [one.ids], alive[0], choose, moves)
    assert oracle.alive == alive
    same(done.logits[0], oracle.logits[-1])


@pytest.mark.parametrize("settings", [(UNREAD,), ()])
def test_generated_tokens_are_the_oracles(loaded: Loaded, settings: Any) -> None:
    """Two questions of different lengths decode as one batch; the oracle runs each alone and from scratch per token."""
    (done,) = loaded.run("set_guided", Pruning(retained_ratio=0.4, settings=settings))
    written = [3, 4]
    first = done.logits[[done.state.packed.reads[number] for number in written]]
    with torch.inference_mode(), own_attention(loaded.adapter):
        generated = decode.generate(loaded.adapter, done.state, written, first)
    alive = entering_places(loaded, done)
    prefix, moves = merged(loaded.prefix, alive[0]), follows(loaded, done)
    for number, text in zip(written, generated, strict=True):
        ids, wanted = list(loaded.asked[number].ids), []
        for _ in range(QUESTIONS[number].answer.max_tokens):  # type: ignore[union-attr]
            logits = masked_run(loaded.adapter, prefix, [ids], alive[0], fixed(alive), moves).logits[-1]
            token = int(logits.argmax())
            if token in loaded.adapter.end_ids:
                break
            wanted.append(token)
            ids.append(token)
        assert list(text.ids) == wanted
        assert text.steps == len(wanted) - (0 if text.ended else 1)


@pytest.mark.parametrize("guidance", ["max", "mean", "quota"])
def test_set_guided_with_one_question_is_per_question(loaded: Loaded, guidance: Any) -> None:
    for question in QUESTIONS:
        alone = loaded.answer(Pruning("per_question", retained_ratio=0.4), [question])
        guided = loaded.answer(Pruning("set_guided", retained_ratio=0.4, guidance=guidance), [question])
        assert guided.answers == alone.answers
        assert guided.trace == alone.trace


@pytest.mark.parametrize("settings", [(UNREAD,), ()])
def test_staged_is_per_question(loaded: Loaded, settings: Any) -> None:
    prunings = [Pruning(mode, retained_ratio=0.4, settings=settings) for mode in ("per_question", "staged")]
    alone, staged = (loaded.run(pruning.mode, pruning) for pruning in prunings)
    for number in range(len(QUESTIONS)):
        assert staged[number].questions == alone[number].questions == (number,)
        assert all(
            torch.equal(a, b) for a, b in zip(staged[number].state.entered, alone[number].state.entered, strict=True)
        )
        same(staged[number].logits, alone[number].logits)
    answers = [loaded.answer(pruning).answers for pruning in prunings]
    assert [(a.value, a.text) for a in answers[0]] == [(a.value, a.text) for a in answers[1]]


def test_survivors_keep_their_rotary_positions_and_text_stays(loaded: Loaded) -> None:
    (done,) = loaded.run("set_guided", Pruning(retained_ratio=0.3))
    state, prefix = done.state, loaded.prefix
    positions = torch.cat((prefix.positions[:, state.alive], state.packed.positions), dim=1)
    cos, sin = loaded.adapter.rotary(state.hidden, positions[:, None])
    assert torch.equal(state.rotary[0], cos)
    assert torch.equal(state.rotary[1], sin)
    text = (prefix.modality == 0).nonzero().flatten()
    assert torch.isin(text, state.alive).all()
    assert state.alive.shape[0] - text.shape[0] == state.schedule.entering[-1] < state.schedule.entering[0]


@pytest.mark.parametrize("settings", [(UNREAD,), ()])
def test_caches_hold_what_entered_each_layer_and_what_is_read(loaded: Loaded, settings: Any) -> None:
    (done,) = loaded.run("set_guided", Pruning(retained_ratio=0.3, settings=settings))
    schedule, text = done.state.schedule, loaded.clip.text
    read = schedule.total - schedule.entering[0] if done.state.left_out else 0
    for layer, cache in enumerate(done.state.caches):
        assert schedule.entering[layer] + text + read == done.work[layer].seen_rows
        assert cache.prefix_keys.shape[1] == schedule.entering[layer] + text + read
        assert cache.suffix_keys.shape[1] == done.state.packed.rows
    held = sum(cache.nbytes for cache in done.state.caches)
    assert held == sum(loaded.model.widths.cache_bytes(rows) for rows in done.cached_rows)


class HostWaits(TorchFunctionMode):
    """Notes calls whose outcome comes to the host or decides a shape: on a GPU each one waits for the device."""

    WAITING = (
        *("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"),
        *("nonzero", "masked_select", "unique", "unique_consecutive"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        by_mask = name == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype == torch.bool
        if name in self.WAITING or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", [name for name in policies.names() if name != "none"])
def test_no_layer_waits_for_the_device(loaded: Loaded, policy: str) -> None:
    """Dense layers only: a mixture's experts may look at which of them were chosen."""
    if loaded.model.family != "qwen2_5_omni":
        pytest.skip("a mixture of experts")
    can_read = policies.takes(policy, "read_left_out")
    for guidance in ("max", "mean", "quota"):
        chosen = policies.named(policy, **({"read_left_out": guidance == "max"} if can_read else {}))
        schedule = chosen.plan(loaded.clip.av, len(loaded.adapter.layers), 0.6)
        packed = layout.pack(loaded.prefix, loaded.asked)
        with torch.inference_mode(), own_attention(loaded.adapter):
            state = prefill.begin(loaded.adapter, loaded.clip, packed, chosen, schedule, guidance)
            with HostWaits() as waits:
                prefill.advance(loaded.adapter, [state], len(loaded.adapter.layers))
                prefill.logits(loaded.adapter, [state])
        assert waits.seen == []
    with HostWaits() as waits:
        ids = loaded.prefix.input_ids
        assert int(ids[ids > 0][0]) > 0
    assert waits.seen == ["__getitem__", "__int__"]


def test_audio_alone_and_pictures_alone_are_answered(loaded: Loaded) -> None:
    for frames, sound in ((None, SOUND), (FRAMES, None)):
        given = loaded.model.answer(frames, sound, Request(QUESTIONS[:2], fps=2.0, pruning=Pruning(retained_ratio=0.4)))
        assert [a.question_id for a in given.answers] == ["colour", "tone"]
        assert abs((given.trace.retained_ratio() or 0) - 0.4) < 0.02
