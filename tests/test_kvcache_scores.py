# SPDX-License-Identifier: BSD-3-Clause
"""What the arguments of flash_attn_with_kvcache that change scores mean, on both paths."""

from __future__ import annotations

import limelight
import pytest
import torch
from case_tensors import random_trees
from kvcache_tools import (
    BATCH,
    CAUSAL,
    HEADDIM,
    HEADS,
    HEADS_KV,
    LENGTHS,
    Cache,
    attend,
    draw,
    ints,
    judge,
    run,
)

HALF = torch.bfloat16
SLOPES = torch.tensor([0.5, 0.1, 0.3, 0.02])


def test_softmax_scale(where: torch.device) -> None:
    cache = Cache("paged", HALF)
    q = draw(BATCH, 1, HEADS, HEADDIM, dtype=HALF)
    out, lse = run(where, cache, q, softmax_scale=0.5)
    for b, n in enumerate(LENGTHS):
        judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n], softmax_scale=0.5)


def test_causal(where: torch.device) -> None:
    """Aligned to the last key: the last query sees everything."""
    attend(where, CAUSAL, causal=True)


def test_window_size(where: torch.device) -> None:
    attend(where, {"window_left": 4, "window_right": 1}, window_size=(4, 1))
    attend(where, {"window_left": 2, **CAUSAL}, window_size=(2, -1), causal=True)


def test_softcap(where: torch.device) -> None:
    attend(where, {"softcap": 2.0}, softcap=2.0)


def test_alibi_slopes(where: torch.device) -> None:
    attend(where, {"alibi_slopes": SLOPES}, alibi_slopes=SLOPES)
    attend(where, {"alibi_slopes": SLOPES}, alibi_slopes=SLOPES.expand(BATCH, HEADS).contiguous())


@pytest.mark.parametrize("name", ["sink", "sinks", "s_aux", "learnable_sink"])
def test_sink(name: str, where: torch.device) -> None:
    sink = torch.tensor([0.3, -1.0, 2.0, 0.0])
    attend(where, {"sink": sink, **CAUSAL}, causal=True, **{name: sink})


def test_bias() -> None:
    """An additive bias: only the torch path adds it to a paged cache."""
    bias = draw(1, HEADS, 3, 24)
    cache = Cache("paged", HALF, page_size=4)
    q = draw(BATCH, 3, HEADS, HEADDIM, dtype=HALF)
    out, lse = run(torch.device("cpu"), cache, q, bias=bias)
    for b, n in enumerate(LENGTHS):
        part = bias[..., :n]
        judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n], bias=part)


