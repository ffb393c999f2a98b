# SPDX-License-Identifier: BSD-3-Clause
"""The GEMM kernels, on a GPU or on the emulator, against the float64 definition."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from gemm_kernel_tools import FLAT, GEMV, multiply, poisoned, workspace_bytes
from linear_cases import EPILOGUES, LinearCase, LinearInputs, assert_linear, draw

DTYPES = (torch.bfloat16, torch.float16)


def check(case: LinearCase, kernel: int, device: torch.device, splits: int = 0) -> None:
    inputs = draw(case, device)
    assert_linear(case, inputs, multiply(inputs, kernel, splits))


@pytest.mark.parametrize("first", range(1, 129, 16))
def test_every_m(first: int, kernels: torch.device) -> None:
    for m in range(first, first + 16):
        check(LinearCase(m, 37, 104, bias=True, dtype=DTYPES[m % 2]), FLAT, kernels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("m", range(1, 9))
def test_gemv(m: int, dtype: torch.dtype, kernels: torch.device) -> None:
    for rows, k, splits in ((16, 64, 1), (37, 104, 0), (40, 1160, 1), (23, 2056, 3)):
        check(LinearCase(m, rows, k, bias=m % 2 == 0, dtype=dtype), GEMV, kernels, splits)


# One tile and less, several tiles, more units than thread blocks; K of one chunk to many blocks.
@pytest.mark.parametrize("rows", [1, 8, 127, 128, 129, 300])
@pytest.mark.parametrize("k", [8, 64, 72, 520])
def test_ragged_n_and_k(rows: int, k: int, kernels: torch.device) -> None:
    for m, dtype in ((3, torch.bfloat16), (19, torch.float16), (65, torch.bfloat16)):
        check(LinearCase(m, rows, k, dtype=dtype), FLAT, kernels)
    check(LinearCase(3, rows, k, dtype=torch.float16), GEMV, kernels)


@pytest.mark.parametrize("kernel", [GEMV, FLAT], ids=["gemv", "flat"])
@pytest.mark.parametrize("activation", EPILOGUES, ids=str)
def test_epilogues(activation: str | None, kernel: int, kernels: torch.device) -> None:
    for m, bias, residual in product((2, 8, 31, 128), (False, True), (False, True)):
        if kernel == FLAT or m <= 8:
            dtype = DTYPES[(m + residual) % 2]
            case = LinearCase(m, 50, 136, "dense", activation, bias, residual, dtype)
            check(case, kernel, kernels)


# Hopper's copies interleave gate and up rows in blocks of eight where n is a multiple of eight.
@pytest.mark.parametrize("rows", [16, 334, 336])
def test_swiglu_pairs_rows_of_several_tiles(rows: int, kernels: torch.device) -> None:
    for m in (4, 40, 97):
        case = LinearCase(m, rows, 200, "dense", "swiglu", bias=True)
        check(case, FLAT, kernels)
        check(case, FLAT, kernels, splits=3)
    check(LinearCase(4, rows, 200, "dense", "swiglu", bias=True), GEMV, kernels)


def test_activations_at_their_ends(kernels: torch.device) -> None:
    values = torch.tensor([0.0, -0.0, 1e-4, -1e-4, 3.0, -3.0, 20.0, -20.0, 3e4, -3e4])
    for activation in ("gelu", "gelu_tanh", "silu"):
        case = LinearCase(1, values.numel(), 8, "dense", activation, bias=True, dtype=torch.float16)
        inputs = replace(draw(case, kernels), bias=values.half().to(kernels))
        inputs.x.zero_()
        assert_linear(case, inputs, multiply(inputs, FLAT))


@pytest.mark.parametrize("kernel", [GEMV, FLAT], ids=["gemv", "flat"])
def test_fp8_out(kernel: int, kernels: torch.device) -> None:
    case = LinearCase(7, 50, 72, bias=True, dtype=torch.float16)
    inputs = draw(case, kernels)
    plain = multiply(inputs, kernel)
    # Power-of-two scales make the division exact: large ones reach subnormals, small ones saturate.
    for exponent in (-9, 0, 9):
        scale = torch.tensor([2.0**exponent], device=kernels)
        out = multiply(inputs, kernel, out_scale=scale)
        exact = inputs.exact() / 2.0**exponent
        wanted = (plain.double().cpu() / 2.0**exponent).clamp(-448, 448).to(torch.float8_e4m3fn)
        # fp16 keeps 7 bits more than e4m3: only where they straddle a tie do the two differ.
        differ = out.cpu().double() != wanted.double()
        assert int(differ.sum()) <= 4
        spacing = 2.0 ** (exact.abs().clamp(2.0**-6, 448).log2().floor() - 3)
        error = (out.cpu().double() - exact.clamp(-448, 448)).abs()
        assert bool((error <= spacing * (0.5 + 2.0**-6)).all())


def test_fp8_out_rounds_as_torch_does(kernels: torch.device) -> None:
    """Every fp16 value as a bias: rounding, ties, subnormals, saturation, NaN."""
    bits = torch.arange(-(2**15), 2**15, 8, dtype=torch.int32).to(torch.int16)
    bias = torch.cat([bits.view(torch.float16), torch.tensor([float("nan")]).half()])
    case = LinearCase(1, bias.numel(), 8, dtype=torch.float16)
    inputs = replace(draw(case, kernels), bias=bias.to(kernels))
    inputs.x.zero_()
    for exponent in (0, 10):
        scale = torch.tensor(2.0**exponent, device=kernels)
        out = multiply(inputs, FLAT, out_scale=scale).cpu().float()[0]
        wide = (bias.float() / 2.0**exponent).clamp(-448, 448)
        torch.testing.assert_close(
            out, wide.to(torch.float8_e4m3fn).float(), rtol=0, atol=0, equal_nan=True
        )


def strided(tensor: torch.Tensor, extra: int) -> torch.Tensor:
    """The same values in rows ``extra`` elements further apart; between them NaN."""
    rows, columns = tensor.shape
    wide = poisoned((rows, columns + extra), tensor.dtype, tensor.device)
    wide[:, :columns] = tensor
    return wide[:, :columns]


@pytest.mark.parametrize("kernel", [GEMV, FLAT], ids=["gemv", "flat"])
def test_strides(kernel: int, kernels: torch.device) -> None:
    case = LinearCase(6, 45, 72, residual=True)
    inputs = draw(case, kernels)
    plain = multiply(inputs, kernel)
    assert inputs.residual is not None
    far = replace(inputs, x=strided(inputs.x, 8), residual=strided(inputs.residual, 3))
    weight = strided(inputs.stored.weight, 24)
    room = poisoned((6, 50), torch.bfloat16, kernels)
    out = multiply(far, kernel, out=room[:, :45], weight=weight)
    assert torch.equal(out, plain)
    assert bool(room[:, 45:].isnan().all())


@pytest.mark.parametrize("kernel", [GEMV, FLAT], ids=["gemv", "flat"])
def test_expanded_rows(kernel: int, kernels: torch.device) -> None:
    """Rows of stride 0, which Hopper's tensor maps cannot express."""
    case = LinearCase(6, 45, 72)
    inputs = draw(case, kernels)
    one = replace(inputs, x=inputs.x[:1].expand(6, 72))
    assert_linear(case, one, multiply(one, kernel))
    weight = inputs.stored.weight[:1].expand(45, 72)
    same = replace(inputs, stored=inputs.stored._replace(weight=weight))
    assert_linear(case, same, multiply(same, kernel))


