# SPDX-License-Identifier: BSD-3-Clause
"""Calls of the Hopper forward kernels that read a cache; tests/test_sm90_paged.py runs this file.

Every output is poisoned before the call. Slots of pages that no sequence uses are NaN, as are
whole pages; entries of the table that no row may read are anything.
"""

from __future__ import annotations

from dataclasses import replace

import limelight
import pytest
import torch
from cases import build, vary
from limelight import runtime
from sm90_cache_tools import (
    BASE,
    ORDERS,
    STALE,
    check,
    check_end,
    check_order,
    check_shared,
    only_hopper_kernels,  # noqa: F401
    run_unchecked,
    spread_pages,
)
from test_forward_kernel import run
from torch import Tensor

FP8 = {"dtype": "float8_e4m3fn", "descale": True}


@pytest.mark.parametrize("page_size", [8, 16, 24, 48, 64, 128, 256])
def test_page_sizes(page_size: int, kernels: torch.device) -> None:
    case = vary(BASE, "size", page_size=page_size, causal=True)
    check(case, kernels)
    check(vary(case, "fp8", seed=1, headdim=128, seqlen_k=200, **FP8), kernels)


@pytest.mark.parametrize("headdims", [(96, 96), (128, 128), (192, 128), (256, 256), (40, 72)])
@pytest.mark.parametrize("page_size", [16, 32])
def test_every_tile(page_size: int, headdims: tuple[int, int], kernels: torch.device) -> None:
    """Blocks of 112, 128, 160 (full attention) and 80 keys."""
    case = vary(BASE, "tile", headdim=headdims[0], headdim_v=headdims[1], page_size=page_size)
    check(vary(case, "full", batch=2, seqlen_k=330), kernels)
    check(vary(case, "scores", batch=1, causal=True, softcap=20.0, seqlen_q=65), kernels)


@pytest.mark.parametrize("headdim", [64, 192, 256])
def test_fp8_tiles(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "fp8", headdim=headdim, headdim_v=min(headdim, 128), batch=2, **FP8)
    check(vary(case, "causal", causal=True), kernels)
    check(vary(case, "scores", softcap=20.0, sink=True, page_size=64, seqlen_k=129), kernels)


@pytest.mark.parametrize(
    "features",
    [
        {"window": (90, 0)},
        {"window": (20, 30)},
        {"softcap": 15.0, "causal": True},
        {"alibi": "batch", "causal": True},
        {"sink": True, "heads_q": 6, "heads_kv": 2},
        {"bias": "bhqk", "seqlen_k": 304},
        {"heads_q": 8, "seqlen_q": 20, "window": (30, 0)},
        {"heads_q": 8, "seqlen_q": 20, "layout_q": "dense", "causal": True},
        {"layout_q": "dense", "seqused_q": True, "causal": True},
        {"layout_q": "dense", "batch": 1, "seqlen_q": 1, "seqlen_k": 1},
        {"batch": 8, "seqlen_q": 30, "seqlen_k": 140, "causal": True},
    ],
    ids=str,
)
def test_features(features: dict[str, object], kernels: torch.device) -> None:
    check(vary(BASE, "feature", **features), kernels)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 127, 128, 129, 160])
def test_ends_of_pages_and_blocks(length: int, kernels: torch.device) -> None:
    case = vary(BASE, "end", batch=1, layout_q="dense", seqlen_q=5, seqlen_k=160)
    check_end(build(case, str(kernels)), length)


def test_sequences_that_share_pages(kernels: torch.device) -> None:
    check_shared(build(vary(BASE, "shared", causal=True, seqlen_k=200), str(kernels)), 6)


@pytest.mark.parametrize("fp8", [False, True], ids=["16-bit", "fp8"])
@pytest.mark.parametrize("order", ORDERS)
def test_caches_of_any_order(order: str, fp8: bool, kernels: torch.device) -> None:
    case = vary(BASE, "order", heads_q=4, heads_kv=2, causal=True, seqlen_k=150)
    check_order(build(vary(case, "fp8", headdim=128, **FP8) if fp8 else case, str(kernels)), order)


def test_pages_beyond_2_to_the_31_elements(kernels: torch.device) -> None:
    x = build(vary(BASE, "far", batch=1, seqlen_q=9, seqlen_k=20, causal=True), str(kernels))
    far = replace(x, k=spread_pages(x.k, 2**30 + 8), v=spread_pages(x.v, 2**30 + 8))
    assert (x.k.shape[0] - 1) * far.k.stride(0) > 2**31
    assert all(map(torch.equal, run(far), run(x)))


