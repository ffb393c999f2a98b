# SPDX-License-Identifier: BSD-3-Clause
"""FP8 and INT4 weights in the GEMM kernels: exact decoding, scales in fp32, every layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gemm_kernel_tools import FLAT, GEMV, multiply, poisoned
from limelight.quantize import QuantizedWeight
from linear_cases import FORMATS, LinearCase, LinearInputs, assert_linear, draw
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16)


def check(case: LinearCase, kernel: int, device: torch.device, splits: int = 0) -> None:
    inputs = draw(case, device)
    assert_linear(case, inputs, multiply(inputs, kernel, splits))


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("m", [1, 2, 8, 9, 16, 17, 48, 64, 65, 128])
def test_every_format(weight_format: str, m: int, kernels: torch.device) -> None:
    for rows, k, splits in ((37, 256, 0), (150, 384, 2)):
        case = LinearCase(m, rows, k, weight_format, bias=True, dtype=DTYPES[m % 2])
        check(case, FLAT, kernels, splits)
        if m <= 8:
            check(case, GEMV, kernels, splits)
            check(replace(case, dtype=DTYPES[1 - m % 2]), GEMV, kernels, splits)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_swiglu_takes_the_scales_of_both_halves(weight_format: str, kernels: torch.device) -> None:
    for kernel in (GEMV, FLAT):
        # 141 columns: the up rows begin inside a 128-row block of scales.
        case = LinearCase(5, 282, 256, weight_format, "swiglu", bias=True, residual=True)
        check(case, kernel, kernels)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_scales_are_applied_in_fp32(weight_format: str, kernels: torch.device) -> None:
    """Nothing is rounded to 16 bits but the result: error <= u |ref| + K 2^-23 |x| |w|."""
    for kernel, dtype in ((GEMV, torch.bfloat16), (FLAT, torch.bfloat16), (FLAT, torch.float16)):
        case = LinearCase(6, 40, 256, weight_format, dtype=dtype)
        inputs = draw(case, kernels)
        exact, out = inputs.exact(), multiply(inputs, kernel).cpu().double()
        sums = inputs.x.cpu().double().abs() @ inputs.weight().abs().T
        allowed = torch.finfo(dtype).eps / 2 * exact.abs() + case.k * 2.0**-23 * sums
        assert bool(((out - exact).abs() <= allowed).all())


def unit_rows(k: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """x (k, k) that picks one column of weight a row."""
    return torch.eye(k, device=device).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_fp8_value_is_decoded_exactly(dtype: torch.dtype, kernels: torch.device) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    # Every code meets every place of a lane's 16 bytes.
    weight = torch.stack([codes.roll(shift)[:128] for shift in range(0, 256, 3)])
    weight = weight.view(torch.float8_e4m3fn)
    finite = weight.float().nan_to_num(nan=0.0).to(torch.float8_e4m3fn)
    rows, k = weight.shape
    scale = torch.ones(rows, device=kernels)
    for kernel, m in ((FLAT, k), (GEMV, 8)):
        case = LinearCase(m, rows, k, "fp8", dtype=dtype)
        x = unit_rows(k, dtype, kernels)[:m]
        inputs = LinearInputs(case, x, QuantizedWeight(finite.to(kernels), scale), None, None)
        out = multiply(inputs, kernel).cpu()
        assert torch.equal(out, finite.float().T[:m].to(dtype))
        # A NaN among the weights reaches every product of its row, and no other row.
        nan = replace(inputs, stored=QuantizedWeight(weight.to(kernels), scale))
        wanted = weight.float().isnan().any(1).expand(m, rows)
        found = multiply(nan, kernel).cpu()
        assert torch.equal(found.isnan(), wanted)
        assert torch.equal(found[~wanted], out[~wanted])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_int4_value_is_decoded_exactly(dtype: torch.dtype, kernels: torch.device) -> None:
    rows, k = 128, 128
    nibbles = (torch.arange(rows)[:, None] * 5 + torch.arange(k) * 7 + torch.arange(k) // 16) % 16
    packed = (nibbles[:, ::2] | nibbles[:, 1::2] << 4).to(torch.uint8)
    zeros = torch.arange(rows * 2).view(rows, 2) % 128
    scale = torch.ones(rows, 2, dtype=dtype, device=kernels)
    for zero in (None, zeros.to(torch.uint8).to(kernels)):
        offset = 8 if zero is None else zeros.repeat_interleave(64, 1)
        wanted = (nibbles - offset).T.to(dtype)
        for kernel, m in ((FLAT, k), (GEMV, 8)):
            stored = QuantizedWeight(packed.to(kernels), scale, zero)
            case = LinearCase(m, rows, k, "int4_g64", dtype=dtype)
            x = unit_rows(k, dtype, kernels)[:m]
            out = multiply(LinearInputs(case, x, stored, None, None), kernel).cpu()
            assert torch.equal(out, wanted[:m])


def test_fp8_rows_of_odd_eights(kernels: torch.device) -> None:
    """K = 8 modulo 16: the second half of a row's last 16 bytes is not read as weight."""
    for k in (24, 136, 1032):
        case = LinearCase(3, 20, k, "fp8", dtype=torch.float16)
        inputs = draw(case, kernels)
        wide = torch.full((20, k + 8), 0x7F, dtype=torch.uint8, device=kernels)
        weight = wide.view(torch.float8_e4m3fn)[:, :k]
        weight.copy_(inputs.stored.weight)
        far = replace(inputs, stored=QuantizedWeight(weight, inputs.stored.scale))
        # The last row ends where its storage does.
        short = torch.as_strided(
            wide.view(torch.float8_e4m3fn).flatten()[: 19 * (k + 8) + k].clone(),
            (20, k),
            (k + 8, 1),
        )
        for stored in (far.stored, QuantizedWeight(short, inputs.stored.scale)):
            for kernel in (GEMV, FLAT):
                assert_linear(case, inputs, multiply(replace(inputs, stored=stored), kernel))


