# SPDX-License-Identifier: BSD-3-Clause
"""Where the tokens of each sequence lie: dense rows, packed (varlen), chosen cache rows, or pages.

Each class moves tiles between a tensor of tokens and (batch, token, ...) tiles: ``read`` copies or
views, ``write`` stores tokens that are inside their sequence, ``add`` accumulates in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Tokens begin..end (sequence-local) of the sequences first..last (half-open); begin <= end."""

    first: int
    last: int
    begin: int
    end: int


class Tokens(Protocol):
    """Token placement of one operand."""

    def read(self, source: Tensor, span: Span) -> Tensor: ...

    def write(self, target: Tensor, span: Span, tile: Tensor) -> None: ...

    def add(self, target: Tensor, span: Span, tile: Tensor) -> None: ...


class DenseTokens:
    """(batch, seqlen, ...): tiles are views."""

    def read(self, source: Tensor, span: Span) -> Tensor:
        return source[span.first : span.last, span.begin : span.end]

    def write(self, target: Tensor, span: Span, tile: Tensor) -> None:
        target[span.first : span.last, span.begin : span.end] = tile

    def add(self, target: Tensor, span: Span, tile: Tensor) -> None:
        target[span.first : span.last, span.begin : span.end] += tile


class PackedTokens:
    """(total + 1, ...): token i of sequence b is row starts[b] + i; the last row is a spare.

    The spare row takes tokens beyond their sequence; sources need not have it. host: the starts and
    lengths as Python ints where they are known; a span of one sequence is then a view.
    """

    def __init__(
        self, starts: Tensor, lengths: Tensor, total: int, host: list[tuple[int, int]] | None
    ) -> None:
        self._starts = starts.long()
        self._lengths = lengths.long()
        self._total = total
        self._host = host

    def _view(self, span: Span) -> slice | None:
        if self._host is None or span.last - span.first != 1:
            return None
        start, length = self._host[span.first]
        return slice(start + span.begin, start + span.end) if span.end <= length else None

    def _index(self, span: Span) -> Tensor:
        token = torch.arange(span.begin, span.end, device=self._starts.device)
        starts = self._starts[span.first : span.last, None]
        inside = token < self._lengths[span.first : span.last, None]
        return torch.where(inside, starts + token, self._total)

    def read(self, source: Tensor, span: Span) -> Tensor:
        view = self._view(span)
        if view is not None:
            return source[view].unsqueeze(0)
        if self._total == 0:
            return source.new_zeros(
                (span.last - span.first, span.end - span.begin, *source.shape[1:])
            )
        return _take(source, (self._index(span).clamp(max=self._total - 1),))

    def write(self, target: Tensor, span: Span, tile: Tensor) -> None:
        view = self._view(span)
        if view is not None:
            target[view] = tile[0]
        else:
            target.index_put_((self._index(span),), tile)

    def add(self, target: Tensor, span: Span, tile: Tensor) -> None:
        view = self._view(span)
        if view is not None:
            target[view] += tile[0]
        else:
            target.index_put_((self._index(span),), tile, accumulate=True)


class CacheRowTokens:
    """(cache_batch, seqlen, ...): sequence b is row rows[b]; two sequences may share a row."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows.long()

    def _index(self, span: Span) -> tuple[Tensor, Tensor]:
        token = torch.arange(span.begin, span.end, device=self._rows.device)
        return self._rows[span.first : span.last, None], token

    def read(self, source: Tensor, span: Span) -> Tensor:
        return _take(source, self._index(span))

    def write(self, target: Tensor, span: Span, tile: Tensor) -> None:
        raise NotImplementedError("cache rows are never written by the forward pass")

    def add(self, target: Tensor, span: Span, tile: Tensor) -> None:
        target.index_put_(self._index(span), tile, accumulate=True)


class PagedTokens:
    """(num_pages, page_size, ...): token j of sequence b is in page table[b, j // page_size].

    Entries outside [0, num_pages) lie beyond their sequence: they read page 0 and add zeros to it.
    """

    def __init__(self, table: Tensor, num_pages: int, page_size: int) -> None:
        entries = table.long()
        self._table = torch.where((entries >= 0) & (entries < num_pages), entries, 0)
        self._page_size = page_size
        self._empty = num_pages == 0

    def _index(self, span: Span) -> tuple[Tensor, Tensor]:
        token = torch.arange(span.begin, span.end, device=self._table.device)
        page = self._table[span.first : span.last][:, token // self._page_size]
        return page, (token % self._page_size).expand_as(page)

    def read(self, source: Tensor, span: Span) -> Tensor:
        if self._empty:
            return source.new_zeros(
                (span.last - span.first, span.end - span.begin, *source.shape[2:])
            )
        return _take(source, self._index(span))

    def write(self, target: Tensor, span: Span, tile: Tensor) -> None:
        raise NotImplementedError("pages are never written by the forward pass")

    def add(self, target: Tensor, span: Span, tile: Tensor) -> None:
        if not self._empty:
            target.index_put_(self._index(span), tile, accumulate=True)


def _take(source: Tensor, index: tuple[Tensor, ...]) -> Tensor:
    """source[index]; FP8 goes through its bytes because torch has no FP8 gather on every device."""
    if source.dtype.itemsize == 1 and source.dtype.is_floating_point:
        return source.view(torch.uint8)[index].view(source.dtype)
    return source[index]
