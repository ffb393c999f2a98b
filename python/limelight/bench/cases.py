# SPDX-License-Identifier: BSD-3-Clause
"""What is timed: the standard shapes of flash-attention's benchmarks, and how many operations they
are.

Shapes: 16k tokens as (32, 512) ... (1, 16384), hidden size 2048 split into heads of 64, 128 or 256
(arXiv 2205.14135).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

DIRECTIONS = ("forward", "backward")
HEADDIMS = (64, 128, 256)
SEQLENS = (512, 1024, 2048, 4096, 8192, 16384)
TOKENS = 16384
HIDDEN = 2048


@dataclass(frozen=True)
class Case:
    """One shape of q (batch, seqlen, heads, headdim) with k and v of heads_kv heads."""

    batch: int
    seqlen: int
    heads: int
    heads_kv: int
    headdim: int
    causal: bool
    dtype: str = "bfloat16"
    direction: str = "forward"

    @property
    def name(self) -> str:
        """For example forward-bfloat16-d128-causal-b4-s4096-h16."""
        mask = "causal" if self.causal else "full"
        heads = (
            f"h{self.heads}" if self.heads == self.heads_kv else f"h{self.heads}:{self.heads_kv}"
        )
        shape = f"b{self.batch}-s{self.seqlen}-{heads}"
        return f"{self.direction}-{self.dtype}-d{self.headdim}-{mask}-{shape}"

    @property
    def flops(self) -> float:
        """Multiplications and additions: 4 b s^2 h d forward, half if causal; 2.5 times that
        backward."""
        forward = 4.0 * self.batch * self.seqlen**2 * self.heads * self.headdim
        if self.causal:
            forward /= 2
        return forward if self.direction == "forward" else 2.5 * forward

    @property
    def input_bytes(self) -> int:
        """Bytes of q, k and v together, 2 per element."""
        return 2 * self.batch * self.seqlen * self.headdim * (self.heads + 2 * self.heads_kv)

    @property
    def moved_bytes(self) -> int:
        """Bytes of q, k, v and out; backward those, dout and the three gradients."""
        out = 2 * self.batch * self.seqlen * self.headdim * self.heads
        forward = self.input_bytes + out
        return forward if self.direction == "forward" else 2 * forward

    @property
    def score_bytes(self) -> int:
        """Bytes of one (batch, heads, seqlen, seqlen) matrix of 2-byte scores."""
        return 2 * self.batch * self.heads * self.seqlen**2

    def as_dict(self) -> dict[str, Any]:
        """The fields, with the name."""
        return {"name": self.name} | asdict(self)


def standard_cases(
    headdims: tuple[int, ...] = HEADDIMS,
    seqlens: tuple[int, ...] = SEQLENS,
    causal: tuple[bool, ...] = (False, True),
    direction: str = "forward",
    dtype: str = "bfloat16",
    tokens: int = TOKENS,
) -> list[Case]:
    """Every combination; the batch is what fills ``tokens``, at least 1."""
    return [
        Case(max(1, tokens // s), s, HIDDEN // d, HIDDEN // d, d, mask, dtype, direction)
        for d in headdims
        for mask in causal
        for s in seqlens
    ]


def gqa_cases(
    headdims: tuple[int, ...],
    seqlens: tuple[int, ...],
    causal: tuple[bool, ...] = (False, True),
    direction: str = "forward",
    dtype: str = "bfloat16",
) -> list[Case]:
    """A large model's layer: batch 2, hidden size 8192, eight query heads to a key head."""
    return [
        Case(2, s, 8192 // d, max(1, 1024 // d), d, mask, dtype, direction)
        for d in headdims
        for mask in causal
        for s in seqlens
    ]
