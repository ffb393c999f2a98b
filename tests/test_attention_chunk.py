# SPDX-License-Identifier: BSD-3-Clause
"""attention_chunk (FA3; Llama 4): rows see keys of their own chunk, counted from the first key."""

from __future__ import annotations

from typing import Any

import limelight
import pytest
import torch
from cases import Case, build, vary
from kvcache_tools import BATCH, HALF, HEADDIM, HEADS, HEADS_KV, LENGTHS, Cache, draw, ints, run
from limelight.torch_path import backward, forward
from test_backward_kernel import check as check_backward
from test_decode_kernel import check as check_decode
from test_forward_kernel import check as check_forward
from tolerance import assert_forward, assert_gradients
from torch import Tensor

BASE = Case("chunk", chunk=16)
PACKED = {"layout_q": "packed", "layout_k": "packed"}
# Chunks shorter, as long and longer than tiles and sequences; rows before the first key (tall).
PREFILL = [
    BASE,
    vary(BASE, "one", chunk=1, causal=True, seqlen_k=99),
    vary(BASE, "causal", chunk=10, causal=True, seqlen_k=99),
    vary(BASE, "tall", chunk=8, seqlen_q=101, seqlen_k=37),
    vary(BASE, "longer", chunk=1000, seqlen_q=101, seqlen_k=37),
    vary(BASE, "wide", chunk=64, causal=True, seqlen_q=37, seqlen_k=200),
    vary(BASE, "window", chunk=12, window=(5, 3), seqlen_k=80),
    vary(BASE, "blocks", chunk=140, seqlen_q=210, seqlen_k=330, heads_q=2, heads_kv=1),
    vary(BASE, "scores", chunk=30, softcap=15.0, alibi="heads", sink=True),
    vary(BASE, "varlen", chunk=13, batch=4, **PACKED),
    vary(BASE, "seqused", chunk=17, batch=4, seqused_q=True, seqused_k=True, causal=True),
]
BIAS = [vary(BASE, "bias", chunk=30, bias="1hqk", seqlen_k=90)]
CACHES = [
    vary(BASE, "leftpad", chunk=9, batch=3, leftpad=True, seqused_k=True, seqlen_q=40),
    vary(BASE, "alone", chunk=9, batch=1, leftpad=True, seqlen_q=40),
    vary(BASE, "paged", chunk=11, batch=3, layout_k="paged", seqlen_q=9, causal=True),
    vary(BASE, "rows", chunk=20, batch=3, layout_k="rows", seqused_k=True, seqlen_q=1),
    vary(BASE, "pages", batch=3, layout_k="paged", leftpad=True, seqlen_q=4, page_size=5),
    vary(BASE, "long", chunk=300, layout_k="paged", seqlen_k=700, seqlen_q=1, causal=True),
]


