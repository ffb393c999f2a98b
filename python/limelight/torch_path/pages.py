# SPDX-License-Identifier: BSD-3-Clause
"""Paged key/value caches as dense tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def gather_pages(cache: Tensor, block_table: Tensor, *, num_tokens: int | None = None) -> Tensor:
    """Copy the pages of each sequence into a dense tensor (batch, num_tokens, heads_kv, headdim).

    cache: (num_pages, page_size, heads_kv, headdim), any strides. block_table: (batch, max_pages)
    integer. num_tokens: default and maximum max_pages * page_size. Table entries outside [0,
    num_pages) are unused slots: they read page 0 and must lie beyond the sequence's length.
    """
    batch, max_pages = block_table.shape
    num_pages, page_size, heads, headdim = cache.shape
    tokens = max_pages * page_size if num_tokens is None else num_tokens
    position = torch.arange(tokens, device=cache.device)
    if num_pages == 0 or tokens == 0:
        return cache.new_zeros((batch, tokens, heads, headdim))
    page = block_table.long()[:, position // page_size]
    page = torch.where((page >= 0) & (page < num_pages), page, 0)
    return cache[page, (position % page_size).expand(batch, -1)]
