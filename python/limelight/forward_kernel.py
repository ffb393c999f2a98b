# SPDX-License-Identifier: BSD-3-Clause
"""Runs the forward kernels: pads and copies what they cannot read in place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from limelight import runtime

if TYPE_CHECKING:
    from limelight.kernel_plan import Plan
    from limelight.problem import AttentionProblem


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """The extension asks the current device what it holds."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def odd_strides(x: Tensor, step: int) -> bool:
    """Whether a stride before the last is no multiple of step elements."""
    return any(stride % step for stride in x.stride()[:-1])


def _is_regular(out: Tensor) -> bool:
    return out.is_contiguous() or not odd_strides(out, 8)


def _aligned(x: Tensor, pad: int, copy: bool) -> Tensor:
    """x as the kernels read it: rows of whole 16 bytes, strides and address multiples of them."""
    if pad:
        return _padded(x, pad)
    return x.clone(memory_format=torch.contiguous_format) if copy or x.data_ptr() % 16 else x


def _padded(x: Tensor, pad: int) -> Tensor:
    if x.element_size() == 1:  # torch pads no float8
        return F.pad(x.view(torch.uint8), (0, pad)).view(x.dtype)
    return F.pad(x, (0, pad))


def prepare(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v as the kernels read them, out as they write it, and lse."""
    pad_qk, pad_v = plan.pad
    copy_q, copy_k, copy_v = plan.copy
    if pad_qk or copy_q or q.data_ptr() % 16:
        q = _aligned(q, pad_qk, copy_q)
    if pad_qk or copy_k or k.data_ptr() % 16:
        k = _aligned(k, pad_qk, copy_k)
    if pad_v or copy_v or v.data_ptr() % 16:
        v = _aligned(v, pad_v, copy_v)
    lse = torch.empty(plan.lse_shape, dtype=torch.float32, device=q.device)
    if out is not None and not pad_v and not out.data_ptr() % 16 and _is_regular(out):
        written = out
    elif plan.out_like_q and not pad_v:
        written = torch.empty_like(q)
    else:
        shape = (*plan.out_shape[:-1], v.shape[-1]) if pad_v else plan.out_shape
        written = torch.empty(shape, dtype=plan.out_dtype, device=q.device)
    return q, k, v, written, lse


def finish(plan: Plan, written: Tensor, out: Tensor | None) -> Tensor:
    """The caller's out, or a new one without padding."""
    if written is out or (out is None and not plan.pad[1]):
        return written
    result = written[..., : plan.out_shape[-1]].contiguous() if plan.pad[1] else written
    return result if out is None else out.copy_(result)


def per_head(plan: Plan, p: AttentionProblem) -> tuple[Tensor | None, Tensor | None]:
    """alibi_slopes and sink with contiguous heads."""
    if not plan.pack:
        return p.alibi_slopes, p.sink
    return (
        None if p.alibi_slopes is None else p.alibi_slopes.contiguous(),
        None if p.sink is None else p.sink.contiguous(),
    )


def split_workspace_bytes(
    q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, batch: int, pad: tuple[int, int]
) -> int:
    """Bytes of workspace for a call of these extents: 0 where its keys are not split."""
    with on_device(q.device):
        size: int = runtime.core().attention_forward_workspace(
            q.element_size() == 1,
            batch,
            q.shape[-2],
            k.shape[-2],
            q.shape[-1] + pad[0],
            v.shape[-1] + pad[1],
            0 if p.cu_seqlens_q is None else q.shape[0],
            p.max_seqlen_q,
            p.max_seqlen_k,
            p.alibi_slopes is not None or p.bias is not None,
            p.softmax_scale,
            p.causal,
            p.window_left,
            p.window_right,
            p.softcap,
            p.dropout_p,
            p.num_splits,
            p.batch_invariant,
        )
    return size


def run_forward_kernel(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(out, lse) by attention_forward."""
    q, k, v, written, lse = prepare(plan, q, k, v, out)
    alibi_slopes, sink = per_head(plan, p)
    bias = p.bias
    if bias is not None and bias.dtype is not torch.float32 and bias.dtype is not q.dtype:
        bias = bias.float()
    workspace = None
    if plan.workspace:
        workspace = torch.empty(plan.workspace, dtype=torch.uint8, device=q.device)
    runtime.launch(
        runtime.core().attention_forward,
        (
            q,
            k,
            v,
            written,
            lse,
            p.cu_seqlens_q,
            p.cu_seqlens_k,
            p.seqused_q,
            p.seqused_k,
            p.leftpad_k,
            p.cache_batch_idx,
            p.block_table,
            alibi_slopes,
            sink,
            bias,
            p.rng_state,
            p.q_descale,
            p.k_descale,
            p.v_descale,
            workspace,
        ),
        (
            p.softmax_scale,
            p.causal,
            p.window_left,
            p.window_right,
            p.attention_chunk,
            p.softcap,
            p.dropout_p,
            p.max_seqlen_q,
            p.max_seqlen_k,
            p.num_splits,
            p.batch_invariant,
        ),
    )
    return finish(plan, written, out), lse