def seen(seqlen_q: int, seqlen_k: int, chunk: int, causal: bool = False, pad: int = 0) -> Tensor:
    """(seqlen_q, seqlen_k) bool, entry by entry; remainders as FA3's construct_chunk_mask."""
    mask = torch.zeros(seqlen_q, seqlen_k, dtype=torch.bool)
    for i in range(seqlen_q):
        diagonal = i + seqlen_k - seqlen_q
        first = (diagonal - pad) - (diagonal - pad) % chunk
        for j in range(pad, seqlen_k):
            mask[i, j] = first <= j - pad < first + chunk and (not causal or j <= diagonal)
    return mask


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse) of (batch, seqlen, heads, headdim) in float64; keys nobody sees may be NaN."""
    group = q.shape[2] // k.shape[2]
    known = mask.any(0)[:, None, None]
    k, v = (torch.where(known, x, 0).double().repeat_interleave(group, 2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q.double() * q.shape[-1] ** -0.5, k)
    scores = scores.masked_fill(~mask, float("-inf"))
    alive = mask.any(1)[:, None]
    p = torch.softmax(torch.where(alive, scores, 0), -1) * alive
    return torch.einsum("bhij,bjhd->bihd", p, v), scores.logsumexp(-1)


EXTENTS = [(7, 23, 5), (23, 7, 5), (19, 19, 6), (4, 40, 40), (9, 9, 1), (30, 11, 100)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("extents", EXTENTS, ids=str)
def test_is_the_mask_of_flash_attn_3(extents: tuple[int, int, int], causal: bool) -> None:
    seqlen_q, seqlen_k, chunk = extents
    drawn = (draw(2, seqlen_q, 4, 8), *(draw(2, seqlen_k, 2, 8, seed=s) for s in (1, 2)))
    leaves = [x.double().requires_grad_() for x in drawn]
    out, lse = limelight.flash_attn_func(
        *leaves, causal=causal, attention_chunk=chunk, return_lse=True
    )
    want, want_lse = by_definition(*leaves, seen(seqlen_q, seqlen_k, chunk, causal))
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, want_lse, rtol=1e-12, atol=1e-12)
    seed = draw(*out.shape, seed=3).double()
    grads = torch.autograd.grad(out, leaves, seed)
    for mine, theirs in zip(grads, torch.autograd.grad(want, leaves, seed), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_packed_functions_and_varlen() -> None:
    """The sequences of a batch have their own chunks."""
    lengths, chunk = [3, 0, 17, 8], 5
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    q, k, v = (draw(sum(lengths), 2, 8, seed=s).double() for s in range(3))
    found = limelight.flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, 17, 17, causal=True, attention_chunk=chunk
    )
    qkv = torch.stack((q, k, v), 1)
    packed = limelight.flash_attn_varlen_qkvpacked_func(
        qkv, cu_seqlens, 17, causal=True, attention_chunk=chunk
    )
    kv = limelight.flash_attn_varlen_kvpacked_func(
        q, qkv[:, 1:], cu_seqlens, cu_seqlens, 17, 17, causal=True, attention_chunk=chunk
    )
    for begin, length in zip(cu_seqlens.tolist(), lengths, strict=False):
        own = slice(begin, begin + length)
        mask = seen(length, length, chunk, True)
        want = by_definition(q[None, own], k[None, own], v[None, own], mask)[0][0]
        for out in (found, packed, kv):
            torch.testing.assert_close(out[own], want, rtol=1e-12, atol=1e-12)
    alone = limelight.flash_attn_qkvpacked_func(qkv[None, 3:20], attention_chunk=chunk)
    want = by_definition(*qkv[None, 3:20].unbind(-3), seen(17, 17, chunk))[0]
    torch.testing.assert_close(alone, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "paged", "rows"])
def test_caches(kind: str, where: torch.device) -> None:
    """Chunks are counted from cache_leftpad; new tokens are appended before."""
    cache, pads, chunk = Cache(kind, HALF), [2, 0, 4], 4
    q = draw(BATCH, 3, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 3, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    options: dict[str, Any] = {"cache_leftpad": ints(*pads), "attention_chunk": chunk}
    out, lse = run(where, cache, q, k, v, causal=True, **options)
    for b, (n, pad) in enumerate(zip(LENGTHS, pads, strict=True)):
        keys, values = (torch.cat((x[b, :n], y[b])) for x, y in ((cache.k, k), (cache.v, v)))
        mask = seen(3, n + 3, chunk, True, pad)
        want, want_lse = by_definition(q[b : b + 1], keys[None], values[None], mask)
        # bfloat16 out and P: 2**-9 of values of size 4 each; fp32 scores.
        torch.testing.assert_close(out[b].double().cpu(), want[0], rtol=2**-7, atol=2**-7)
        torch.testing.assert_close(lse[b].double().cpu(), want_lse[0], rtol=2**-7, atol=2**-7)


def test_rotary_positions_of_queries(where: torch.device) -> None:
    """As with a window: query i turns by cache_seqlens + i, although causal is False."""
    q = draw(BATCH, 3, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 3, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    angles = draw(30, HEADDIM // 2)
    tables = (angles.cos().to(HALF), angles.sin().to(HALF))
    cache = Cache("dense", HALF)
    options: dict[str, Any] = {"window_size": (1000, 1000)}
    want = run(where, cache, q, k, v, *tables, **options)
    found = run(where, Cache("dense", HALF), q, k, v, *tables, attention_chunk=1000)
    assert torch.equal(found[0], want[0])
    assert not torch.equal(found[0], run(where, Cache("dense", HALF), q, k, v, *tables)[0])


@pytest.mark.parametrize("case", PREFILL + BIAS + CACHES, ids=str)
@pytest.mark.parametrize("batch_invariant", [False, True], ids=["", "invariant"])
def test_torch_path(case: Case, batch_invariant: bool) -> None:
    dtype = "float32" if batch_invariant else "bfloat16"
    x = build(vary(case, dtype, dtype=dtype, batch_invariant=batch_invariant))
    out, lse = forward(x.q, x.k, x.v, x.problem)
    assert_forward(x, out, lse)
    found = backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
    assert_gradients(x, found._asdict(), with_dlse=True)


@pytest.mark.parametrize("case", PREFILL + BIAS, ids=str)
def test_forward_kernels(case: Case, kernels: torch.device) -> None:
    check_forward(case, kernels)


@pytest.mark.parametrize("case", PREFILL + BIAS, ids=str)
def test_backward_kernels(case: Case, kernels: torch.device) -> None:
    check_backward(case, kernels)


@pytest.mark.parametrize("headdim", [96, 128, 256])
def test_tiles_of_the_backward_kernels(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "tile", batch=1, heads_q=2, heads_kv=1, headdim=headdim, seqlen_q=133)
    check_backward(vary(case, "plain", seqlen_k=150, chunk=70), kernels)


@pytest.mark.parametrize("case", PREFILL + CACHES, ids=str)
def test_decode_kernels(case: Case, kernels: torch.device) -> None:
    check_decode(case, kernels)
    check_decode(vary(case, "invariant"), kernels, batch_invariant=True)
    check_decode(vary(case, "splits"), kernels, num_splits=3)


def test_metadata_knows_the_chunks(kernels: torch.device) -> None:
    """A schedule for one chunk length is not used for another: results stay right."""
    x = build(vary(CACHES[-1], "call", headdim=64, batch=3), str(kernels))
    p = x.problem
    assert p.block_table is not None
    capacity = p.block_table.shape[1] * x.k.shape[1]
    extents = (3, 1, capacity, 4, 2, 64, p.seqused_k)
    plans = [
        limelight.get_scheduler_metadata(*extents, causal=True, attention_chunk=chunk)
        for chunk in (300, 0)
    ]
    assert not torch.equal(plans[0], plans[1])
    for plan in plans:
        out, lse = limelight.flash_attn_with_kvcache(
            x.q,
            x.k,
            x.v,
            cache_seqlens=p.seqused_k,
            block_table=p.block_table,
            softmax_scale=p.softmax_scale,
            causal=True,
            attention_chunk=300,
            scheduler_metadata=plan,
            return_softmax_lse=True,
        )
        assert_forward(x, out, lse)


def test_refusals() -> None:
    q = torch.zeros(1, 4, 1, 8)
    with pytest.raises(ValueError, match=r"attention_chunk is -1; allowed: 0 \(off\)"):
        limelight.flash_attn_func(q, q, q, attention_chunk=-1)
    for value in (2.5, "no"):
        with pytest.raises(TypeError, match=r"attention_chunk is .*; allowed: an int"):
            limelight.flash_attn_func(q, q, q, attention_chunk=value)  # type: ignore[arg-type]
    tree = torch.zeros(1, 4, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"tree_mask is given with .*attention_chunk"):
        limelight.flash_attn_with_kvcache(q, q, q, tree_mask=tree, attention_chunk=2)


def test_explain_names_it() -> None:
    told = limelight.explain(headdim=128, attention_chunk=8192, causal=True, device="sm_90")
    assert "attention_chunk" in told.query.features
    assert told.backend == "sm80_fwd"  # the bounds would leave wgmma too few registers
    assert limelight.explain(headdim=128, attention_chunk=0).query.features == frozenset()
    told = limelight.explain(
        dtype=torch.float8_e4m3fn, fp8=True, max_seqlen_q=512, attention_chunk=64, device="sm_90"
    )
    assert told.backend == "sm80_decode"
    assert "sm90_fwd_fp8: it does not do attention inside of chunks" in str(told)
