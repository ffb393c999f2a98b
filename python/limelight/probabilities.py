# SPDX-License-Identifier: BSD-3-Clause
"""The attention probabilities with their dropout pattern, a debugging aid.

Memory and time grow with seqlen squared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from limelight import torch_path
from limelight.absorbed import copied

if TYPE_CHECKING:
    from limelight.problem import AttentionProblem


def signed_probabilities(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> Tensor:
    """Return FA2's S_dmask (batch, heads_q, max_seqlen_q, max_seqlen_k); empty without dropout.

    Entries are the softmax before dropout, negative where dropout removes them, 0 where no key is
    visible. FA2 leaves its entries unnormalised and rounds both extents up to 128; here they are
    normalised and exact.
    """
    if p.dropout_p == 0 or p.rng_state is None:
        return q.new_empty(0)
    if _batch(q, p) == 0:
        return q.new_empty(0, q.shape[-2], p.max_seqlen_q, p.max_seqlen_k)
    rng_state = p.rng_state
    with torch.no_grad():
        q, k, _, p = copied(q, k, v, p)
        if p.block_table is not None:
            k = torch_path.gather_pages(k, p.block_table, num_tokens=p.max_seqlen_k)
            p = replace(p, block_table=None)
        batch = _batch(q, p)
        rows = [_one_sequence(q, k, p, index) for index in range(batch)]
        extent = (p.max_seqlen_q, p.max_seqlen_k)
        full = [F.pad(x, (0, extent[1] - x.shape[2], 0, extent[0] - x.shape[1])) for x in rows]
        keep = torch_path.dropout_keep_mask(
            rng_state,
            p.dropout_p,
            (0, batch),
            (0, q.shape[-2], q.shape[-2]),
            (0, extent[0]),
            (0, extent[1]),
        )
        chance = torch.stack(full)
        return torch.where(keep, chance, -chance)


def _batch(q: Tensor, p: AttentionProblem) -> int:
    return q.shape[0] if p.cu_seqlens_q is None else p.cu_seqlens_q.shape[0] - 1


def _slice(x: Tensor, cu_seqlens: Tensor | None, index: int) -> Tensor:
    if cu_seqlens is None:
        return x[index : index + 1]
    start, end = cu_seqlens[index : index + 2].tolist()
    return x[None, start:end]


def _one_sequence(q: Tensor, k: Tensor, p: AttentionProblem, index: int) -> Tensor:
    """(heads_q, seqlen_q, seqlen_k) of one sequence: attention to an identity matrix of values."""
    q = _slice(q, p.cu_seqlens_q, index)
    row = index if p.cache_batch_idx is None else int(p.cache_batch_idx[index])
    k = _slice(k, p.cu_seqlens_k, row)
    here = slice(index, index + 1)
    one = replace(
        p,
        dropout_p=0.0,
        rng_state=None,
        max_seqlen_q=q.shape[1],
        max_seqlen_k=k.shape[1],
        cu_seqlens_q=None,
        cu_seqlens_k=None,
        cache_batch_idx=None,
        seqused_q=None if p.seqused_q is None else p.seqused_q[here],
        seqused_k=None if p.seqused_k is None else p.seqused_k[here],
        leftpad_k=None if p.leftpad_k is None else p.leftpad_k[here],
        alibi_slopes=p.alibi_slopes
        if p.alibi_slopes is None or p.alibi_slopes.dim() == 1
        else p.alibi_slopes[here],
        bias=None if p.bias is None else _bias(p.bias, index, q.shape[1], k.shape[1]),
    )
    eye = torch.eye(k.shape[1], dtype=q.dtype, device=q.device)
    values = eye[None, :, None].expand(1, -1, k.shape[2], -1)
    return torch_path.forward(q, k, values, one)[0][0].transpose(0, 1)


def _bias(bias: Tensor, index: int, seqlen_q: int, seqlen_k: int) -> Tensor:
    own = bias[index : index + 1] if bias.shape[0] > 1 else bias
    own = own[:, :, :seqlen_q] if own.shape[2] > 1 else own
    return own[..., :seqlen_k] if own.shape[3] > 1 else own
