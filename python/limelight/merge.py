# SPDX-License-Identifier: BSD-3-Clause
"""Joining partial results of attention over disjoint sets of keys by their LSE (natural log)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limelight import runtime
from limelight.arguments import refuse_foreign
from limelight.autograd import is_eager
from limelight.messages import (
    as_whole,
    bad,
    check_index,
    check_out,
    check_tensor,
    check_written,
)

_OUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _join(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Join along dimension 0.

    Out: (splits, ..., headdim) fp32; lse: (splits, ...) fp32, -inf or +inf for no keys.
    """
    lse = torch.where(lse == float("inf"), float("-inf"), lse)
    top = lse.amax(0)
    weight = torch.exp(lse - torch.where(top == float("-inf"), 0.0, top))
    total = weight.sum(0)
    scale = weight / torch.where(total == 0, 1.0, total)
    # Parts that saw no key may hold NaN: they are replaced, not only weighted by 0.
    parts = torch.where(weight.unsqueeze(-1) == 0, 0.0, out)
    return (parts * scale.unsqueeze(-1)).sum(0), torch.where(total == 0, 0.0, top) + torch.log(
        total
    )


def _on_kernel(*tensors: Tensor | None) -> bool:
    """Whether the combine kernel takes these tensors; autograd goes through torch."""
    first = tensors[0]
    assert first is not None
    return (
        runtime.capability(first.device) is not None
        and runtime.settings.backend != "torch"
        and first.numel() > 0
        and is_eager(first)
        and not (
            torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        )
        and not runtime.device_problem(first.device)
    )


def _combine(
    out_partial: Tensor, lse_partial: Tensor, out: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """flash_attn_combine by the kernel."""
    if out_partial.dim() == 4:  # one long sequence
        found, lse = _combine(
            out_partial.unsqueeze(1),
            lse_partial.unsqueeze(1),
            None if out is None else out.unsqueeze(0),
            dtype,
        )
        return found[0] if out is None else out, lse[0]
    if out_partial.stride(-1) != 1:
        out_partial = out_partial.contiguous()
    device, shape = out_partial.device, out_partial.shape[1:]
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=device)
    lse = torch.empty(shape[:-1], dtype=torch.float32, device=device)
    tensors = (out_partial, lse_partial.transpose(-1, -2), out, lse.transpose(-1, -2))
    runtime.launch(runtime.core().attention_combine, tensors, ())
    return out, lse


