# SPDX-License-Identifier: BSD-3-Clause
"""Attention by its definition: one softmax over each sequence and head, gradients by autograd.

Independent of the package: it reads the attributes of a problem (see AttentionProblem for their
meaning) and shares no code with what it judges. In float64 it is the truth of the tests; in the
inputs' own dtype it is the ordinary low-precision evaluation that the truth is compared with to set
tolerances.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NEG_INF = float("-inf")


class Reference(NamedTuple):
    """Results and gradients; the gradients are None where no dout was given."""

    out: Tensor
    lse: Tensor
    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None
    dbias: Tensor | None = None
    dsink: Tensor | None = None


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    problem: Any,
    dout: Tensor | None = None,
    dlse: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Evaluate in dtype; with dout also the gradients of sum(dout * out) + sum(dlse * lse)."""
    leaves = [x.detach().to(dtype).requires_grad_(dout is not None) for x in (q, k, v)]
    extra = [
        None if x is None else x.detach().to(dtype).requires_grad_(dout is not None)
        for x in (problem.bias, problem.sink)
    ]
    out, lse = _forward(*leaves, extra[0], extra[1], problem)
    if dout is None:
        return Reference(out.detach(), lse.detach())
    total = (out * dout.to(dtype)).sum()
    if dlse is not None:
        live = lse != NEG_INF
        total = total + (lse[live] * dlse.to(dtype)[live]).sum()
    wanted = [x for x in leaves + extra if x is not None]
    if total.requires_grad:
        found = torch.autograd.grad(total, wanted, allow_unused=True)
    else:
        found = tuple(None for _ in wanted)
    grads = iter(
        torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)
    )
    rest = [next(grads) if x is not None else None for x in leaves + extra]
    return Reference(out.detach(), lse.detach(), *rest)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sink: Tensor | None, problem: Any
) -> tuple[Tensor, Tensor]:
    packed_q = problem.cu_seqlens_q is not None
    batch = problem.cu_seqlens_q.numel() - 1 if packed_q else q.shape[0]
    heads_q, heads_kv = q.shape[-2], k.shape[-2]
    out = q.new_zeros((*q.shape[:-1], v.shape[-1]))
    lse = q.new_full(q.shape[:-1], NEG_INF)
    for b in range(batch):
        where_q = _places(b, q, problem.cu_seqlens_q, problem.seqused_q, None, None)
        table = problem.block_table
        where_k = _places(
            b, k, problem.cu_seqlens_k, problem.seqused_k, table, problem.cache_batch_idx
        )
        first = 0 if problem.leftpad_k is None else int(problem.leftpad_k[b])
        # Keys before leftpad are never touched: they may hold NaN.
        where_k = tuple(index[first:] for index in where_k)
        if len(where_q[0]) == 0 or len(where_k[0]) == 0:
            continue
        for h in range(heads_q):
            hk = h // (heads_q // heads_kv)
            qs, ks, vs = q[(*where_q, h)], k[(*where_k, hk)], v[(*where_k, hk)]
            if problem.q_descale is not None:
                qs = qs * problem.q_descale[b, hk].to(q.dtype)
            if problem.k_descale is not None:
                ks = ks * problem.k_descale[b, hk].to(q.dtype)
            if problem.v_descale is not None:
                vs = vs * problem.v_descale[b, hk].to(q.dtype)
            rows, head_out, head_lse = _head(qs, ks, vs, b, h, heads_q, first, bias, sink, problem)
            at = (*(index[rows] for index in where_q), h)
            out[at] = head_out
            lse[at] = head_lse
    return out, lse.t() if packed_q else lse.transpose(1, 2)


