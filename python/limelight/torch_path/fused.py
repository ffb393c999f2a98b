# SPDX-License-Identifier: BSD-3-Clause
"""torch's own fused CPU attention, for the groups where it computes exactly the same thing.

That is: CPU tensors in float32 or float64, headdim_v == headdim, sequences of equal and host-known
length, and no feature beyond full or square causal attention, and a sink (applied to its result: O
*= sigmoid(LSE - sink)). It is ``scaled_dot_product_attention``'s flash implementation, called by
its aten name because that also returns the LSE. With 16-bit tensors it rounds P, and with shared
key heads also partial sums of dK, to 16 bits; the blockwise loop does not and takes about the same
time, so it serves those.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from limelight.problem import AttentionProblem
from limelight.torch_path.plan import Group, Plan
from limelight.torch_path.tokens import Span

_DTYPES = (torch.float32, torch.float64)


@functools.cache
def _available() -> bool:
    """Whether this torch has the operator with an LSE; found by trying."""
    try:
        q, kv = torch.zeros(1, 2, 1, 8), torch.zeros(1, 1, 1, 8)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, kv, kv)
        return bool(out.shape == q.shape and lse.shape == (1, 2, 1))
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def _shares_heads() -> bool:
    """Whether its backward takes fewer key heads: torch 2.6's crashes, 2.13's was tested."""
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (2, 13)


def groups(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem, plan: Plan) -> list[Group]:
    """The plan's groups, or the whole batch where the operator, with its own tiles, takes it."""
    if plan.whole is not None and serves(q, k, v, problem, plan.whole):
        return [plan.whole]
    return plan.groups


def serves(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem, group: Group) -> bool:
    """Whether the fused operator computes this group."""
    return (
        q.device.type == "cpu"
        and q.dtype in _DTYPES
        and q.dtype == k.dtype == v.dtype
        and q.shape[-1] == v.shape[-1] > 0
        and group.exact
        and group.leftpad == 0
        and min(group.rows, group.keys, q.shape[-2]) > 0
        and not problem.batch_invariant
        and problem.softmax_scale > 0  # the operator scales what it has masked
        and problem.softcap == 0.0
        and problem.dropout_p == 0.0
        and problem.attention_chunk == 0
        and _is_causal(problem, group) is not None
        and all(
            x is None
            for x in (
                problem.alibi_slopes,
                problem.bias,
                problem.tree_mask,
                problem.qv,
                problem.q_descale,
                problem.k_descale,
                problem.v_descale,
            )
        )
        and _available()
        and (q.shape[-2] == k.shape[-2] or _shares_heads())
    )


def _is_causal(problem: AttentionProblem, group: Group) -> bool | None:
    """False for full attention, True for square causal attention, None for anything else."""
    left, right = problem.window_left, problem.window_right
    if 0 <= left < group.keys - 1:
        return None
    if right < 0 or right >= group.rows - 1:
        return False
    return True if right == 0 and group.rows == group.keys else None


def forward(
    q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem, plan: Plan, group: Group
) -> tuple[Tensor, Tensor]:
    """O (batch, rows, heads_q, headdim) and LSE (batch, rows, heads_q) of a group it serves."""
    rows, keys = _spans(group)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        plan.q_tokens.read(q, rows).transpose(1, 2),
        plan.k_tokens.read(k, keys).transpose(1, 2),
        plan.k_tokens.read(v, keys).transpose(1, 2),
        0.0,
        bool(_is_causal(problem, group)),
        scale=problem.softmax_scale,
    )
    out, lse = out.transpose(1, 2), lse.transpose(1, 2)
    if problem.sink is not None:
        sink = problem.sink.to(lse.dtype)
        out = out * torch.sigmoid(lse - sink).unsqueeze(-1)
        lse = torch.logaddexp(lse, sink)
    return out, lse


def _spans(group: Group) -> tuple[Span, Span]:
    return (
        Span(group.first, group.last, 0, group.rows),
        Span(group.first, group.last, 0, group.keys),
    )


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    problem: AttentionProblem,
    plan: Plan,
    group: Group,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv (batch, tokens, heads, headdim); lse is (tokens..., heads_q, 1), sink included."""
    rows, keys = _spans(group)
    # The operator reads LSE as (batch, heads, rows) with the strides that its forward gives.
    statistic = plan.q_tokens.read(lse, rows).squeeze(-1).contiguous().transpose(1, 2)
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        plan.q_tokens.read(dout, rows).transpose(1, 2),
        plan.q_tokens.read(q, rows).transpose(1, 2),
        plan.k_tokens.read(k, keys).transpose(1, 2),
        plan.k_tokens.read(v, keys).transpose(1, 2),
        plan.q_tokens.read(out, rows).transpose(1, 2),
        statistic,
        0.0,
        bool(_is_causal(problem, group)),
        scale=problem.softmax_scale,
    )
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)
