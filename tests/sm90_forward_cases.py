# SPDX-License-Identifier: BSD-3-Clause
"""Calls of the Hopper forward kernels; tests/test_sm90_forward.py runs this file.

There the emulated device has three multiprocessors, so that persistent thread blocks walk several
tiles. Every output is poisoned before the call; slots that no row may read are NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import Case, build, vary
from limelight import runtime
from limelight.autograd import attention
from limelight.problem import AttentionProblem
from test_forward_kernel import check, cut, run
from tolerance import assert_forward, assert_unbiased, tied_maxima

BASE = Case("sm90", batch=1, heads_q=2, heads_kv=1, headdim=64, seqlen_q=210, seqlen_k=300)
# One of each row of the tile table, and headdims that TMA fills with zeros.
HEADDIMS = [(64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256), (40, 72), (136, 8)]
PACKED = {"layout_q": "packed", "layout_k": "packed"}


@pytest.fixture(autouse=True)
def only_forward_kernels(monkeypatch: pytest.MonkeyPatch, kernels: torch.device) -> Iterator[None]:
    """Calls with few rows of q would go to the decode kernels first."""
    forward = frozenset(pair for pair in runtime.installed() if "decode" not in pair[0])
    assert ("sm90_fwd", 128) in forward
    monkeypatch.setattr(runtime, "installed", lambda: forward)
    with runtime.override(check=False):  # forgets the plans of other tests
        yield


@pytest.mark.parametrize("headdims", HEADDIMS, ids=str)
def test_every_tile(headdims: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "tile", headdim=headdims[0], headdim_v=headdims[1])
    check(vary(case, "causal", causal=True), kernels)
    check(vary(case, "full", dtype="float16", seqlen_q=129, seqlen_k=345), kernels)
    scores = vary(case, "scores", seqlen_q=67, seqlen_k=190, softcap=20.0, alibi="heads")
    check(vary(scores, "all", bias="bhqk", sink=True), kernels)


@pytest.mark.parametrize("seqlen_k", [1, 128, 160, 161, 320, 500])
def test_ends_of_the_wide_blocks_of_full_attention(seqlen_k: int, kernels: torch.device) -> None:
    check(vary(BASE, "wide", headdim=128, seqlen_q=65, seqlen_k=seqlen_k), kernels)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("headdim", [64, 128, 192])
def test_packed_sequences(headdim: int, causal: bool, kernels: torch.device) -> None:
    """Tiles that end inside a sequence hold the next one's rows, tails of V other's values."""
    case = vary(BASE, "packed", batch=4, headdim=headdim, causal=causal, **PACKED)
    check(case, kernels)
    case = vary(case, "used", seed=1, seqused_q=True, seqused_k=True, sink=True)
    x = cut(build(case, str(kernels)))
    assert x.problem.seqused_q is not None
    assert x.problem.cu_seqlens_q is not None
    used = torch.minimum(x.problem.seqused_q, x.problem.cu_seqlens_q.diff())
    x = replace(x, problem=replace(x.problem, seqused_q=used))
    assert_forward(x, *run(x))


def test_skewed_packed_sequences(kernels: torch.device) -> None:
    """Blocks are found by bisection: one long sequence, many short, empty ones at both ends."""
    lengths = torch.tensor([0, 3, 0, 191, 192, 193, 0, 1, 64, 400, 2, 0], dtype=torch.int32)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().to(kernels)
    total, longest = int(lengths.sum()), int(lengths.max())
    generator = torch.Generator().manual_seed(11)
    q = torch.randn(total, 2, 64, generator=generator).half().to(kernels)
    k, v = torch.randn(2, total, 1, 64, generator=generator).half().to(kernels)
    problem = AttentionProblem(
        softmax_scale=0.125,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        causal=True,
        window_right=0,
    )
    with torch.no_grad():
        out, lse = attention(q, k, v, problem)
        for begin, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
            if begin == end:
                continue
            alone = replace(
                problem,
                max_seqlen_q=end - begin,
                max_seqlen_k=end - begin,
                cu_seqlens_q=None,
                cu_seqlens_k=None,
            )
            part = attention(*(x[None, begin:end] for x in (q, k, v)), alone)
            assert torch.equal(out[begin:end], part[0][0])
            assert torch.equal(lse[:, begin:end], part[1][0])


def test_lengths_inside_dense_tensors(kernels: torch.device) -> None:
    case = vary(BASE, "used", batch=3, seqused_q=True, seqused_k=True)
    check(vary(case, "causal", causal=True), kernels)
    check(vary(case, "scores", headdim=256, softcap=10.0, seqlen_q=80, seqlen_k=200), kernels)


@pytest.mark.parametrize("window", [(0, 0), (100, 0), (70, 30), (-1, 5)], ids=str)
def test_windows(window: tuple[int, int], kernels: torch.device) -> None:
    check(vary(BASE, "window", window=window), kernels)
    check(vary(BASE, "short", window=window, headdim=128, seqlen_q=300, seqlen_k=90), kernels)


@pytest.mark.parametrize("heads", [(8, 8), (6, 2), (7, 1)], ids=str)
def test_heads_in_sections(heads: tuple[int, int], kernels: torch.device) -> None:
    """More tiles than thread blocks, longest first, over heads and batch."""
    case = vary(BASE, "heads", heads_q=heads[0], heads_kv=heads[1], batch=2, causal=True)
    check(vary(case, "short", seqlen_q=200, seqlen_k=200), kernels)


@pytest.mark.parametrize("strides", ["heads_first", "sliced"])
def test_strides(strides: str, kernels: torch.device) -> None:
    check(vary(BASE, "strides", strides=strides, batch=2, heads_kv=2, causal=True), kernels)


def test_expanded_heads_and_batches(kernels: torch.device) -> None:
    """Stride 0, which no tensor map holds: the map has one head and its coordinate stays 0."""
    generator = torch.Generator().manual_seed(5)
    q = torch.randn(3, 70, 4, 64, generator=generator).half().to(kernels)
    k, v = torch.randn(2, 1, 90, 1, 64, generator=generator).half().to(kernels)
    wide = [x.expand(3, 90, 2, 64) for x in (k, v)]
    problem = AttentionProblem(softmax_scale=0.125, max_seqlen_q=70, max_seqlen_k=90)
    with torch.no_grad():
        want = attention(q, *(x.contiguous() for x in wide), problem)
        assert all(map(torch.equal, attention(q, *wide, problem), want))


def test_the_maximum_grows_with_every_block(kernels: torch.device) -> None:
    """Rows that keep their base and rows that raise it, in one warp."""
    q = torch.zeros(1, 64, 1, 64)
    q[..., 0] = torch.linspace(-1, 1, 64)[None, :, None]  # from growing to falling logits
    k = torch.zeros(1, 700, 1, 64)
    k[..., 0] = torch.linspace(900, 0, 700)[None, :, None]  # the last block is visited first
    v = torch.randn(1, 700, 1, 64, generator=torch.Generator().manual_seed(3))
    problem = AttentionProblem(softmax_scale=0.125, max_seqlen_q=64, max_seqlen_k=700)
    tensors = [x.bfloat16().to(kernels) for x in (q, k, v)]
    with torch.no_grad():
        out, lse = attention(*tensors, problem)
    scores = torch.einsum("bqhd,bkhd->bhqk", *(x.double().cpu() for x in tensors[:2])) * 0.125
    want = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), tensors[2].double().cpu())
    assert (out.cpu().double() - want).abs().max() < 2.0**-7 * want.abs().max()
    assert (lse.cpu().double() - scores.logsumexp(-1)).abs().max() < 1e-4


@pytest.mark.parametrize("headdim", [64, 128])
def test_rounding_is_unbiased(headdim: int, kernels: torch.device) -> None:
    """Where the tensor cores add up the rounded P (64) and where instructions do (128)."""
    q, k, v = (
        torch.nn.functional.pad(x, (0, headdim - 64))
        for x in tied_maxima(2, 30, 1.0, 1.0, torch.bfloat16)
    )
    problem = AttentionProblem(softmax_scale=1.0, max_seqlen_q=16, max_seqlen_k=32)
    with torch.no_grad():
        out, _ = attention(*(x.to(kernels) for x in (q, k, v)), problem)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double())
    want = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.double())
    assert_unbiased("out", out[..., :64], want[..., :64])


def test_rows_do_not_depend_on_their_neighbours(kernels: torch.device) -> None:
    """Equal bits alone or in a batch, whole or in chunks of q."""
    x = vary(BASE, "bits", batch=2, causal=True, headdim=128, seqlen_q=280, seqlen_k=280)
    inputs = build(x, str(kernels))
    out, lse = run(inputs)
    alone = run(replace(inputs, q=inputs.q[1:], k=inputs.k[1:], v=inputs.v[1:]))
    assert torch.equal(alone[0][0], out[1])
    assert torch.equal(alone[1][0], lse[1])
    for begin, end in ((0, 70), (70, 279)):
        part = replace(
            inputs,
            q=inputs.q[:, begin:end],
            k=inputs.k[:, :end],
            v=inputs.v[:, :end],
            problem=replace(inputs.problem, max_seqlen_q=end - begin, max_seqlen_k=end),
        )
        assert torch.equal(run(part)[0], out[:, begin:end])
        assert torch.equal(run(part)[1], lse[:, :, begin:end])


def test_expanded_rows(kernels: torch.device) -> None:
    """One key for a whole sequence (row stride 0), which no tensor map holds: csrc/sm80 runs it."""
    q = torch.randn(1, 70, 2, 64, generator=torch.Generator().manual_seed(1)).half().to(kernels)
    k = q[:, :1].expand(1, 90, 2, 64)
    problem = AttentionProblem(softmax_scale=0.125, max_seqlen_q=70, max_seqlen_k=90)
    with torch.no_grad():
        out, _ = attention(q, k, k, problem)
    assert (out - q[:, :1]).abs().max() < 2.0**-9 * q[:, :1].abs().max()
