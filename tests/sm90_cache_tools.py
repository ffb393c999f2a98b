# SPDX-License-Identifier: BSD-3-Clause
"""What the cases of paged and of gathered caches share: tables, poison and layouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import Case, Inputs, build
from fp8_tolerance import assert_fp8_forward
from limelight import execute, runtime
from test_forward_kernel import run
from tolerance import assert_forward
from torch import Tensor

BASE = Case(
    "paged",
    batch=3,
    heads_q=2,
    heads_kv=1,
    headdim=64,
    seqlen_q=70,
    seqlen_k=300,
    layout_q="packed",
    layout_k="paged",
)
STALE = [-1, -(2**31), 2**31 - 1, 10**6]


@pytest.fixture(autouse=True)
def only_hopper_kernels(monkeypatch: pytest.MonkeyPatch, kernels: torch.device) -> Iterator[None]:
    """Calls with few rows of q would go to the decode kernels first."""
    hopper = frozenset(pair for pair in runtime.installed() if pair[0].startswith("sm90_fwd"))
    monkeypatch.setattr(runtime, "installed", lambda: hopper)
    with runtime.override(check=False, fallback="error"):  # forgets the plans of other tests
        yield


def with_stale_entries(x: Inputs) -> Inputs:
    """The table with anything behind each sequence's last page."""
    p = x.problem
    assert p.block_table is not None
    assert p.seqused_k is not None
    table = p.block_table.clone()
    for row, length in enumerate(p.seqused_k.tolist()):
        for column in range(-(-length // x.k.shape[1]), table.shape[1]):
            table[row, column] = STALE[(row + column) % len(STALE)]
    return replace(x, problem=replace(p, block_table=table))


def dense(x: Inputs) -> Inputs:
    """The same keys in rows of their own, without pages."""
    p = x.problem
    assert p.block_table is not None
    table = p.block_table.long().clamp(0, x.k.shape[0] - 1)
    as_bytes = [t.view(torch.uint8) if t.element_size() == 1 else t for t in (x.k, x.v)]
    k, v = (t[table].flatten(1, 2).view(x.k.dtype) for t in as_bytes)
    return replace(x, k=k, v=v, problem=replace(p, block_table=None))


def run_unchecked(x: Inputs) -> tuple[Tensor, Tensor]:
    """A call whose table would be refused where it is checked (CPU tensors, LIMELIGHT_CHECK)."""
    p = x.problem
    plan = execute._plan(x.q, x.k, x.v, p)
    return execute.run(plan, x.q, x.k, x.v, p)


def check(case: Case, device: torch.device) -> None:
    x = build(case, str(device))
    out, lse = run(with_stale_entries(x) if case.layout_k == "paged" else x)
    if x.q.element_size() == 1:
        assert_fp8_forward(x, out, lse)
    else:
        assert_forward(x, out, lse)
    if case.layout_k == "paged":
        assert all(map(torch.equal, run(dense(x)), (out, lse)))


def check_end(x: Inputs, length: int) -> None:
    """One sequence of `length` keys, everything behind them NaN or stale."""
    for t in (x.k, x.v):
        t.nan_to_num_()
    lengths = torch.tensor([length], dtype=torch.int32, device=x.k.device)
    x = with_stale_entries(replace(x, problem=replace(x.problem, seqused_k=lengths)))
    assert x.problem.block_table is not None
    page_size = x.k.shape[1]
    unused = torch.ones(x.k.shape[:2], dtype=torch.bool)
    for key in range(length):
        unused[int(x.problem.block_table[0, key // page_size]), key % page_size] = False
    for t in (x.k, x.v):
        t[unused.to(t.device)] = float("nan")
    out, lse = run(x)
    assert_forward(x, out, lse)


def check_shared(x: Inputs, pages: int) -> None:
    """All sequences begin with the first one's pages."""
    p = x.problem
    assert p.block_table is not None
    for t in (x.k, x.v):
        t.nan_to_num_()
    table = p.block_table.clone()
    table[1:, :pages] = table[0, :pages]
    x = replace(x, problem=replace(p, block_table=table))
    out, lse = run(x)
    assert_forward(x, out, lse)
    assert all(map(torch.equal, run(dense(x)), (out, lse)))


ORDERS = ("pkts", "ptks", "kpts", "ptsk", "psktx")


def check_order(x: Inputs, order: str) -> None:
    """Keys and values in one allocation: p pages, k which of the two, t tokens, s heads, x more."""
    want = run(x)
    pages, page_size, heads, headdim = x.k.shape
    extents = {"p": pages, "k": 2, "t": page_size, "s": heads, "x": 2}
    raw = torch.full([extents[c] for c in order] + [headdim], float("nan"), device=x.k.device)
    cache = raw.to(x.k.dtype)
    if "x" in order:
        cache = cache.select(order.index("x"), 1)
    plain = order.replace("x", "")
    cache = cache.permute(*[plain.index(c) for c in "kpts"], 4)
    for view, t in zip(cache, (x.k, x.v), strict=True):
        view.copy_(t)
    got = run(replace(x, k=cache[0], v=cache[1]))
    assert all(map(torch.equal, got, want))


def spread_pages(x: Tensor, stride: int) -> Tensor:
    """x with this many elements from page to page; untouched memory costs nothing on a CPU."""
    space = torch.empty((x.shape[0] - 1) * stride + x[0].numel(), dtype=x.dtype, device=x.device)
    return space.as_strided(x.shape, (stride, *x.stride()[1:])).copy_(x)
