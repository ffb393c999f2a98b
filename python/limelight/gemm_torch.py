# SPDX-License-Identifier: BSD-3-Clause
"""flat_linear in torch: every weight format and epilogue, and the gradients.

Plain weights go through torch's own linear (cuBLAS on a GPU) in x's dtype. Quantised weights are
expanded by blocks of rows of at most 64 MiB: to float32 on the CPU, to x's dtype on a GPU. The
epilogue is computed in float32 (float64 for float64) and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.gemm_checks import BLOCK, FP8, Layout

FP8_MAX = 448.0
_BLOCK_BYTES = 64 << 20


def unpack_int4(packed: Tensor) -> Tensor:
    """(N, K/2) bytes to (N, K) values 0..15: byte j holds k = 2j in its low nibble."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


def dequantize(
    weight: Tensor, scale: Tensor | None, zero: Tensor | None, layout: Layout, dtype: torch.dtype
) -> Tensor:
    """weight (rows, K) in dtype; scale and zero belong to its rows."""
    if not layout.quantized or scale is None:
        return weight.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    if layout.format == "fp8_channel":
        return (weight.to(wide) * scale.to(wide)[:, None]).to(dtype)
    if layout.format == "fp8_block":
        rows, k = weight.shape
        full = scale.to(wide).repeat_interleave(BLOCK, 0)[:rows]
        return (weight.to(wide) * full.repeat_interleave(BLOCK, 1)[:, :k]).to(dtype)
    group = layout.group
    values = unpack_int4(weight).to(wide)
    offset = 8.0 if zero is None else zero.to(wide).repeat_interleave(group, 1)
    return ((values - offset) * scale.to(wide).repeat_interleave(group, 1)).to(dtype)


def row_blocks(
    weight: Tensor, scale: Tensor | None, zero: Tensor | None, layout: Layout, dtype: torch.dtype
) -> Iterator[Tensor]:
    """weight in dtype, by blocks of rows; a plain weight whole."""
    if not layout.quantized or scale is None:
        yield weight
        return
    step = max(BLOCK, _BLOCK_BYTES // (4 * max(1, layout.k)) // BLOCK * BLOCK)
    per_block = layout.format == "fp8_block"
    for first in range(0, max(1, layout.rows), step):
        rows = slice(first, first + step)
        scales = slice(first // BLOCK, (first + step) // BLOCK) if per_block else rows
        yield dequantize(
            weight[rows], scale[scales], None if zero is None else zero[rows], layout, dtype
        )


def product_dtype(x: Tensor, layout: Layout) -> torch.dtype:
    """In which dtype x and the expanded weight are multiplied."""
    if not layout.quantized or x.device.type == "cuda":
        return x.dtype
    return torch.promote_types(x.dtype, torch.float32)


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
    layout: Layout,
    *,
    batch_invariant: bool = False,
) -> Tensor:
    """x (M, K) times weight transposed, plus bias: (M, rows) in product_dtype."""
    dtype = product_dtype(x, layout)
    x = x.to(dtype)
    if not layout.quantized:
        return _linear(x, weight, bias, batch_invariant)
    parts = [
        _linear(x, block, None, batch_invariant)
        for block in row_blocks(weight, scale, zero, layout, dtype)
    ]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    return whole if bias is None else whole + bias.to(dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, batch_invariant: bool) -> Tensor:
    if not batch_invariant or x.shape[0] == 0:
        return F.linear(x, weight, bias)
    # One row a call in fresh memory: torch's libraries choose their order of summation by M and by
    # the alignment of x.
    return torch.cat([F.linear(x[i : i + 1].clone(), weight, bias) for i in range(x.shape[0])])


def activate(z: Tensor, activation: str | None) -> Tensor:
    """The activation of the pre-activation z (M, rows): (M, N)."""
    if activation is None:
        return z
    if activation == "silu":
        return F.silu(z)
    if activation == "swiglu":
        gate, up = z.chunk(2, -1)
        return F.silu(gate) * up
    return F.gelu(z, approximate="tanh" if activation == "gelu_tanh" else "none")


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
    out_scale: Tensor | None,
    activation: str | None,
    batch_invariant: bool,
    layout: Layout,
) -> Tensor:
    """activation(x weight^T + bias) + residual, (..., N); float8 / out_scale if that is given."""
    flat = x.reshape(layout.m, layout.k)
    z = product(flat, weight, bias, scale, zero, layout, batch_invariant=batch_invariant)
    y = z
    if activation is not None or residual is not None or out_scale is not None:
        y = activate(z.to(torch.promote_types(x.dtype, torch.float32)), activation)
        if residual is not None:
            y = y + residual.reshape(layout.m, layout.n).to(y.dtype)
    shape = (*x.shape[:-1], layout.n)
    if out_scale is not None:
        return (y / out_scale.to(y.dtype)).clamp(-FP8_MAX, FP8_MAX).to(FP8).reshape(shape)
    return y.to(x.dtype).reshape(shape)


def _silu_gradient(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _pre_activation_gradient(z: Tensor, dy: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        return dy * _silu_gradient(z)
    if activation == "swiglu":
        gate, up = z.chunk(2, -1)
        return torch.cat((dy * up * _silu_gradient(gate), dy * F.silu(gate)), -1)
    approximate = "tanh" if activation == "gelu_tanh" else "none"
    gradient: Tensor = torch.ops.aten.gelu_backward(dy, z, approximate=approximate)
    return gradient


def backward(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
    activation: str | None,
    layout: Layout,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias; the pre-activation is computed again."""
    flat = x.reshape(layout.m, layout.k)
    wide = torch.promote_types(x.dtype, torch.float32)
    dy = dout.reshape(layout.m, layout.n)
    dz = dy
    if activation is not None:
        z = product(flat, weight, bias, scale, zero, layout).to(wide)
        dz = _pre_activation_gradient(z, dy.to(wide), activation).to(x.dtype)
    dx = dweight = dbias = None
    if needs[0]:
        dtype = product_dtype(x, layout)
        total, first = None, 0
        for block in row_blocks(weight, scale, zero, layout, dtype):
            part = dz[:, first : first + block.shape[0]].to(dtype) @ block
            total = part if total is None else total + part
            first += block.shape[0]
        assert total is not None
        dx = total.to(x.dtype).reshape(x.shape)
    if needs[1]:
        dweight = dz.mT @ flat
    if needs[2]:
        dbias = dz.sum(0)
    return dx, dweight, dbias
