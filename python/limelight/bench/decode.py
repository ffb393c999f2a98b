# SPDX-License-Identifier: BSD-3-Clause
"""Decoding attention over a cache beside torch's backends: a few query tokens, many keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

import limelight
from limelight.bench.harness import Measurement, Plan, first_line, time_rounds
from limelight.bench.timers import Call, Timer

BATCHES = (1, 8, 32, 128)
SEQLENS = (2048, 8192, 32768, 131072)
TOKENS = (1, 8, 16)
PAGE = 64
OURS = "limelight"


@dataclass(frozen=True)
class DecodeCase:
    """``tokens`` new queries a sequence over a cache of seqlen keys, these tokens' included."""

    batch: int
    seqlen: int
    tokens: int
    heads: int = 32
    heads_kv: int = 8
    headdim: int = 128
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        """For example decode-bfloat16-d128-b8-t1-s8192-h32:8."""
        heads = f"h{self.heads}:{self.heads_kv}"
        shape = f"b{self.batch}-t{self.tokens}-s{self.seqlen}-{heads}"
        return f"decode-{self.dtype}-d{self.headdim}-{shape}"

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values."""
        return 2 * 2 * self.batch * self.seqlen * self.heads_kv * self.headdim

    @property
    def moved_bytes(self) -> int:
        """Bytes of keys, values, q and out."""
        return self.cache_bytes + 2 * 2 * self.batch * self.tokens * self.heads * self.headdim

    @property
    def flops(self) -> float:
        """Multiplications and additions over the keys that the causal mask leaves."""
        seen = self.tokens * self.seqlen - self.tokens * (self.tokens - 1) / 2
        return 4.0 * self.batch * self.heads * self.headdim * seen

    def as_dict(self) -> dict[str, Any]:
        """The fields, with the name."""
        return {"name": self.name} | asdict(self)


class Inputs(NamedTuple):
    """One set: q (batch, tokens, heads, headdim), a dense cache, and the same cache by pages."""

    q: Tensor
    k: Tensor
    v: Tensor
    lengths: Tensor  # (batch,) int32
    table: Tensor  # (batch, pages) int32, pages in shuffled order
    k_pages: Tensor
    v_pages: Tensor


Attention = Callable[[Inputs, DecodeCase], Tensor]


def standard_cases(
    batches: Sequence[int] = BATCHES,
    seqlens: Sequence[int] = SEQLENS,
    tokens: Sequence[int] = TOKENS,
    heads: int = 32,
    heads_kv: int = 8,
    headdim: int = 128,
    dtype: str = "bfloat16",
) -> list[DecodeCase]:
    """Every combination."""
    return [
        DecodeCase(b, s, t, heads, heads_kv, headdim, dtype)
        for t in tokens
        for b in batches
        for s in seqlens
    ]


def input_sets(case: DecodeCase, device: torch.device, l2_bytes: int, plan: Plan) -> list[Inputs]:
    """Random inputs; cycling through the caches leaves none in L2. A set holds the cache once:
    the dense one is the pages of an ordered table."""
    count = 2 + 2 * l2_bytes // case.cache_bytes
    count = max(1, min(count, plan.memory_bytes // case.cache_bytes))
    generator = torch.Generator(device).manual_seed(1)
    dtype = getattr(torch, case.dtype)
    pages = case.seqlen // PAGE

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def draw() -> Inputs:
        k, v = (normal(case.batch, case.seqlen, case.heads_kv, case.headdim) for _ in range(2))
        order = torch.randperm(case.batch * pages, generator=generator, device=device)
        by_page = (case.batch * pages, PAGE, case.heads_kv, case.headdim)
        return Inputs(
            normal(case.batch, case.tokens, case.heads, case.headdim),
            k,
            v,
            torch.full((case.batch,), case.seqlen, dtype=torch.int32, device=device),
            order.to(torch.int32).view(case.batch, pages),
            k.view(by_page),
            v.view(by_page),
        )

    return [draw() for _ in range(count)]


def dense(x: Inputs, case: DecodeCase) -> Tensor:
    """limelight over the dense cache."""
    out: Tensor = limelight.flash_attn_with_kvcache(
        x.q, x.k, x.v, cache_seqlens=x.lengths, causal=True
    )
    return out


def paged(x: Inputs, case: DecodeCase) -> Tensor:
    """limelight over the pages, in the table's order: other keys than dense, as many bytes."""
    out: Tensor = limelight.flash_attn_with_kvcache(
        x.q, x.k_pages, x.v_pages, cache_seqlens=x.lengths, block_table=x.table, causal=True
    )
    return out


