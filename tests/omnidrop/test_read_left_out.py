"""What is left out at the entry and read by the questions all the same: which token it follows, what that costs, and
what cannot be had with it. That the logits are an oracle's: `test_method_exactness`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.evidence import guides
from omnidrop import policies
from omnidrop.engine.left_out import LeftOut
from omnidrop.errors import PolicyError
from omnidrop.estimate import Estimator
from omnidrop.models.base import AUDIO
from omnidrop.policies.following import best_covering
from omnidrop.pruning import Pruning
from omnidrop.questions import Question, Text
from tests.support.method_clip import Loaded, same
from tests.support.method_oracle import fixed, followed, masked_run
from tests.support.small_checkpoints import small_qwen2_5_omni  # noqa: F401

READ, UNREAD = ((("read_left_out", reads),) for reads in (True, False))


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.getfixturevalue("small_qwen2_5_omni"))


@pytest.mark.parametrize("policy", [name for name in policies.names() if policies.takes(name, "read_left_out")])
def test_any_policy_that_prunes_before_the_decoder_can_be_read_beside(loaded: Loaded, policy: str) -> None:
    """Nothing merged: the oracle then needs nothing but what entered and what follows what."""
    asked = [replace(one, options=None) for one in loaded.asked[:2]]
    settings = (*READ, ("merge", False)) if policies.takes(policy, "merge") else READ
    (done,) = loaded.run("set_guided", Pruning(policy=policy, retained_ratio=0.4, settings=settings), asked)
    alive = [loaded.clip.av_places[index].tolist() for index in done.state.entered]
    follows = followed(loaded.prefix, alive[0])
    assert len(follows) == done.state.read == loaded.clip.av.count - len(alive[0]) > 0
    oracle = masked_run(loaded.adapter, loaded.prefix, [one.ids for one in asked], alive[0], fixed(alive), follows)
    rows = [loaded.prefix.input_ids.shape[0] + end - 1 for end in done.state.packed.starts[1:]]
    same(done.logits, oracle.logits[rows])


def test_a_token_follows_the_entering_one_of_its_modality_that_covers_it_best(loaded: Loaded) -> None:
    tokens = loaded.clip.av
    index = torch.nonzero(torch.arange(tokens.count) % 5 == 0).flatten()
    got = best_covering(tokens, index).tolist()
    places = loaded.clip.av_places
    wanted = followed(loaded.prefix, places[index].tolist())
    others = [place for number, place in enumerate(places.tolist()) if number % 5]
    assert [int(places[number]) for number in got] == [wanted[place] for place in others]
    sound = torch.nonzero(tokens.modality == AUDIO).flatten()
    assert best_covering(tokens, sound).tolist() == [-1] * tokens.video, "no picture enters, so none follows"


def test_what_is_compared_in_the_features_own_type_follows_one_as_like_it(loaded: Loaded) -> None:
    """Products of 8 bits may take another of equals: never one that is less alike by more than they round."""
    generator = torch.Generator().manual_seed(0)
    of_kind = torch.randn(40, 256, generator=generator)[torch.arange(loaded.clip.av.count) % 40]
    noise = 0.3 * torch.randn(of_kind.shape, generator=generator)
    tokens = replace(loaded.clip.av, features=of_kind + noise, seconds=torch.zeros(loaded.clip.av.count))
    index = torch.nonzero(torch.arange(tokens.count) % 5 == 0).flatten()
    exact, rounded = (
        best_covering(replace(tokens, features=tokens.features.to(dtype)), index)
        for dtype in (torch.float32, torch.bfloat16)
    )
    left = torch.nonzero(torch.arange(tokens.count) % 5).flatten()
    unit = torch.nn.functional.normalize(tokens.features, dim=-1)
    alike = [(unit[left] * unit[follows]).sum(dim=1) for follows in (exact, rounded)]
    assert (alike[0] - alike[1]).abs().max() < 0.01


def test_a_token_moves_with_the_one_it_follows_until_that_one_has_left() -> None:
    rows = torch.zeros(1, 3, 2)
    left_out = LeftOut(torch.tensor([1, 4, 6]), rows, (rows, rows), torch.tensor([0, 5, -1]))
    moves = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    after = left_out.after(moves, torch.tensor([0, 5]), None)
    assert after.hidden.tolist() == [[[1, 2], [3, 4], [0, 0]]]
    deepstack = torch.arange(14.0).view(7, 2)
    assert after.after(moves[:1], torch.tensor([0]), deepstack).hidden.tolist() == [[[4, 7], [11, 13], [12, 13]]]
    assert after.after(moves[:0], torch.tensor([], dtype=torch.int64), None).hidden.tolist() == after.hidden.tolist()


def test_with_nothing_left_out_nothing_changes(loaded: Loaded) -> None:
    off, on = (Pruning(retained_ratio=1.0, settings=some) for some in (UNREAD, READ))
    (without,), (beside,) = (loaded.run("set_guided", one) for one in (off, on))
    assert torch.equal(without.logits, beside.logits)
    assert without.work == beside.work


def test_media_do_not_read_what_is_left_out(loaded: Loaded) -> None:
    """So a policy that looks at what sounds look at keeps the same tokens, and their states are the same."""
    with guides.registered():
        off, on = (Pruning(policy="omnidrop_audio", retained_ratio=0.4, settings=some) for some in (UNREAD, READ))
        (without,), (beside,) = (loaded.run("set_guided", one) for one in (off, on))
    for one, other in zip(without.state.entered, beside.state.entered, strict=True):
        assert torch.equal(one, other)
    # What the last layer keeps of media is made of what entered it.
    for of_beside, of_without in zip(beside.state.caches, without.state.caches, strict=True):
        same(of_beside.prefix_values[:, beside.state.read :], of_without.prefix_values)
    assert not torch.allclose(beside.logits, without.logits, rtol=1e-3)


def test_it_costs_flops_and_keeps_the_cache_and_leaves_the_ratio(loaded: Loaded) -> None:
    asked = (Question("text", "What is seen first?", Text(6)),)
    off, on = (loaded.answer(Pruning(retained_ratio=0.3, settings=some), asked) for some in (UNREAD, READ))
    assert on.trace.retained_ratio() == off.trace.retained_ratio()
    without, beside = off.cost.as_run, on.cost.as_run
    assert beside.tokens == without.tokens
    assert without.flops < beside.flops < on.cost.dense_shared.flops
    assert without.kv_bytes < beside.kv_bytes < on.cost.dense_shared.kv_bytes
    widths, read = (
        loaded.model.widths,
        loaded.clip.av.count - sum((off.trace.layers[0].audio, off.trace.layers[0].video)),
    )
    assert beside.kv_bytes - without.kv_bytes == widths.layers * widths.cache_bytes(read)


def test_what_was_never_encoded_cannot_be_read() -> None:
    for given in ({"encoder_share": 0.5}, {"still_levels": 2.0}, {"encoder_share": 0.5, "still_levels": 0.0}):
        with pytest.raises(PolicyError, match="lets questions read every token of a clip"):
            Pruning(settings=READ, **given)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="'fastv' has no setting 'read_left_out'"):
        Pruning(policy="fastv", settings=READ)


def test_a_plan_prices_it() -> None:
    shape = {"frames": 8, "height": 112, "width": 112, "samples": 64_000, "fps": 2.0}
    asked = [Question("text", "What is seen first?", Text(6))]
    off, on = (Estimator("tiny").clip(asked, Pruning(retained_ratio=0.3, settings=s), **shape) for s in (UNREAD, READ))  # type: ignore[arg-type]
    assert on.retained_ratio == off.retained_ratio
    for name in ("prefill_flops", "selection_flops", "decode_flops", "kv_bytes"):
        assert getattr(off.as_run, name) < getattr(on.as_run, name)
