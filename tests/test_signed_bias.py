# SPDX-License-Identifier: BSD-3-Clause
"""Rounding scatters O and delta but does not shift them: after arXiv 2510.04212.

Rows with several equal maxima and V of one sign: where O is biased, delta = rowsum(dO * O) - dLSE
is, and with it dQ and dK of every step. Judged is the delta that the backward pass itself computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from cases import Inputs
from limelight import dispatch, runtime
from limelight.autograd import attention
from limelight.cli.observe import backends_used
from limelight.problem import AttentionProblem
from limelight.torch_path import backward
from limelight.torch_path.backward import _Run
from tolerance import SIGNED_LIMIT, assert_unbiased, signed_mean, tied_maxima
from torch import Tensor

TIES = pytest.mark.parametrize(("ties", "gap"), [(2, 6.0), (2, 1.0), (4, 3.0)])
SIGNS = pytest.mark.parametrize("sign", [1.0, -1.0])
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


class Truth(NamedTuple):
    """Float64: O (batch, rows, 1, headdim), delta and P's scores (batch, 1, rows, ...)."""

    out: Tensor
    delta: Tensor
    scores: Tensor


def make(ties: int, gap: float, sign: float, dtype: torch.dtype) -> tuple[Inputs, Truth]:
    """dO has V's sign and dLSE the other one, so that no term of delta cancels another."""
    q, k, v = tied_maxima(ties, 30, gap, sign, dtype)
    problem = AttentionProblem(softmax_scale=1.0, max_seqlen_q=16, max_seqlen_k=ties + 30)
    generator = torch.Generator().manual_seed(3)
    dout = (sign * torch.rand(q.shape, generator=generator)).to(dtype)
    dlse = -torch.rand(q.shape[0], 1, 16, generator=generator)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double())
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.double())
    delta = (dout.double() * out).sum(-1).transpose(1, 2) - dlse.double()
    return Inputs(q, k, v, problem, dout, dlse), Truth(out, delta, scores)


def biased(x: Inputs, truth: Truth) -> Tensor:
    """O as the paper's kernel stores it: P V is rounded before the division by the row sum."""
    p = torch.exp(truth.scores - truth.scores.amax(-1, keepdim=True))
    unnormalised = torch.einsum("bhqk,bkhd->bqhd", p, x.v.double()).to(x.v.dtype).double()
    return (unnormalised / p.sum(-1).transpose(1, 2).unsqueeze(-1)).to(x.v.dtype)


def unit(dtype: torch.dtype) -> float:
    """Half the distance of 1 to the next number: 2**-8 for bfloat16."""
    return torch.finfo(dtype).eps / 2


def torch_delta(x: Inputs, out: Tensor, lse: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Delta (batch, 1, rows) as the torch path's backward pass sums it."""
    seen: list[Tensor] = []
    statistics = _Run._statistics

    def spy(self: _Run, *arguments: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        result = statistics(self, *arguments)  # type: ignore[arg-type]
        seen.append(result[1])
        return result

    monkeypatch.setattr(_Run, "_statistics", spy)
    backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
    return torch.cat([part.flatten(1, 2).squeeze(-1) for part in seen])


def kernel_delta(x: Inputs, out: Tensor, lse: Tensor) -> Tensor:
    """Delta (batch, 1, rows): the first half of the workspace of the backward kernels."""
    given: list[Tensor | None] = []
    launch = runtime.launch

    def spy(entry: object, tensors: tuple[Tensor, ...], arguments: tuple[object, ...]) -> None:
        given.extend(tensors)
        launch(entry, tensors, arguments)

    leaf = x.q.detach().requires_grad_()
    out_now, lse_now = attention(leaf, x.k, x.v, x.problem)
    # The saved O is what the backward kernels read: put ours there.
    out_now.data.copy_(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "launch", spy)
        torch.autograd.backward([out_now, lse_now], [x.dout, x.dlse])
    (workspace,) = (t for t in given if t is not None and t.shape == (2, *lse.shape))
    return workspace[0].cpu()


def to(x: Inputs, device: torch.device) -> Inputs:
    q, k, v, dout, dlse = (t.to(device) for t in (x.q, x.k, x.v, x.dout, x.dlse))
    return replace(x, q=q, k=k, v=v, dout=dout, dlse=dlse)


@TIES
@SIGNS
@DTYPES
def test_torch_path(
    dtype: torch.dtype, sign: float, ties: int, gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, truth = make(ties, gap, sign, dtype)
    out, lse = attention(x.q, x.k, x.v, x.problem)
    assert_unbiased("out", out, truth.out, unit(dtype))
    delta = torch_delta(x, out, lse, monkeypatch)
    assert_unbiased("delta", delta, truth.delta, unit(dtype))


@pytest.fixture
def no_decode_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the kernels for many rows serve calls of few rows, too."""
    monkeypatch.setattr(dispatch, "FEW_ROWS", 0)
    dispatch.choose.cache_clear()
    with runtime.override():  # forgets the plans of earlier calls
        yield
    dispatch.choose.cache_clear()


@TIES
@SIGNS
@DTYPES
@pytest.mark.usefixtures("no_decode_kernels")
def test_kernels(
    dtype: torch.dtype, sign: float, ties: int, gap: float, kernels: torch.device
) -> None:
    check_kernels(make(ties, gap, sign, dtype), kernels, "_fwd")


@SIGNS
@DTYPES
def test_kernels_of_few_rows(dtype: torch.dtype, sign: float, kernels: torch.device) -> None:
    """Decode kernels, where there are some: their partial results must not be rounded."""
    has_decode = any(name.endswith("_decode") for name, _ in runtime.installed())
    check_kernels(make(2, 6.0, sign, dtype), kernels, "_decode" if has_decode else "_fwd")


def check_kernels(made: tuple[Inputs, Truth], device: torch.device, name: str) -> None:
    x, truth = made
    x = to(x, device)
    with backends_used() as used:
        out, lse = attention(x.q, x.k, x.v, x.problem)
    assert all(kernel.endswith(name) for kernel in used), used
    assert_unbiased("out", out, truth.out, unit(x.q.dtype))
    assert_unbiased("delta", kernel_delta(x, out, lse), truth.delta, unit(x.q.dtype))


@SIGNS
def test_a_biased_o_is_seen_in_delta(
    sign: float, kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above look for is there to be found, in O and in both deltas."""
    x, truth = make(2, 6.0, sign, torch.bfloat16)
    x = to(x, kernels)
    out = biased(to(x, torch.device("cpu")), truth)
    _, lse = attention(x.q, x.k, x.v, x.problem)
    limit = 2 * SIGNED_LIMIT * 2.0**-8
    assert abs(signed_mean(out, truth.out)) > limit
    assert abs(signed_mean(kernel_delta(x, out.to(kernels), lse), truth.delta)) > limit
    found = torch_delta(x, out.to(kernels), lse, monkeypatch)
    assert abs(signed_mean(found, truth.delta)) > limit