def test_pages_that_a_window_has_passed(kernels: torch.device) -> None:
    """A server frees them: their entries are stale, their rows another sequence's or NaN."""
    case = vary(BASE, "window", batch=1, layout_q="dense", seqlen_q=40, window=(50, 0))
    for page_size in (16, 64):
        x = build(vary(case, "size", page_size=page_size), str(kernels))
        p = x.problem
        assert p.block_table is not None
        first = 300 - 40 - 50
        want = run(x)
        table = p.block_table.clone()
        for column in range(first // page_size):
            x.k[int(table[0, column])] = float("nan")
            x.v[int(table[0, column])] = float("nan")
            if column % 2 == 0:
                table[0, column] = STALE[column // 2 % len(STALE)]
        got = run_unchecked(replace(x, problem=replace(p, block_table=table)))
        assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("bad", STALE)
def test_pages_that_do_not_exist_are_zeros(bad: int, kernels: torch.device) -> None:
    """Only for unchecked tables: nothing outside of the cache is read, no other row changes."""
    x = build(vary(BASE, "bad", batch=2, layout_q="dense"), str(kernels))
    p = x.problem
    assert p.block_table is not None
    table = p.block_table.clone()
    table[0, 3] = bad
    out, lse = run_unchecked(replace(x, problem=replace(p, block_table=table)))
    k, v = x.k.clone(), x.v.clone()
    for t in (k, v):
        t[int(p.block_table[0, 3])] = 0
    assert all(map(torch.equal, run(replace(x, k=k, v=v)), (out, lse)))


@pytest.mark.parametrize("stride", [0, None], ids=["stride 0", "contiguous"])
def test_one_page(stride: int | None, kernels: torch.device) -> None:
    q = torch.randn(1, 20, 1, 64, generator=torch.Generator().manual_seed(2)).half().to(kernels)
    k = torch.full((1, 64, 1, 64), float("nan"), device=kernels).half()
    k[:, :20] = q
    if stride is not None:
        k = k.as_strided(k.shape, (stride, *k.stride()[1:]))
    table = torch.zeros(1, 3, dtype=torch.int32, device=kernels)
    lengths = torch.tensor([20], dtype=torch.int32, device=kernels)
    pages = {"block_table": table, "cache_seqlens": lengths}
    out = limelight.flash_attn_with_kvcache(q, k, k, causal=True, **pages)
    assert torch.equal(out, limelight.flash_attn_func(q, q, q, causal=True))


@pytest.mark.parametrize(
    "features",
    [
        {"leftpad": True},
        {"leftpad": True, "seqused_k": True, "causal": True, "batch": 2, "seed": 1},
        {"leftpad": True, "window": (40, 10), "alibi": "heads"},
        {"layout_k": "rows", "seqused_k": True},
        {"layout_k": "rows", "leftpad": True, "causal": True, "headdim": 128},
        {"layout_k": "rows", "seqused_k": True, "causal": True, **FP8},
        {"layout_k": "rows", "seqlen_q": 30, "bias": "1hqk"},
    ],
    ids=str,
)
def test_rows_of_a_cache(features: dict[str, object], kernels: torch.device) -> None:
    case = vary(BASE, "rows", layout_q="dense", layout_k="dense", seqlen_k=210)
    check(vary(case, "feature", **features), kernels)


def test_public_calls(kernels: torch.device) -> None:
    """vLLM's call and flash-attn's."""
    x = build(vary(BASE, "public", causal=True, page_size=32), str(kernels))
    p = x.problem
    want = run(x)[0]
    lengths = (p.cu_seqlens_q, None, p.max_seqlen_q, p.max_seqlen_k)
    pages = {"block_table": p.block_table, "seqused_k": p.seqused_k}
    got = limelight.flash_attn_varlen_func(x.q, x.k, x.v, *lengths, causal=True, **pages)
    assert torch.equal(got, want)
    pages = {"block_table": p.block_table, "cache_seqlens": p.seqused_k}
    packed = {"cu_seqlens_q": p.cu_seqlens_q, "max_seqlen_q": p.max_seqlen_q}
    got = limelight.flash_attn_with_kvcache(x.q, x.k, x.v, causal=True, **pages, **packed)
    assert torch.equal(got, want)


def test_what_the_kernels_refuse(kernels: torch.device) -> None:
    """By the extension itself, where dispatch would have chosen another kernel."""
    q = torch.zeros(2, 70, 2, 64, device=kernels).half()
    lse = torch.empty(2, 2, 70, device=kernels)
    table = torch.zeros(2, 3, dtype=torch.int32, device=kernels)
    pads = torch.zeros(2, dtype=torch.int32, device=kernels)

    def call(k: Tensor, *cache: Tensor | None) -> None:
        typed = q.to(k.dtype)
        tensors = (typed, k, k, torch.empty_like(q), lse, *[None] * 4, *cache, *[None] * 8)
        tail = (1.0, False, -1, -1, 0, 0.0, 0.0, 70, 70, 0, False)
        runtime.launch(runtime.core().attention_forward, tensors, tail)

    pages = torch.zeros(4, 12, 1, 64, device=kernels).half()
    with pytest.raises(
        RuntimeError, match=r"page_size is 12, allowed in the sm90 FP8 .* multiples of 8"
    ):
        call(pages.expand(4, 12, 2, 64).to(torch.float8_e4m3fn), None, None, table)
    with pytest.raises(RuntimeError, match=r"leftpad_k: the sm90 .* with block_table"):
        call(pages[:, :8].expand(4, 8, 2, 64), pads, None, table)
    with pytest.raises(ValueError, match="cache_batch_idx names rows of dense k and v"):
        call(pages[:, :8].expand(4, 8, 2, 64), None, pads, table)
    with pytest.raises(RuntimeError, match="k: a tensor map cannot express its row stride of 0"):
        call(pages[:2, :1].expand(2, 8, 2, 64), None, pads, None)
    call(pages[:, :8].expand(4, 8, 2, 64), None, None, table)
