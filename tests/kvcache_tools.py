# SPDX-License-Identifier: BSD-3-Clause
"""Caches of every kind with the same contents, and a judge that keeps every sequence apart."""

from __future__ import annotations

from typing import Any

import limelight
import torch
from limelight.problem import AttentionProblem
from reference import reference
from torch import Tensor

BATCH, HEADS, HEADS_KV, HEADDIM, CAPACITY = 3, 4, 2, 32, 24
LENGTHS = [5, 0, 13]


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def turn(x: Tensor, positions: list[int], cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotary embedding of x (tokens, heads, headdim) as complex multiplication, in float64."""
    half = cos.shape[1]
    part = x[..., : 2 * half].double()
    a, b = (
        (part[..., 0::2], part[..., 1::2]) if interleaved else (part[..., :half], part[..., half:])
    )
    angle = torch.complex(cos[positions].double(), sin[positions].double())[:, None]
    z = torch.complex(a, b) * angle
    pairs = (
        torch.stack((z.real, z.imag), -1).flatten(-2)
        if interleaved
        else torch.cat((z.real, z.imag), -1)
    )
    return torch.cat((pairs, x[..., 2 * half :].double()), -1)


class Cache:
    """The same contents as plain sequences and as a dense, indexed or paged cache."""

    def __init__(self, kind: str, dtype: torch.dtype, page_size: int = 5) -> None:
        self.kind, self.page_size = kind, page_size
        self.k = draw(BATCH, CAPACITY, HEADS_KV, HEADDIM, dtype=dtype)
        self.v = draw(BATCH, CAPACITY, HEADS_KV, HEADDIM, dtype=dtype, seed=1)
        for b, n in enumerate(LENGTHS):
            self.k[b, n:] = float("nan")
            self.v[b, n:] = float("nan")
        self.arguments: dict[str, Any] = {}
        if kind == "paged":
            pages = -(-CAPACITY // page_size)
            order = torch.randperm(BATCH * pages + 2, generator=torch.Generator().manual_seed(1))
            self.table = order[: BATCH * pages].view(BATCH, pages).int()
            self.arguments["block_table"] = self.table
            shape = (BATCH * pages + 2, page_size, HEADS_KV, 2 * HEADDIM)
            # One tensor holds K and V side by side, so both are strided views.
            both = torch.full(shape, float("nan"), dtype=dtype)
            self.stored = both.split(HEADDIM, -1)
        elif kind == "rows":
            self.rows = ints(3, 0, 2)
            self.arguments["cache_batch_idx"] = self.rows
            self.stored = tuple(
                torch.full((BATCH + 1, CAPACITY, HEADS_KV, HEADDIM), float("nan"), dtype=dtype)
                for _ in range(2)
            )
        else:
            self.stored = (self.k.clone(), self.v.clone())
        for b in range(BATCH):
            for x, held in zip((self.k, self.v), self.stored, strict=True):
                for t in range(CAPACITY):
                    held[self.place(b, t)] = x[b, t]

    def place(self, b: int, t: int) -> tuple[int, int]:
        if self.kind == "paged":
            return int(self.table[b, t // self.page_size]), t % self.page_size
        return (int(self.rows[b]) if self.kind == "rows" else b), t

    def read(self, which: int, b: int, end: int) -> Tensor:
        return torch.stack([self.stored[which][self.place(b, t)] for t in range(end)])


def judge(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, leftpad: int = 0, **problem: Any
) -> None:
    """One sequence: out (seqlen_q, heads, headdim) against float64 over the visible keys."""
    extent = {"max_seqlen_q": len(q), "max_seqlen_k": len(k) - leftpad}
    p = AttentionProblem(**{"softmax_scale": HEADDIM**-0.5, **extent, **problem})
    want = reference(q[None], k[None, leftpad:], v[None, leftpad:], p)
    # fp32: sums of at most 32 + 24 terms of size 1, 2**-24 each. bfloat16: P and out are rounded,
    # 2**-9 of values of size 4 each.
    coarse = 2.0**-7 if out.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(out.double().cpu(), want.out[0], rtol=coarse, atol=coarse)
    torch.testing.assert_close(lse.double().cpu(), want.lse[0], rtol=1e-5, atol=1e-5 + coarse / 4)


HALF = torch.bfloat16
CAUSAL = {"causal": True, "window_right": 0}


def run(where: torch.device, cache: Cache, q: Tensor, *new: Tensor, **arguments: Any) -> Any:
    """(out, lse) with everything on the device; the cache's tensors are written there."""
    cache.stored = tuple(x.to(where) for x in cache.stored)
    given = {"cache_seqlens": ints(*LENGTHS), "return_softmax_lse": True}
    given |= cache.arguments | arguments
    placed = {n: x.to(where) if isinstance(x, Tensor) else x for n, x in given.items()}
    tokens = (x.to(where) for x in new)
    return limelight.flash_attn_with_kvcache(q.to(where), *cache.stored, *tokens, **placed)


def attend(
    where: torch.device, problem: dict[str, Any] | None = None, seqlen_q: int = 3, **arguments: Any
) -> tuple[Tensor, Tensor]:
    """Attend to a paged cache; every sequence is judged by what problem says of it."""
    cache = Cache("paged", HALF, page_size=4)
    q = draw(BATCH, seqlen_q, HEADS, HEADDIM, dtype=HALF)
    out, lse = run(where, cache, q, **arguments)
    for b, n in enumerate(LENGTHS):
        judge(out[b], lse[b], q[b], cache.k[b, :n], cache.v[b, :n], **(problem or {}))
    return out, lse