@pytest.mark.parametrize("weight_format", ["fp8_block", "int4_g64_zero"])
def test_row_bits_do_not_depend_on_m(weight_format: str, kernels: torch.device) -> None:
    whole = draw(LinearCase(128, 200, 384, weight_format, bias=True), kernels)
    wanted = multiply(whole, FLAT, batch_invariant=True)
    for m in (1, 8, 16, 17, 64, 65, 127):
        part = replace(whole, case=replace(whole.case, m=m), x=whole.x[128 - m :])
        assert torch.equal(multiply(part, FLAT, batch_invariant=True), wanted[128 - m :]), m


def refused(case: LinearCase, device: torch.device, **changes: Tensor | None) -> str:
    inputs = draw(case, device)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        multiply(inputs, FLAT, **changes)
    return str(caught.value).split("\n")[0]


def test_refusals(kernels: torch.device) -> None:
    fp8 = LinearCase(2, 24, 64, "fp8")
    int4 = LinearCase(2, 24, 128, "int4_g64_zero")

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=kernels)

    assert refused(fp8, kernels, weight_scale=None) == (
        "weight_scale: an FP8 weight needs it, and takes no weight_zero"
    )
    assert refused(int4, kernels, weight_scale=None, weight_zero=None) == (
        "weight_scale: an INT4 weight needs it"
    )
    assert refused(fp8, kernels, weight_scale=zeros(23)) == (
        "weight_scale must have the shape (24,)"
    )
    assert refused(fp8, kernels, weight_scale=zeros(2, 1)) == (
        "weight_scale must have the shape (1, 1)"
    )
    assert refused(int4, kernels, weight_scale=zeros(24, 4, dtype=torch.bfloat16)) == (
        "weight_zero must have the shape (24, 4)"
    )
    assert refused(
        int4, kernels, weight_scale=zeros(24, 4, dtype=torch.bfloat16), weight_zero=None
    ) == ("scale_group is 32, allowed for INT4: 64 or 128")
    assert refused(int4, kernels, weight_scale=zeros(24, 2)) == (
        "weight_scale must have the dtype of x"
    )
    assert refused(fp8, kernels, weight_zero=zeros(24, 1, dtype=torch.uint8)) == (
        "weight_zero belongs to an INT4 weight with a scale"
    )
    narrow = poisoned((24, 72), torch.float8_e4m3fn, kernels)[:, :64]
    assert refused(fp8, kernels, weight=narrow) == (
        "weight: row stride is 72 elements; the kernel needs multiples of 16: pass a copy with "
        "padded rows"
    )
