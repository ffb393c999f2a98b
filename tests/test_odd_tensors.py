# SPDX-License-Identifier: BSD-3-Clause
"""Tensors that are valid and rarely tried: empty ones, dimensions of size 1 with any stride, odd
addresses, scalars of other dtypes."""

from __future__ import annotations

import limelight
import pytest
import torch
from limelight import runtime
from torch import Tensor

FP8 = torch.float8_e4m3fn


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_empty_tensors_of_any_strides(where: torch.device) -> None:
    q = torch.empty(2, 3, 16, 4, dtype=torch.float16, device=where).transpose(2, 3)[:0]
    k = torch.empty(2, 16, 0, 4, dtype=torch.float16, device=where).permute(0, 2, 3, 1)
    assert limelight.flash_attn_func(q, q, q).shape == (0, 3, 4, 16)
    assert not limelight.flash_attn_func(k.new_ones(2, 3, 4, 16), k, k).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sink_of_float64(dtype: torch.dtype, where: torch.device) -> None:
    q, k, v = (draw(1, 5, 2, 16, seed=s).to(where, dtype) for s in range(3))
    sink = draw(2).to(where).double().requires_grad_()
    out = limelight.flash_attn_func(q, k, v, sink=sink)
    assert torch.equal(out, limelight.flash_attn_func(q, k, v, sink=sink.detach().float()))
    (found,) = torch.autograd.grad(out.float().sum(), sink)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("shape", [(1, 4, 16), (5, 1, 16), (1, 1, 16), (5, 4, 1)])
def test_merging_parts_with_different_strides(
    shape: tuple[int, int, int], where: torch.device
) -> None:
    """contiguous() leaves a dimension of size 1 its stride."""
    tokens, heads, headdim = shape
    rows = draw(tokens, heads + 2, headdim + 3).to(where)
    prefix = rows[:, :heads, :headdim]
    suffix = draw(tokens, heads, headdim, seed=1).to(where)
    prefix_lse = draw(heads + 1, tokens + 2).to(where)[:heads, :tokens]
    suffix_lse = draw(heads, tokens, seed=1).to(where)
    output = torch.empty_like(suffix)
    limelight.merge_attn_states(output, prefix, prefix_lse, suffix, suffix_lse)
    weight = torch.sigmoid(prefix_lse - suffix_lse).t().unsqueeze(-1)
    torch.testing.assert_close(output, weight * prefix + (1 - weight) * suffix)


@pytest.mark.parametrize("total", [0, 3])
@pytest.mark.parametrize("turns", [False, True])
def test_appending_for_no_sequence(total: int, turns: bool, where: torch.device) -> None:
    """A server's step with no request, padding tokens or not."""
    q, new = (torch.ones(total, h, 16, dtype=torch.float16, device=where) for h in (4, 2))
    cache = torch.zeros(2, 8, 2, 16, dtype=torch.float16, device=where)
    none, zero = ints().to(where), ints(0).to(where)
    step = {"cache_seqlens": none, "cache_batch_idx": none, "max_seqlen_q": 1, "causal": True}
    step |= {"cu_seqlens_q": zero, "cu_seqlens_k_new": zero}
    if turns:
        table = torch.ones(8, 4, device=where)
        step |= {"rotary_cos": table, "rotary_sin": table}
    out = limelight.flash_attn_with_kvcache(q, cache, cache.clone(), new, new, **step)
    assert out.shape == q.shape
    assert not cache.any()


def test_dropout_probabilities_of_no_sequence(where: torch.device) -> None:
    q = torch.zeros(0, 3, 2, 16, device=where)
    _, _, mask = limelight.flash_attn_func(q, q, q, dropout_p=0.5, return_attn_probs=True)
    assert mask.shape == (0, 2, 3, 3)