def _places(
    b: int,
    x: Tensor,
    cu_seqlens: Tensor | None,
    seqused: Tensor | None,
    table: Tensor | None,
    cache_rows: Tensor | None,
) -> tuple[Tensor, ...]:
    """The index of every token of sequence b, one tensor for each token dimension."""
    if table is not None:
        size = x.shape[1]
        count = table.shape[1] * size
        if cu_seqlens is not None:
            count = int(cu_seqlens[b + 1] - cu_seqlens[b])
    elif cu_seqlens is not None:
        count = int(cu_seqlens[b + 1] - cu_seqlens[b])
    else:
        count = x.shape[1]
    if seqused is not None:
        count = min(count, int(seqused[b]))
    j = torch.arange(count)
    if table is not None:
        return table[b].long()[j // size], j % size
    if cu_seqlens is not None:
        return (int(cu_seqlens[b]) + j,)
    row = b if cache_rows is None else int(cache_rows[b])
    return torch.full_like(j, row), j


def _head(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    b: int,
    h: int,
    heads_q: int,
    first: int,
    bias: Tensor | None,
    sink: Tensor | None,
    problem: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that see a key, with their O and LSE. Column c of the scores is key first + c."""
    seqlen_q, seqlen_k = len(q), len(k) + first
    i = torch.arange(seqlen_q)[:, None]
    j = torch.arange(first, seqlen_k)[None, :]
    diagonal = i + seqlen_k - seqlen_q
    visible = torch.ones(seqlen_q, len(k), dtype=torch.bool)
    if problem.tree_mask is not None:
        for row in range(seqlen_q):
            for column in range(len(k)):
                token = first + column - (seqlen_k - seqlen_q)
                if token >= 0:
                    word = int(problem.tree_mask[b, row, token // 32])
                    visible[row, column] = bool(word >> (token % 32) & 1)
    if problem.window_left >= 0:
        visible &= j >= diagonal - problem.window_left
    if problem.window_right >= 0:
        visible &= j <= diagonal + problem.window_right
    if problem.attention_chunk > 0:
        chunk = problem.attention_chunk
        visible &= (j - first) // chunk == (diagonal - first) // chunk
    scores = (q * problem.softmax_scale) @ k.T
    if problem.softcap > 0:
        scores = problem.softcap * torch.tanh(scores / problem.softcap)
    if problem.alibi_slopes is not None:
        slopes = problem.alibi_slopes
        slope = slopes[b, h] if slopes.dim() == 2 else slopes[h]
        scores = scores - (slope.double() * (diagonal - j).abs()).to(q.dtype)
    if bias is not None:
        part = bias[b if bias.shape[0] > 1 else 0, h if bias.shape[1] > 1 else 0]
        part = part[:seqlen_q] if part.shape[0] > 1 else part
        part = part[:, first:seqlen_k] if part.shape[1] > 1 else part
        scores = scores + part
    scores = scores.masked_fill(~visible, NEG_INF)
    alive = (scores.detach() != NEG_INF).any(1)
    rows = alive.nonzero().flatten()
    scores = scores[alive]
    if sink is not None:
        scores = torch.cat((scores, sink[h].expand(len(rows), 1)), 1)
    p = torch.softmax(scores, 1)[:, : len(k)]
    if problem.dropout_p > 0:
        keep = philox_keep(problem.rng_state, problem.dropout_p, b, heads_q, h, seqlen_q, seqlen_k)
        p = p * torch.from_numpy(keep)[alive, first:].to(q.dtype) / (1 - problem.dropout_p)
    return rows, p @ v, torch.logsumexp(scores, 1)


def philox_keep(
    rng_state: Tensor,
    dropout_p: float,
    batch: int,
    heads_q: int,
    head: int,
    rows: int,
    columns: int,
) -> np.ndarray:
    """The dropout mask of one head as docs/numerics.md states it, element by element."""
    seed, offset = (int(x) & (2**64 - 1) for x in rng_state.tolist())
    i, j = np.meshgrid(
        np.arange(rows, dtype=np.uint64), np.arange(columns, dtype=np.uint64), indexing="ij"
    )
    low32 = np.uint64(0xFFFFFFFF)
    lane = (i % 8) * 4 + (j % 8) // 2
    counter = [
        ((j // 16) * 32 + lane) & low32,
        i // 16,
        np.full_like(i, ((batch * heads_q + head) ^ (offset >> 32)) & 0xFFFFFFFF),
        np.full_like(i, offset & 0xFFFFFFFF),
    ]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        product0 = counter[0] * np.uint64(0xD2511F53)
        product1 = counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            (product1 >> np.uint64(32)) ^ counter[1] ^ np.uint64(key[0]),
            product1 & low32,
            (product0 >> np.uint64(32)) ^ counter[3] ^ np.uint64(key[1]),
            product0 & low32,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    word = (i % 16) // 8 * 2 + (j % 16) // 8
    chosen = np.choose(word.astype(np.int64), counter)
    bits = (chosen >> (np.uint64(16) * (j % 2))) & np.uint64(0xFFFF)
    return bits >= np.uint64(round(dropout_p * 65536))