def test_special_values_stay_in_their_row(kernels: torch.device) -> None:
    case = LinearCase(5, 40, 72, dtype=torch.float16)
    inputs = draw(case, kernels)
    plain = {kernel: multiply(inputs, kernel) for kernel in (GEMV, FLAT)}
    inputs.x[2, 3], inputs.x[4, 70] = float("nan"), float("inf")
    for kernel, before in plain.items():
        out = multiply(inputs, kernel)
        assert torch.equal(out[[0, 1, 3]], before[[0, 1, 3]])
        assert bool(out[2].isnan().all())
        assert not bool(out[4].isfinite().any())


@pytest.mark.parametrize("activation", [None, "swiglu"], ids=str)
def test_row_bits_do_not_depend_on_m(activation: str | None, kernels: torch.device) -> None:
    whole = draw(LinearCase(128, 290, 520, "dense", activation, bias=True), kernels)
    wanted = multiply(whole, FLAT, batch_invariant=True)
    for m in (1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 96, 127):
        case = replace(whole.case, m=m)
        for rows in (slice(0, m), slice(128 - m, 128)):
            part = replace(whole, case=case, x=whole.x[rows])
            assert torch.equal(multiply(part, FLAT, batch_invariant=True), wanted[rows]), m


def test_runs_give_equal_bits(kernels: torch.device) -> None:
    for kernel, m, splits in ((FLAT, 20, 0), (FLAT, 3, 4), (GEMV, 3, 3)):
        inputs = draw(LinearCase(m, 300, 2056), kernels)
        first = multiply(inputs, kernel, splits)
        assert all(torch.equal(first, multiply(inputs, kernel, splits)) for _ in range(3))


def test_pieces_are_added_in_their_order(kernels: torch.device) -> None:
    """Large terms cancel only in the order of k: 2**24 - 2**24 + 1 is 1, 2**24 + 1 - 2**24 is 0."""
    k, pieces = 4 * 64, 4
    x = torch.zeros(1, k)
    x[0, 0], x[0, 64], x[0, 128] = 2.0**12, -(2.0**12), 1.0
    weight = torch.zeros(130, k)
    weight[:, 0], weight[:, 64], weight[:, 128] = 2.0**12, 2.0**12, 1.0
    case = LinearCase(1, 130, k)
    inputs = draw(case, kernels)
    inputs.x.copy_(x)
    inputs.stored.weight.copy_(weight)
    assert bool((multiply(inputs, FLAT, pieces) == 1).all())
    assert bool((multiply(inputs, GEMV, pieces) == 1).all())


