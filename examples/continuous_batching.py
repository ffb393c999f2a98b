# SPDX-License-Identifier: BSD-3-Clause
"""A server's loop: requests join and leave a batch at every step, over one paged cache.

Each step takes one token of every request that decodes and chunks of the prompts that wait, up to a
token budget, through the model once. All attention goes through flash_attn_with_kvcache, which
appends the new keys and values to the pages and attends to them.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Any

import limelight
import torch
from char_gpt import Attend, CharGPT
from page_allocator import ROOT, OutOfPagesError, PageAllocator
from torch import Tensor


@dataclass(eq=False)
class Request:
    """tokens: the prompt and what was generated. cached: how many of them have keys in pages."""

    number: int
    prompt: list[int]
    max_new: int
    tokens: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    cached: int = 0
    known: int = 0  # leading pages that the allocator knows by their tokens
    prefix: int = ROOT

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.cached

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.prompt) :]


@dataclass
class Statistics:
    """What happened so far, in tokens unless said otherwise."""

    steps: int = 0
    computed: int = 0
    generated: int = 0
    prefix_hits: int = 0
    evictions: int = 0  # requests
    copies: int = 0  # pages
    peak_pages: int = 0


class Engine:
    """Greedy decoding of many requests with num_pages pages of page_size tokens.

    When no page is left, the youngest running request gives up its pages and waits again, with the
    tokens that it generated; the oldest one therefore always finishes.
    """

    def __init__(
        self,
        model: CharGPT,
        *,
        num_pages: int,
        page_size: int = 16,
        token_budget: int = 64,
        max_running: int = 64,
    ) -> None:
        self.model, self.token_budget, self.max_running = model, token_budget, max_running
        self.pages = PageAllocator(num_pages, page_size)
        weight, c = model.head.weight, model.config
        # Keys and values of all layers; each is a strided view, as servers keep them.
        shape = (c.layers, num_pages, page_size, 2, c.heads_kv, c.headdim)
        self.cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.device = weight.device
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.finished: list[Request] = []
        self.statistics = Statistics()
        self._numbers = 0

    def submit(self, prompt: list[int], max_new: int) -> Request:
        """Queue a request; ValueError where it could never fit."""
        need = self.pages.pages_for(len(prompt) + max_new - 1)
        if not prompt or max_new < 1 or need > self.pages.num_pages:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and {max_new} new ones need {need} pages; "
                f"allowed: at least one token each and {self.pages.num_pages} pages"
            )
        request = Request(self._numbers, prompt, max_new, list(prompt))
        self._numbers += 1
        self.waiting.append(request)
        return request

    def step(self) -> bool:
        """Advance the batch by one pass of the model; False when nothing is left to do."""
        batch = self._schedule()
        if batch:
            best = self._compute(batch)
            for (request, new), token in zip(batch.items(), best, strict=True):
                self._advance(request, new, token)
            self.statistics.steps += 1
        return bool(self.waiting or self.running)

    def _schedule(self) -> dict[Request, int]:
        """How many tokens of which request to compute: those that decode first, then prompts."""
        batch: dict[Request, int] = {}
        for request in sorted(self.running, key=lambda r: (r.pending > 1, r.number)):
            left = self.token_budget - sum(batch.values())
            if left > 0 and request in self.running:
                self._reserve(request, min(request.pending, left), batch)
        while self.waiting and len(self.running) < self.max_running:
            left = self.token_budget - sum(batch.values())
            if left <= 0 or not self._admit(self.waiting[0], left, batch):
                break
        self.statistics.peak_pages = max(self.statistics.peak_pages, self.pages.held)
        return batch

    def _admit(self, request: Request, left: int, batch: dict[Request, int]) -> bool:
        """Start from the longest known prefix, unless that would evict what runs."""
        found = self.pages.match(request.tokens[:-1])  # the last token is always computed
        new = min(len(request.tokens) - found.tokens, left)
        # One page more than its tokens need, because it may have to copy one.
        need = self.pages.pages_for(found.tokens + new) - len(found.pages) + 1
        if self.running and self.pages.available < need:
            self.pages.let_go(found.pages)
            return False
        request.pages, request.cached = found.pages, found.tokens
        request.known, request.prefix = found.full, found.prefix
        self.waiting.remove(request)
        bisect.insort(self.running, request, key=lambda r: r.number)
        self.statistics.prefix_hits += found.tokens
        self._reserve(request, new, batch)
        return True

    def _reserve(self, request: Request, new: int, batch: dict[Request, int]) -> None:
        """Give request pages that it may write for its next tokens, evicting younger requests."""
        while True:
            try:
                self._make_room(request, new)
            except OutOfPagesError:
                youngest = self.running[-1]
                batch.pop(youngest, None)
                self._evict(youngest)
                if youngest is request:
                    return
            else:
                batch[request] = new
                return

    def _make_room(self, request: Request, new: int) -> None:
        first = request.cached // self.pages.page_size
        if first < len(request.pages) and not self.pages.writable(request.pages[first]):
            self._replace_by_copy(request, first)
        while len(request.pages) < self.pages.pages_for(request.cached + new):
            request.pages.append(self.pages.take())

    def _replace_by_copy(self, request: Request, index: int) -> None:
        """Copy on write: others see this page, or may find it by its tokens."""
        page = request.pages[index]
        if self.pages.available == 0 and not self.pages.shared(page):
            self.pages.forget(page)
            return
        own = self.pages.take()
        self._copy_page(page, own)
        self.pages.let_go([page])
        request.pages[index] = own
        self.statistics.copies += 1

    def _copy_page(self, source: int, target: int) -> None:
        self.cache[:, target] = self.cache[:, source]

    def _evict(self, request: Request) -> None:
        self.pages.let_go(request.pages)
        request.pages, request.cached, request.known, request.prefix = [], 0, 0, ROOT
        self.running.remove(request)
        bisect.insort(self.waiting, request, key=lambda r: r.number)
        self.statistics.evictions += 1

    @torch.no_grad()
    def _compute(self, batch: dict[Request, int]) -> list[int]:
        """The likeliest next token after the last computed one of each request."""
        tokens, positions = [], []
        for request, new in batch.items():
            tokens += request.tokens[request.cached : request.cached + new]
            positions += range(request.cached, request.cached + new)
        attend = self._attention(batch)
        hidden = self.model.hidden(self._tensor(tokens), self._tensor(positions), attend)
        last = self._tensor(list(batch.values())).cumsum(0) - 1
        self.statistics.computed += len(tokens)
        best: list[int] = self.model.head(hidden[last]).argmax(-1).tolist()
        return best

    def _attention(self, batch: dict[Request, int]) -> Attend:
        """Append and attend for one step; tables and plan are made once for all layers."""
        config = self.model.config
        counts, width = list(batch.values()), max(len(r.pages) for r in batch)
        # Entries beyond a sequence are never read: -1 would be an error if they were.
        rows = [r.pages + [-1] * (width - len(r.pages)) for r in batch]
        options: dict[str, Any] = {
            "block_table": self._tensor(rows, torch.int32),
            "cache_seqlens": self._tensor([r.cached for r in batch], torch.int32),
            "causal": True,
            "window_size": (config.window, 0),
        }
        decoding = max(counts) == 1
        new: dict[str, Any] = {"max_seqlen_k_new": 1}
        if not decoding:
            ends = self._tensor([0, *counts], torch.int32).cumsum(0, dtype=torch.int32)
            new = {"cu_seqlens_q": ends, "cu_seqlens_k_new": ends}
        options["scheduler_metadata"] = limelight.get_scheduler_metadata(
            len(counts),
            max(counts),
            width * self.pages.page_size,
            config.heads_q,
            config.heads_kv,
            config.headdim,
            options["cache_seqlens"],
            qkv_dtype=self.cache.dtype,
            page_size=self.pages.page_size,
            causal=True,
            window_size=(config.window, 0),
            **new,
        )
        if not decoding:
            options |= new | {"max_seqlen_q": max(counts)}

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.cache[layer].unbind(-3)
            if decoding:
                q, k, v = (x.unsqueeze(1) for x in (q, k, v))
            out: Tensor = limelight.flash_attn_with_kvcache(q, keys, values, k, v, **options)
            return out.squeeze(1) if decoding else out

        return attend

    def _tensor(
        self, values: list[int] | list[list[int]], dtype: torch.dtype = torch.long
    ) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(self.device, non_blocking=True)

    def _advance(self, request: Request, new: int, token: int) -> None:
        """Record what was computed; let others find the pages that are full now."""
        request.cached += new
        size = self.pages.page_size
        while (request.known + 1) * size <= request.cached:
            begin = request.known * size
            tokens = request.tokens[begin : begin + size]
            page = request.pages[request.known]
            request.prefix = self.pages.remember(request.prefix, page, tokens)
            request.known += 1
        if request.pending > 0:
            return
        request.tokens.append(token)
        self.statistics.generated += 1
        if len(request.generated) == request.max_new:
            self.running.remove(request)
            self.pages.let_go(request.pages)
            request.pages = []
            self.finished.append(request)
