# SPDX-License-Identifier: BSD-3-Clause
"""flash_attn_with_kvcache against a definition that keeps every sequence apart."""

from __future__ import annotations

from typing import Any

import limelight
import pytest
import torch
from kvcache_tools import (
    BATCH,
    HEADDIM,
    HEADS,
    HEADS_KV,
    LENGTHS,
    Cache,
    draw,
    ints,
    judge,
    turn,
)


@pytest.mark.parametrize("kind", ["dense", "rows", "paged"])
@pytest.mark.parametrize("seqlen_q", [1, 3])
@pytest.mark.parametrize("rotary", ["", "interleaved", "halves", "partial"])
@pytest.mark.parametrize("causal", [False, True])
def test_append_rotate_attend(kind: str, seqlen_q: int, rotary: str, causal: bool) -> None:
    cache = Cache(kind, torch.float32)
    before = [x.clone() for x in cache.stored]
    q = draw(BATCH, seqlen_q, HEADS, HEADDIM)
    k_new, v_new = (draw(BATCH, seqlen_q, HEADS_KV, HEADDIM, seed=s) for s in (2, 3))
    arguments: dict[str, Any] = dict(
        cache.arguments, causal=causal, rotary_interleaved=rotary != "halves"
    )
    if rotary:
        angles = draw(40, 4 if rotary == "partial" else HEADDIM // 2)
        arguments |= {"rotary_cos": angles.cos(), "rotary_sin": angles.sin()}
    out, lse = limelight.flash_attn_with_kvcache(
        q,
        *cache.stored,
        k_new,
        v_new,
        cache_seqlens=ints(*LENGTHS),
        return_softmax_lse=True,
        **arguments,
    )
    touched = [torch.zeros(x.shape[:2], dtype=torch.bool) for x in cache.stored]
    for b, n in enumerate(LENGTHS):
        own_q, own_k = q[b].double(), k_new[b].double()
        at = [n + i for i in range(seqlen_q)]
        if rotary:
            tables = (arguments["rotary_cos"], arguments["rotary_sin"], rotary != "halves")
            own_q = turn(q[b], at if causal else [n] * seqlen_q, *tables)
            own_k = turn(k_new[b], at, *tables)
        end = n + seqlen_q
        assert torch.equal(cache.read(1, b, end)[n:], v_new[b])
        torch.testing.assert_close(cache.read(0, b, end)[n:].double(), own_k, rtol=1e-6, atol=1e-6)
        if not rotary:
            assert torch.equal(cache.read(0, b, end)[n:], k_new[b])
        window = {"causal": causal, "window_right": 0 if causal else -1}
        keys = torch.cat((cache.k[b, :n].double(), own_k))
        judge(out[b], lse[b], own_q, keys, torch.cat((cache.v[b, :n], v_new[b])), **window)
        for mask in touched:
            for t in at:
                mask[cache.place(b, t)] = True
    for old, new, mask in zip(before, cache.stored, touched, strict=True):
        torch.testing.assert_close(old[~mask], new[~mask], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["dense", "rows", "paged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "extra",
    [{}, {"window_size": (4, 0)}, {"softcap": 8.0}, {"num_splits": 3}, {"alibi": True}],
    ids=str,
)
def test_attend_without_append(kind: str, dtype: torch.dtype, extra: dict[str, Any]) -> None:
    cache = Cache(kind, dtype, page_size=4)
    q = draw(BATCH, 2, HEADS, HEADDIM, dtype=dtype)
    arguments, problem = dict(cache.arguments), {}
    if "alibi" in extra:
        arguments["alibi_slopes"] = problem["alibi_slopes"] = torch.rand(HEADS)
    else:
        arguments |= extra
        problem["softcap"] = extra.get("softcap", 0.0)
        if "window_size" in extra:
            problem |= {"window_left": 4, "window_right": 0}
    out = torch.full_like(q, float("nan"))
    found, lse = limelight.flash_attn_with_kvcache(
        q,
        *cache.stored,
        cache_seqlens=ints(*LENGTHS),
        out=out,
        return_softmax_lse=True,
        **arguments,
    )
    assert found is out
    for b, n in enumerate(LENGTHS):
        judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n], **problem)


@pytest.mark.parametrize("kind", ["dense", "paged"])
def test_leftpad(kind: str) -> None:
    cache = Cache(kind, torch.float32)
    q, pads = draw(BATCH, 3, HEADS, HEADDIM), [2, 0, 7]
    out, lse = limelight.flash_attn_with_kvcache(
        q,
        *cache.stored,
        cache_seqlens=ints(*LENGTHS),
        cache_leftpad=ints(*pads),
        causal=True,
        return_softmax_lse=True,
        **cache.arguments,
    )
    for b, (n, pad) in enumerate(zip(LENGTHS, pads, strict=True)):
        arguments = {"leftpad": pad, "causal": True, "window_right": 0}
        judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n], **arguments)


