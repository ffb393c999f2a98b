# SPDX-License-Identifier: BSD-3-Clause
"""Backward attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from limelight.problem import AttentionProblem


class Gradients(NamedTuple):
    """Gradients in the dtype and shape of their tensors; dbias and dsink are None where not asked for."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    dbias: Tensor | None
    dsink: Tensor | None


def backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    problem: AttentionProblem,
    *,
    need_dbias: bool = True,
    need_dsink: bool = True,
) -> Gradients:
    """Return the gradients of sum(dout * out) + sum(dlse * lse).

    out and lse are what ``forward`` returned for the same problem; dlse has lse's shape, or is None for zero.
    need_dbias, need_dsink: whether to compute the gradient of problem.bias and problem.sink, if present.
    """
    raise NotImplementedError("the torch path has no backward so far")
