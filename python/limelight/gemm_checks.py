# SPDX-License-Identifier: BSD-3-Clause
"""What flat_linear accepts: shapes, dtypes and the formats of a weight; every refusal by name."""

from __future__ import annotations

import math
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limelight.messages import as_text, bad, check_last_stride, check_out, check_tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FP8 = torch.float8_e4m3fn
# Name -> value of limelight::Activation.
ACTIVATIONS: dict[str | None, int] = {
    None: 0,
    "gelu": 1,
    "gelu_tanh": 2,
    "silu": 3,
    "swiglu": 4,
}
BLOCK = 128  # rows and columns of an fp8 weight that share one scale
GROUPS = (64, 128)  # columns of an int4 weight that share one scale


class Layout(NamedTuple):
    """What the shapes and dtypes of a call say."""

    m: int  # rows of x, leading dimensions multiplied
    n: int  # columns of out
    k: int
    rows: int  # rows of weight: 2 n for swiglu, else n
    format: str  # 16bit, float32, float64, fp8_channel, fp8_block, int4_g64 or int4_g128

    @property
    def quantized(self) -> bool:
        """Whether weight is stored in less than 16 bits."""
        return self.format.startswith(("fp8", "int4"))

    @property
    def group(self) -> int:
        """Columns of an int4 weight that share one scale, else 0."""
        return int(self.format[6:]) if self.format.startswith("int4") else 0


def check_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight_scale: Tensor | None,
    weight_zero: Tensor | None,
    out_scale: Tensor | None,
    activation: str | None,
) -> Layout:
    """Check a call as a whole; its layout."""
    check_tensor("x", x)
    check_tensor("weight", weight)
    if x.dim() < 1:
        raise bad("x.shape", x.shape, "(..., K)", "x[None]")
    if x.dtype not in DTYPES:
        allowed = "float16, bfloat16, float32 or float64"
        raise bad("x.dtype", x.dtype, allowed, "x.to(torch.bfloat16)", TypeError)
    if weight.dim() != 2:
        raise bad("weight.shape", weight.shape, "2 dimensions", "weight (N, K)")
    if not isinstance(activation, (str, NoneType)) or activation not in ACTIVATIONS:
        names = ", ".join(map(repr, ACTIVATIONS))
        raise bad("activation", repr(activation), names, "activation=None")
    k = x.shape[-1]
    format_name = _weight_format(x, weight, weight_scale, weight_zero)
    rows = weight.shape[0]
    if activation == "swiglu" and rows % 2:
        raise bad(
            "weight rows", rows, "even for swiglu: [gate 0..N-1 | up N..2N-1]", "activation='silu'"
        )
    n = rows // 2 if activation == "swiglu" else rows
    m = math.prod(x.shape[:-1])
    check_last_stride("x", x)
    check_last_stride("weight", weight)
    _check_operand("bias", bias, (rows,), x, "one value per row of weight")
    _check_operand("residual", residual, (*x.shape[:-1], n), x, "a residual of out's shape")
    if out_scale is not None:
        _check_scale("out_scale", out_scale, torch.float32, x)
        if out_scale.numel() != 1:
            raise bad("out_scale.shape", out_scale.shape, "one element", "out_scale.max()")
    for name, tensor in (
        ("weight", weight),
        ("weight_scale", weight_scale),
        ("weight_zero", weight_zero),
    ):
        if tensor is not None and tensor.device != x.device:
            raise _wrong_device(name, tensor, x)
    return Layout(m, n, k, rows, format_name)


def _weight_format(
    x: Tensor, weight: Tensor, weight_scale: Tensor | None, weight_zero: Tensor | None
) -> str:
    k = x.shape[-1]
    if weight.dtype == torch.uint8:
        return _int4_format(x, weight, weight_scale, weight_zero)
    if weight_zero is not None:
        raise bad("weight_zero", "given", f"None for a {weight.dtype} weight", "weight_zero=None")
    if weight.shape[1] != k:
        raise bad("weight.shape", weight.shape, f"(N, {k})", "weight of x's K")
    if weight.dtype == FP8:
        return _fp8_format(x, weight, weight_scale)
    if weight.dtype not in DTYPES or weight.dtype != x.dtype:
        allowed = (
            "float16, bfloat16, float32 or float64, the same for all; or float8_e4m3fn or uint8 "
            "(int4) with weight_scale"
        )
        raise bad("weight.dtype", weight.dtype, allowed, f"weight.to({x.dtype})", TypeError)
    if weight_scale is not None:
        raise bad("weight_scale", "given", f"None for a {weight.dtype} weight", "weight_scale=None")
    return "16bit" if x.element_size() == 2 else as_text(x.dtype).removeprefix("torch.")


