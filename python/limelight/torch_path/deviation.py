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
from limelight.torch_path.backward import backward
from limelight.torch_path.forward import forward

Attention = Callable[[Tensor, Tensor, Tensor, AttentionProblem], Tensor]
GRADIENTS = ("dq", "dk", "dv")


@dataclass(frozen=True)
class Deviation:
    """Absolute deviations of one tensor of one case; tile_keys None: the default.

    q, k, v and dO are standard normal. tensor: out, dq, dk or dv.
    """

    tensor: str
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
    gradients: bool = False,
    device: str = "cpu",
    seed: int = 0,
    attention: Attention | None = None,
) -> Iterator[Deviation]:
    """Yield Deviations for each sequence length and tile size: of out, and of dq, dk, dv if asked.

    attention: what to measure: a function of q, k, v (1, seqlen, heads, headdim) and the problem
    that returns O, differentiable for gradients; tile sizes then do not apply and each length is
    measured once. Default: the torch path.
    """
    generator = torch.Generator().manual_seed(seed)
    for seqlen in seqlens:
        shape = (1, seqlen, heads, headdim)
        drawn = [torch.randn(shape, generator=generator) for _ in range(4)]
        q, k, v, dout = (x.to(device, dtype) for x in drawn)
        problem = AttentionProblem(
            softmax_scale=headdim**-0.5,
            max_seqlen_q=seqlen,
            max_seqlen_k=seqlen,
            causal=causal,
            window_right=0 if causal else -1,
        )
        seed_of_out = dout if gradients else None
        wide = (q.double(), k.double(), v.double(), dout.double() if gradients else None)
        truth = _torch_path(*wide, problem, None)
        eager = _by_autograd(_eager, q, k, v, seed_of_out, problem)
        for tile in (None,) if attention is not None else tile_keys:
            if attention is None:
                found = _torch_path(q, k, v, seed_of_out, problem, tile)
            else:
                found = _by_autograd(attention, q, k, v, seed_of_out, problem)
            for name, mine in found.items():
                what = (name, str(dtype).removeprefix("torch."), seqlen, headdim, causal, tile)
                own, others = _errors(mine, truth[name]), _errors(eager[name], truth[name])
                yield Deviation(*what, *own, *others)


def _torch_path(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor | None,
    problem: AttentionProblem,
    tile: int | None,
) -> dict[str, Tensor]:
    out, lse = forward(q, k, v, problem, tile_keys=tile)
    if dout is None:
        return {"out": out}
    found = backward(dout, None, q, k, v, out, lse, problem, tile_keys=tile)
    return {"out": out, "dq": found.dq, "dk": found.dk, "dv": found.dv}


def _by_autograd(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor | None,
    problem: AttentionProblem,
) -> dict[str, Tensor]:
    if dout is None:
        return {"out": attention(q, k, v, problem)}
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = attention(q, k, v, problem)
    found = torch.autograd.grad((out,), (q, k, v), (dout,))
    return {"out": out.detach(), **dict(zip(GRADIENTS, found, strict=True))}


def _errors(found: Tensor, truth: Tensor) -> tuple[float, float]:
    error = (found.double() - truth).abs()
    return float(error.max()), float(error.square().mean().sqrt())


def _eager(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem) -> Tensor:
    """The softmax formula in q's dtype, head by head to bound memory at seqlen**2."""
    rows = []
    for head in range(q.shape[2]):
        scores = (q[:, :, head] * problem.softmax_scale) @ k[:, :, head].mT
        if problem.causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        rows.append(torch.softmax(scores, -1) @ v[:, :, head])
    return torch.stack(rows, 2)
