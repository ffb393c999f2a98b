# SPDX-License-Identifier: BSD-3-Clause
"""Attention with gradients.

Routes a call to the plain path, to the operator, or through autograd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from limelight import execute
from limelight.absorbed import copied
from limelight.ops import FIELDS, backward_op, forward_op, problem_arguments

if TYPE_CHECKING:
    from limelight.problem import AttentionProblem

_SINK = 3 + FIELDS.index("sink")
_BIAS = 3 + FIELDS.index("bias")
_INPUTS = 3 + len(FIELDS)
_FIRST_TENSOR = FIELDS.index("cu_seqlens_q")  # the fields from here on are tensors or None


def _unstack(q: Tensor, k: Tensor | None, v: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of (qkv, None, None), (q, kv, None) or themselves: stacked in dimension -3."""
    if k is None:
        q, k, v = q.unbind(-3)
    elif v is None:
        k, v = k.unbind(-3)
    assert v is not None
    return q, k, v


class AttentionFunction(torch.autograd.Function):
    """(out, lse) with gradients for q, k, v, sink and bias; differentiable once.

    (qkv, None, None) and (q, kv, None) in the place of q, k, v get one gradient, without copies.
    """

    @staticmethod
    def forward(
        q: Tensor, k: Tensor | None, v: Tensor | None, *problem: Any
    ) -> tuple[Tensor, Tensor]:
        """Compute (out, lse)."""
        out, lse = forward_op(*_unstack(q, k, v), *problem)
        return out, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save what the backward pass needs: no matrix of seqlen_q by seqlen_k is among it."""
        problem = inputs[3:]
        ctx.scalars = problem[:_FIRST_TENSOR]
        ctx.save_for_backward(*inputs[:3], *output, *problem[_FIRST_TENSOR:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of sum(dout * out) + sum(dlse * lse)."""
        q, k, v, out, lse, *tensors = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros_like(out)
        needs = ctx.needs_input_grad
        stacked = 3 if k is None else 2 if v is None else 0
        wanted = (needs[_BIAS], needs[_SINK], stacked)
        with torch.no_grad():
            parts = _unstack(q, k, v)
            found = backward_op(dout, dlse, *parts, out, lse, *wanted, *ctx.scalars, *tensors)
        grads: list[Tensor | None] = [None] * _INPUTS
        for place, gradient in zip((0, 1, 2, _BIAS, _SINK), found, strict=True):
            if needs[place]:
                grads[place] = gradient
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # create_graph=True: the gradients must not pass for constants.
            refuse: Any = _SecondDerivative.apply
            grads = [None if g is None else refuse(g, q, k, v, dout, dlse) for g in grads]
        return tuple(grads)


class _SecondDerivative(torch.autograd.Function):
    """Passes a gradient on and raises where it is differentiated once more."""

    @staticmethod
    def forward(gradient: Tensor, *depends_on: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing to save: the backward pass only raises."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "the gradient of limelight's attention is differentiated; allowed: first derivatives. "
            "Nearest supported call: torch's scaled_dot_product_attention with SDPBackend.MATH"
        )


def _differentiates(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> bool:
    return (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or (p.sink is not None and p.sink.requires_grad)
        or (p.bias is not None and p.bias.requires_grad)
        or (p.qv is not None and p.qv.requires_grad)
    )


PLAIN = (Tensor, torch.nn.Parameter)


def is_eager(q: Tensor) -> bool:
    """Whether q is an ordinary tensor that no tracer, mode or transform watches."""
    return (
        type(q) in PLAIN
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not q.is_meta
    )


def _distinct(arguments: tuple[Any, ...]) -> list[Any]:
    """The arguments with a view for every repeated tensor: Dynamo refuses repeats."""
    tensors: list[Tensor] = []
    result = []
    for x in arguments:
        if isinstance(x, Tensor):
            x = x.view_as(x) if any(x is known for known in tensors) else x
            tensors.append(x)
        result.append(x)
    return result


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: AttentionProblem,
    out: Tensor | None = None,
    stack: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(out, lse) of a call, differentiable where an input requires a gradient.

    stack: the tensor (..., 3, heads, headdim) or (..., 2, heads, headdim) whose views q, k, v or k,
    v are; it then gets their gradients in one piece.
    """
    if not (torch.is_grad_enabled() and _differentiates(q, k, v, p)):
        if is_eager(q):
            return execute.forward(q, k, v, p, out)
        # The operator would drop the tangents of forward-mode AD; AttentionFunction refuses them.
        if torch.compiler.is_compiling() or forward_ad._current_level < 0:
            result, lse = forward_op(q, k, v, *problem_arguments(p))
            return (result if out is None else out.copy_(result)), lse
    if out is not None:
        raise ValueError(
            "out is given while an input requires a gradient; allowed: out=None then. "
            "Nearest supported call: under torch.no_grad(), or without out"
        )
    if p.qv is not None:
        q, k, v, p = copied(q, k, v, p)
        stack = None
    apply: Any = AttentionFunction.apply
    inputs: tuple[Tensor | None, ...] = (q, k, v)
    if stack is not None:
        inputs = (stack, None, None) if stack.shape[-3] == 3 else (q, stack, None)
    arguments = (*inputs, *problem_arguments(p))
    result, lse = apply(*(_distinct(arguments) if torch.compiler.is_compiling() else arguments))
    return result, lse
