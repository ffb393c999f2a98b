# SPDX-License-Identifier: BSD-3-Clause
"""The backward kernels, on a GPU or on the emulator, against the float64 gradients.

torch.empty returns NaN, slots of k and v that no row may read are NaN, and both out and lse have a
gradient, so every case also tests the differentiable LSE.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import BIAS_SHAPES, FEATURES, LAYOUTS, SHAPES, Case, Inputs, build, vary
from limelight.autograd import attention
from test_forward_kernel import BASE, ODD_HEADDIMS, TILES, WINDOWS, cut, poisoned_memory
from tolerance import assert_gradients
from torch import Tensor

EVERY_ARCH = {"base-causal", "base-softcap", "base-alibi", "base-sink", "base-varlen-causal"}
NEG_INF = float("-inf")
Found = dict[str, Tensor | None]


def gradients(x: Inputs, *, with_dlse: bool = True, dout: Tensor | None = None) -> Found:
    """dq, dk, dv, dbias and dsink by autograd; falling back is an error in these tests."""
    leaves = [t.detach().requires_grad_() for t in (x.q, x.k, x.v)]
    p = x.problem
    if p.sink is not None:
        p = replace(p, sink=p.sink.detach().requires_grad_())
    if p.bias is not None:
        p = replace(p, bias=p.bias.detach().requires_grad_())
    with poisoned_memory():
        out, lse = attention(*leaves, p)
        outputs, seeds = [out], [x.dout if dout is None else dout]
        if with_dlse:
            # The gradient of an LSE of -inf is ignored: NaN there must not show.
            outputs.append(lse)
            seeds.append(torch.where(lse == NEG_INF, float("nan"), x.dlse))
        torch.autograd.backward(outputs, seeds)
    if x.q.is_cuda:
        torch.cuda.synchronize()
    found: Found = {n: t.grad for n, t in zip(("dq", "dk", "dv"), leaves, strict=True)}
    if p.sink is not None:
        found["dsink"] = p.sink.grad
    if p.bias is not None:
        found["dbias"] = p.bias.grad
    return found


def fit(case: Case, device: torch.device) -> Inputs:
    """The inputs of case with seqused inside the packed sequences."""
    x = cut(build(case, str(device)))
    p = x.problem
    if p.cu_seqlens_q is None or p.seqused_q is None:
        return x
    return replace(x, problem=replace(p, seqused_q=p.seqused_q.minimum(p.cu_seqlens_q.diff())))


def check(case: Case, device: torch.device) -> Found:
    x = fit(case, device)
    found = gradients(x)
    assert_gradients(x, found, with_dlse=True)
    return found


def marked(cases: list[Case]) -> list[object]:
    mark = pytest.mark.every_arch
    return [pytest.param(c, id=c.name, marks=[mark] if c.name in EVERY_ARCH else []) for c in cases]


@pytest.mark.parametrize("case", marked(FEATURES + LAYOUTS))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_features_and_layouts(case: Case, dtype: str, kernels: torch.device) -> None:
    bias_dtype = case.bias_dtype.replace("bfloat16", dtype)
    check(vary(case, dtype, dtype=dtype, bias_dtype=bias_dtype), kernels)


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
    check(vary(case, "dropout", dropout_p=0.3, bias="1hqk", seqlen_q=70), kernels)


@pytest.mark.parametrize("headdim", [*ODD_HEADDIMS, 1, 59])
def test_odd_headdims(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "odd", batch=1, heads_q=2, heads_kv=1, seqlen_q=19, headdim=headdim)
    check(vary(case, "causal", causal=True), kernels)


@pytest.mark.parametrize("headdims", [(40, 24), (24, 64), (192, 128), (64, 256), (59, 13)], ids=str)
def test_headdim_v(headdims: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "v", batch=1, heads_q=2, heads_kv=1, seqlen_q=19)
    check(vary(case, "dims", headdim=headdims[0], headdim_v=headdims[1], causal=True), kernels)


@pytest.mark.parametrize("ratio", [1, 3, 7])
def test_gqa_ratios(ratio: int, kernels: torch.device) -> None:
    check(vary(BASE, "gqa", seqlen_q=71, heads_q=2 * ratio, heads_kv=2, sink=True), kernels)


@pytest.mark.parametrize("bias", BIAS_SHAPES)
def test_every_bias_shape(bias: str, kernels: torch.device) -> None:
    check(vary(BASE, bias, bias=bias, seqlen_q=33, seqlen_k=47, causal=True), kernels)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("seqlens", [(170, 20), (20, 150), (200, 300)], ids=str)
def test_windows(window: tuple[int, int], seqlens: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "window", batch=1, heads_q=2, window=window)
    check(vary(case, "shape", seqlen_q=seqlens[0], seqlen_k=seqlens[1]), kernels)


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "varlen"])
@pytest.mark.parametrize("softcap", [0.0, 15.0])
def test_everything_at_once(softcap: float, packed: bool, kernels: torch.device) -> None:
    layout = "packed" if packed else "dense"
    case = vary(BASE, "all", batch=3, seqlen_q=150, seqlen_k=199, causal=True, window=(60, 0))
    case = vary(case, "scores", softcap=softcap, alibi="batch", sink=True, bias="bh1k")
    case = vary(case, "used", seqused_q=True, seqused_k=True, heads_q=3, heads_kv=1)
    check(vary(case, "layout", layout_q=layout, layout_k=layout), kernels)


@pytest.mark.parametrize("magnitude", [30.0, 300.0])
def test_huge_logits(magnitude: float, kernels: torch.device) -> None:
    check(vary(BASE, "huge", magnitude=magnitude, scale=1.0, headdim=16, causal=True), kernels)


@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_scale_that_is_not_positive(scale: float, kernels: torch.device) -> None:
    check(vary(BASE, "scale", scale=scale, causal=True), kernels)


def test_scores_that_grow_with_distance(kernels: torch.device) -> None:
    """Rows past the last one of a tile must stay out even where their P would be infinite."""
    x = build(vary(BASE, "slopes", alibi="heads", seqlen_q=70, seqlen_k=90), str(kernels))
    assert x.problem.alibi_slopes is not None
    x = replace(x, problem=replace(x.problem, alibi_slopes=-9 - x.problem.alibi_slopes))
    assert_gradients(x, gradients(x), with_dlse=True)


if not torch.cuda.is_available():

    def test_another_tile_table() -> None:
        """A few cases on the small tiles; one process emulates one architecture."""
        options = ["-q", "-m", "every_arch", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(Path(__file__))],
            env={**os.environ, "LIMELIGHT_EMULATOR_ARCH": "sm_86"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
