# SPDX-License-Identifier: BSD-3-Clause
"""Rotary position embedding (Su et al., arXiv 2104.09864) at given token positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def apply_rotary(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, *, interleaved: bool = True
) -> Tensor:
    """Rotate the first ``2 * cos.shape[-1]`` features of every head of x; the rest is copied.

    x: (..., heads, headdim), any strides. cos, sin: (seqlen_rotary, rotary_dim / 2). positions:
    integer tensor broadcastable to x.shape[:-2], each in [0, seqlen_rotary). interleaved: features
    (0, 1), (2, 3), ... form the pairs (GPT-J); otherwise feature f pairs with f + rotary_dim / 2
    (GPT-NeoX). Computes in fp32 (fp64 for fp64 x) and returns a new tensor of x's dtype. Positions
    are clamped into the table, so stale lengths never fault.
    """
    half = cos.shape[-1]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    index = positions.long().clamp(0, max(cos.shape[0] - 1, 0)).expand(x.shape[:-2])
    c = cos[index].to(compute).unsqueeze(-2)  # (..., 1, rotary_dim / 2)
    s = sin[index].to(compute).unsqueeze(-2)
    turned = x[..., : 2 * half].to(compute)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        pair = torch.stack((a * c - b * s, a * s + b * c), dim=-1).flatten(-2)
    else:
        a, b = turned[..., :half], turned[..., half:]
        pair = torch.cat((a * c - b * s, a * s + b * c), dim=-1)
    return torch.cat((pair.to(x.dtype), x[..., 2 * half :]), dim=-1)
