# SPDX-License-Identifier: BSD-3-Clause
"""Calls of the Hopper FP8 forward kernels; tests/test_sm90_fp8.py runs this file.

Every output is poisoned before the call; slots that no row may read are NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import limelight
import pytest
import torch
from cases import Case, Inputs, build, vary
from fp8_tolerance import assert_fp8_forward, mean_square_ratio
from limelight import execute, runtime
from test_forward_kernel import cut, run

BASE = Case(
    "fp8",
    batch=1,
    heads_q=2,
    heads_kv=1,
    headdim=64,
    seqlen_q=130,
    seqlen_k=300,
    dtype="float8_e4m3fn",
    descale=True,
)
HEADDIMS = [(64, 64), (128, 128), (192, 128), (256, 256), (48, 80), (40, 24), (176, 16)]
PACKED = {"layout_q": "packed", "layout_k": "packed"}


@pytest.fixture(autouse=True)
def without_decode_kernels(
    monkeypatch: pytest.MonkeyPatch, kernels: torch.device
) -> Iterator[None]:
    """Few rows would run in the decode kernels."""
    prefill = frozenset(pair for pair in runtime.installed() if "decode" not in pair[0])
    monkeypatch.setattr(runtime, "installed", lambda: prefill)
    with runtime.override(check=False):  # forgets the plans of other tests
        yield


def check(case: Case, device: torch.device) -> None:
    x = cut(build(case, str(device)))
    p = x.problem
    if p.cu_seqlens_q is not None and p.seqused_q is not None:
        used = torch.minimum(p.seqused_q, p.cu_seqlens_q.diff())
        x = replace(x, problem=replace(p, seqused_q=used))
    plan = execute.validate(x.q, x.k, x.v, x.problem)
    assert plan.kernel is not None
    assert plan.kernel.name == "sm90_fwd_fp8"
    out, lse = run(x)
    assert out.dtype == torch.bfloat16
    assert_fp8_forward(x, out, lse)


@pytest.mark.parametrize("headdims", HEADDIMS, ids=str)
def test_every_tile(headdims: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "tile", headdim=headdims[0], headdim_v=headdims[1])
    check(vary(case, "causal", causal=True), kernels)
    check(vary(case, "full", seqlen_q=65, seqlen_k=345, heads_kv=2), kernels)
    scores = vary(case, "scores", seqlen_q=67, seqlen_k=190, softcap=20.0, alibi="heads")
    check(vary(scores, "sink", sink=True, causal=True), kernels)


@pytest.mark.parametrize("seqlen_k", [1, 31, 64, 65, 128, 129, 256])
def test_ends_of_blocks(seqlen_k: int, kernels: torch.device) -> None:
    check(vary(BASE, "ends", headdim=128, seqlen_q=3, seqlen_k=seqlen_k), kernels)
    check(vary(BASE, "used", headdim=256, seqlen_q=3, seqlen_k=seqlen_k, seqused_k=True), kernels)


@pytest.mark.parametrize("headdim", [64, 128, 256])
def test_packed_sequences(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "packed", batch=4, headdim=headdim, causal=headdim == 128, **PACKED)
    check(case, kernels)
    check(vary(case, "used", seed=1, seqused_q=True, seqused_k=True, sink=True), kernels)


def test_lengths_inside_dense_tensors(kernels: torch.device) -> None:
    case = vary(BASE, "used", batch=3, seqused_q=True, seqused_k=True, causal=True)
    check(case, kernels)
    check(vary(case, "scores", headdim=128, softcap=10.0, seqlen_q=80, seqlen_k=200), kernels)


@pytest.mark.parametrize("window", [(0, 0), (100, 0), (70, 30), (-1, 5)], ids=str)
def test_windows(window: tuple[int, int], kernels: torch.device) -> None:
    check(vary(BASE, "window", window=window, seqlen_q=200), kernels)
    check(vary(BASE, "tall", window=window, headdim=128, seqlen_q=300, seqlen_k=90), kernels)


@pytest.mark.parametrize("strides", ["heads_first", "sliced"])
def test_strides(strides: str, kernels: torch.device) -> None:
    check(vary(BASE, "strides", strides=strides, batch=2, heads_kv=2, causal=True), kernels)


@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_scale_that_is_not_positive(scale: float, kernels: torch.device) -> None:
    check(vary(BASE, "scale", scale=scale, causal=True), kernels)


@pytest.mark.parametrize("magnitude", [0.02, 1.0, 4.0])
@pytest.mark.parametrize("headdim", [64, 128, 256])
def test_the_error_is_that_of_rounding_p(
    headdim: int, magnitude: float, kernels: torch.device
) -> None:
    case = vary(BASE, "rms", headdim=headdim, seqlen_q=70, seqlen_k=500, magnitude=magnitude)
    for causal in (False, True):
        x = build(vary(case, str(causal), causal=causal), str(kernels))
        assert mean_square_ratio(x, run(x)[0]) < 1.0


def with_descales(x: Inputs, **descales: torch.Tensor | None) -> Inputs:
    return replace(x, problem=replace(x.problem, **descales))


def test_descales(kernels: torch.device) -> None:
    """Expanded ones, none, zero (uniform weights) and a negative one (NaN, not nonsense)."""
    x = build(vary(BASE, "descale", batch=2, heads_kv=2, seqlen_q=33, causal=True), str(kernels))
    one = torch.ones(1, 1, device=kernels)
    everywhere = {f"{name}_descale": one.expand(2, 2) for name in "qkv"}
    none = {f"{name}_descale": None for name in "qkv"}
    plain = run(with_descales(x, **none))
    assert_fp8_forward(with_descales(x, **none), *plain)
    assert all(map(torch.equal, run(with_descales(x, **everywhere)), plain))
    zero = with_descales(x, q_descale=torch.zeros(2, 2, device=kernels))
    assert_fp8_forward(zero, *run(zero))
    negative = run(with_descales(x, k_descale=-torch.ones(2, 2, device=kernels)))
    assert bool(negative[0].isnan().all())


def test_rows_do_not_depend_on_their_neighbours(kernels: torch.device) -> None:
    """Equal bits alone or in a batch, whole or in chunks of q."""
    case = vary(BASE, "bits", batch=2, causal=True, headdim=128, seqlen_q=280, seqlen_k=280)
    x = build(case, str(kernels))
    out, lse = run(x)
    p = x.problem
    last = {f"{n}_descale": getattr(p, f"{n}_descale")[1:] for n in "qkv"}
    alone = run(replace(x, q=x.q[1:], k=x.k[1:], v=x.v[1:], problem=replace(p, **last)))
    assert torch.equal(alone[0][0], out[1])
    assert torch.equal(alone[1][0], lse[1])
    for begin, end in ((0, 70), (70, 279)):
        problem = replace(p, max_seqlen_q=end - begin, max_seqlen_k=end)
        part = replace(x, q=x.q[:, begin:end], k=x.k[:, :end], v=x.v[:, :end], problem=problem)
        assert torch.equal(run(part)[0], out[:, begin:end])
        assert torch.equal(run(part)[1], lse[:, :, begin:end])


def test_public_call(kernels: torch.device) -> None:
    x = build(vary(BASE, "public", batch=2, causal=True), str(kernels))
    p = x.problem
    descales = {f"{name}_descale": getattr(p, f"{name}_descale") for name in "qkv"}
    out = limelight.flash_attn_func(x.q, x.k, x.v, causal=True, **descales)
    assert torch.equal(out, run(x)[0])
