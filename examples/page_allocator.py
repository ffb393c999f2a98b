# SPDX-License-Identifier: BSD-3-Clause
"""Pages of a key/value cache: a free list, reference counts, and prefixes that requests share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

ROOT = 0  # the prefix of no tokens

Key = tuple[int, tuple[int, ...]]  # the prefix before a page, and the page's tokens


class OutOfPagesError(Exception):
    """Every page is held by some sequence."""


class Match(NamedTuple):
    """The longest known prefix of a sequence: its pages, which the caller now holds."""

    pages: list[int]
    tokens: int  # in those pages; the last page may match in part
    full: int  # pages that match whole
    prefix: int  # the identity of those


class PageAllocator:
    """Pages 0 to num_pages - 1 of page_size tokens each.

    A page is free, held by one or more sequences, or kept: held by none, but full of tokens that
    are known, so that a later sequence with the same prefix can hold it again. ``take`` hands out
    free pages first, then the kept page that was let go longest ago. Nobody may write to a page
    that is not ``writable``: take another one, copy, and let go of the first.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self._free = list(reversed(range(num_pages)))
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * num_pages
        self._keys: dict[int, Key] = {}
        self._prefixes: dict[Key, tuple[int, int]] = {}  # page, identity of the prefix it ends
        self._next: dict[int, dict[Key, None]] = {}  # prefix -> the keys that continue it
        self._identity = count(ROOT + 1)

    @property
    def available(self) -> int:
        """How many pages ``take`` could hand out."""
        return len(self._free) + len(self._kept)

    @property
    def held(self) -> int:
        return self.num_pages - self.available

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def take(self) -> int:
        """A page that only the caller holds; OutOfPagesError where there is none."""
        if self._free:
            page = self._free.pop()
        elif self._kept:
            page, _ = self._kept.popitem(last=False)
            self.forget(page)
        else:
            raise OutOfPagesError
        self._holders[page] = 1
        return page

    def let_go(self, pages: Sequence[int]) -> None:
        """Give up one hold of each page; the last pages are reused first, as prefixes need them."""
        for page in reversed(pages):
            assert self._holders[page] > 0, f"page {page} is not held"
            self._holders[page] -= 1
            if self._holders[page] > 0:
                continue
            if page in self._keys:
                self._kept[page] = None
            else:
                self._free.append(page)

    def writable(self, page: int) -> bool:
        """Whether only its holder can see what is written to a page."""
        return self._holders[page] == 1 and page not in self._keys

    def shared(self, page: int) -> bool:
        return self._holders[page] > 1

    def forget(self, page: int) -> None:
        """Let no later sequence find a page by its tokens."""
        key = self._keys.pop(page)
        del self._prefixes[key]
        del self._next[key[0]][key]
        if not self._next[key[0]]:
            del self._next[key[0]]

    def remember(self, prefix: int, page: int, tokens: Sequence[int]) -> int:
        """Let later sequences find a full page; returns the identity of the prefix it ends.

        Where another page has the same tokens behind the same prefix, that one stays known.
        """
        assert len(tokens) == self.page_size, f"{len(tokens)} tokens do not fill a page"
        key = (prefix, tuple(tokens))
        if key not in self._prefixes:
            self._prefixes[key] = (page, next(self._identity))
            self._keys[page] = key
            self._next.setdefault(prefix, {})[key] = None
        return self._prefixes[key][1]

    def match(self, tokens: Sequence[int]) -> Match:
        """Hold the pages of the longest known prefix of tokens, the last one perhaps in part."""
        pages: list[int] = []
        prefix, size = ROOT, self.page_size
        while len(tokens) >= (len(pages) + 1) * size:
            key = (prefix, tuple(tokens[len(pages) * size : (len(pages) + 1) * size]))
            if key not in self._prefixes:
                break
            page, prefix = self._prefixes[key]
            pages.append(page)
        full = len(pages)
        rest, common, best = tokens[full * size :], 0, -1
        for key in self._next.get(prefix, ()):
            equal = _common(rest, key[1])
            if equal > common:
                common, best = equal, self._prefixes[key][0]
        if common > 0:
            pages.append(best)
        for page in pages:
            self._kept.pop(page, None)
            self._holders[page] += 1
        return Match(pages, full * size + common, full, prefix)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common beginning."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
