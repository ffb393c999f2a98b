# SPDX-License-Identifier: BSD-3-Clause
"""Runs the decode kernels: few query rows for each key, caches of every kind, any seqlen_q.

The workspace and, unless given, the schedule come from torch's caching allocator, their sizes from
shapes alone: a call can be captured in a CUDA graph and replayed with other lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limelight import runtime
from limelight.forward_kernel import finish, per_head, prepare

if TYPE_CHECKING:
    from limelight.execute import Plan
    from limelight.problem import AttentionProblem


def workspace_bytes(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, batch: int) -> int:
    """Bytes of workspace for a call of these shapes."""
    return 0


def run_decode_kernel(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(out, lse) by attention_decode."""
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
            p.k_descale,
            p.v_descale,
            p.tree_mask,
            workspace,
            p.schedule,
        ),
        (
            p.softmax_scale,
            p.causal,
            p.window_left,
            p.window_right,
            p.softcap,
            p.max_seqlen_q,
            p.max_seqlen_k,
            p.num_splits,
            p.batch_invariant,
            p.unified_max,
        ),
    )
    return finish(plan, written, out), lse
