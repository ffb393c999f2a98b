# SPDX-License-Identifier: BSD-3-Clause
"""The forward kernels, on a GPU or on the emulator, against the float64 definition.

Every output is poisoned before the call; slots of k and v that no row may read are NaN.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import limelight
import pytest
import torch
from cases import BIAS_SHAPES, FEATURES, LAYOUTS, SHAPES, Case, Inputs, build, vary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limelight.autograd import attention
from tolerance import assert_forward, assert_unbiased, tied_maxima

BASE = Case("base")
TILES = [32, 64, 96, 128, 192, 256]
ODD_HEADDIMS = [8, 40, 72, 80, 104, 160, 200, 248]
UNALIGNED_HEADDIMS = [1, 59, 111]
EVERY_ARCH = {"base-causal", "base-softcap", "base-bias", "base-varlen-causal"}


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch.empty returns NaN and the largest integers."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run(x: Inputs, out: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad(), poisoned_memory():
        result, lse = attention(x.q, x.k, x.v, x.problem, out)
    if x.q.is_cuda:
        torch.cuda.synchronize()
    return result, lse


def cut(x: Inputs) -> Inputs:
    """x with seqused_k inside the packed sequences, as the public functions demand."""
    p = x.problem
    if p.cu_seqlens_k is None or p.seqused_k is None:
        return x
    used = torch.minimum(p.seqused_k, p.cu_seqlens_k.diff())
    return replace(x, problem=replace(p, seqused_k=used))


def check(case: Case, device: torch.device) -> None:
    x = cut(build(case, str(device)))
    out, lse = run(x)
    assert out.is_contiguous()
    assert_forward(x, out, lse)
    given_out = torch.full_like(out, float("nan"))
    assert run(x, given_out)[0] is given_out
    assert torch.equal(given_out, out)


def marked(cases: list[Case]) -> list[object]:
    mark = pytest.mark.every_arch
    return [pytest.param(c, id=c.name, marks=[mark] if c.name in EVERY_ARCH else []) for c in cases]


@pytest.mark.parametrize("case", marked(FEATURES + LAYOUTS))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_features_and_layouts(case: Case, dtype: str, kernels: torch.device) -> None:
    check(
        vary(case, dtype, dtype=dtype, bias_dtype=case.bias_dtype.replace("bfloat16", dtype)),
        kernels,
    )


@pytest.mark.parametrize("seqlens", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_ragged_shapes(seqlens: tuple[int, int], causal: bool, kernels: torch.device) -> None:
    case = vary(BASE, "shape", batch=1, heads_q=3, heads_kv=1, headdim=64, causal=causal)
    check(vary(case, "seqlens", seqlen_q=seqlens[0], seqlen_k=seqlens[1]), kernels)


@pytest.mark.every_arch
@pytest.mark.parametrize("headdim", TILES)
def test_headdim_tiles(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "tile", batch=1, heads_q=2, heads_kv=1, headdim=headdim, seqlen_q=133)
    check(vary(case, "plain", seqlen_k=150, causal=True), kernels)
    case = vary(case, "scores", seqlen_q=35, seqlen_k=70, softcap=20.0)
    check(vary(case, "alibi", alibi="batch"), kernels)
    check(vary(case, "dropout", dropout_p=0.3, seqlen_q=70), kernels)


@pytest.mark.parametrize("headdim", ODD_HEADDIMS + UNALIGNED_HEADDIMS)
def test_odd_headdims(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "odd", batch=1, heads_q=2, heads_kv=1, seqlen_q=19, headdim=headdim)
    check(vary(case, "causal", causal=True), kernels)


@pytest.mark.parametrize("headdims", [(40, 24), (24, 64), (192, 128), (64, 256), (59, 13)], ids=str)
def test_headdim_v(headdims: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "v", batch=1, heads_q=2, heads_kv=1, seqlen_q=19)
    check(vary(case, "dims", headdim=headdims[0], headdim_v=headdims[1], causal=True), kernels)


@pytest.mark.parametrize("ratio", [1, 2, 3, 7])
def test_gqa_ratios(ratio: int, kernels: torch.device) -> None:
    check(vary(BASE, "gqa", seqlen_q=21, heads_q=2 * ratio, heads_kv=2, sink=True), kernels)


@pytest.mark.parametrize("bias", BIAS_SHAPES)
def test_every_bias_shape(bias: str, kernels: torch.device) -> None:
    check(vary(BASE, bias, bias=bias, seqlen_q=33, seqlen_k=47, causal=True), kernels)
    packed = vary(BASE, bias, bias=bias, layout_q="packed", layout_k="packed", batch=3)
    check(vary(packed, "own", seqlen_q=40, seqused_k=True, bias_dtype="bfloat16"), kernels)


WINDOWS = [(0, 0), (0, -1), (-1, 0), (3, 0), (64, 64), (1000, 1000), (5, 90)]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("seqlens", [(70, 20), (20, 150)], ids=str)
def test_windows(window: tuple[int, int], seqlens: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "window", batch=1, heads_q=2, window=window)
    check(vary(case, "shape", seqlen_q=seqlens[0], seqlen_k=seqlens[1]), kernels)


@pytest.mark.parametrize(
    "layout", [{}, {"layout_q": "packed", "layout_k": "packed"}], ids=["dense", "varlen"]
)
def test_everything_at_once(layout: dict[str, str], kernels: torch.device) -> None:
    case = vary(BASE, "all", batch=3, seqlen_q=70, seqlen_k=99, causal=True, window=(60, 0))
    case = vary(case, "scores", softcap=15.0, alibi="batch", sink=True, bias="bh1k")
    check(vary(case, "used", seqused_q=True, seqused_k=True, **layout), kernels)


@pytest.mark.parametrize("magnitude", [30.0, 300.0])
def test_huge_logits(magnitude: float, kernels: torch.device) -> None:
    check(vary(BASE, "huge", magnitude=magnitude, scale=1.0, headdim=16, causal=True), kernels)


@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_scale_that_is_not_positive(scale: float, kernels: torch.device) -> None:
    check(vary(BASE, "scale", scale=scale, causal=True), kernels)


def test_empty_sequences(kernels: torch.device) -> None:
    none = torch.randn(2, 0, 4, 32, device=kernels).half()
    q = torch.randn(2, 5, 4, 32, device=kernels).half()
    sink = torch.randn(4, device=kernels)
    out, lse = limelight.flash_attn_func(q, none, none, return_lse=True)
    assert not out.any()
    assert bool((lse == float("-inf")).all())
    assert limelight.flash_attn_func(none, q, q).shape == (2, 0, 4, 32)
    check(vary(BASE, "none", batch=4, layout_q="packed", layout_k="packed", seqlen_q=5), kernels)
    assert limelight.flash_attn_func(q[:0], q[:0], q[:0], sink=sink).shape == (0, 5, 4, 32)


def test_packed_views_and_odd_pointers(kernels: torch.device) -> None:
    """Views into one tensor are read in place; pointers and strides that do not fit are copied."""
    qkv = torch.randn(2, 37, 3, 4, 32, device=kernels).half()
    want = limelight.flash_attn_func(*(x.contiguous() for x in qkv.unbind(2)), causal=True)
    assert torch.equal(limelight.flash_attn_qkvpacked_func(qkv, causal=True), want)
    flat = torch.randn(2 * 37 * 4 * 32 + 1, device=kernels).half()
    odd = flat[1:].view(2, 37, 4, 32)
    assert odd.data_ptr() % 16 != 0
    wide = torch.randn(2, 37, 4, 33, device=kernels).half()[..., :32]
    moved = limelight.flash_attn_func(odd, wide, odd, return_lse=True)
    still = limelight.flash_attn_func(odd.clone(), wide.clone(), odd.clone(), return_lse=True)
    assert all(torch.equal(a, b) for a, b in zip(moved, still, strict=True))
    # Outputs that do not fit are written through a temporary.
    out = torch.full_like(flat, float("nan"))[1:].view(2, 37, 4, 32)
    assert limelight.flash_attn_func(odd, wide, odd, out=out) is out
    assert torch.equal(out, still[0])


def spread(x: torch.Tensor, row_stride: int, head_stride: int) -> torch.Tensor:
    """x (1, rows, heads, headdim) with these strides; untouched pages cost no memory on a CPU."""
    _, rows, heads, headdim = x.shape
    extent = (rows - 1) * row_stride + (heads - 1) * head_stride + headdim
    space = torch.empty(extent, dtype=x.dtype, device=x.device)
    view = space.as_strided(x.shape, (extent, row_stride, head_stride, 1))
    return view.copy_(x)


@pytest.mark.parametrize("wide", ["row", "head"])
def test_offsets_beyond_2_to_the_31(wide: str, kernels: torch.device) -> None:
    x = torch.randn(3, 1, 3, 3, 32).half().to(kernels)
    strides = (2**30 + 8, 32) if wide == "row" else (32, 2**30 + 8)
    q, k, v = (spread(part, *strides) for part in x)
    assert q.stride(1 if wide == "row" else 2) * 2 > 2**31
    out = spread(torch.full_like(x[0], float("nan")), *strides)
    want = limelight.flash_attn_func(*x, causal=True)
    assert torch.equal(limelight.flash_attn_func(q, k, v, causal=True, out=out), want)


def test_bias_offsets_beyond_2_to_the_31(kernels: torch.device) -> None:
    q, k, v = torch.randn(3, 1, 3, 2, 32).half().to(kernels)
    bias = torch.randn(1, 1, 3, 3).to(kernels)
    far = torch.empty(2 * (2**30 + 8) + 3, device=kernels)
    view = far.as_strided((1, 1, 3, 3), (0, 0, 2**30 + 8, 1)).copy_(bias)
    want = limelight.flash_attn_func(q, k, v, bias=bias)
    assert torch.equal(limelight.flash_attn_func(q, k, v, bias=view), want)


def test_same_bits_again_and_alone(kernels: torch.device) -> None:
    """deterministic and batch_invariant: run to run, alone or in a batch, whole or in chunks."""
    q, k, v = torch.randn(3, 3, 150, 2, 64).bfloat16().to(kernels)
    flags = {"causal": True, "deterministic": True, "batch_invariant": True}
    whole, lse = limelight.flash_attn_func(q, k, v, return_lse=True, **flags)
    assert torch.equal(limelight.flash_attn_func(q, k, v, **flags), whole)
    assert torch.equal(limelight.flash_attn_func(q[1:2], k[1:2], v[1:2], **flags)[0], whole[1])
    for start, end in ((0, 70), (70, 149), (149, 150)):
        part, part_lse = limelight.flash_attn_func(
            q[:, start:end], k[:, :end], v[:, :end], return_lse=True, **flags
        )
        assert torch.equal(part, whole[:, start:end])
        assert torch.equal(part_lse, lse[:, :, start:end])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rounding_is_unbiased(sign: float, kernels: torch.device) -> None:
    q, k, v = tied_maxima(2, 30, 1.0, sign, torch.bfloat16)
    out = limelight.flash_attn_func(*(x.to(kernels) for x in (q, k, v)), softmax_scale=1.0)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double())
    assert_unbiased("out", out, torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.double()))


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seqlens=st.tuples(st.integers(1, 140), st.integers(1, 140)),
    heads=st.sampled_from([(1, 1), (3, 1), (4, 2)]),
    headdim=st.sampled_from([8, 24, 32, 64]),
    window=st.tuples(st.integers(-1, 50), st.integers(-1, 50)),
    causal=st.booleans(),
    softcap=st.sampled_from([0.0, 10.0]),
    dropout_p=st.sampled_from([0.0, 0.0, 0.3]),
    packed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_drawn_shapes(
    kernels: torch.device,
    seqlens: tuple[int, int],
    heads: tuple[int, int],
    headdim: int,
    window: tuple[int, int],
    causal: bool,
    softcap: float,
    dropout_p: float,
    packed: bool,
    seed: int,
) -> None:
    layout = "packed" if packed else "dense"
    case = vary(BASE, "drawn", seqlen_q=seqlens[0], seqlen_k=seqlens[1], headdim=headdim, seed=seed)
    case = vary(case, "heads", heads_q=heads[0], heads_kv=heads[1], window=window, causal=causal)
    case = vary(case, "layout", layout_q=layout, layout_k=layout, softcap=softcap)
    check(vary(case, "dropout", dropout_p=dropout_p), kernels)


if not torch.cuda.is_available():

    @pytest.mark.parametrize("arch", ["sm_86", "sm_90a"])
    def test_other_emulated_architectures(arch: str) -> None:
        """A few cases on other tile tables; one process emulates one architecture."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "every_arch",
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run(
            [*command, str(Path(__file__))],
            env={**os.environ, "LIMELIGHT_EMULATOR_ARCH": arch},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
