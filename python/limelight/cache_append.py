# SPDX-License-Identifier: BSD-3-Clause
"""Writes new keys and values into a dense or paged cache, without a host synchronisation."""

from __future__ import annotations

import torch
from torch import Tensor


def token_places(
    k: Tensor, cache_seqlens: Tensor, cu_seqlens_k_new: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Batch row, position in the sequence, and whether there is a sequence, of every new token.

    k: (batch, seqlen_new, ...), or (total_new, ...) with cu_seqlens_k_new (batch + 1,).
    """
    starts = cache_seqlens.long()
    if cu_seqlens_k_new is None:
        row = torch.arange(k.shape[0], device=k.device)[:, None].expand(k.shape[:2])
        return row, starts[:, None] + torch.arange(k.shape[1], device=k.device), None
    ends = cu_seqlens_k_new.long()
    token = torch.arange(k.shape[0], device=k.device)
    row = torch.searchsorted(ends[1:].contiguous(), token, right=True)
    real = row < starts.shape[0]
    row = row.clamp(max=max(starts.shape[0] - 1, 0))
    return row, starts[row] + token - ends[row], real


def append_kv(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    cache_seqlens: Tensor,
    cu_seqlens_k_new: Tensor | None,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
) -> None:
    """Store token t of sequence b at position cache_seqlens[b] + t of its cache row or pages.

    Values are copied bit for bit. Tokens past cu_seqlens_k_new[-1] belong to no sequence and are
    not stored.
    """
    if k.numel() == 0:
        return
    row, position, real = token_places(k, cache_seqlens, cu_seqlens_k_new)
    if real is not None:
        # A token of no sequence repeats the write of token 0, so nothing changes through it.
        row, position = (
            torch.where(real, part, torch.where(real[:1], part[:1], 0)) for part in (row, position)
        )
    if block_table is not None:
        page_size = k_cache.shape[1]
        index = (block_table.long()[row, position // page_size], position % page_size)
    elif cache_batch_idx is not None:
        index = (cache_batch_idx.long()[row], position)
    else:
        index = (row, position)
    _store(k_cache, k, index, real)
    _store(v_cache, v, index, real)


def _store(cache: Tensor, new: Tensor, index: tuple[Tensor, Tensor], real: Tensor | None) -> None:
    if cache.element_size() == 1:  # float8 has no indexed assignment
        cache, new = cache.view(torch.uint8), new.view(torch.uint8)
    if real is not None:
        own = real.view(-1, *[1] * (new.dim() - 1))
        there = cache[index[0][:1], index[1][:1]]
        new = torch.where(own, new, torch.where(own[:1], new[:1], there))
    cache[index] = new
