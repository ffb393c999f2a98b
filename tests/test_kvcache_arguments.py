# SPDX-License-Identifier: BSD-3-Clause
"""What each argument of flash_attn_with_kvcache means, on the torch path and through the kernels.

Those that change scores are in test_kvcache_scores, positions that differ from the lengths in
test_kvcache_positions. The last test holds all to the signature.
"""

from __future__ import annotations

import inspect

import limelight
import pytest
import test_kvcache_positions
import test_kvcache_scores
import torch
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
    turn,
)
from limelight import runtime
from torch import Tensor

HALF = torch.bfloat16


def test_q_k_cache_v_cache(where: torch.device) -> None:
    """(batch, seqlen_q, heads, headdim) over a cache with fewer heads; stale slots are NaN."""
    for kind in ("dense", "rows", "paged"):
        cache = Cache(kind, HALF)
        q = draw(BATCH, 1, HEADS, HEADDIM, dtype=HALF)
        out, lse = run(where, cache, q)
        assert out.shape == q.shape
        assert (lse.shape, lse.dtype) == ((BATCH, HEADS, 1), torch.float32)
        for b, n in enumerate(LENGTHS):
            judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n])
        assert not out[1].any()
        assert bool((lse[1] == float("-inf")).all())


@pytest.mark.parametrize("kind", ["dense", "rows", "paged"])
def test_k_v(kind: str, where: torch.device) -> None:
    """New tokens are stored bit for bit at cache_seqlens, then seen."""
    cache = Cache(kind, HALF)
    q = draw(BATCH, 2, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 2, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    out, lse = run(where, cache, q, k, v)
    for b, n in enumerate(LENGTHS):
        for which, new in enumerate((k, v)):
            stored = cache.read(which, b, n + 2).cpu()
            assert torch.equal(stored[n:], new[b])
        keys, values = (torch.cat((x[b, :n], y[b])) for x, y in ((cache.k, k), (cache.v, v)))
        judge(out[b], lse[b], q[b], keys, values)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("half", [HEADDIM // 2, 4])
def test_rotary(interleaved: bool, causal: bool, half: int, where: torch.device) -> None:
    """Keys turn by their position, queries by theirs where causal, else all by cache_seqlens.

    Leftpad hides keys and shifts no position; a partial dimension leaves the other features.
    """
    cache, pads = Cache("rows", HALF), [3, 0, 5]
    q = draw(BATCH, 2, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(BATCH, 2, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    angles = draw(30, half)
    tables = (angles.cos().to(HALF), angles.sin().to(HALF))
    out, lse = run(
        where,
        cache,
        q,
        k,
        v,
        *tables,
        rotary_interleaved=interleaved,
        cache_leftpad=ints(*pads),
        causal=causal,
    )
    for b, (n, pad) in enumerate(zip(LENGTHS, pads, strict=True)):
        own = turn(q[b], [n, n + 1] if causal else [n, n], *tables, interleaved)
        new = turn(k[b], [n, n + 1], *tables, interleaved)
        stored = cache.read(0, b, n + 2).cpu()
        # Rotated in fp32 and rounded once: half an ulp of the float64 value and fp32's own error.
        torch.testing.assert_close(stored[n:].double(), new, rtol=2.0**-8, atol=1e-6)
        keys, values = torch.cat((cache.k[b, :n], stored[n:])), torch.cat((cache.v[b, :n], v[b]))
        problem = {"causal": causal, "window_right": 0 if causal else -1}
        judge(out[b], lse[b], own.to(HALF), keys, values, leftpad=pad, **problem)


def test_cache_seqlens(where: torch.device) -> None:
    """An int is every sequence's length; None is the whole cache."""
    k, v = (draw(2, 9, 2, HEADDIM, dtype=HALF, seed=s).to(where) for s in (0, 1))
    q = draw(2, 2, 4, HEADDIM, dtype=HALF).to(where)
    call = limelight.flash_attn_with_kvcache
    part = call(q, k, v, cache_seqlens=4)
    assert torch.equal(part, call(q, k, v, cache_seqlens=ints(4, 4).to(where)))
    assert torch.equal(call(q, k, v), call(q, k, v, cache_seqlens=9))
    judge(part[0], call(q, k, v, cache_seqlens=4, return_lse=True)[1][0], *_cpu(q, k, v))


def _cpu(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q[0].cpu(), k[0, :4].cpu(), v[0, :4].cpu()


def test_cache_batch_idx(where: torch.device) -> None:
    """Sequence b reads row cache_batch_idx[b]; two sequences may read one row."""
    k, v = (draw(4, 9, 2, HEADDIM, dtype=HALF, seed=s).to(where) for s in (0, 1))
    q = draw(3, 1, 4, HEADDIM, dtype=HALF).to(where)
    rows = ints(2, 0, 2).to(where)
    out = limelight.flash_attn_with_kvcache(q, k, v, cache_batch_idx=rows, cache_seqlens=7)
    picked = (x[rows.long()].contiguous() for x in (k, v))
    assert torch.equal(out, limelight.flash_attn_with_kvcache(q, *picked, cache_seqlens=7))


@pytest.mark.parametrize("kind", ["dense", "paged"])
def test_cache_leftpad(kind: str, where: torch.device) -> None:
    """The first keys of a row are invisible, whatever they hold."""
    cache, pads = Cache(kind, HALF), [2, 0, 7]
    for b, pad in enumerate(pads):
        for t in range(pad):
            for x in cache.stored:
                x[cache.place(b, t)] = float("nan")
    q = draw(BATCH, 2, HEADS, HEADDIM, dtype=HALF)
    out, lse = run(where, cache, q, cache_leftpad=ints(*pads), causal=True)
    for b, (n, pad) in enumerate(zip(LENGTHS, pads, strict=True)):
        judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n], pad, **CAUSAL)


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("name", ["block_table", "page_table"])
def test_block_table(name: str, page_size: int, where: torch.device) -> None:
    """Any page size; entries beyond the used length are never followed."""
    cache = Cache("paged", HALF, page_size=page_size)
    table = cache.arguments.pop("block_table").clone()
    for b, n in enumerate(LENGTHS):
        table[b, -(-n // page_size) :] = torch.tensor([2**31 - 1, -5], dtype=torch.int32)[b % 2]
    q = draw(BATCH, 2, HEADS, HEADDIM, dtype=HALF)
    out, lse = run(where, cache, q, **{name: table})
    for b, n in enumerate(LENGTHS):
        judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n])


def test_invalid_pages_are_found_by_the_check(where: torch.device) -> None:
    """A used entry outside of the cache raises with LIMELIGHT_CHECK=1 (on the CPU always)."""
    for page in (-1, 99):
        cache = Cache("paged", HALF)
        cache.arguments["block_table"] = cache.table.clone()
        cache.arguments["block_table"][2, 1] = page
        q = draw(BATCH, 1, HEADS, HEADDIM, dtype=HALF)
        new = draw(BATCH, 1, HEADS_KV, HEADDIM, dtype=HALF)
        with runtime.override(check=True):
            with pytest.raises(ValueError, match=rf"block_table\[2, 1\] is {page}; allowed: 0 to"):
                run(where, cache, q)
            cache.arguments["block_table"][2, 1] = 0
            cache.arguments["block_table"][2, 2] = page
            with pytest.raises(ValueError, match=rf"block_table\[2\] is {page}; allowed: 0 to"):
                run(where, cache, q, new, new)


@pytest.mark.parametrize("num_splits", [1, 2, 7])
def test_num_splits(num_splits: int, where: torch.device) -> None:
    attend(where, CAUSAL, num_splits=num_splits, causal=True)


def test_return_softmax_lse(where: torch.device) -> None:
    cache = Cache("dense", HALF)
    q = draw(BATCH, 1, HEADS, HEADDIM, dtype=HALF)
    pair = run(where, cache, q, return_softmax_lse=True)
    again = run(where, cache, q, return_softmax_lse=False, return_lse=True)
    alone = run(where, cache, q, return_softmax_lse=False)
    assert torch.equal(pair[0], alone)
    assert all(torch.equal(a, b) for a, b in zip(pair, again, strict=True))


def test_cu_seqlens(where: torch.device) -> None:
    """Packed queries and new tokens: cu_seqlens_q, max_seqlen_q, cu_seqlens_k_new."""
    cache, counts, ends = Cache("paged", HALF), [2, 3, 0], ints(0, 2, 5, 5)
    q = draw(5, HEADS, HEADDIM, dtype=HALF)
    k, v = (draw(6, HEADS_KV, HEADDIM, dtype=HALF, seed=s) for s in (2, 3))
    packed = {"cu_seqlens_q": ends, "cu_seqlens_k_new": ends, "max_seqlen_q": 3}
    out, lse = run(where, cache, q, k, v, causal=True, **packed)
    assert lse.shape == (HEADS, 5)
    for b, (n, count) in enumerate(zip(LENGTHS, counts, strict=True)):
        own = slice(int(ends[b]), int(ends[b + 1]))
        keys, values = (torch.cat((x[b, :n], y[own])) for x, y in ((cache.k, k), (cache.v, v)))
        if count:
            judge(out[own], lse[:, own], q[own], keys, values, **CAUSAL)


def test_batch_invariant(where: torch.device) -> None:
    """Equal bits alone, in a batch, in pages, and as prefill, chunk and decode of the same tokens.

    The keys are more than one piece of a fixed sum, whatever the tiles.
    """
    end, first, page = 1060, 1020, 20
    k, v = (draw(2, end, 2, HEADDIM, dtype=HALF, seed=s).to(where) for s in (0, 1))
    q = draw(2, end - first, 4, HEADDIM, dtype=HALF).to(where)
    pages = [x.view(-1, page, 2, HEADDIM) for x in (k, v)]
    table = torch.arange(2 * end // page, dtype=torch.int32).view(2, -1).to(where)
    same = {"causal": True, "batch_invariant": True, "return_lse": True}

    def part(row: int, begin: int, stop: int) -> list[tuple[Tensor, Tensor]]:
        length = first + stop
        own = q[row : row + 1, begin:stop]
        keys = [x[row : row + 1, :length] for x in (k, v)]
        ends = ints(0, stop - begin).to(where)
        paged = {"block_table": table[row : row + 1], "seqused_k": ints(length).to(where)}
        cached = limelight.flash_attn_with_kvcache(
            own, *pages, cache_seqlens=length, **same, **{"block_table": table[row : row + 1]}
        )
        packed, lse = limelight.flash_attn_varlen_func(
            own[0], *pages, ends, None, stop - begin, end, **same, **paged
        )
        dense = limelight.flash_attn_func(own, *keys, **same)
        return [cached, (packed[None], lse[None]), dense]

    whole, whole_lse = limelight.flash_attn_with_kvcache(q, k, v, cache_seqlens=end, **same)
    for begin, stop in ((0, 7), (7, 23), (39, 40)):
        for out, lse in part(1, begin, stop):
            assert torch.equal(out[0], whole[1, begin:stop])
            assert torch.equal(lse[0], whole_lse[1, :, begin:stop])


def test_out(where: torch.device) -> None:
    out = torch.full((BATCH, 3, HEADS, HEADDIM), float("nan"), dtype=HALF, device=where)
    found, _ = attend(where, out=out)
    assert found is out


def test_scheduler_metadata(where: torch.device) -> None:
    """Precomputed once for all layers, it changes no result; one of another kind is not used."""
    lengths, shape = ints(*LENGTHS).to(where), (BATCH, 3, 24, HEADS, HEADS_KV, HEADDIM)
    kinds = [
        limelight.get_scheduler_metadata(
            *shape, lengths, HALF, page_size=4, causal=True, num_splits=num_splits
        )
        for num_splits in (0, 1, 3)
    ]
    assert all(metadata.dtype == torch.int32 for metadata in kinds)
    want = attend(where, CAUSAL, causal=True)
    for metadata in (kinds[0], *kinds, kinds[0][:1]):
        for invariant in (False, True):
            options = {"scheduler_metadata": metadata, "batch_invariant": invariant}
            found = attend(where, CAUSAL, causal=True, **options)
            if not invariant:
                assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_fa_version(where: torch.device) -> None:
    attend(where, fa_version=3, ver=4)


def test_every_argument_has_a_test() -> None:
    shared = {
        "q": "q_k_cache_v_cache",
        "k_cache": "q_k_cache_v_cache",
        "v_cache": "q_k_cache_v_cache",
        "k": "k_v",
        "v": "k_v",
        "rotary_cos": "rotary",
        "rotary_sin": "rotary",
        "rotary_interleaved": "rotary",
        "page_table": "block_table",
        "cu_seqlens_q": "cu_seqlens",
        "cu_seqlens_k_new": "cu_seqlens",
        "max_seqlen_q": "cu_seqlens",
        "k_descale": "k_descale_v_descale",
        "v_descale": "k_descale_v_descale",
        "sinks": "sink",
        "s_aux": "sink",
        "learnable_sink": "sink",
        "return_lse": "return_softmax_lse",
        "ver": "fa_version",
    }
    tests = {*globals(), *vars(test_kvcache_scores), *vars(test_kvcache_positions)}
    for name, parameter in inspect.signature(limelight.flash_attn_with_kvcache).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert f"test_{shared.get(name, name)}" in tests, name