def _fp8_format(x: Tensor, weight: Tensor, scale: Tensor | None) -> str:
    rows, k = weight.shape
    _check_scale("weight_scale", scale, torch.float32, x)
    assert scale is not None
    blocks = (-(-rows // BLOCK), -(-k // BLOCK))
    if scale.dim() == 1 and scale.shape[0] == rows:
        return "fp8_channel"
    if scale.dim() == 2 and tuple(scale.shape) == blocks:
        return "fp8_block"
    allowed = f"({rows},) per row or {as_text(blocks)} per {BLOCK} x {BLOCK} block"
    raise bad("weight_scale.shape", scale.shape, allowed, "limelight.quantize.quantize_fp8(weight)")


def _int4_format(x: Tensor, weight: Tensor, scale: Tensor | None, zero: Tensor | None) -> str:
    rows, k = weight.shape[0], x.shape[-1]
    if weight.shape[1] * 2 != k:
        allowed = f"(N, {k // 2}): two values of K = {k} a byte"
        raise bad("weight.shape", weight.shape, allowed, "limelight.quantize.quantize_int4(weight)")
    _check_scale("weight_scale", scale, x.dtype, x)
    assert scale is not None
    group = 0
    for candidate in GROUPS:  # one by one: a traced K is no constant, the format's name is one
        fits = scale.dim() == 2 and k % candidate == 0
        if fits and scale.shape[0] == rows and scale.shape[1] == k // candidate:
            group = candidate
    if not group:
        shapes = [as_text((rows, k // group)) for group in GROUPS if k % group == 0]
        allowed = " or ".join(shapes) or "none: K must be a multiple of 64"
        raise bad(
            "weight_scale.shape", scale.shape, allowed, "limelight.quantize.quantize_int4(weight)"
        )
    if zero is not None:
        _check_scale("weight_zero", zero, torch.uint8, x)
        if zero.shape != scale.shape:
            raise bad("weight_zero.shape", zero.shape, as_text(scale.shape), "weight_scale's shape")
    return f"int4_g{group}"


def _check_scale(name: str, scale: Any, dtype: torch.dtype, x: Tensor) -> None:
    check_tensor(name, scale)
    if scale.dtype != dtype:
        raise bad(f"{name}.dtype", scale.dtype, str(dtype), f"{name}.to({dtype})", TypeError)
    if scale.device != x.device:
        raise _wrong_device(name, scale, x)


def _check_operand(
    name: str, value: Tensor | None, shape: tuple[int, ...], x: Tensor, nearest: str
) -> None:
    """bias and residual: x's dtype and device, a contiguous last dimension."""
    if value is None:
        return
    check_tensor(name, value)
    if tuple(value.shape) != shape:
        allowed = f"({shape[0]},)" if len(shape) == 1 else as_text(shape)
        raise bad(f"{name}.shape", value.shape, allowed, nearest)
    if value.dtype != x.dtype:
        allowed = f"{x.dtype}, as x has"
        raise bad(f"{name}.dtype", value.dtype, allowed, f"{name}.to({x.dtype})", TypeError)
    if value.device != x.device:
        raise _wrong_device(name, value, x)
    check_last_stride(name, value)


def _wrong_device(name: str, value: Tensor, x: Tensor) -> Exception:
    nearest = f"{name}.to({str(x.device)!r})"
    return bad(f"{name}.device", value.device, f"{x.device}, as x has", nearest)


def check_linear_out(out: Tensor, x: Tensor, layout: Layout, *, fp8: bool) -> None:
    """Check a caller's output tensor."""
    check_out(out, (*x.shape[:-1], layout.n), FP8 if fp8 else x.dtype, x)
