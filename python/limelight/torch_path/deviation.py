# SPDX-License-Identifier: BSD-3-Clause
"""How far attention in low precision is from float64, against sequence length and tile size.

The measure of 'Is Flash Attention Stable?' (Golden et al., arXiv 2405.02803): deviation from a
high-precision result, beside that of the ordinary softmax formula in the same low precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limelight.problem import AttentionProblem
from limelight.torch_path.forward import forward

Attention = Callable[[Tensor, Tensor, Tensor, AttentionProblem], Tensor]


@dataclass(frozen=True)
class Deviation:
    """Absolute deviations of O for one case; V is standard normal. tile_keys None: the default."""

    dtype: str
    seqlen: int
    headdim: int
    causal: bool
    tile_keys: int | None
    max_error: float
    rms_error: float
    eager_max_error: float
    eager_rms_error: float

    @property
    def ratio(self) -> float:
        """RMS deviation as a share of the eager formula's; below 1 is better than eager."""
        return self.rms_error / self.eager_rms_error if self.eager_rms_error > 0 else float("inf")


def deviations(
    *,
    dtype: torch.dtype = torch.bfloat16,
    seqlens: Sequence[int] = (128, 512, 2048),
    tile_keys: Sequence[int | None] = (None, 16, 64, 256),
    headdim: int = 64,
    heads: int = 4,
    causal: bool = True,
    device: str = "cpu",
    seed: int = 0,
    attention: Attention | None = None,
) -> Iterator[Deviation]:
    """Yield one Deviation for each sequence length and tile size, shortest first.

    attention: what to measure: a function of q, k, v (1, seqlen, heads, headdim) and the problem;
    tile sizes then do not apply and each length yields once. Default: the torch path.
    """
    generator = torch.Generator().manual_seed(seed)
    for seqlen in seqlens:
        shape = (1, seqlen, heads, headdim)
        q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
        problem = AttentionProblem(
            softmax_scale=headdim**-0.5,
            max_seqlen_q=seqlen,
            max_seqlen_k=seqlen,
            causal=causal,
            window_right=0 if causal else -1,
        )
        truth, _ = forward(q.double(), k.double(), v.double(), problem)
        eager = _errors(_eager(q, k, v, problem), truth)
        for tile in (None,) if attention is not None else tile_keys:
            if attention is not None:
                out = attention(q, k, v, problem)
            else:
                out, _ = forward(q, k, v, problem, tile_keys=tile)
            mine = _errors(out, truth)
            name = str(dtype).removeprefix("torch.")
            yield Deviation(name, seqlen, headdim, causal, tile, *mine, *eager)


def _errors(out: Tensor, truth: Tensor) -> tuple[float, float]:
    error = (out.double() - truth).abs()
    return float(error.max()), float(error.square().mean().sqrt())


def _eager(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem) -> Tensor:
    """The softmax formula in q's dtype, head by head to bound memory at seqlen**2."""
    out = torch.empty_like(q)
    for head in range(q.shape[2]):
        scores = (q[:, :, head] * problem.softmax_scale) @ k[:, :, head].mT
        if problem.causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        out[:, :, head] = torch.softmax(scores, -1) @ v[:, :, head]
    return out
