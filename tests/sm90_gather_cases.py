# SPDX-License-Identifier: BSD-3-Clause
"""Pages that the Hopper forward kernels gather row by row, for tests/test_sm90_paged.py.

As sm90_paged_cases.py, for page sizes that are no multiple of 8 and caches that no tensor map
expresses.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import build, vary
from launch_report import observed
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

HEADDIMS = [(64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256), (40, 72)]


@pytest.mark.parametrize("page_size", [1, 3, 5, 20])
def test_page_sizes(page_size: int, kernels: torch.device) -> None:
    case = vary(BASE, "size", page_size=page_size, causal=True, seqlen_k=260)
    check(case, kernels)


@pytest.mark.parametrize("headdims", HEADDIMS, ids=str)
def test_every_tile(headdims: tuple[int, int], kernels: torch.device) -> None:
    """Rows of 64 and of 128 bytes, columns past the tensor, K and V of two widths."""
    case = vary(BASE, "tile", headdim=headdims[0], headdim_v=headdims[1], batch=2)
    check(vary(case, "full", page_size=1, dtype="float16", seqlen_k=345), kernels)
    check(vary(case, "scores", page_size=3, softcap=20.0, causal=True, seqlen_k=130), kernels)


@pytest.mark.parametrize(
    "features",
    [
        {"window": (90, 0)},
        {"window": (20, 30)},
        {"alibi": "batch", "causal": True, "sink": True, "heads_q": 6, "heads_kv": 2},
        {"bias": "bhqk", "seqlen_k": 303},
        {"layout_q": "dense", "seqused_q": True, "causal": True},
        {"layout_q": "dense", "batch": 1, "seqlen_q": 1, "seqlen_k": 1},
        {"batch": 8, "seqlen_q": 30, "seqlen_k": 140, "causal": True, "headdim": 128},
        {"heads_q": 8, "heads_kv": 2, "seqlen_q": 9, "causal": True, "headdim": 128},
    ],
    ids=str,
)
def test_features(features: dict[str, object], kernels: torch.device) -> None:
    check(vary(BASE, "feature", **{"page_size": 3, **features}), kernels)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 127, 128, 129, 159])
def test_ends_of_pages_and_blocks(length: int, kernels: torch.device) -> None:
    case = vary(BASE, "end", batch=1, layout_q="dense", seqlen_q=5, seqlen_k=159, page_size=3)
    check_end(build(case, str(kernels)), length)


def test_sequences_that_share_pages(kernels: torch.device) -> None:
    case = vary(BASE, "shared", causal=True, seqlen_k=200, page_size=1)
    check_shared(build(case, str(kernels)), 96)


@pytest.mark.parametrize("order", ORDERS)
def test_caches_of_any_order(order: str, kernels: torch.device) -> None:
    case = vary(BASE, "order", heads_q=4, heads_kv=2, causal=True, seqlen_k=150, page_size=5)
    check_order(build(case, str(kernels)), order)


def test_pages_beyond_2_to_the_31_elements(kernels: torch.device) -> None:
    case = vary(BASE, "far", batch=1, seqlen_q=9, seqlen_k=7, causal=True, page_size=3)
    x = build(case, str(kernels))
    far = replace(x, k=spread_pages(x.k, 2**30 + 8), v=spread_pages(x.v, 2**30 + 8))
    assert (x.k.shape[0] - 1) * far.k.stride(0) > 2**31
    assert all(map(torch.equal, run(far), run(x)))


def test_rows_without_a_stride(kernels: torch.device) -> None:
    """One key for a whole page of 16, which no tensor map holds."""
    x = build(vary(BASE, "expanded", batch=1, layout_q="dense", seqlen_k=100), str(kernels))
    k, v = (t.nan_to_num()[:, :1].expand_as(t) for t in (x.k, x.v))
    got = run(replace(x, k=k, v=v))
    want = run(replace(x, k=k.contiguous(), v=v.contiguous()))
    assert all(map(torch.equal, got, want))


def test_pages_that_a_window_has_passed(kernels: torch.device) -> None:
    """A server frees them: their entries are stale, their rows another sequence's or NaN."""
    case = vary(BASE, "window", batch=1, layout_q="dense", seqlen_q=40, window=(50, 0))
    x = build(vary(case, "size", page_size=3), str(kernels))
    p = x.problem
    assert p.block_table is not None
    first = 300 - 40 - 50
    want = run(x)
    table = p.block_table.clone()
    for column in range(first // 3):
        x.k[int(table[0, column])] = float("nan")
        x.v[int(table[0, column])] = float("nan")
        if column % 2 == 0:
            table[0, column] = STALE[column // 2 % len(STALE)]
    got = run_unchecked(replace(x, problem=replace(p, block_table=table)))
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("bad", STALE)
def test_pages_that_do_not_exist_are_zeros(bad: int, kernels: torch.device) -> None:
    """Only for unchecked tables: nothing outside of the cache is read, no other row changes."""
    x = build(vary(BASE, "bad", batch=2, layout_q="dense", page_size=5), str(kernels))
    p = x.problem
    assert p.block_table is not None
    table = p.block_table.clone()
    table[0, 3] = bad
    out, lse = run_unchecked(replace(x, problem=replace(p, block_table=table)))
    k, v = x.k.clone(), x.v.clone()
    for t in (k, v):
        t[int(p.block_table[0, 3])] = 0
    assert all(map(torch.equal, run(replace(x, k=k, v=v)), (out, lse)))


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_traffic(causal: bool, kernels: torch.device) -> None:
    """A tile reads each row that it sees once; of rows that it does not see nothing."""
    case = vary(BASE, "traffic", batch=1, heads_q=1, headdim=128, layout_q="dense", page_size=1)
    x = build(vary(case, "size", seqlen_q=300, causal=causal), str(kernels))
    _, launches = observed(lambda: run(x))
    for launch in launches:
        rows = 128 + 256 + 300 if causal else 3 * 300  # of K, and of V, in tiles of 128 rows of q
        assert launch["async_load_bytes"] == 2 * 128 * (300 + 2 * rows)
        assert launch["shared_conflicts"] == 0
