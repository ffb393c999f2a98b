# SPDX-License-Identifier: BSD-3-Clause
"""How a call is cut into groups of sequences, blocks of rows and blocks of keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limelight.problem import AttentionProblem
from limelight.torch_path.tokens import (
    CacheRowTokens,
    DenseTokens,
    PackedTokens,
    PagedTokens,
    Span,
    Tokens,
)

# A tile of scores (batch, heads_q, rows, keys) has about this many elements at most. On a CPU with
# 2 MB of L2 per core 2**18 elements and 256 keys were the fastest of 2**18 .. 2**21 and 256 ..
# 1024; a GPU wants few launches.
_CPU_ELEMENTS, _CPU_KEYS = 1 << 18, 256
_DEVICE_ELEMENTS, _DEVICE_KEYS = 1 << 24, 1024
_INVARIANT_ROWS, _INVARIANT_KEYS = 32, 128
# Sequences of unequal length share padded tiles while the padded work stays below this many scores,
# or this ratio.
_SHARED_SCORES, _SHARED_RATIO = 1 << 18, 1.25


@dataclass(frozen=True)
class Group:
    """Sequences first..last of the batch that are computed together.

    rows, keys: the most rows and the largest key bound among them. leftpad: keys below it are
    invisible to all. exact: every sequence has exactly these rows, keys and leftpad, so that masks
    follow from host integers alone.
    """

    first: int
    last: int
    rows: int
    keys: int
    leftpad: int
    exact: bool


@dataclass(frozen=True)
class Plan:
    """Everything that the loops need beside the tensors' values."""

    batch: int
    q_tokens: Tokens
    k_tokens: Tokens
    lengths_q: Tensor  # (batch,), on the tensors' device; only read for groups that are not exact
    lengths_k: Tensor
    leftpad: Tensor | None
    groups: list[Group]
    whole: Group | None  # the batch as one exact group, if all its sequences are alike
    block_rows: int
    block_keys: int
    aligned: bool  # key blocks start at multiples of block_keys and tiles are padded to full size

    def row_blocks(self, group: Group) -> list[Span]:
        """Blocks that cover the group's rows."""
        step = self.block_rows
        return [
            Span(group.first, group.last, i, min(i + step, group.rows))
            for i in range(0, group.rows, step)
        ]

    def key_blocks(self, group: Group, rows: Span, problem: AttentionProblem) -> list[Span]:
        """Blocks that cover the keys which some row of ``rows`` may see."""
        begin, end = group.leftpad, group.keys
        if group.exact:
            shift = group.keys - group.rows
            if problem.window_left >= 0:
                begin = max(begin, rows.begin + shift - problem.window_left)
            if problem.window_right >= 0:
                end = min(end, rows.end + shift + problem.window_right)
            chunk = problem.attention_chunk
            if chunk > 0:
                first, last = (i + shift - group.leftpad for i in (rows.begin, rows.end - 1))
                begin = max(begin, group.leftpad + first // chunk * chunk)
                end = min(end, group.leftpad + (last // chunk + 1) * chunk)
        step = self.block_keys
        if self.aligned:
            begin = begin // step * step
        return [
            Span(group.first, group.last, j, min(j + step, end)) for j in range(begin, end, step)
        ]


def reads_lengths(q: Tensor) -> bool:
    """Whether lengths may be read to the host: only where that waits for no device."""
    return q.device.type == "cpu"


def make_plan(
    q: Tensor, k: Tensor, problem: AttentionProblem, tile_keys: int | None = None
) -> Plan:
    """Plan a call; lengths are read to the host only where the tensors already are on the CPU.

    tile_keys: the most keys of a tile, instead of what is fast on the device.
    """
    cu_q, cu_k, table = problem.cu_seqlens_q, problem.cu_seqlens_k, problem.block_table
    on_cpu = reads_lengths(q)
    batch = q.shape[0] if cu_q is None else cu_q.shape[0] - 1
    extent_q = q.shape[1] if cu_q is None else q.shape[0]
    if table is not None:
        extent_k = table.shape[1] * k.shape[1]
    else:
        extent_k = k.shape[1] if cu_k is None else k.shape[0]
    if not on_cpu:
        extent_q = extent_q if cu_q is None else min(extent_q, problem.max_seqlen_q)
        if cu_k is not None or table is not None:
            extent_k = min(extent_k, problem.max_seqlen_k)
    lengths_q = _lengths(cu_q, problem.seqused_q, batch, extent_q, q)
    lengths_k = _lengths(cu_k, problem.seqused_k, batch, extent_k, q)
    given = (cu_q, cu_k, problem.seqused_q, problem.seqused_k, problem.leftpad_k)
    host: list[tuple[int, int, int]] | None = None
    if all(x is None for x in given):
        host = [(extent_q, extent_k, 0)] * batch
    elif on_cpu:
        host = _host_lengths(lengths_q, lengths_k, problem.leftpad_k)
        extent_q, extent_k = (
            max((h[0] for h in host), default=0),
            max((h[1] for h in host), default=0),
        )

    q_tokens: Tokens = DenseTokens()
    if cu_q is not None:
        q_tokens = _packed(cu_q, lengths_q, q.shape[0], on_cpu)
    k_tokens: Tokens = DenseTokens()
    if table is not None:
        k_tokens = PagedTokens(table, k.shape[0], k.shape[1])
    elif cu_k is not None:
        k_tokens = _packed(cu_k, lengths_k, k.shape[0], on_cpu)
    elif problem.cache_batch_idx is not None:
        k_tokens = CacheRowTokens(problem.cache_batch_idx)

    heads = max(q.shape[-2], 1)
    if problem.batch_invariant:
        block_rows, block_keys, together = _INVARIANT_ROWS, _INVARIANT_KEYS, 1
    else:
        elements, most_keys = (
            (_CPU_ELEMENTS, _CPU_KEYS) if on_cpu else (_DEVICE_ELEMENTS, _DEVICE_KEYS)
        )
        block_keys = max(min(extent_k, most_keys if tile_keys is None else tile_keys), 1)
        most_rows = max(elements // (heads * block_keys) // 16 * 16, 16)
        block_rows = max(min(extent_q, most_rows), 1)
        together = max(elements // (heads * block_keys * block_rows), 1)
    groups: list[Group] = []
    for first in range(0, batch, together):
        last = min(first + together, batch)
        if host is None:
            groups.append(Group(first, last, extent_q, extent_k, 0, exact=False))
        else:
            groups += _host_groups(first, host[first:last], heads)
    whole: Group | None = None
    if host and all(x == host[0] for x in host):
        whole = Group(0, batch, *host[0], exact=True)
    return Plan(
        batch=batch,
        q_tokens=q_tokens,
        k_tokens=k_tokens,
        lengths_q=lengths_q,
        lengths_k=lengths_k,
        leftpad=problem.leftpad_k,
        groups=groups,
        whole=whole,
        block_rows=block_rows,
        block_keys=block_keys,
        aligned=problem.batch_invariant,
    )


def _lengths(
    cu_seqlens: Tensor | None, seqused: Tensor | None, batch: int, extent: int, like: Tensor
) -> Tensor:
    lengths = like.new_full((batch,), extent, dtype=torch.int64)
    if cu_seqlens is not None:
        lengths = lengths.minimum(cu_seqlens.long().diff())
    if seqused is not None:
        lengths = lengths.minimum(seqused.long())
    return lengths.clamp(min=0)


def _host_lengths(
    lengths_q: Tensor, lengths_k: Tensor, leftpad: Tensor | None
) -> list[tuple[int, int, int]]:
    pads = [0] * lengths_q.shape[0] if leftpad is None else leftpad.clamp(min=0).tolist()
    return list(zip(lengths_q.tolist(), lengths_k.tolist(), pads, strict=True))


def _packed(cu_seqlens: Tensor, lengths: Tensor, total: int, on_cpu: bool) -> PackedTokens:
    host = None
    if on_cpu:
        host = list(zip(cu_seqlens.tolist(), lengths.tolist(), strict=False))
    return PackedTokens(cu_seqlens[:-1], lengths, total, host)


def _host_groups(first: int, lengths: list[tuple[int, int, int]], heads: int) -> list[Group]:
    """One group if the lengths are equal or padding is cheap, else one group for each sequence."""
    last = first + len(lengths)
    if all(x == lengths[0] for x in lengths):
        return [Group(first, last, *lengths[0], exact=True)]
    rows, keys = max(x[0] for x in lengths), max(x[1] for x in lengths)
    padded = rows * keys * len(lengths)
    useful = sum(x[0] * x[1] for x in lengths)
    if padded <= max(_SHARED_SCORES // heads, int(_SHARED_RATIO * useful)):
        return [Group(first, last, rows, keys, min(x[2] for x in lengths), exact=False)]
    return [Group(first + i, first + i + 1, *x, exact=True) for i, x in enumerate(lengths)]