@pytest.mark.parametrize("tokens", [1, 5, 33])
def test_tree_mask(tokens: int, where: torch.device) -> None:
    """Each new token sees the cache and its ancestors among the new tokens."""
    cache = Cache("dense", HALF)
    cache.stored = tuple(torch.cat((x, torch.full_like(x, float("nan"))), 1) for x in cache.stored)
    trees = random_trees(BATCH, tokens, torch.Generator().manual_seed(2))
    q = draw(BATCH, tokens, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, tokens, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    out, lse = run(where, cache, q, k, v, tree_mask=trees)
    for b, n in enumerate(LENGTHS):
        keys, values = (torch.cat((x[b, :n], y[b])) for x, y in ((cache.k, k), (cache.v, v)))
        judge(out[b], lse[b], q[b], keys, values, tree_mask=trees[b : b + 1])


def test_tree_mask_of_packed_queries(where: torch.device) -> None:
    """(batch, max_seqlen_q, words) beside cu_seqlens_q; a sequence uses its own rows of it."""
    cache, counts, ends = Cache("paged", HALF), [2, 3, 0], ints(0, 2, 5, 5)
    trees = random_trees(BATCH, 3, torch.Generator().manual_seed(2))
    q = draw(5, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(5, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    packed = {"cu_seqlens_q": ends, "cu_seqlens_k_new": ends, "max_seqlen_q": 3}
    out, lse = run(where, cache, q, k, v, tree_mask=trees, **packed)
    for b, (n, count) in enumerate(zip(LENGTHS, counts, strict=True)):
        own = slice(int(ends[b]), int(ends[b + 1]))
        keys, values = (torch.cat((x[b, :n], y[own])) for x, y in ((cache.k, k), (cache.v, v)))
        if count:
            judge(out[own], lse[:, own], q[own], keys, values, tree_mask=trees[b : b + 1])


@pytest.mark.parametrize("guess", [1.0, -300.0, 300.0])
def test_unified_max(guess: float, where: torch.device) -> None:
    """However wrong the guess is, the result is the same within rounding."""
    attend(where, CAUSAL, causal=True, unified_max=guess)


@pytest.mark.parametrize("spread", [False, True], ids=["scalar", "per-head"])
def test_k_descale_v_descale(spread: bool, where: torch.device) -> None:
    """A float8 cache: new 16-bit tokens are divided by the scales, read keys multiplied."""
    fp8, capacity, lengths = torch.float8_e4m3fn, 16, (3, 8)
    k, v = (draw(2, capacity, 2, HEADDIM, seed=s).to(fp8).to(where) for s in (0, 1))
    q, new = (draw(2, 1, h, HEADDIM, dtype=HALF, seed=5).to(where) for h in (4, 2))
    scales = torch.tensor([[0.5, 0.25], [0.75, 1.5]]) if spread else torch.tensor(0.3).expand(2, 2)
    scales = scales.to(where)
    before = k.clone()
    out, lse = limelight.flash_attn_with_kvcache(
        q,
        k,
        v,
        new,
        new,
        cache_seqlens=ints(*lengths).to(where),
        k_descale=scales,
        v_descale=scales,
        return_lse=True,
    )
    assert out.dtype == HALF
    for b, n in enumerate(lengths):
        want = (new[b, 0].float() / scales[b, :, None]).clamp(-448, 448).to(fp8)
        for cache in (k, v):
            assert torch.equal(cache[b, n].view(torch.uint8), want.view(torch.uint8))
        assert torch.equal(k[b, :n].view(torch.uint8), before[b, :n].view(torch.uint8))
        keys, values = ((x[b, : n + 1].double() * scales[b, :, None].double()) for x in (k, v))
        judge(out[b], lse[b], q[b].cpu(), keys.cpu(), values.cpu())


@pytest.mark.parametrize("given", ["q", "k", "qk", ""])
@pytest.mark.parametrize("paged", [True, False])
def test_q_descale(paged: bool, given: str, where: torch.device) -> None:
    """All of float8, as servers call with a float8 cache: a score is multiplied by both scales."""
    fp8, scale = torch.float8_e4m3fn, torch.tensor([[0.5, 0.25], [0.75, 1.5]])
    q, k, v = (draw(2, n, h, HEADDIM).to(fp8) for n, h in ((3, 4), (6, 2), (6, 2)))
    arguments = {f"{name}_descale": scale.to(where) for name in given}
    if paged:
        arguments["block_table"] = ints(0, 1, 2, 3).view(2, 2).to(where)
    pages = (x.view(4, 3, 2, HEADDIM) if paged else x for x in (k, v))
    out, lse = limelight.flash_attn_with_kvcache(
        q.to(where), *(x.to(where) for x in pages), causal=True, return_lse=True, **arguments
    )
    assert out.dtype == HALF
    for b in range(2):
        scales = {name: scale[b, :, None].double() if name in given else 1.0 for name in "qk"}
        turned = q[b].double().view(3, 2, 2, HEADDIM)
        if "q" in given:
            turned = turned * scale[b, :, None, None].double()
        judge(
            out[b],
            lse[b],
            turned.flatten(1, 2),
            k[b].double() * scales["k"],
            v[b].double(),
            **CAUSAL,
        )


def test_attention_chunk(where: torch.device) -> None:
    attend(where, {"attention_chunk": 4}, attention_chunk=4)
    attend(where, {"attention_chunk": 3, **CAUSAL}, attention_chunk=3, causal=True)


def test_qv(where: torch.device) -> None:
    """The keys are the columns behind the values: one attention to the rows of both."""
    cache = Cache("paged", HALF, page_size=4)
    rows = torch.cat(cache.stored[::-1], -1).to(where)
    cache.stored = (rows[..., HEADDIM:], rows[..., :HEADDIM])
    q, qv = (draw(BATCH, 3, HEADS, HEADDIM, dtype=HALF, seed=s) for s in (0, 7))
    out, lse = run(where, cache, q, qv=qv)
    both, whole = torch.cat((qv, q), -1), torch.cat((cache.v, cache.k), -1)
    for b, n in enumerate(LENGTHS):
        scale = (2 * HEADDIM) ** -0.5
        judge(out[b], lse[b], both[b], whole[b, :n], cache.v[b, :n], softmax_scale=scale)


def test_nothing_is_written_where_falling_back_is_an_error(kernels: torch.device) -> None:
    """Rows are appended by a kernel; qv over keys and values apart has none."""
    half = {"dtype": torch.half, "device": kernels}
    k_cache, v_cache = torch.zeros(1, 8, 1, 64, **half), torch.zeros(1, 8, 1, 128, **half)
    q, qv = torch.ones(1, 1, 1, 64, **half), torch.ones(1, 1, 1, 128, **half)
    lengths = torch.ones(1, dtype=torch.int32, device=kernels)
    with pytest.raises(limelight.FallbackError, match="qv"):
        limelight.flash_attn_with_kvcache(q, k_cache, v_cache, q, qv, cache_seqlens=lengths, qv=qv)
    assert not k_cache.any()
    assert not v_cache.any()