@pytest.mark.parametrize("kind", ["dense", "rows", "paged"])
def test_packed_queries_and_new_keys(kind: str) -> None:
    """cu_seqlens_q and cu_seqlens_k_new; tokens beyond the last sequence are not stored."""
    cache = Cache(kind, torch.float32)
    counts = [2, 3, 0]
    ends = ints(0, 2, 5, 5)
    q = draw(5, HEADS, HEADDIM)
    k_new, v_new = (draw(7, HEADS_KV, HEADDIM, seed=s) for s in (2, 3))
    before = [x.clone() for x in cache.stored]
    out, lse = limelight.flash_attn_with_kvcache(
        q,
        *cache.stored,
        k_new,
        v_new,
        cache_seqlens=ints(*LENGTHS),
        cu_seqlens_q=ends,
        cu_seqlens_k_new=ends,
        max_seqlen_q=3,
        causal=True,
        return_softmax_lse=True,
        **cache.arguments,
    )
    assert lse.shape == (HEADS, 5)
    changed = 0
    for b, (n, count) in enumerate(zip(LENGTHS, counts, strict=True)):
        own = slice(int(ends[b]), int(ends[b + 1]))
        assert torch.equal(cache.read(0, b, n + count)[n:], k_new[own]) if count else True
        assert torch.equal(cache.read(1, b, n + count)[n:], v_new[own]) if count else True
        changed += count
        if count:
            keys, values = cache.read(0, b, n + count), cache.read(1, b, n + count)
            judge(out[own], lse[:, own], q[own], keys, values, causal=True, window_right=0)
    for old, new in zip(before, cache.stored, strict=True):
        same = (old == new) | (old.isnan() & new.isnan())
        assert int((~same.flatten(2).all(-1)).sum()) == changed


def test_only_tokens_of_no_sequence() -> None:
    cache = Cache("dense", torch.float32)
    before = cache.stored[0].clone()
    q, new = draw(4, HEADS, HEADDIM), draw(4, HEADS_KV, HEADDIM)
    limelight.flash_attn_with_kvcache(
        q,
        *cache.stored,
        new,
        new,
        cache_seqlens=ints(*LENGTHS),
        cu_seqlens_q=ints(0, 0, 0, 0),
        cu_seqlens_k_new=ints(0, 0, 0, 0),
        max_seqlen_q=0,
    )
    torch.testing.assert_close(cache.stored[0], before, rtol=0, atol=0, equal_nan=True)


def test_cache_seqlens_as_int_and_none() -> None:
    k, v = draw(2, 9, 2, 16), draw(2, 9, 2, 16, seed=1)
    q = draw(2, 2, 4, 16)
    whole = limelight.flash_attn_with_kvcache(q, k, v)
    torch.testing.assert_close(whole, limelight.flash_attn_func(q, k, v))
    part = limelight.flash_attn_with_kvcache(q, k, v, cache_seqlens=4)
    torch.testing.assert_close(part, limelight.flash_attn_func(q, k[:, :4], v[:, :4]))
    assert torch.equal(part, limelight.flash_attn_with_kvcache(q, k, v, cache_seqlens=ints(4, 4)))


def test_float8_cache() -> None:
    """16-bit queries over a float8 cache with descales; appended float8 bits are kept."""
    fp8 = torch.float8_e4m3fn
    k, v = draw(2, 9, 2, 16).to(fp8), draw(2, 9, 2, 16, seed=1).to(fp8)
    q, new = draw(2, 1, 4, 16, dtype=torch.bfloat16), draw(2, 1, 2, 16, seed=5).to(fp8)
    scale = torch.full((1,), 0.5).expand(2, 2)
    out = limelight.flash_attn_with_kvcache(
        q, k, v, new, new, cache_seqlens=ints(3, 8), k_descale=scale, v_descale=scale
    )
    assert out.dtype == torch.bfloat16
    for b, n in enumerate((3, 8)):
        assert torch.equal(k[b, n].view(torch.uint8), new[b, 0].view(torch.uint8))
        keys, values = (x[b : b + 1, : n + 1].float() * 0.5 for x in (k, v))
        want = limelight.flash_attn_func(q[b : b + 1].float(), keys, values)
        torch.testing.assert_close(out[b : b + 1].float(), want, rtol=2.0**-7, atol=2.0**-7)


def test_scheduler_metadata_is_accepted_back() -> None:
    k = draw(2, 9, 2, 16)
    q, lengths = draw(2, 1, 4, 16), ints(3, 9)
    metadata = limelight.get_scheduler_metadata(2, 1, 9, 4, 2, 16, lengths)
    assert (metadata.dtype, metadata.numel()) == (torch.int32, 0)
    out = limelight.flash_attn_with_kvcache(
        q, k, k, cache_seqlens=lengths, scheduler_metadata=metadata
    )
    assert torch.equal(out, limelight.flash_attn_with_kvcache(q, k, k, cache_seqlens=lengths))
