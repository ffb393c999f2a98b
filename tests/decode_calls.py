# SPDX-License-Identifier: BSD-3-Clause
"""Calls of the decode kernels as the extension takes them, outputs and workspace poisoned."""

from __future__ import annotations

from typing import Any

import torch
from cases import Inputs
from limelight import runtime
from limelight.problem import AttentionProblem
from torch import Tensor


def poison(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if not dtype.is_floating_point:
        return torch.full(shape, torch.iinfo(dtype).max, dtype=dtype, device=device)
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


def extents(x: Inputs) -> tuple[Any, ...]:
    """What fixes workspace and schedule: the integers of a call."""
    p = x.problem
    batch = x.q.shape[0] if p.cu_seqlens_q is None else p.cu_seqlens_q.numel() - 1
    seqlen_q = x.q.shape[1] if p.cu_seqlens_q is None else p.max_seqlen_q
    if p.block_table is not None:
        seqlen_k = p.block_table.shape[1] * x.k.shape[1]
    else:
        seqlen_k = x.k.shape[1] if p.cu_seqlens_k is None else p.max_seqlen_k
    heads = (x.q.shape[-2], x.k.shape[-2], x.q.shape[-1], x.v.shape[-1])
    return (batch, *heads, seqlen_q, seqlen_k)


def make_schedule(x: Inputs, num_splits: int = 0, batch_invariant: bool = False) -> Tensor:
    p: AttentionProblem = x.problem
    sizes = extents(x)
    elements = runtime.core().attention_schedule_size(*sizes, num_splits, batch_invariant)
    schedule = poison(elements, dtype=torch.int32, device=x.q.device)
    tensors = (schedule, p.cu_seqlens_q, p.cu_seqlens_k, p.seqused_q, p.seqused_k, p.leftpad_k)
    window = (p.causal, p.window_left, p.window_right, p.attention_chunk)
    runtime.launch(
        runtime.core().attention_schedule, tensors, (*sizes, *window, num_splits, batch_invariant)
    )
    return schedule


def decode(
    x: Inputs,
    *,
    schedule: Tensor | None = None,
    num_splits: int = 0,
    batch_invariant: bool = False,
    unified_max: float | None = None,
) -> tuple[Tensor, Tensor]:
    p = x.problem
    q, k, v = x.q, x.k, x.v
    core = runtime.core()
    out = poison(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    rows = (q.shape[1], q.shape[0]) if q.dim() == 3 else (q.shape[0], q.shape[2], q.shape[1])
    lse = poison(*rows, dtype=torch.float32, device=q.device)
    size = core.attention_decode_workspace(*extents(x), num_splits, batch_invariant)
    workspace = poison(max(size, 1), dtype=torch.uint8, device=q.device)
    tensors = (
        q,
        k,
        v,
        out,
        lse,
        p.cu_seqlens_q,
        p.cu_seqlens_k,
        p.seqused_q,
        p.seqused_k,
        p.leftpad_k,
        p.cache_batch_idx,
        p.block_table,
        p.alibi_slopes,
        p.sink,
        p.k_descale,
        p.v_descale,
        p.tree_mask,
        workspace,
        schedule,
    )
    numbers = (
        p.softmax_scale,
        p.causal,
        p.window_left,
        p.window_right,
        p.attention_chunk,
        p.softcap,
        p.max_seqlen_q,
        p.max_seqlen_k,
        num_splits,
        batch_invariant,
        unified_max,
    )
    runtime.launch(core.attention_decode, tensors, numbers)
    if q.is_cuda:
        torch.cuda.synchronize()
    return out, lse
