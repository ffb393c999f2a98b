# SPDX-License-Identifier: BSD-3-Clause
"""Several query heads in one tile of the Hopper kernels; tests/test_sm90_packing.py runs this file.

A row's sums do not depend on its place in a tile, so each packed call must give the bits of the
same call with keys and values repeated for every query head, which has nothing to pack.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import Case, Inputs, build, vary
from fp8_tolerance import assert_fp8_forward
from launch_report import EMULATED, observed
from limelight import runtime
from test_forward_kernel import cut, run
from tolerance import assert_forward

BASE = Case("pack", batch=2, heads_q=16, heads_kv=2, headdim=64, seqlen_q=13, seqlen_k=150)
GROUPS = [2, 3, 4, 6, 7, 8, 16, 64]
MULTIPROCESSORS = int(os.environ.get("LIMELIGHT_EMULATOR_SMS", "0"))
FP8 = {"dtype": "float8_e4m3fn", "descale": True}


@pytest.fixture(autouse=True)
def only_forward_kernels(monkeypatch: pytest.MonkeyPatch, kernels: torch.device) -> Iterator[None]:
    """Calls with few rows of q would go to the decode kernels first."""
    forward = frozenset(pair for pair in runtime.installed() if "decode" not in pair[0])
    monkeypatch.setattr(runtime, "installed", lambda: forward)
    with runtime.override(check=False):  # forgets the plans of other tests
        yield


def rows_of_a_tile(case: Case) -> int:
    return 192 if case.headdim <= 96 and not case.dtype.startswith("float8") else 128


def packed_heads(case: Case) -> int:
    heads = math.gcd(case.heads_q // case.heads_kv, 64)
    return heads if tiles(case, heads) < tiles(case, 1) else 1


def tiles(case: Case, heads: int) -> int:
    """Of a dense call."""
    return -(-case.seqlen_q * heads // rows_of_a_tile(case)) * (case.heads_q // heads) * case.batch


def repeated(x: Inputs) -> Inputs:
    """The call with keys and values of its own for each query head."""
    group = x.q.shape[-2] // x.k.shape[-2]
    p = x.problem
    factors = {
        name: None if f is None else f.repeat_interleave(group, 1)
        for name, f in (
            ("q_descale", p.q_descale),
            ("k_descale", p.k_descale),
            ("v_descale", p.v_descale),
        )
    }
    k, v = (
        t.view(torch.uint8).repeat_interleave(group, -2).view(t.dtype)
        if t.element_size() == 1
        else t.repeat_interleave(group, -2)
        for t in (x.k, x.v)
    )
    return replace(x, k=k, v=v, problem=replace(p, **factors))


def check(case: Case, device: torch.device) -> None:
    x = cut(build(case, str(device)))
    p = x.problem
    if p.cu_seqlens_q is not None and p.seqused_q is not None:
        used = torch.minimum(p.seqused_q, p.cu_seqlens_q.diff())
        x = replace(x, problem=replace(p, seqused_q=used))
    (out, lse), launches = observed(lambda: run(x))
    if EMULATED and case.layout_q == "dense":
        assert [launch["grid"][0] for launch in launches] == [
            min(tiles(case, packed_heads(case)), MULTIPROCESSORS)
        ]
    (assert_fp8_forward if case.dtype.startswith("float8") else assert_forward)(x, out, lse)
    alone = run(repeated(x))
    assert torch.equal(out, alone[0])
    assert torch.equal(lse, alone[1])


@pytest.mark.parametrize("group", GROUPS)
def test_groups(group: int, kernels: torch.device) -> None:
    case = vary(BASE, str(group), heads_q=group * 2, causal=True, sink=True)
    if group > 8:
        case = vary(case, "one", heads_q=group, heads_kv=1, batch=1)
    assert packed_heads(case) == math.gcd(group, 64)
    check(case, kernels)


@pytest.mark.parametrize("seqlen_q", [1, 3, 24, 25, 65, 131, 200])
def test_lengths(seqlen_q: int, kernels: torch.device) -> None:
    """Tiles whose rows end inside of a row of q's heads do not exist, but tiles may end early."""
    case = vary(BASE, "length", seqlen_q=seqlen_q, heads_q=8, heads_kv=1, batch=1)
    check(vary(case, "causal", causal=True, seqlen_k=210), kernels)
    check(vary(case, "wide", headdim=128, window=(40, 3), sink=True), kernels)


@pytest.mark.parametrize(
    ("window", "softcap"), [((17, 0), 0.0), ((30, 9), 12.0), ((-1, 5), 0.0)], ids=str
)
def test_masks_follow_rows_of_q(
    window: tuple[int, int], softcap: float, kernels: torch.device
) -> None:
    case = vary(BASE, "window", window=window, softcap=softcap, magnitude=3.0, sink=True)
    check(case, kernels)
    check(vary(case, "tall", seqlen_q=40, seqlen_k=21, causal=True), kernels)


