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


def short(value: Any) -> str:
    """How a message shows a value of any type."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def as_number(name: str, value: Any, nearest: Any) -> float:
    """value as a float; a TypeError that names it where it is no number."""
    if not isinstance(value, (str, bytes)):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise bad(name, short(value), "a number", f"{name}={nearest}", TypeError)


def as_whole(name: str, value: Any, nearest: Any) -> int:
    """value as an int; a TypeError that names it where it is no whole number."""
    if not isinstance(value, (str, bytes)):
        try:
            whole = int(value)
            if whole == value:
                return whole
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
    raise bad(name, short(value), "an int", f"{name}={nearest}", TypeError)


def check_tensor(name: str, value: Any) -> None:
    """Raise TypeError unless value is a tensor with strides."""
    if not isinstance(value, Tensor):
        raise bad(
            name,
            f"a {type(value).__name__}",
            "a torch.Tensor",
            f"torch.as_tensor({name})",
            TypeError,
        )
    if value.layout is not torch.strided:
        raise bad(f"{name}.layout", value.layout, "torch.strided", f"{name}.to_dense()", TypeError)


def contiguous_rows(x: Tensor) -> Tensor:
    """Return x, copied where its last dimension is not contiguous, as flash-attn does."""
    if x.shape[-1] <= 1 or x.stride(-1) == 1 or x.layout is not torch.strided:
        return x  # the checks name a layout
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


def check_written(name: str, x: Tensor) -> None:
    """Raise where x is to be written in place and has a gradient."""
    if x.requires_grad and torch.is_grad_enabled():
        was = "True: it is written in place"
        raise bad(f"{name}.requires_grad", was, "False", f"{name}.detach()")


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