def flash_attn_combine(
    out_partial: Tensor,
    lse_partial: Tensor,
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    seqused: Tensor | None = None,
    return_lse: bool = True,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Join the partial results of a split along the keys.

    out_partial: (num_splits, batch, seqlen, heads, headdim) or (num_splits, total, heads, headdim),
    fp32. lse_partial: out_partial's shape without headdim, fp32, natural log; -inf (or +inf) marks
    a part without keys. Returns (out, lse): out in out_dtype (default fp32), lse fp32 of out's
    shape without headdim (None unless return_lse). A row without keys gets out = 0 and lse = -inf.
    cu_seqlens, seqused: the rows of packed sequences (FA4); every row is joined, whosever it is.
    """
    if others:
        refuse_foreign("flash_attn_combine", others)
    for name, lengths in (("cu_seqlens", cu_seqlens), ("seqused", seqused)):
        if lengths is not None:
            check_index(name, lengths, 1)
    for name, x in (("out_partial", out_partial), ("lse_partial", lse_partial)):
        check_tensor(name, x)
        if x.dtype != torch.float32:
            raise bad(f"{name}.dtype", x.dtype, "torch.float32", f"{name}.float()", TypeError)
        if x.device != out_partial.device:
            raise bad(f"{name}.device", x.device, str(out_partial.device), f"{name} on that device")
    if out_partial.dim() not in (4, 5) or out_partial.shape[0] < 1:
        allowed = (
            "(num_splits, batch, seqlen, heads, headdim) or (num_splits, total, heads, headdim)"
        )
        raise bad(
            "out_partial.shape", out_partial.shape, allowed, "torch.stack of the partial outputs"
        )
    if lse_partial.shape != out_partial.shape[:-1]:
        was, allowed = lse_partial.shape, str(tuple(out_partial.shape[:-1]))
        raise bad("lse_partial.shape", was, allowed, "lse.transpose(-1, -2) of each part, stacked")
    if out is not None:
        check_tensor("out", out)
    dtype = out_dtype if out_dtype is not None else (torch.float32 if out is None else out.dtype)
    if dtype not in _OUT_DTYPES:
        raise bad(
            "out_dtype", dtype, "float16, bfloat16 or float32", "out_dtype=torch.float32", TypeError
        )
    if out is not None:
        check_out(out, out_partial.shape[1:], dtype, out_partial)
    if _on_kernel(out_partial, lse_partial):
        result, lse = _combine(out_partial, lse_partial, out, dtype)
        return result, lse if return_lse else None
    joined, lse = _join(out_partial, lse_partial)
    result = joined.to(dtype) if out is None else out.copy_(joined)
    return result, lse if return_lse else None


def merge_attn_states(
    output: Tensor,
    prefix_output: Tensor,
    prefix_lse: Tensor,
    suffix_output: Tensor,
    suffix_lse: Tensor,
    output_lse: Tensor | None = None,
    prefill_tokens_with_context: int | None = None,
    output_scale: Any = None,
) -> None:
    """Join attention over a prefix and a suffix of the keys into output, in place.

    The signature is vLLM's.

    output, prefix_output, suffix_output: (tokens, heads, headdim). prefix_lse, suffix_lse,
    output_lse: (heads, tokens) fp32, natural log; -inf and +inf mark a side without keys; with none
    on both sides output is 0 and output_lse -inf. prefill_tokens_with_context: tokens from this one
    on have no prefix and take the suffix as it is.
    """
    if output_scale is not None:
        raise bad("output_scale", "given", "None", "output scaled after the call", TypeError)
    check_tensor("output", output)
    check_written("output", output)
    for name, x in (
        ("output", output),
        ("prefix_output", prefix_output),
        ("suffix_output", suffix_output),
    ):
        check_tensor(name, x)
        if not x.is_floating_point():
            allowed = "a floating point type"
            raise bad(f"{name}.dtype", x.dtype, allowed, f"{name}.float()", TypeError)
        if x.device != output.device:
            raise bad(f"{name}.device", x.device, f"{output.device}, as output has", "one device")
        if x.shape != output.shape or x.dim() != 3:
            raise bad(
                f"{name}.shape",
                x.shape,
                f"{tuple(output.shape)}, as output",
                "(tokens, heads, headdim)",
            )
    tokens, heads = output.shape[:2]
    for name, lse in (
        ("prefix_lse", prefix_lse),
        ("suffix_lse", suffix_lse),
        ("output_lse", output_lse),
    ):
        if lse is None and name == "output_lse":
            continue
        check_tensor(name, lse)
        assert lse is not None
        if lse.device != output.device:
            raise bad(f"{name}.device", lse.device, f"{output.device}, as output has", "one device")
        if tuple(lse.shape) != (heads, tokens) or lse.dtype != torch.float32:
            was = f"{lse.dtype} {tuple(lse.shape)}"
            raise bad(
                name, was, f"float32 ({heads}, {tokens}) (heads, tokens)", f"{name}.transpose(0, 1)"
            )
    if prefill_tokens_with_context is not None:
        what, nearest = "prefill_tokens_with_context", tokens
        prefill_tokens_with_context = as_whole(what, prefill_tokens_with_context, nearest)
        if prefill_tokens_with_context < 0:
            raise bad(what, prefill_tokens_with_context, "0 or more", f"{what}={nearest}")
    if output_lse is not None:
        check_written("output_lse", output_lse)
    tensors = (output, prefix_output, suffix_output, prefix_lse, suffix_lse, output_lse)
    one_dtype = prefix_output.dtype == suffix_output.dtype
    if (
        one_dtype
        and (output.stride(-1) == 1 or output.shape[-1] == 1)
        and prefix_output.dtype in (torch.float32, output.dtype)
        and output.dtype in _OUT_DTYPES
        and _on_kernel(*tensors)
    ):
        _merge(
            *tensors, tokens if prefill_tokens_with_context is None else prefill_tokens_with_context
        )
        return
    if prefill_tokens_with_context is not None:
        prefix_lse = prefix_lse.clone()
        prefix_lse[:, prefill_tokens_with_context:] = float("-inf")
    out = torch.stack((prefix_output, suffix_output)).float()
    joined, lse = _join(out, torch.stack((prefix_lse, suffix_lse)).mT)
    output.copy_(joined)
    if output_lse is not None:
        output_lse.copy_(lse.mT)


def _dense(x: Tensor) -> Tensor:
    """A copy with the strides of its shape: contiguous() keeps those of dimensions of size 1."""
    return x.clone(memory_format=torch.contiguous_format)


def _merge(
    output: Tensor,
    prefix: Tensor,
    suffix: Tensor,
    prefix_lse: Tensor,
    suffix_lse: Tensor,
    output_lse: Tensor | None,
    context: int,
) -> None:
    """merge_attn_states by the kernel; tokens from context on take the suffix."""
    target = output_lse
    if target is None or target.data_ptr() in (prefix_lse.data_ptr(), suffix_lse.data_ptr()):
        output_lse = torch.empty_like(suffix_lse)  # the kernel reads them more than once
    assert output_lse is not None
    # The kernel reads both parts where they are, with one stride between them.
    if prefix.stride() != suffix.stride() or prefix.stride(-1) != 1:
        prefix, suffix = _dense(prefix), _dense(suffix)
    if prefix_lse.stride() != suffix_lse.stride():
        prefix_lse, suffix_lse = _dense(prefix_lse), _dense(suffix_lse)
    if context > 0:
        joined = slice(None, context)
        tensors = (
            prefix[joined],
            prefix_lse[:, joined],
            suffix[joined],
            suffix_lse[:, joined],
            output[joined],
            output_lse[:, joined],
        )
        runtime.launch(runtime.core().merge_states, tensors, ())
    if context < len(output):
        rest = slice(context, None)
        lse = suffix_lse[:, rest]
        lse = torch.where(lse == float("inf"), float("-inf"), lse)
        keyless = (lse == float("-inf")).mT.unsqueeze(-1)
        output[rest] = torch.where(keyless, 0.0, suffix[rest]).to(output.dtype)
        output_lse[:, rest] = lse
    if target is not None and target is not output_lse:
        target.copy_(output_lse)
