# SPDX-License-Identifier: BSD-3-Clause
"""Flat matrix products: a few rows against a large weight, as in decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from limelight import gemm_execute, gemm_torch
from limelight.autograd import PLAIN, is_eager
from limelight.gemm_checks import Layout, check_linear, check_linear_out
from limelight.messages import bad, check_tensor
from limelight.ops import linear_op


def flat_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    weight_scale: Tensor | None = None,
    *,
    weight_zero: Tensor | None = None,
    out_scale: Tensor | None = None,
    batch_invariant: bool = False,
    static_weight: bool = False,
) -> Tensor:
    """Return activation(x @ weight.T + bias) + residual, made for few rows (arXiv 2311.01282).

    x: (..., K), M rows in all; float16, bfloat16, float32 or float64.
    weight: (N, K) of x's dtype; or float8_e4m3fn; or uint8 (N, K/2) of int4 values, byte j holding
        k = 2j in its low nibble and k = 2j+1 in its high one.
    weight_scale: float8: fp32 (N,) per row, or (ceil(N/128), ceil(K/128)) per 128 x 128 block.
        int4: (N, K/group) in x's dtype, group 64 or 128.
    weight_zero: int4: None for w = (value - 8) * scale, or uint8 (0 to 127) like weight_scale for
        w = (value - zero) * scale.
    bias: (N,) of x's dtype. residual: (..., N) of x's dtype, added last.
    activation: None, "gelu" (erf), "gelu_tanh", "silu", or "swiglu": the weight then has 2N rows,
        [gate | up], and the result is silu(gate) * up.
    out: written in place, without gradient. out_scale: one fp32 value; the result is then
        float8_e4m3fn, round(y / out_scale), saturated.
    batch_invariant: a row's bits do not depend on the other rows nor on their number.
    static_weight: promises that the kernel just before on the stream does not write weight nor its
        scales, so that they may be read before it has ended (sm_90 and newer).

    Returns (..., N) in x's dtype, equal bits in every run. Up to M = 128 a measured table or a
    model chooses among two kernels and torch (``explain_linear``); larger M goes to torch, which
    expands a quantised weight by blocks. Differentiable for x, bias, residual and a weight that is
    not quantised. Autocast casts float32 to its dtype.
    Raises ValueError or TypeError naming a bad argument; FallbackError as LIMELIGHT_FALLBACK says.
    """
    if not isinstance(x, Tensor):
        check_tensor("x", x)
    device = x.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        int4 = isinstance(weight, Tensor) and weight.dtype is torch.uint8
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias, residual = (_autocast(t, dtype) for t in (x, weight, bias, residual))
        weight_scale = _autocast(weight_scale, dtype) if int4 else weight_scale
    tensors = (x, weight, bias, residual, weight_scale, weight_zero, out_scale)
    if torch.is_grad_enabled() and _differentiates(tensors, activation):
        if out is not None:
            nearest = "under torch.no_grad()"
            raise bad("out", "given while an input requires a gradient", "None then", nearest)
        return _differentiable(tensors, activation, batch_invariant, static_weight)
    if is_eager(x) and type(weight) in PLAIN:
        return gemm_execute.run(*tensors, activation, batch_invariant, static_weight, out)
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        result = _in_torch(tensors, activation, batch_invariant)
    else:
        result = linear_op(*tensors, activation, batch_invariant, static_weight)
    if out is None:
        return result
    check_linear_out(out, x, check_linear(*tensors, activation), fp8=out_scale is not None)
    return out.copy_(result)


def _differentiates(tensors: Any, activation: str | None) -> bool:
    try:
        return any(t is not None and t.requires_grad for t in tensors)
    except AttributeError:
        _layout(tensors, activation)  # names what is no tensor
        raise


def _autocast(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) and x.dtype is torch.float32 else x


def _layout(tensors: Any, activation: str | None) -> Layout:
    x, weight, bias, residual, scale, zero, out_scale = tensors
    return check_linear(x, weight, bias, residual, scale, zero, out_scale, activation)


def _in_torch(tensors: Any, activation: str | None, batch_invariant: bool) -> Tensor:
    """The torch path without operator or Function, for transforms and forward-mode derivatives."""
    x, weight, bias, residual, scale, zero, out_scale = tensors
    layout = _layout(tensors, activation)
    return gemm_torch.forward(
        x, weight, bias, residual, scale, zero, out_scale, activation, batch_invariant, layout
    )


def _differentiable(
    tensors: Any, activation: str | None, batch_invariant: bool, static_weight: bool
) -> Tensor:
    for t in tensors:
        if t is not None and not isinstance(t, Tensor):
            _layout(tensors, activation)  # names it
    quantized = tensors[4] is not None
    for name, position in (("weight", 1), ("weight_scale", 4), ("out_scale", 6)):
        tensor = tensors[position]
        if tensor is not None and tensor.requires_grad and (position != 1 or quantized):
            allowed = "False: a quantised weight and scales get no gradient"
            raise bad(f"{name}.requires_grad", True, allowed, f"{name}.detach()")
    if tensors[6] is not None:
        allowed = "None while an input requires a gradient: float8 results have none"
        raise bad("out_scale", "given", allowed, "under torch.no_grad()")
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return _in_torch(tensors, activation, batch_invariant)
    apply: Any = LinearFunction.apply
    result: Tensor = apply(*tensors[:6], activation, batch_invariant, static_weight)
    return result


class LinearFunction(torch.autograd.Function):
    """flat_linear with gradients for x, weight, bias and residual."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        scale: Tensor | None,
        zero: Tensor | None,
        activation: str | None,
        batch_invariant: bool,
        static_weight: bool,
    ) -> Tensor:
        """Compute out, on a kernel where one serves."""
        flags = batch_invariant, static_weight
        result: Tensor = linear_op(x, weight, bias, residual, scale, zero, None, activation, *flags)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the inputs: the backward pass computes the pre-activation again."""
        x, weight, bias, residual, scale, zero, ctx.activation, *_ = inputs
        ctx.save_for_backward(x, weight, bias, scale, zero)
        ctx.layout = check_linear(x, weight, bias, residual, scale, zero, None, ctx.activation)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in torch, differentiable themselves."""
        needs = ctx.needs_input_grad
        x, weight, bias, scale, zero = ctx.saved_tensors
        dx, dweight, dbias = gemm_torch.backward(
            dout, x, weight, bias, scale, zero, ctx.activation, ctx.layout, needs[:3]
        )
        return dx, dweight, dbias, dout if needs[3] else None, *[None] * 5
