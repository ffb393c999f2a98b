# SPDX-License-Identifier: BSD-3-Clause
"""The one form of every error message, and the checks of single tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def as_text(value: Any) -> str:
    if isinstance(value, (torch.Size, tuple)):
        return "(" + ", ".join(map(str, value)) + ")"
    return str(value)


def bad(
    name: str, was: Any, allowed: str, nearest: str, error: type[Exception] = ValueError
) -> Exception:
    """The exception for a bad argument, in the one form that all messages have."""
    return error(f"{name} is {as_text(was)}; allowed: {allowed}. Nearest supported call: {nearest}")


def check_tensor(name: str, value: Any) -> None:
    """Raise TypeError unless value is a tensor."""
    if not isinstance(value, Tensor):
        raise bad(
            name,
            f"a {type(value).__name__}",
            "a torch.Tensor",
            f"torch.as_tensor({name})",
            TypeError,
        )


def contiguous_rows(x: Tensor) -> Tensor:
    """Return x, copied where its last dimension is not contiguous, as flash-attn does."""
    if x.shape[-1] <= 1 or x.stride(-1) == 1:
        return x
    return x.clone(memory_format=torch.contiguous_format)  # contiguous() leaves empty ones alone


def check_last_stride(name: str, x: Tensor) -> None:
    """Raise unless the last dimension is contiguous."""
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        raise bad(
            f"{name}.stride(-1)",
            x.stride(-1),
            "1 (contiguous last dimension)",
            f"{name}.contiguous()",
        )


def check_index(name: str, x: Any, dims: int) -> None:
    """Raise unless x is a contiguous int32 tensor of dims dimensions."""
    check_tensor(name, x)
    if x.dtype != torch.int32:
        raise bad(f"{name}.dtype", x.dtype, "torch.int32", f"{name}.to(torch.int32)", TypeError)
    if x.dim() != dims:
        raise bad(
            f"{name}.shape", x.shape, f"{dims} dimension{'s' * (dims > 1)}", f"{name}.flatten()"
        )
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        raise bad(f"{name}.stride(-1)", x.stride(-1), "1", f"{name}.contiguous()")


def check_out(out: Tensor, shape: tuple[int, ...], dtype: torch.dtype, q: Tensor) -> None:
    """Check a caller's output tensor."""
    check_tensor("out", out)
    if tuple(out.shape) != tuple(shape):
        raise bad(
            "out.shape", out.shape, as_text(tuple(shape)), f"q.new_empty({as_text(tuple(shape))})"
        )
    if out.dtype != dtype:
        raise bad("out.dtype", out.dtype, str(dtype), f"out of {dtype}", TypeError)
    if out.device != q.device:
        raise bad("out.device", out.device, f"{q.device}, as q has", "an output on q's device")
    check_last_stride("out", out)
    if out.requires_grad and torch.is_grad_enabled():
        raise bad("out.requires_grad", True, "False: out= is written in place", "out.detach()")
