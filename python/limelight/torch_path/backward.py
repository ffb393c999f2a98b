# SPDX-License-Identifier: BSD-3-Clause
"""Backward attention (Dao, arXiv 2307.08691, algorithm 2): recomputes scores, tile by tile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limelight.problem import AttentionProblem
from limelight.torch_path import fused
from limelight.torch_path.forward import is_fp8, make_context
from limelight.torch_path.plan import Group, make_plan
from limelight.torch_path.scores import TileContext, bias_slices, without_autocast
from limelight.torch_path.tokens import Span

_INF = float("inf")


class Gradients(NamedTuple):
    """Gradients like their tensors; dbias and dsink are None where absent or not asked for."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    dbias: Tensor | None
    dsink: Tensor | None


def backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    problem: AttentionProblem,
    *,
    need_dbias: bool = True,
    need_dsink: bool = True,
    into: tuple[Tensor | None, ...] = (None, None, None),
    tile_keys: int | None = None,
) -> Gradients:
    """Return the gradients of sum(dout * out) + sum(dlse * lse).

    out and lse are what ``forward`` returned for the same problem; dlse has lse's shape, or is None
    for zero. k and v may be packed, paged or chosen rows of a cache: every slot receives the sum of
    what reads it. need_dbias, need_dsink: whether to compute the gradient of problem.bias and
    problem.sink, if present. into: where dq, dk and dv go: tensors like q, k and v of any strides,
    or None for new ones. Rows with LSE = -inf get and give zero gradients. Every sum has a
    fixed order, so equal inputs give equal bits. Extra memory: dk and dv in fp32, one row block of
    everything else. tile_keys: as in ``forward``. Raises ValueError for FP8 tensors.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if is_fp8(tensor.dtype):
            raise ValueError(
                f"{name} is {tensor.dtype}: FP8 attention has no backward; use bfloat16 or float16"
            )
    if problem.qv is not None:
        raise ValueError("qv: there is no backward pass beside it; join it to q, and v to k")
    plan = make_plan(q, k, problem, tile_keys)
    context = make_context(q, k, problem, plan)
    run = _Run(context, dout, dlse, q, k, v, out, lse, need_dbias, need_dsink, into)
    with without_autocast(q.device):
        # The fused operator takes no gradient of LSE.
        fusible = dlse is None and tile_keys is None
        groups = fused.groups(q, k, v, problem, plan) if fusible else plan.groups
        for group in groups:
            if fusible and fused.serves(q, k, v, problem, group):
                run.fused_group(group)
            else:
                for rows in plan.row_blocks(group):
                    run.row_block(group, rows)
        return run.gradients()


class _Run:
    """The accumulators of one call."""

    def __init__(
        self,
        context: TileContext,
        dout: Tensor,
        dlse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        need_dbias: bool,
        need_dsink: bool,
        into: tuple[Tensor | None, ...],
    ) -> None:
        problem, dtype = context.problem, context.dtype
        self.context, self.problem, self.plan = context, problem, context.plan
        self.q, self.k, self.v, self.out, self.dout = q, k, v, out, dout
        # (tokens..., heads, 1), so that rows are read like those of q.
        self.lse = lse.transpose(-1, -2).unsqueeze(-1)
        self.dlse = None if dlse is None else dlse.transpose(-1, -2).unsqueeze(-1)
        self.into = into
        self.dq = _zeros(q, q.dtype, problem.cu_seqlens_q, into[0])
        packed_k = problem.cu_seqlens_k if problem.block_table is None else None
        self.dk = _zeros(k, dtype, packed_k, into[1])
        self.dv = _zeros(v, dtype, packed_k, into[2])
        self.packed_k = packed_k is not None
        self.dbias: Tensor | None = None
        if problem.bias is not None and need_dbias:
            reduced = any(
                extent == 1 and full > 1
                for extent, full in zip(
                    problem.bias.shape, (self.plan.batch, q.shape[-2], 2, 2), strict=True
                )
            )
            self.dbias = torch.zeros_like(problem.bias, dtype=dtype if reduced else None)
        self.dsink: Tensor | None = None
        if problem.sink is not None and need_dsink:
            self.dsink = q.new_zeros(context.heads, dtype=dtype)

    def gradients(self) -> Gradients:
        """Cast the accumulators to their tensors' dtypes."""
        k, v, problem = self.k, self.v, self.problem
        dbias, dsink = self.dbias, self.dsink
        if dbias is not None and problem.bias is not None:
            dbias = dbias.to(problem.bias.dtype)
        if dsink is not None and problem.sink is not None:
            dsink = dsink.flatten().to(problem.sink.dtype)
        dq = self.dq if problem.cu_seqlens_q is None else self.dq[:-1]
        dk = self.dk[:-1] if self.packed_k else self.dk
        dv = self.dv[:-1] if self.packed_k else self.dv
        return Gradients(
            _deliver(dq, self.q, self.into[0]),
            _deliver(dk, k, self.into[1]),
            _deliver(dv, v, self.into[2]),
            dbias,
            dsink,
        )

    def fused_group(self, group: Group) -> None:
        """The gradients of a group whose forward the fused operator computes."""
        rows = Span(group.first, group.last, 0, group.rows)
        keys = Span(group.first, group.last, 0, group.keys)
        dq, dk, dv = fused.backward(
            self.dout, self.q, self.k, self.v, self.out, self.lse, self.problem, self.plan, group
        )
        self.plan.q_tokens.write(self.dq, rows, dq)
        self.plan.k_tokens.add(self.dk, keys, dk)
        self.plan.k_tokens.add(self.dv, keys, dv)
        if self.dsink is not None:
            for block in self.plan.row_blocks(group):
                self._statistics(group, block)

    def _statistics(self, group: Group, rows: Span) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return dout, delta, LSE (+inf where -inf, so that P = 0) and live rows; add to dsink."""
        context = self.context
        lse = context.read_rows(self.lse, rows)
        live = lse != -_INF
        inside = context.inside(group, rows, lse.shape[-2])
        if inside is not None:
            live = live & inside
        lse = lse.masked_fill(~live, _INF)
        dout = torch.where(live, context.read_rows(self.dout, rows), 0)
        out = torch.where(live, context.read_rows(self.out, rows), 0)
        delta = (dout * out).sum(-1, keepdim=True)
        if self.dlse is not None:
            delta = delta - torch.where(live, context.read_rows(self.dlse, rows), 0)
        if self.dsink is not None and self.problem.sink is not None:
            sink = torch.unflatten(self.problem.sink.to(context.dtype), 0, context.heads)[
                None, :, :, None, None
            ]
            self.dsink -= (torch.exp(sink - lse) * delta).sum((0, 3, 4))
        return dout, delta, lse, live

    def row_block(self, group: Group, rows: Span) -> None:
        """Add what one block of rows contributes, one block of keys at a time."""
        context, problem, plan = self.context, self.problem, self.plan
        dout, delta, lse, live = self._statistics(group, rows)
        scale = context.batch_scale(rows)
        q_tile = torch.where(live, context.read_rows(self.q, rows), 0) * scale
        dq = torch.zeros_like(q_tile)
        q_flat, dout_flat = q_tile.flatten(2, 3), dout.flatten(2, 3)
        for keys in plan.key_blocks(group, rows, problem):
            visible = context.visible(group, rows, keys)
            seen = None if visible is None else visible.any(-2)
            k_tile = context.read_keys(self.k, keys, seen)
            v_tile = context.read_keys(self.v, keys, seen)
            scores, slope = context.scores(q_tile, k_tile, group, rows, keys, visible)
            p = torch.exp(scores - lse)
            dp = torch.unflatten(torch.matmul(dout_flat, v_tile.mT), 2, p.shape[2:4])
            keep = context.keep(rows, keys, p.shape[-2:])
            kept = p
            if keep is not None:
                factor = keep.to(p.dtype) / (1.0 - problem.dropout_p)
                kept, dp = p * factor, dp * factor
            ds = p * (dp - delta)
            self._add_bias(ds, rows, keys)
            if slope is not None:
                ds = ds * slope
            ds_flat = ds.flatten(2, 3)
            width = keys.end - keys.begin
            dk = torch.matmul(ds_flat.mT, q_flat)[..., :width, :]
            dv = torch.matmul(kept.flatten(2, 3).mT, dout_flat)[..., :width, :]
            plan.k_tokens.add(self.dk, keys, dk.transpose(1, 2))
            plan.k_tokens.add(self.dv, keys, dv.transpose(1, 2))
            dq = dq + torch.matmul(ds_flat, k_tile).view_as(dq)
        dq = (dq * scale)[..., : rows.end - rows.begin, :]
        plan.q_tokens.write(self.dq, rows, dq.flatten(1, 2).transpose(1, 2).to(self.q.dtype))

    def _add_bias(self, ds: Tensor, rows: Span, keys: Span) -> None:
        if self.dbias is None:
            return
        part = ds.flatten(1, 2)[..., : rows.end - rows.begin, : keys.end - keys.begin]
        shape = self.dbias.shape
        reduced = [dim for dim in range(4) if shape[dim] == 1]
        if reduced:
            part = part.sum(reduced, keepdim=True)
        self.dbias[bias_slices(shape, rows, keys)] += part


def _zeros(
    like: Tensor, dtype: torch.dtype, cu_seqlens: Tensor | None, into: Tensor | None
) -> Tensor:
    """An accumulator like ``like``, with the spare row of PackedTokens if it is packed."""
    if cu_seqlens is not None:
        return like.new_zeros((like.shape[0] + 1, *like.shape[1:]), dtype=dtype)
    if into is not None and into.dtype == dtype:
        return into.zero_()
    return like.new_zeros(like.shape, dtype=dtype)


def _deliver(gradient: Tensor, like: Tensor, into: Tensor | None) -> Tensor:
    """The accumulated gradient in like's dtype, in into if given."""
    if into is None:
        return gradient.to(like.dtype)
    return into if gradient is into else into.copy_(gradient)
