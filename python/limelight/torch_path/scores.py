# SPDX-License-Identifier: BSD-3-Clause
"""One tile of scores (batch, heads_kv, group, rows, keys): softcap, ALiBi, bias, visibility."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.problem import AttentionProblem
from limelight.torch_path.dropout import dropout_keep_mask
from limelight.torch_path.plan import Group, Plan
from limelight.torch_path.tokens import Span


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of scores, statistics and accumulators."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep autocast from rounding the products of tiles that are fp32 on purpose."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


@dataclass(frozen=True)
class TileContext:
    """What the tiles of one call share. heads: (heads_kv, group)."""

    problem: AttentionProblem
    plan: Plan
    heads: tuple[int, int]
    dtype: torch.dtype
    scale: (
        float | Tensor
    )  # softmax_scale, times the descales of q and k as (batch, heads_kv, 1, 1, 1)

    def batch_scale(self, span: Span) -> float | Tensor:
        if isinstance(self.scale, Tensor):
            return self.scale[span.first : span.last]
        return self.scale

    def read_rows(self, source: Tensor, span: Span) -> Tensor:
        """(batch, rows, heads_q, x) as (batch, heads_kv, group, rows, x), compute dtype."""
        tile = self.plan.q_tokens.read(source, span).to(self.dtype)
        tile = torch.unflatten(tile.permute(0, 2, 1, 3), 1, self.heads)
        return self._pad(tile, self.plan.block_rows)

    def read_queries(self, q: Tensor, span: Span) -> Tensor:
        """The rows of q, behind those of qv where the call has them; times the scale."""
        tile = self.read_rows(q, span)
        if self.problem.qv is not None:
            tile = torch.cat((self.read_rows(self.problem.qv, span), tile), -1)
        return tile * self.batch_scale(span)

    def score_keys(self, k_tile: Tensor, v_tile: Tensor) -> Tensor:
        """What the rows of read_queries are multiplied with."""
        return k_tile if self.problem.qv is None else torch.cat((v_tile, k_tile), -1)

    def read_keys(self, source: Tensor, span: Span, seen: Tensor | None) -> Tensor:
        """(batch, keys, heads_kv, x) as (batch, heads_kv, keys, x); keys no row sees become 0.

        Zeroing matters because 0 * NaN and 0 * inf of stale or never written cache slots are NaN.
        """
        tile = self.plan.k_tokens.read(source, span).to(self.dtype).permute(0, 2, 1, 3)
        tile = self._pad(tile, self.plan.block_keys)
        if seen is not None:
            tile = torch.where(seen[:, None, :, None], tile, 0)
        return tile

    def _pad(self, tile: Tensor, size: int) -> Tensor:
        if not self.plan.aligned or tile.shape[-2] == size:
            return tile
        return F.pad(tile, (0, 0, 0, size - tile.shape[-2]))

    def inside(self, group: Group, rows: Span, height: int) -> Tensor | None:
        """(batch, 1, 1, height, 1) bool: rows within their sequence; None if the group is exact."""
        if group.exact:
            return None
        lengths = self.plan.lengths_q[group.first : group.last, None, None, None, None]
        row = torch.arange(rows.begin, rows.begin + height, device=lengths.device)[:, None]
        return row < lengths

    def visible(self, group: Group, rows: Span, keys: Span) -> Tensor | None:
        """(batch or 1, rows, keys) bool, or None where every row sees every key."""
        problem, plan = self.problem, self.plan
        left, right, chunk = problem.window_left, problem.window_right, problem.attention_chunk
        if group.exact and not plan.aligned and problem.tree_mask is None and chunk == 0:
            shift = group.keys - group.rows
            if (left < 0 or keys.begin >= rows.end - 1 + shift - left) and (
                right < 0 or keys.end - 1 <= rows.begin + shift + right
            ):
                return None
        height = plan.block_rows if plan.aligned else rows.end - rows.begin
        width = plan.block_keys if plan.aligned else keys.end - keys.begin
        device = plan.lengths_q.device
        row = torch.arange(rows.begin, rows.begin + height, device=device)[:, None]
        key = torch.arange(keys.begin, keys.begin + width, device=device)
        if group.exact:
            shift_k: Tensor | int = group.keys - group.rows
            pad: Tensor | int = group.leftpad
            inside = (key < group.keys) & (row < group.rows) & (key >= group.leftpad)
            inside = inside[None]
        else:
            lengths_q = plan.lengths_q[group.first : group.last, None, None]
            lengths_k = plan.lengths_k[group.first : group.last, None, None]
            shift_k = lengths_k - lengths_q
            inside = (key < lengths_k) & (row < lengths_q)
            pad = 0
            if plan.leftpad is not None:
                pad = plan.leftpad[group.first : group.last, None, None]
                inside &= key >= pad
        distance = key - row - shift_k  # key minus the diagonal of bottom-right alignment
        if left >= 0:
            inside = inside & (distance >= -left)
        if right >= 0:
            inside = inside & (distance <= right)
        if chunk > 0:
            start = pad + (row + shift_k - pad) // chunk * chunk
            inside = inside & (key >= start) & (key < start + chunk)
        if problem.tree_mask is not None:
            token = (key - shift_k).expand(rows.last - rows.first, 1, width)
            inside = inside & self._tree(problem.tree_mask[rows.first : rows.last], row, token)
        return inside

    def _tree(self, words: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """Which new tokens (negative: earlier keys) the rows see.

        words: (batch, seqlen_q, words). row: (rows, 1). token: (batch, 1, keys). Returns (batch,
        rows, keys).
        """
        batch, height, width = words.shape
        if height == 0:
            return token < 0
        sequence = torch.arange(batch, device=words.device)[:, None, None]
        where = (token >> 5).clamp(0, width - 1)
        word = words[sequence, row.clamp(max=height - 1), where]
        return (token < 0) | ((word >> (token & 31)) & 1 == 1)

    def scores(
        self,
        q_tile: Tensor,
        k_tile: Tensor,
        group: Group,
        rows: Span,
        keys: Span,
        seen: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scores, -inf where invisible, and d score / d product if softcap bends it.

        q_tile is already multiplied by the scale.
        """
        problem = self.problem
        products = torch.matmul(q_tile.flatten(2, 3), k_tile.mT)
        products = torch.unflatten(products, 2, q_tile.shape[2:4])
        slope: Tensor | None = None
        if problem.softcap > 0:
            bent = torch.tanh(products / problem.softcap)
            products = bent * problem.softcap
            slope = 1 - bent * bent
        if problem.alibi_slopes is not None:
            products = products - self._alibi(group, rows, keys, products.shape[-2:])
        if problem.bias is not None:
            bias = self.heads_tile(problem.bias, rows, keys).to(self.dtype)
            if self.plan.aligned:
                bias = self._pad_bias(bias)
            products = products + bias
        if seen is not None:
            products = products.masked_fill(~seen[:, None, None], float("-inf"))
        return products, slope

    def _alibi(self, group: Group, rows: Span, keys: Span, size: torch.Size) -> Tensor:
        plan = self.plan
        slopes = self.problem.alibi_slopes
        assert slopes is not None
        device = plan.lengths_q.device
        row = torch.arange(rows.begin, rows.begin + size[0], device=device)[:, None]
        key = torch.arange(keys.begin, keys.begin + size[1], device=device)
        if group.exact:
            distance = (key - row - (group.keys - group.rows))[None, None, None]
        else:
            shift = (plan.lengths_k - plan.lengths_q)[group.first : group.last]
            distance = key - row - shift[:, None, None, None, None]
        slopes = slopes[group.first : group.last] if slopes.dim() == 2 else slopes[None]
        return (
            torch.unflatten(slopes.to(self.dtype), 1, self.heads)[..., None, None] * distance.abs()
        )

    def heads_tile(self, full: Tensor, rows: Span, keys: Span) -> Tensor:
        """Cut (batch, heads_q, rows, keys), any extent possibly 1, to this tile."""
        part = full[bias_slices(full.shape, rows, keys)]
        return torch.unflatten(part, 1, self.heads if full.shape[1] != 1 else (1, 1))

    def _pad_bias(self, bias: Tensor) -> Tensor:
        height = 0 if bias.shape[-2] == 1 else self.plan.block_rows - bias.shape[-2]
        width = 0 if bias.shape[-1] == 1 else self.plan.block_keys - bias.shape[-1]
        return F.pad(bias, (0, width, 0, height))

    def keep(self, rows: Span, keys: Span, size: torch.Size) -> Tensor | None:
        """The dropout mask of this tile, or None without dropout."""
        problem = self.problem
        if problem.dropout_p == 0.0 or problem.rng_state is None:
            return None
        heads_q = self.heads[0] * self.heads[1]
        mask = dropout_keep_mask(
            problem.rng_state,
            problem.dropout_p,
            (rows.first, rows.last),
            (0, heads_q, heads_q),
            (rows.begin, rows.begin + size[0]),
            (keys.begin, keys.begin + size[1]),
        )
        return torch.unflatten(mask, 1, self.heads)


def bias_slices(shape: torch.Size, rows: Span, keys: Span) -> tuple[slice, slice, slice, slice]:
    """Where a tile lies in (batch, heads_q, rows, keys) of ``shape``, broadcast extents 1."""
    whole = slice(None)
    return (
        slice(rows.first, rows.last) if shape[0] != 1 else whole,
        whole,
        slice(rows.begin, rows.end) if shape[2] != 1 else whole,
        slice(keys.begin, keys.end) if shape[3] != 1 else whole,
    )
