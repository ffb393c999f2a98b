# SPDX-License-Identifier: BSD-3-Clause
"""flat_linear in torch: every weight format and epilogue against float64, gradients, refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import limelight
import pytest
import torch
from linear_cases import EPILOGUES, FORMATS, LinearCase, assert_linear, draw
from torch import Tensor

HALF = torch.bfloat16
FP8 = torch.float8_e4m3fn


@pytest.mark.parametrize("activation", EPILOGUES)
@pytest.mark.parametrize("weight_format", ["dense", *FORMATS])
def test_agrees_with_float64(weight_format: str, activation: str | None) -> None:
    case = LinearCase(5, 70, 256, weight_format, activation, bias=True, residual=True)
    assert_linear(case, draw(case))


@pytest.mark.parametrize("m", [1, 129])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_dtype_and_many_rows(m: int, dtype: torch.dtype) -> None:
    for weight_format in ("dense", "fp8", "int4_zero"):
        case = LinearCase(m, 34, 128, weight_format, "swiglu", dtype=dtype)
        assert_linear(case, draw(case))


@pytest.mark.parametrize("weight_format", ["fp8_block", "int4_g64"])
def test_blocks_of_rows_join(weight_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than one block of the expanded weight holds."""
    case = LinearCase(3, 300, 192, weight_format, None)
    inputs = draw(case)
    whole = inputs.call()
    monkeypatch.setattr("limelight.gemm_torch._BLOCK_BYTES", 1)
    # float32 sums of 192 products, each within 192 units of 2^-24, rounded to bfloat16.
    torch.testing.assert_close(inputs.call(), whole, rtol=2.0**-7, atol=1e-5)
    assert_linear(case, inputs)


def test_leading_dimensions_and_strides() -> None:
    x, weight = torch.randn(2, 3, 80)[..., 8:72], torch.randn(10, 128)[:, 32:96]
    residual = torch.randn(2, 3, 10)
    want = torch.nn.functional.silu(x @ weight.T) + residual
    found = limelight.flat_linear(x, weight, activation="silu", residual=residual)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(limelight.flat_linear(x[0, 0], weight), x[0, 0] @ weight.T)
    assert limelight.flat_linear(x[:, :0], weight).shape == (2, 0, 10)
    assert limelight.flat_linear(x, weight[:0]).shape == (2, 3, 0)


@pytest.mark.parametrize("weight_format", ["dense", "fp8"])
def test_float8_results_are_scaled_and_saturated(weight_format: str) -> None:
    case = LinearCase(4, 33, 64, weight_format, None, dtype=torch.float32)
    inputs = draw(case)
    exact = inputs.exact()
    scale = exact.abs().amax().float() / 900  # twice the range: large values saturate
    found = inputs.call(out_scale=scale)
    assert found.dtype == FP8
    want = (exact / scale.double()).clamp(-448, 448)
    # Half a unit of three mantissa bits: 2^-4 relative, 2^-10 below the normal range.
    assert bool(((found.double() - want).abs() <= want.abs() * 2.0**-4 * 1.001 + 2.0**-10).all())
    assert float(found.float().abs().max()) == 448
    out = torch.empty_like(found)
    assert inputs.call(out_scale=scale, out=out) is out
    assert torch.equal(out.view(torch.uint8), found.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("weight_format", ["dense", "fp8_block", "int4"])
def test_batch_invariant_bits(weight_format: str, dtype: torch.dtype) -> None:
    """A row's bits are the same alone, among others and at another place."""
    inputs = draw(LinearCase(37, 40, 256, weight_format, "gelu", dtype=dtype))
    whole = inputs.call(batch_invariant=True)
    for rows in (slice(0, 1), slice(5, 9), slice(36, 37), slice(3, 36)):
        part = inputs.call(x=inputs.x[rows], batch_invariant=True)
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("activation", EPILOGUES)
def test_gradients_and_second_derivatives(activation: str | None) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*s, dtype=torch.float64) for s in ((2, 3, 5), (6, 5), (6,)))
    residual = torch.randn(2, 3, 3 if activation == "swiglu" else 6, dtype=torch.float64)
    leaves = tuple(t.requires_grad_() for t in (x, weight, bias, residual))

    def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return limelight.flat_linear(x, weight, bias, activation, residual)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_quantised_weight_passes_the_gradient_of_x(weight_format: str) -> None:
    inputs = draw(LinearCase(3, 10, 128, weight_format, "silu", bias=True, dtype=torch.float32))
    x, bias = inputs.x.requires_grad_(), inputs.bias
    assert bias is not None
    inputs.call(x=x, bias=bias.requires_grad_()).square().sum().backward()
    exact = inputs.x.detach().double().requires_grad_()
    inputs.exact(exact).square().sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
    assert bias.grad is not None


def test_transforms_and_forward_mode() -> None:
    x, weight = torch.randn(3, 8), torch.randn(4, 8)

    def call(x: Tensor) -> Tensor:
        return limelight.flat_linear(x, weight, activation="gelu")

    want = torch.func.jacrev(lambda x: torch.nn.functional.gelu(x @ weight.T))(x)
    torch.testing.assert_close(torch.func.jacrev(call)(x), want)
    torch.testing.assert_close(torch.func.jacfwd(call)(x), want)
    batched = torch.randn(5, 3, 8)
    torch.testing.assert_close(torch.func.vmap(call)(batched), call(batched))


