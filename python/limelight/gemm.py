# SPDX-License-Identifier: BSD-3-Clause
"""Flat matrix products: a few rows against a large weight, as in decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.messages import bad, check_last_stride, check_out, check_tensor

MAX_ROWS = 128
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def flat_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Return x @ weight.T + bias.

    x: (M, K) with M <= 128. weight: (N, K). bias: (N,) or None. All of one dtype (float16,
    bfloat16, float32, float64) and on one device. Returns (M, N) in that dtype, in out if given.
    Differentiable; out then must be None. torch computes it: no kernel of this version serves it.
    Raises ValueError or TypeError naming a bad argument.
    """
    for name, tensor, dims in (("x", x, 2), ("weight", weight, 2), ("bias", bias, 1)):
        if tensor is None:
            continue
        check_tensor(name, tensor)
        if tensor.dim() != dims:
            allowed = "2 dimensions" if dims == 2 else "1 dimension"
            raise bad(f"{name}.shape", tensor.shape, allowed, "x (M, K), weight (N, K), bias (N,)")
        if tensor.dtype not in DTYPES or tensor.dtype != x.dtype:
            allowed = "float16, bfloat16, float32 or float64, the same for all"
            raise bad(
                f"{name}.dtype", tensor.dtype, allowed, f"{name}.to(torch.bfloat16)", TypeError
            )
        if tensor.device != x.device:
            raise bad(
                f"{name}.device",
                tensor.device,
                f"{x.device}, as x has",
                f"{name}.to({str(x.device)!r})",
            )
        check_last_stride(name, tensor)
    if x.shape[0] > MAX_ROWS:
        raise bad("x rows", x.shape[0], f"at most {MAX_ROWS}", "torch.nn.functional.linear")
    if weight.shape[1] != x.shape[1]:
        raise bad("weight.shape", weight.shape, f"(N, {x.shape[1]})", "weight of x's K")
    if bias is not None and bias.shape[0] != weight.shape[0]:
        raise bad("bias.shape", bias.shape, f"({weight.shape[0]},)", "one value per row of weight")
    if out is None:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias)
    ):
        raise bad(
            "out", "given while an input requires a gradient", "None then", "under torch.no_grad()"
        )
    check_out(out, (x.shape[0], weight.shape[0]), x.dtype, x)
    return out.copy_(F.linear(x, weight, bias))
