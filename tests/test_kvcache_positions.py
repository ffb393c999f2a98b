# SPDX-License-Identifier: BSD-3-Clause
"""flash-attn 3's rotary_seqlens and cache_batch_idx of a block table, and rows of any stride."""

from __future__ import annotations

import pytest
import torch
from kvcache_tools import (
    BATCH,
    HALF,
    HEADDIM,
    HEADS,
    HEADS_KV,
    LENGTHS,
    Cache,
    draw,
    ints,
    judge,
    run,
    turn,
)


@pytest.mark.parametrize("causal", [True, False])
def test_rotary_seqlens(causal: bool, where: torch.device) -> None:
    """Positions count from rotary_seqlens; tokens are stored at cache_seqlens all the same."""
    cache, starts = Cache("dense", HALF), [7, 3, 0]
    q = draw(BATCH, 2, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 2, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    angles = draw(30, HEADDIM // 2)
    tables = (angles.cos().to(HALF), angles.sin().to(HALF))
    out, lse = run(where, cache, q, k, v, *tables, rotary_seqlens=ints(*starts), causal=causal)
    for b, (n, start) in enumerate(zip(LENGTHS, starts, strict=True)):
        own = turn(q[b], [start, start + 1] if causal else [start, start], *tables, True)
        new = turn(k[b], [start, start + 1], *tables, True)
        stored = cache.read(0, b, n + 2).cpu()
        torch.testing.assert_close(stored[n:].double(), new, rtol=2.0**-8, atol=1e-6)
        keys, values = torch.cat((cache.k[b, :n], stored[n:])), torch.cat((cache.v[b, :n], v[b]))
        problem = {"causal": causal, "window_right": 0 if causal else -1}
        judge(out[b], lse[b], own.to(HALF), keys, values, **problem)


def test_rotary_seqlens_that_are_cache_seqlens(where: torch.device) -> None:
    """Servers pass both: the same bits as without, and without tables no effect."""
    q = draw(BATCH, 1, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 1, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    lengths, tables = ints(*LENGTHS).to(where), (draw(30, 8).to(HALF), draw(30, 8, seed=1).to(HALF))
    for rotary in (tables, ()):
        both = [
            run(where, Cache("dense", HALF), q, k, v, *rotary, cache_seqlens=lengths, **more)[0]
            for more in ({}, {"rotary_seqlens": lengths})
        ]
        assert torch.equal(*both)


def test_rows_that_are_not_contiguous(where: torch.device) -> None:
    """q, k and v are copied where their last dimension is not contiguous, as in flash-attn."""
    q = draw(BATCH, 1, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 1, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    want = run(where, Cache("dense", HALF), q, k, v)
    turned = [x.mT.contiguous().mT for x in (q, k, v)]
    assert all(x.stride(-1) != 1 for x in turned)
    found = run(where, Cache("dense", HALF), *turned)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_cache_batch_idx_of_a_block_table(where: torch.device) -> None:
    """As in flash-attn 3: sequence b reads and extends row cache_batch_idx[b] of the table."""
    cache, order = Cache("paged", HALF), [2, 0, 1]
    q = draw(BATCH, 2, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 2, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    lengths = ints(*(LENGTHS[row] for row in order))
    out, lse = run(where, cache, q, k, v, cache_batch_idx=ints(*order), cache_seqlens=lengths)
    for b, row in enumerate(order):
        n = LENGTHS[row]
        assert torch.equal(cache.read(0, row, n + 2).cpu()[n:], k[b])
        keys, values = (torch.cat((x[row, :n], y[b])) for x, y in ((cache.k, k), (cache.v, v)))
        judge(out[b], lse[b], q[b], keys, values)