def test_autocast() -> None:
    x, weight, bias = torch.randn(2, 8), torch.randn(4, 8), torch.randn(4)
    with torch.autocast("cpu", dtype=HALF):
        found = limelight.flat_linear(x, weight, bias)
        assert torch.equal(found, torch.nn.functional.linear(x, weight, bias))
        assert torch.equal(limelight.flat_linear(x.to(HALF), weight, bias), found)
        layer = limelight.FlatLinear(128, 8, quantization="int4")
        assert layer(torch.randn(2, 128)).dtype == layer(torch.randn(2, 128).to(HALF)).dtype == HALF
    assert found.dtype == HALF


def test_out() -> None:
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    want = limelight.flat_linear(x, weight)
    out = torch.full((3, 12), float("nan"))[:, 2:7]
    assert limelight.flat_linear(x, weight, out=out) is out
    assert torch.equal(out, want)


X, W, W8 = torch.zeros(2, 128), torch.zeros(6, 128), torch.zeros(6, 128).to(FP8)
W4 = torch.zeros(6, 64, dtype=torch.uint8)
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": 3}, TypeError, "x is a int; allowed: a torch.Tensor"),
    ({"x": X.int()}, TypeError, "x.dtype is torch.int32; allowed: float16, bfloat16"),
    ({"x": X[0, 0]}, ValueError, "x.shape is (); allowed: (..., K)"),
    ({"x": X.T.contiguous().T}, ValueError, "x.stride(-1) is 2; allowed: 1"),
    ({"weight": W[0]}, ValueError, "weight.shape is (128); allowed: 2 dimensions"),
    ({"weight": W[:, :96]}, ValueError, "weight.shape is (6, 96); allowed: (N, 128)"),
    ({"weight": W.half()}, TypeError, "weight.dtype is torch.float16; allowed: float16, bfloat16"),
    ({"weight": W.to("meta")}, ValueError, "weight.device is meta; allowed: cpu, as x has"),
    ({"bias": X[0, :5]}, ValueError, "bias.shape is (5); allowed: (6,)"),
    ({"bias": X[0, :6].half()}, TypeError, "bias.dtype is torch.float16; allowed: torch.float32"),
    ({"residual": X[:, :5]}, ValueError, "residual.shape is (2, 5); allowed: (2, 6)"),
    ({"activation": "relu"}, ValueError, "activation is 'relu'; allowed: None, 'gelu'"),
    ({"weight": W[:5], "activation": "swiglu"}, ValueError, "weight rows is 5; allowed: even for"),
    ({"weight_scale": X[0, :6]}, ValueError, "weight_scale is given; allowed: None for a torch.fl"),
    ({"weight_zero": W4}, ValueError, "weight_zero is given; allowed: None for a torch.float32"),
    ({"weight": W8}, TypeError, "weight_scale is a NoneType; allowed: a torch.Tensor"),
    (
        {"weight": W8, "weight_scale": X[0, :5]},
        ValueError,
        "weight_scale.shape is (5); allowed: (6,) per row or (1, 1) per 128 x 128 block",
    ),
    (
        {"weight": W8, "weight_scale": X[0, :6].double()},
        TypeError,
        "weight_scale.dtype is torch.float64; allowed: torch.float32",
    ),
    ({"weight": W4[:, :60]}, ValueError, "weight.shape is (6, 60); allowed: (N, 64): two values"),
    (
        {"weight": W4, "weight_scale": torch.zeros(6, 4)},
        ValueError,
        "weight_scale.shape is (6, 4); allowed: (6, 2) or (6, 1)",
    ),
    (
        {"weight": W4, "weight_scale": torch.zeros(6, 2), "weight_zero": W4},
        ValueError,
        "weight_zero.shape is (6, 64); allowed: (6, 2)",
    ),
    ({"out_scale": X[0, :2]}, ValueError, "out_scale.shape is (2); allowed: one element"),
    ({"out": torch.zeros(2, 5)}, ValueError, "out.shape is (2, 5); allowed: (2, 6)"),
    ({"out": torch.zeros(2, 6).half()}, TypeError, "out.dtype is torch.float16; allowed: torch.fl"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED, ids=[r[2][:30] for r in REFUSED])
def test_refusals(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        limelight.flat_linear(**({"x": X, "weight": W} | changes))


GRADIENT: list[tuple[Callable[[], Tensor], str]] = [
    (
        lambda: limelight.flat_linear(X.clone().requires_grad_(), W, out=torch.zeros(2, 6)),
        "out is given while an input requires a gradient; allowed: None then",
    ),
    (
        lambda: limelight.flat_linear(X, W8, weight_scale=torch.ones(6).requires_grad_()),
        "weight_scale.requires_grad is True; allowed: False: a quantised weight and scales get no",
    ),
    (
        lambda: limelight.flat_linear(X.clone().requires_grad_(), W, out_scale=torch.ones(1)),
        "out_scale is given; allowed: None while an input requires a gradient",
    ),
]


@pytest.mark.parametrize(("call", "message"), GRADIENT, ids=["out", "weight_scale", "out_scale"])
def test_refused_gradients(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