def _sdpa(backend: SDPBackend) -> Attention:
    def run(x: Inputs, case: DecodeCase) -> Tensor:
        mask: Any = causal_lower_right(case.tokens, case.seqlen) if case.tokens > 1 else None
        with sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(
                x.q.transpose(1, 2),
                x.k.transpose(1, 2),
                x.v.transpose(1, 2),
                attn_mask=mask,
                enable_gqa=case.heads != case.heads_kv,
            )
        return out.transpose(1, 2)

    return run


PEERS: dict[str, Attention] = {
    OURS: dense,
    "limelight-paged": paged,
    "torch-flash": _sdpa(SDPBackend.FLASH_ATTENTION),
    "torch-cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
    "torch-efficient": _sdpa(SDPBackend.EFFICIENT_ATTENTION),
}


def verify(out: Tensor, x: Inputs, case: DecodeCase, *, by_page: bool) -> tuple[float, float]:
    """(max |out - exact|, allowed) on the first and last head of the first and last sequence.

    allowed is twice the error of the plain formula in the inputs' dtype plus the rounding of an
    output; exact is the plain formula in float64.
    """
    if out.shape != x.q.shape or not torch.isfinite(out).all():
        return float("inf"), 0.0
    group = case.heads // case.heads_kv
    deviation = allowed = 0.0
    hidden = torch.ones(case.tokens, case.seqlen, dtype=torch.bool, device=out.device)
    hidden = hidden.triu(1 + case.seqlen - case.tokens)
    for row, head in {(0, 0), (case.batch - 1, case.heads - 1)}:
        q = x.q[row, :, head]
        if by_page:
            index = x.table[row].long()
            k, v = (c[index, :, head // group].flatten(0, 1) for c in (x.k_pages, x.v_pages))
        else:
            k, v = (c[row, :, head // group] for c in (x.k, x.v))

        def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = (q @ k.T * case.headdim**-0.5).masked_fill(hidden, float("-inf"))
            wide = torch.promote_types(q.dtype, torch.float32)
            return torch.softmax(scores, -1, dtype=wide).to(q.dtype) @ v

        exact = formula(q.double(), k.double(), v.double())
        low = formula(q, k, v).double()
        bound = 2 * (low - exact).abs().max() + torch.finfo(out.dtype).eps * exact.abs().max()
        error = (out[row, :, head].double() - exact).abs().max()
        deviation, allowed = max(deviation, error.item()), max(allowed, bound.item())
    return deviation, allowed


def measure(
    case: DecodeCase,
    sets: Sequence[Inputs],
    peers: dict[str, Attention],
    timer: Timer,
    plan: Plan,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Verify every peer, then time those that passed, round by round."""
    results = {name: Measurement(name) for name in peers}
    calls: dict[str, Call] = {}
    with torch.no_grad():
        for name, attention in peers.items():
            progress(f"{case.name}: checking {name}")
            result = results[name]
            try:
                out = attention(sets[0], case)
                found = verify(out, sets[0], case, by_page=attention is paged)
                result.deviation, result.allowed = found
            except Exception as error:  # a peer that cannot run this case must not end the run
                result.error = first_line(error)
                continue
            if not result.deviation <= result.allowed:
                off = f"off by {result.deviation:.3g}, allowed {result.allowed:.3g}"
                result.error = f"wrong: {off}"
                continue
            calls[name] = _rotating(attention, case, sets)
        time_rounds(case.name, calls, results, timer, plan, progress)
    return list(results.values())


def _rotating(attention: Attention, case: DecodeCase, sets: Sequence[Inputs]) -> Call:
    return lambda index: attention(sets[index % len(sets)], case)
