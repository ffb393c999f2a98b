# SPDX-License-Identifier: BSD-3-Clause
"""First and second derivatives of the float64 torch path against finite differences."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case, Inputs, build
from limelight.torch_path import backward, forward, fused
from torch import Tensor

torch.set_num_threads(1)

CASES = [
    Case("plain"),
    Case("causal", causal=True),
    Case("causal-tall", causal=True, seqlen_q=7, seqlen_k=4),
    Case("window", window=(2, 1)),
    Case("window-tall", window=(2, 1), seqlen_q=8, seqlen_k=4, sink=True),
    Case("softcap", softcap=1.5, magnitude=2.0),
    Case("alibi", alibi="batch"),
    Case("sink-bias", sink=True, bias="b1qk"),
    Case("bias-row", bias="1h1k", causal=True),
    Case("dropout", dropout_p=0.3, sink=True),
    Case("varlen", batch=3, layout_q="packed", layout_k="packed", causal=True, sink=True),
    Case("seqused", batch=3, seqused_q=True, seqused_k=True, bias="11q1"),
    Case(
        "everything",
        softcap=3.0,
        alibi="heads",
        sink=True,
        bias="bhqk",
        dropout_p=0.2,
        window=(3, 2),
    ),
]
SMALL = dict(seqlen_q=5, seqlen_k=6, heads_q=2, heads_kv=1, headdim=3, headdim_v=2, dtype="float64")


def small(case: Case) -> Inputs:
    """The case with tiny extents, in float64 throughout, without the NaN of unused slots."""
    changes = {k: v for k, v in SMALL.items() if getattr(case, k) == getattr(Case(""), k)}
    x = build(replace(case, bias_dtype="float64", **changes))  # type: ignore[arg-type]
    sink = None if x.problem.sink is None else x.problem.sink.double()
    q, k, v = (torch.nan_to_num(t) for t in (x.q, x.k, x.v))
    return replace(x, q=q, k=k, v=v, problem=replace(x.problem, sink=sink))


class Attention(torch.autograd.Function):
    """forward and backward of the torch path, joined."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Any, sink: Any, problem: Any
    ) -> Any:
        out, lse = forward(q, k, v, replace(problem, bias=bias, sink=sink))
        ctx.save_for_backward(q, k, v, bias, sink, out, lse)
        ctx.problem = problem
        # A row without keys has LSE = -inf, which finite differences cannot take.
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, bias, sink, out, lse = ctx.saved_tensors
        problem = replace(ctx.problem, bias=bias, sink=sink)
        return (*backward(grads[0], grads[1], q, k, v, out, lse, problem), None)


def attention(x: Inputs) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """The function of the leaves, with -inf of LSE replaced by 0, and the leaves."""
    bias, sink = x.problem.bias, x.problem.sink
    leaves = tuple(
        t.detach().requires_grad_() for t in (x.q, x.k, x.v, bias, sink) if t is not None
    )

    def call(*args: Tensor) -> tuple[Tensor, Tensor]:
        rest = list(args[3:])
        b = rest.pop(0) if bias is not None else None
        s = rest.pop(0) if sink is not None else None
        out, lse = Attention.apply(*args[:3], b, s, x.problem)
        return out, torch.where(lse == float("-inf"), 0.0, lse)

    return call, leaves


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_derivative(case: Case) -> None:
    call, leaves = attention(small(case))
    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_second_derivative(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of the blockwise backward is itself differentiable."""
    monkeypatch.setattr(fused, "serves", lambda *_: False)
    call, leaves = attention(small(case))
    assert torch.autograd.gradgradcheck(call, leaves)
