"""Attention in blocks against torch's own, in the type whose products it is faster for and in one without rounding."""

import pytest
import torch
import torch.nn.functional as F

from omnidrop.engine import cpu_attention
from omnidrop.engine.importance import attention_received


def drawn(dtype, clips=2, heads=6, kv=2, rows=700, more=0, width=16):
    generator = torch.Generator().manual_seed(0)

    def noise(count, length):
        # As projections leave them: (B, S, H, d) seen by heads.
        return torch.randn(clips, length, count, width, generator=generator).to(dtype).transpose(1, 2)

    return noise(heads, rows), noise(kv, rows + more), noise(kv, rows + more)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.bfloat16, 0.02)])
def test_causal_attention_is_torchs(dtype, atol):
    query, key, value = drawn(dtype)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(cpu_attention.causal(query, key, value, 0.3), expected, rtol=0.02, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.bfloat16, 0.02)])
def test_rows_of_branches_see_what_comes_before_and_their_own(dtype, atol):
    query, key, value = drawn(dtype, rows=400, more=300)
    visible = torch.block_diag(*(torch.ones(80, 80).tril() for _ in range(5))).bool()
    mask = F.pad(visible, (300, 0), value=True)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
    got, received = cpu_attention.branches(query, key, value, ~visible, 0.3)
    assert received is None
    torch.testing.assert_close(got, expected, rtol=0.02, atol=atol)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_what_keys_receive_is_summed_from_the_weights_in_use(dtype, rtol):
    query, key, value = drawn(dtype, rows=400, more=300)
    visible = torch.block_diag(*(torch.ones(80, 80).tril() for _ in range(5))).bool()
    guiding = torch.cat([torch.arange(80 * number + 3, 80 * number + 70) for number in range(5)])
    owner = torch.block_diag(*(torch.full((1, 67), 1 / 67) for _ in range(5)))
    every = torch.zeros(5, 400).index_copy_(1, guiding, owner)
    _, received = cpu_attention.branches(query, key, value, ~visible, 0.3, cpu_attention.Looked(every, 200))
    for clip in range(2):
        of_guiding, columns = query[clip].index_select(1, guiding), torch.arange(200, 700)
        expected = attention_received(of_guiding, key[clip], visible[guiding], owner, columns, 0.3)
        torch.testing.assert_close(received[clip], expected, rtol=rtol, atol=1e-6)


def test_it_is_for_bfloat16_alone():
    assert not cpu_attention.is_faster(torch.zeros(1))
