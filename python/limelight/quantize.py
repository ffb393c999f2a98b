# SPDX-License-Identifier: BSD-3-Clause
"""Weights in less than 16 bits, in flat_linear's formats: round to nearest, no calibration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limelight.gemm_checks import BLOCK, FP8, GROUPS
from limelight.messages import bad, check_tensor

FP8_MAX = 448.0
MODES = ("fp8", "fp8_block", "int4", "int4_g64", "int4_zero", "int4_g64_zero")


class QuantizedWeight(NamedTuple):
    """The weight, weight_scale and weight_zero that flat_linear takes; no scale: not quantised."""

    weight: Tensor
    scale: Tensor | None
    zero: Tensor | None = None


def _check(weight: Tensor) -> None:
    check_tensor("weight", weight)
    if weight.dim() != 2:
        raise bad("weight.shape", weight.shape, "2 dimensions", "weight (N, K)")
    if not weight.is_floating_point() or weight.element_size() == 1:
        allowed = "float16, bfloat16, float32 or float64"
        raise bad("weight.dtype", weight.dtype, allowed, "the weight before quantising", TypeError)


@torch.no_grad()
def quantize_fp8(weight: Tensor, *, per_block: bool = False) -> QuantizedWeight:
    """weight (N, K) as float8_e4m3fn with fp32 scales that map the largest value to 448.

    One scale a row (N,), or one per 128 x 128 block (ceil(N/128), ceil(K/128)). Zeros get scale 1.
    """
    _check(weight)
    wide = weight.float()
    if not per_block:
        scale = _positive(wide.abs().amax(1) / FP8_MAX if wide.numel() else wide.sum(1))
        return QuantizedWeight(_to_fp8(wide / scale[:, None]), scale)
    rows, k = weight.shape
    padded = torch.nn.functional.pad(wide.abs(), (0, -k % BLOCK, 0, -rows % BLOCK))
    blocks = padded.view(-(-rows // BLOCK), BLOCK, -(-k // BLOCK), BLOCK)
    scale = _positive(blocks.amax((1, 3)) / FP8_MAX)
    full = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :k]
    return QuantizedWeight(_to_fp8(wide / full), scale)


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _to_fp8(x: Tensor) -> Tensor:
    return x.clamp(-FP8_MAX, FP8_MAX).to(FP8)


def pack_int4(values: Tensor) -> Tensor:
    """(N, K) integers 0..15 to (N, K/2) bytes: k = 2j in the low nibble of byte j."""
    values = values.to(torch.uint8)
    return values[:, 0::2] | (values[:, 1::2] << 4)


@torch.no_grad()
def quantize_int4(
    weight: Tensor, *, group: int = 128, zero_point: bool = False, dtype: torch.dtype | None = None
) -> QuantizedWeight:
    """weight (N, K) as int4 with one scale, and with zero_point one zero, per group of columns.

    Symmetric: w = (value - 8) * scale, value 1..15. With zero_point: w = (value - zero) * scale,
    value and zero 0..15, 0 always representable. group: 64 or 128, K a multiple of it. dtype: of
    the scales and of x, default weight's own.
    """
    _check(weight)
    if group not in GROUPS:
        raise bad("group", group, " or ".join(map(str, GROUPS)), "group=128")
    if weight.shape[1] % group:
        nearest = "group=64" if weight.shape[1] % 64 == 0 else "quantize_fp8(weight)"
        raise bad("weight.shape", weight.shape, f"K a multiple of group = {group}", nearest)
    wide = weight.float().reshape(weight.shape[0], weight.shape[1] // group, group)
    dtype = weight.dtype if dtype is None else dtype
    if zero_point:
        low, high = wide.amin(-1).clamp(max=0), wide.amax(-1).clamp(min=0)
        scale = _positive(_rounded((high - low) / 15, dtype))
        zero = (-low / scale).round().clamp(0, 15)
    else:
        scale = _positive(_rounded(wide.abs().amax(-1) / 7, dtype))
        zero = torch.full_like(scale, 8)
    least = 0 if zero_point else 1
    values = ((wide / scale[..., None]).round() + zero[..., None]).clamp(least, 15)
    packed = pack_int4(values.flatten(1))
    return QuantizedWeight(packed, scale.to(dtype), zero.to(torch.uint8) if zero_point else None)


def _rounded(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """scale as it is stored: values are divided by what they are multiplied with later."""
    return scale.to(dtype).float()


def quantize(weight: Tensor, mode: str) -> QuantizedWeight:
    """weight by the name of a mode: fp8 (per row), fp8_block, int4, int4_g64, and int4's _zero."""
    if mode not in MODES:
        raise bad("mode", repr(mode), ", ".join(map(repr, MODES)), "mode='fp8'")
    if mode.startswith("fp8"):
        return quantize_fp8(weight, per_block=mode == "fp8_block")
    return quantize_int4(
        weight, group=64 if "g64" in mode else 128, zero_point=mode.endswith("zero")
    )
