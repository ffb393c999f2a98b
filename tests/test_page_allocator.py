# SPDX-License-Identifier: BSD-3-Clause
"""The page allocator of the serving example: no page is lost, no content is overwritten.

A machine holds sequences as a server does and keeps beside every page what was written to it: each
sequence must always read its own tokens, whatever others match, copy, write and let go.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from page_allocator import ROOT, OutOfPagesError, PageAllocator

SIZE = 3
UNKNOWN = -1
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=11)  # two letters: many equal prefixes


class Sequence:
    def __init__(self, tokens: list[int], pages: list[int], known: int, prefix: int) -> None:
        self.tokens, self.pages, self.known, self.prefix = tokens, pages, known, prefix


class Server(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pages = PageAllocator(8, SIZE)
        self.content = [[UNKNOWN] * SIZE for _ in range(8)]
        self.sequences: list[Sequence] = []

    def take(self) -> int:
        page = self.pages.take()
        assert all(page not in s.pages for s in self.sequences)
        self.content[page] = [UNKNOWN] * SIZE  # what it held before is gone
        return page

    def write(self, s: Sequence, token: int) -> bool:
        """Append one token as the engine does; False where no page was left."""
        index, slot = divmod(len(s.tokens), SIZE)
        if index < len(s.pages) and not self.pages.writable(s.pages[index]):
            page = s.pages[index]
            if self.pages.available == 0 and not self.pages.shared(page):
                self.pages.forget(page)
            else:
                try:
                    own = self.take()
                except OutOfPagesError:
                    return False
                self.content[own] = list(self.content[page])
                self.pages.let_go([page])
                s.pages[index] = own
        elif index == len(s.pages):
            try:
                s.pages.append(self.take())
            except OutOfPagesError:
                return False
        self.content[s.pages[index]][slot] = token
        s.tokens.append(token)
        if slot == SIZE - 1:
            s.prefix = self.pages.remember(s.prefix, s.pages[index], s.tokens[-SIZE:])
            s.known += 1
        return True

    @rule(tokens=TOKENS)
    def admit(self, tokens: list[int]) -> None:
        found = self.pages.match(tokens)
        assert found.full <= len(found.pages) == self.pages.pages_for(found.tokens)
        read = [t for page in found.pages for t in self.content[page]][: found.tokens]
        assert read == tokens[: found.tokens]
        s = Sequence(tokens[: found.tokens], found.pages, found.full, found.prefix)
        self.sequences.append(s)
        for token in tokens[found.tokens :]:
            if not self.write(s, token):
                break

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), tokens=TOKENS)
    def extend(self, data: st.DataObject, tokens: list[int]) -> None:
        s = data.draw(st.sampled_from(self.sequences))
        for token in tokens:
            if not self.write(s, token):
                break

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        s = data.draw(st.sampled_from(self.sequences))
        self.sequences.remove(s)
        self.pages.let_go(s.pages)

    @invariant()
    def every_sequence_reads_its_tokens(self) -> None:
        for s in self.sequences:
            read = [t for page in s.pages for t in self.content[page]]
            assert read[: len(s.tokens)] == s.tokens

    @invariant()
    def every_page_is_in_one_place(self) -> None:
        held = {page for s in self.sequences for page in s.pages}
        free, kept = self.pages._free, list(self.pages._kept)
        assert sorted([*free, *kept, *held]) == list(range(8))
        assert self.pages.held == len(held)
        holders = [sum(s.pages.count(page) for s in self.sequences) for page in range(8)]
        assert self.pages._holders == holders

    def teardown(self) -> None:
        for s in self.sequences:
            self.pages.let_go(s.pages)
        assert self.pages.available == 8


TestServer = Server.TestCase
TestServer.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_free_pages_are_handed_out_before_kept_ones() -> None:
    pages = PageAllocator(3, 2)
    first = pages.take()
    pages.remember(ROOT, first, [1, 2])
    pages.let_go([first])
    assert {pages.take(), pages.take()} == {0, 1, 2} - {first}
    found = pages.match([1, 2, 3])
    assert (found.pages, found.tokens) == ([first], 2)
    pages.let_go([first])
    assert pages.take() == first
    assert pages.match([1, 2, 3]).pages == []
    with pytest.raises(OutOfPagesError):
        pages.take()


def test_the_ends_of_prefixes_are_reused_first() -> None:
    pages = PageAllocator(3, 1)
    held, prefix = [pages.take() for _ in range(3)], ROOT
    for page, token in zip(held, (7, 8, 9), strict=True):
        prefix = pages.remember(prefix, page, [token])
    pages.let_go(held)
    assert pages.take() == held[2]
    assert pages.match([7, 8, 9]).pages == held[:2]


def test_a_page_matches_in_part() -> None:
    pages = PageAllocator(2, 4)
    page = pages.take()
    pages.remember(ROOT, page, [1, 2, 3, 4])
    found = pages.match([1, 2, 9])
    assert found == ([page], 2, 0, ROOT)
    assert not pages.writable(page)
    assert pages.shared(page)
