# SPDX-License-Identifier: BSD-3-Clause
"""Runs the decode kernels: few query rows for each key, caches of every kind, any seqlen_q.

The workspace and, unless given, the schedule come from torch's caching allocator, their sizes from
shapes alone: a call can be captured in a CUDA graph and replayed with other lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limelight import runtime
from limelight.forward_kernel import finish, odd_strides, on_device, per_head, prepare

if TYPE_CHECKING:
    from limelight.kernel_plan import Plan
    from limelight.problem import AttentionProblem


def _extents(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, batch: int) -> tuple[Any, ...]:
    """What fixes the sizes of a workspace and a schedule."""
    heads = (q.shape[-2], k.shape[-2])
    dims = (padded(q.shape[-1]), padded(v.shape[-1]), p.max_seqlen_q, p.max_seqlen_k)
    return (batch, *heads, *dims, p.num_splits, p.batch_invariant)


def padded(headdim: int) -> int:
    """The headdim that kernels are asked about; no tile lies between the two."""
    return -(-headdim // 16) * 16


def shares_rows(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether v is the first columns of k, both in rows that kernels read in place."""
    rows = k.stride() == v.stride() and not odd_strides(k, 8) and k.data_ptr() % 16 == 0
    whole = q.shape[-1] % 8 == 0 and v.shape[-1] % 8 == 0 and v.shape[-1] <= k.shape[-1]
    return rows and whole and k.data_ptr() == v.data_ptr()


def workspace_bytes(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, batch: int) -> int:
    """Bytes of workspace for a call of these extents."""
    with on_device(q.device):
        size: int = runtime.core().attention_decode_workspace(*_extents(q, k, v, p, batch))
    return size


def fits_schedule(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, batch: int) -> bool:
    """Whether p.schedule was made for such a call; otherwise the call makes its own.

    Its size tells: it depends on the grid, and has one more element for each of num_splits.
    """
    if p.schedule is None or p.batch_invariant:
        return False
    if p.schedule.dtype is not torch.int32 or not p.schedule.is_contiguous():
        return False
    with on_device(q.device):
        size: int = runtime.core().attention_schedule_size(*_extents(q, k, v, p, batch))
    return p.schedule.numel() == size + p.num_splits


def make_schedule(
    lengths: Tensor,
    extents: tuple[Any, ...],
    masks: tuple[bool, int, int, int],
    cu_seqlens_q: Tensor | None,
    leftpad_k: Tensor | None,
) -> Tensor:
    """The schedule of decode calls of these extents whose sequences have these many keys.

    extents: batch, heads_q, heads_kv, headdim, headdim_v, max_seqlen_q, max_seqlen_k, num_splits,
    batch_invariant (False). masks: causal, window_left, window_right, attention_chunk.
    """
    with on_device(lengths.device):
        size = runtime.core().attention_schedule_size(*extents) + extents[7]
    schedule = torch.empty(size, dtype=torch.int32, device=lengths.device)
    runtime.launch(
        runtime.core().attention_schedule,
        (schedule, cu_seqlens_q, None, None, lengths, leftpad_k),
        (*extents[:7], *masks, *extents[7:]),
    )
    return schedule


def run_decode_kernel(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(out, lse) by attention_decode."""
    k_descale = p.k_descale
    if q.element_size() == 1:  # bfloat16 holds every float8; a score has one factor for both scales
        q = q.to(torch.bfloat16)
        if p.q_descale is not None:
            k_descale = p.q_descale if k_descale is None else p.q_descale * k_descale
    q, k, v, written, lse = prepare(plan, q, k, v, out)
    alibi_slopes, sink = per_head(plan, p)
    workspace = torch.empty(plan.workspace, dtype=torch.uint8, device=q.device)
    runtime.launch(
        runtime.core().attention_decode,
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
            k_descale,
            p.v_descale,
            p.tree_mask,
            workspace,
            p.schedule if plan.fits_schedule else None,
        ),
        (
            p.softmax_scale,
            p.causal,
            p.window_left,
            p.window_right,
            p.attention_chunk,
            p.softcap,
            p.max_seqlen_q,
            p.max_seqlen_k,
            p.num_splits,
            p.batch_invariant,
            p.unified_max,
        ),
    )
    return finish(plan, written, out), lse
