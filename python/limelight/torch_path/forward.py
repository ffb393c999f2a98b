# SPDX-License-Identifier: BSD-3-Clause
"""Forward attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from limelight.problem import AttentionProblem


def forward(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of the call that problem describes; see AttentionProblem for layouts and formulas.

    out: q's layout with headdim_v, in q's dtype (bfloat16 for FP8 q). lse: (batch, heads_q, seqlen_q), or
    (heads_q, total_q) where cu_seqlens_q is given; fp32 (fp64 for fp64 q). Rows beyond seqused_q have O = 0, LSE = -inf.
    """
    if any(
        x is not None
        for x in (
            problem.cu_seqlens_q,
            problem.cu_seqlens_k,
            problem.seqused_q,
            problem.seqused_k,
            problem.leftpad_k,
            problem.cache_batch_idx,
            problem.block_table,
            problem.alibi_slopes,
            problem.bias,
            problem.sink,
            problem.rng_state,
        )
    ):
        raise NotImplementedError("the torch path serves only plain dense calls so far")
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[2] // k.shape[2]
    qt = q.transpose(1, 2).to(compute)
    kt, vt = (x.transpose(1, 2).to(compute).repeat_interleave(group, 1) for x in (k, v))
    scores = problem.softmax_scale * (qt @ kt.mT)
    if problem.softcap > 0:
        scores = problem.softcap * torch.tanh(scores / problem.softcap)
    shift = torch.arange(k.shape[1]) - torch.arange(q.shape[1])[:, None] - k.shape[1] + q.shape[1]
    hidden = torch.zeros_like(shift, dtype=torch.bool)
    if problem.window_left >= 0:
        hidden |= shift < -problem.window_left
    if problem.window_right >= 0:
        hidden |= shift > problem.window_right
    scores = scores.masked_fill(hidden.to(q.device), float("-inf"))
    lse = torch.logsumexp(scores, -1)
    out = torch.exp(scores - lse.unsqueeze(-1)).nan_to_num(0.0) @ vt
    return out.transpose(1, 2).to(q.dtype), lse