def test_programmatic_launch(kernels: torch.device) -> None:
    for kernel in (GEMV, FLAT):
        inputs = draw(LinearCase(3, 45, 136), kernels)
        assert torch.equal(multiply(inputs, kernel, programmatic=True), multiply(inputs, kernel))


def test_nothing_to_do(kernels: torch.device) -> None:
    for m, rows in ((0, 24), (3, 0)):
        inputs = draw(LinearCase(m, rows, 8), kernels)
        assert multiply(inputs, FLAT).shape == (m, rows)


def test_workspace_only_where_tiles_are_shared(kernels: torch.device) -> None:
    inputs = draw(LinearCase(3, 256, 512), kernels)
    assert workspace_bytes(inputs, FLAT, 1) == 0
    assert workspace_bytes(inputs, GEMV, 1) == 0
    # 2 tiles in 3 pieces, two places a thread block, 128 rows by 16, four bytes.
    assert workspace_bytes(inputs, FLAT, 3) == 6 * 2 * 128 * 16 * 4
    assert workspace_bytes(inputs, GEMV, 2) == 32 * 2 * 16 * 8 * 4
    needed = workspace_bytes(inputs, FLAT, 3)
    small = torch.zeros(needed - 1, dtype=torch.uint8, device=kernels)
    with pytest.raises(
        ValueError, match=f"workspace: {needed - 1} bytes .* needed: {needed} bytes"
    ):
        multiply(inputs, FLAT, 3, workspace=small)
    with pytest.raises(ValueError, match="tickets must not be null when thread blocks share tiles"):
        multiply(inputs, FLAT, 3, tickets=None)


SMALL = LinearCase(3, 24, 64)


def refused(
    device: torch.device,
    case: LinearCase = SMALL,
    kernel: int = FLAT,
    splits: int = 0,
    **changes: torch.Tensor | None,
) -> str:
    """The message of a call with some arguments changed."""
    inputs: LinearInputs = draw(case, device)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        multiply(inputs, kernel, splits, **changes)
    return str(caught.value).split("\n")[0]


def test_refusals(kernels: torch.device) -> None:
    def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=kernels)

    assert refused(kernels, LinearCase(129, 24, 64)) == "m is 129, allowed: 0 to 128"
    assert refused(kernels, LinearCase(9, 24, 64), GEMV) == (
        "m is 9, allowed for kernel gemv: up to 8; use flat"
    )
    assert refused(kernels, LinearCase(3, 24, 60)) == (
        "k is 60, allowed: multiples of 8; pad with zeros"
    )
    assert refused(kernels, splits=-1).startswith("splits is -1, allowed: 0 to ")
    assert refused(kernels, kernel=3) == "kernel is 3, allowed: 0 to 2"
    assert refused(kernels, x=tensor(3, 65)[:, 1:]).startswith("x: address ")
    assert refused(kernels, x=tensor(3, 68)[:, :64]) == (
        "x: row stride is 68 elements; the kernel needs multiples of 8: pass a copy with padded "
        "rows"
    )
    assert refused(kernels, weight=tensor(24, 68)[:, :64]).startswith(
        "weight: row stride is 68 elements; the kernel needs multiples of 8"
    )
    assert refused(kernels, weight=tensor(24, 64, dtype=torch.float16)) == (
        "weight must have the dtype of x"
    )
    assert refused(kernels, weight=tensor(23, 64)) == "weight must have the shape (24, 64)"
    assert refused(kernels, weight=tensor(64, 24).T) == (
        "weight must be contiguous in its last dimension"
    )
    assert refused(kernels, bias=tensor(23)) == "bias must have the shape (24,)"
    assert refused(kernels, residual=tensor(3, 23)) == "residual must have the shape (3, 24)"
    assert refused(kernels, out=tensor(3, 24, dtype=torch.float8_e4m3fn)) == (
        "out_scale: an FP8 out needs it, any other takes none"
    )
    assert refused(kernels, out=tensor(3, 24), out_scale=tensor(1, dtype=torch.float32)) == (
        "out_scale: an FP8 out needs it, any other takes none"
    )
    assert refused(kernels, weight_scale=tensor(24, dtype=torch.float32)) == (
        "weight_scale, weight_zero: a 16-bit weight takes neither"
    )
    assert refused(kernels, LinearCase(3, 24, 64, dtype=torch.float32)).startswith("dtype: ")
    many = LinearCase(1, 128 * 70, 64 * 64)
    assert refused(kernels, many, splits=64) == (
        "splits is 64: 70 tiles of weight in so many pieces are more than 4096 thread blocks; use "
        "fewer, or 0"
    )
    inputs = draw(LinearCase(3, 24, 64), kernels)
    with pytest.raises(RuntimeError, match="batch_invariant: kernel gemv serves m up to 8 only"):
        multiply(inputs, GEMV, batch_invariant=True)