@pytest.mark.parametrize("headdims", [(96, 96), (128, 128), (192, 128), (256, 256), (40, 72)])
def test_tiles(headdims: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "tile", headdim=headdims[0], headdim_v=headdims[1], batch=1, dtype="float16")
    check(vary(case, "causal", causal=True), kernels)


@pytest.mark.parametrize("headdim", [64, 128])
def test_packed_sequences(headdim: int, kernels: torch.device) -> None:
    """Ends of sequences inside a warpgroup's rows, empty sequences, used parts of them."""
    case = vary(BASE, "varlen", batch=5, headdim=headdim, causal=True, seqlen_q=30, seqlen_k=90)
    case = vary(case, "packed", layout_q="packed", layout_k="packed", sink=True)
    check(case, kernels)
    check(vary(case, "used", seqused_q=True, seqused_k=True, seed=3), kernels)


def test_pages(kernels: torch.device) -> None:
    case = vary(BASE, "pages", batch=4, layout_q="packed", layout_k="paged", causal=True, sink=True)
    check(case, kernels)
    check(vary(case, "fp8", headdim=128, **FP8), kernels)


def test_packed_sequences_make_fewer_tiles(kernels: torch.device) -> None:
    lengths = torch.tensor([0, 7, 20, 9, 0, 1], dtype=torch.int32)
    case = vary(BASE, "count", batch=1, seqlen_q=37, heads_q=8, heads_kv=1)
    x = build(case, str(kernels))
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int().to(kernels)
    p = replace(
        x.problem,
        cu_seqlens_q=cu_seqlens,
        seqused_k=torch.full((6,), 33, dtype=torch.int32, device=kernels),
        max_seqlen_q=20,
    )
    k, v = (t.expand(6, -1, -1, -1) for t in (x.k, x.v))
    y = replace(x, q=x.q[0], k=k, v=v, problem=p)
    (out, lse), launches = observed(lambda: run(y))
    if EMULATED:  # 8 x 37 rows fill 1 tile of 192; 6 more for ends of sequences
        assert launches[0]["grid"][0] == min(1 + 6, MULTIPROCESSORS)
    assert all(map(torch.equal, (out, lse), run(repeated(y))))


def test_lengths_inside_dense_tensors(kernels: torch.device) -> None:
    case = vary(BASE, "used", batch=3, seqused_q=True, seqused_k=True, seqlen_q=40)
    check(vary(case, "causal", causal=True, headdim=128), kernels)


@pytest.mark.parametrize("strides", ["heads_first", "sliced"])
def test_strides(strides: str, kernels: torch.device) -> None:
    check(vary(BASE, "strides", strides=strides, causal=True), kernels)


def test_strided_out(kernels: torch.device) -> None:
    x = build(vary(BASE, "out", causal=True), str(kernels))
    want = run(x)
    wide = torch.full((2, 16, 13, 72), float("nan"), dtype=torch.bfloat16, device=kernels)
    out = wide[..., :64].transpose(1, 2)
    assert run(x, out)[0] is out
    assert torch.equal(out, want[0])
    assert torch.isnan(wide[..., 64:]).all()


def test_scores_that_differ_by_head_are_not_packed(kernels: torch.device) -> None:
    for changes in ({"alibi": "heads"}, {"bias": "1hqk"}):
        x = build(vary(BASE, "scores", **changes), str(kernels))
        (out, lse), launches = observed(lambda x=x: run(x))
        if EMULATED:
            assert launches[0]["grid"][0] == min(tiles(BASE, 1), MULTIPROCESSORS)
        assert_forward(x, out, lse)


def test_one_query_head_for_all(kernels: torch.device) -> None:
    """Heads of stride 0 lie in no box."""
    x = build(vary(BASE, "expanded"), str(kernels))
    q = x.q[:, :, :1].expand(-1, -1, 16, -1)
    y = replace(x, q=q)
    out, lse = run(y)
    assert all(map(torch.equal, (out, lse), run(replace(x, q=q.contiguous()))))


@pytest.mark.parametrize("headdim", [64, 128, 256])
def test_fp8(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "fp8", headdim=headdim, sink=True, **FP8)
    check(vary(case, "causal", causal=True, softcap=15.0), kernels)
    check(vary(case, "ragged", seqlen_q=27, seqlen_k=60, heads_q=12), kernels)
    varlen = vary(case, "varlen", batch=4, layout_q="packed", layout_k="packed", causal=True)
    check(vary(varlen, "used", seqused_q=True, seqused_k=True), kernels)
