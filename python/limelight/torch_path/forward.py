# SPDX-License-Identifier: BSD-3-Clause
"""Forward attention: online softmax (Milakov and Gimelshein, arXiv 1805.02867) over blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from limelight.problem import AttentionProblem
from limelight.torch_path import fused
from limelight.torch_path.plan import Group, Plan, make_plan
from limelight.torch_path.scores import TileContext, compute_dtype, without_autocast
from limelight.torch_path.tokens import Span

_INF = float("inf")


def forward(
    q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem, *, tile_keys: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of the call that problem describes.

    AttentionProblem states layouts and formulas.

    out: q's layout with headdim_v, in q's dtype (bfloat16 for FP8 q), contiguous. lse: (batch,
    heads_q, seqlen_q), or (heads_q, total_q) where cu_seqlens_q is given; fp32 (fp64 for fp64 q). A
    row whose scores are all -inf, because it sees no key, is masked by its bias, or lies beyond its
    sequence, has O = 0 and LSE = -inf (with a sink, too). Extra memory: one tile of scores,
    whatever the sequence lengths. No host synchronisation on a GPU. tile_keys: keys of a tile, for
    studies of rounding; the default is what is fast.
    """
    with without_autocast(q.device):
        return _forward(q, k, v, problem, tile_keys)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem, tile_keys: int | None
) -> tuple[Tensor, Tensor]:
    plan = make_plan(q, k, problem, tile_keys)
    groups = plan.groups if tile_keys else fused.groups(q, k, v, problem, plan)
    fusible = [tile_keys is None and fused.serves(q, k, v, problem, group) for group in groups]
    dense = problem.cu_seqlens_q is None and groups[:1] == [plan.whole]
    if dense and groups[0].rows == q.shape[1] and fusible[0]:
        # One group, and no rows beyond it that would have to be filled in.
        out, lse = fused.forward(q, k, v, problem, plan, groups[0])
        return out.contiguous(), lse.transpose(1, 2).contiguous()
    context = make_context(q, k, problem, plan)
    # Tokens come first here so that one Tokens object serves q, out and lse; packed targets have
    # one spare row.
    tokens = (*q.shape[:-2],) if problem.cu_seqlens_q is None else (q.shape[0] + 1,)
    out_dtype = torch.bfloat16 if is_fp8(q.dtype) else q.dtype
    out = q.new_zeros((*tokens, q.shape[-2], v.shape[-1]), dtype=out_dtype)
    lse = q.new_full((*tokens, q.shape[-2]), -_INF, dtype=context.dtype)
    for group, fuse in zip(groups, fusible, strict=True):
        if fuse:
            whole = Span(group.first, group.last, 0, group.rows)
            tile, tile_lse = fused.forward(q, k, v, problem, plan, group)
            plan.q_tokens.write(out, whole, tile)
            plan.q_tokens.write(lse, whole, tile_lse)
            continue
        for rows in plan.row_blocks(group):
            tile, tile_lse = _row_block(q, k, v, context, group, rows)
            plan.q_tokens.write(out, rows, tile.to(out_dtype))
            plan.q_tokens.write(lse, rows, tile_lse)
    if problem.cu_seqlens_q is not None:
        return out[:-1], lse[:-1].t().contiguous()
    return out, lse.transpose(1, 2).contiguous()


def is_fp8(dtype: torch.dtype) -> bool:
    """Whether dtype is one of the 8-bit floating-point formats."""
    return dtype.is_floating_point and dtype.itemsize == 1


def make_context(q: Tensor, k: Tensor, problem: AttentionProblem, plan: Plan) -> TileContext:
    """Fold the descales of q and k into the softmax scale."""
    dtype = compute_dtype(q.dtype)
    scale: float | Tensor = problem.softmax_scale
    for descale in (problem.q_descale, problem.k_descale):
        if descale is not None:
            scale = scale * descale.to(dtype)[:, :, None, None, None]
    heads_kv = k.shape[-2]
    return TileContext(problem, plan, (heads_kv, q.shape[-2] // heads_kv), dtype, scale)


def _row_block(
    q: Tensor, k: Tensor, v: Tensor, context: TileContext, group: Group, rows: Span
) -> tuple[Tensor, Tensor]:
    """O (batch, rows, heads_q, headdim_v) and LSE (batch, rows, heads_q) of one block of rows."""
    problem, plan = context.problem, context.plan
    q_tile = context.read_queries(q, rows)
    row_max = q_tile.new_full(q_tile.shape[:-1], -_INF)
    row_sum = torch.zeros_like(row_max)
    acc = q_tile.new_zeros((*row_max.shape, v.shape[-1]))
    for keys in plan.key_blocks(group, rows, problem):
        visible = context.visible(group, rows, keys)
        seen = None if visible is None else visible.any(-2)
        k_tile = context.read_keys(k, keys, seen)
        v_tile = context.read_keys(v, keys, seen)
        whole = context.score_keys(k_tile, v_tile)
        scores, _ = context.scores(q_tile, whole, group, rows, keys, visible)
        new_max = torch.maximum(row_max, scores.amax(-1))
        base = new_max.masked_fill(new_max == -_INF, 0.0)  # keeps -inf - -inf out of the exponents
        p = torch.exp(scores - base.unsqueeze(-1))
        decay = torch.exp(row_max - base)
        row_sum = row_sum * decay + p.sum(-1)
        keep = context.keep(rows, keys, p.shape[-2:])
        if keep is not None:
            p = p * keep
        product = torch.unflatten(torch.matmul(p.flatten(2, 3), v_tile), 2, p.shape[2:4])
        acc = acc * decay.unsqueeze(-1) + product
        row_max = new_max
    out, lse = _finish(acc, row_max, row_sum, context)
    if problem.v_descale is not None:
        descale = problem.v_descale.to(context.dtype)[rows.first : rows.last]
        out = out * descale[:, :, None, None, None]
    height = rows.end - rows.begin
    out, lse = out[..., :height, :], lse[..., :height]
    return out.flatten(1, 2).transpose(1, 2), lse.flatten(1, 2).transpose(1, 2)


def _finish(
    acc: Tensor, row_max: Tensor, row_sum: Tensor, context: TileContext
) -> tuple[Tensor, Tensor]:
    """Normalise, with the sink in the denominator and the scale of dropout."""
    problem = context.problem
    empty = row_max == -_INF
    top = row_max.masked_fill(empty, 0.0)
    decay: Tensor | None = None
    if problem.sink is not None:
        sink = torch.unflatten(problem.sink.to(context.dtype), 0, context.heads)[None, :, :, None]
        new_top = torch.maximum(top, sink)
        decay = torch.exp(top - new_top)
        row_sum = row_sum * decay + torch.exp(sink - new_top)
        top = new_top
    kept = 1.0 - problem.dropout_p
    divisor = row_sum.masked_fill(empty, 1.0) * kept
    weight = 1 / divisor if decay is None else decay / divisor
    out = (acc * weight.unsqueeze(-1)).masked_fill(empty.unsqueeze(-1), 0.0)
    return out, (top + torch.log(row_sum)).masked_fill(empty, -_INF)