def test_the_gradient_of_a_bias_of_no_sequence(where: torch.device) -> None:
    """Rows of q that belong to no sequence are there all the same."""
    q = torch.ones(3, 2, 16, dtype=torch.float16, device=where).requires_grad_()
    bias = torch.ones(0, 2, 1, 1, device=where).requires_grad_()
    zero = ints(0).to(where)
    out = limelight.flash_attn_varlen_func(q, q, q, zero, zero, 1, 1, bias=bias)
    dq, dbias = torch.autograd.grad(out.sum() * 0, (q, bias))
    assert dq.shape == q.shape
    assert dbias.shape == bias.shape


@pytest.mark.parametrize("odd", ["k", "v", "k_cache", "v_cache"])
@pytest.mark.parametrize("way", ["address", "stride"])
def test_appending_float8_bits_at_odd_places(odd: str, way: str, where: torch.device) -> None:
    """Two float8 numbers move as one of 16 bits, where both lie in one."""
    held = {"k": (1, 2, 16), "v": (1, 2, 16), "k_cache": (2, 4, 2, 16), "v_cache": (2, 4, 2, 16)}
    tensors = {}
    for seed, (name, shape) in enumerate(held.items()):
        x = draw(*shape, seed=seed).to(where).to(FP8)
        if name == odd and way == "address":
            raw = torch.zeros(x.numel() + 1, dtype=torch.uint8, device=where)[1:].view(shape)
            x = raw.copy_(x.view(torch.uint8)).view(FP8)
        elif name == odd:
            raw = torch.zeros(*shape[:-1], 17, dtype=torch.uint8, device=where)[..., :16]
            x = raw.copy_(x.view(torch.uint8)).view(FP8)
        tensors[name] = x
    slots = torch.tensor([5], device=where)
    with runtime.override(fallback="silent"):
        limelight.append_kv(*tensors.values(), slots, "fp8")
    for new, cache in (("k", "k_cache"), ("v", "v_cache")):
        stored = tensors[cache][1, 1].view(torch.uint8)
        assert torch.equal(stored, tensors[new][0].view(torch.uint8))


@pytest.mark.parametrize("scale", [0.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_that_are_not_positive(scale: float, dtype: torch.dtype) -> None:
    """torch's fused operator masks before it scales: 0 * -inf."""
    q, k, v = (draw(2, 7, 3, 16, seed=s).to(dtype).requires_grad_() for s in range(3))
    out = limelight.flash_attn_func(q, k, v, softmax_scale=scale, causal=True)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    hidden = torch.ones(7, 7).triu(1).bool()
    p = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    want = torch.einsum("bhij,bjhd->bihd", p, v)
    torch.testing.assert_close(out, want)
    for mine, other in zip(
        torch.autograd.grad(out.sum(), (q, k, v)),
        torch.autograd.grad(want.sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_the_gradient_of_a_large_sink(where: torch.device) -> None:
    """exp(200) is infinite in fp32: rows of no sequence must not take part as inf * 0."""
    q = draw(5, 2, 16).to(where).half().requires_grad_()
    sink = torch.full((2,), 200.0, device=where).requires_grad_()
    lengths = ints(0, 3).to(where)
    out = limelight.flash_attn_varlen_func(q, q, q, lengths, lengths, 3, 3, sink=sink)
    (dsink,) = torch.autograd.grad(out[:3].float().sum(), sink)
    assert torch.isfinite(dsink).all()


def test_rotary_tables_of_float8(where: torch.device) -> None:
    """flash-attn 3's own tests give tables of the cache's dtype."""
    q, new = draw(2, 1, 4, 16).to(where).bfloat16(), draw(2, 1, 2, 16).to(where).bfloat16()
    table = draw(8, 4).to(where).to(FP8)
    results = []
    for angles in (table, table.float()):
        caches = [torch.zeros(2, 8, 2, 16, device=where).to(FP8) for _ in range(2)]
        with runtime.override(fallback="silent"):
            out = limelight.flash_attn_with_kvcache(
                q, *caches, new, new, angles, angles, ints(0, 3).to(where), causal=True
            )
        results.append((out, caches[0].view(torch.uint8)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
