# SPDX-License-Identifier: BSD-3-Clause
"""The torch operators limelight::*, for compiled graphs, dispatch modes and autograd.

``Library.define/impl`` with fake kernels: a few microseconds a call, where ``custom_op`` costs
tens. The operators have no autograd formula: ``limelight.autograd`` wraps them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from limelight import execute, gemm_execute, torch_path
from limelight.cache_append import append_slots, append_tokens
from limelight.checks import check_shapes
from limelight.gemm_checks import FP8, check_linear
from limelight.problem import AttentionProblem

FIELDS = tuple(field.name for field in fields(AttentionProblem))
# The operators take AttentionProblem's fields in its order.
_PROBLEM = """
    float softmax_scale, SymInt max_seqlen_q, SymInt max_seqlen_k, bool causal, SymInt window_left,
    SymInt window_right, SymInt attention_chunk, float softcap, float dropout_p, bool deterministic,
    bool batch_invariant, int num_splits, float? unified_max, Tensor? cu_seqlens_q,
    Tensor? cu_seqlens_k, Tensor? seqused_q, Tensor? seqused_k, Tensor? leftpad_k,
    Tensor? cache_batch_idx, Tensor? block_table, Tensor? tree_mask, Tensor? alibi_slopes,
    Tensor? sink, Tensor? bias, Tensor? qv, Tensor? q_descale, Tensor? k_descale,
    Tensor? v_descale, Tensor? rng_state, Tensor? schedule
"""
SCHEMAS = (
    f"""attention_forward(Tensor q, Tensor k, Tensor v, {_PROBLEM}) -> (Tensor out, Tensor lse)""",
    f"""attention_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out,
    Tensor lse, bool need_dbias, bool need_dsink, int stacked, {_PROBLEM})
    -> (Tensor dq, Tensor dk, Tensor dv, Tensor dbias, Tensor dsink)""",
    """append_kv(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor cache_seqlens,
    Tensor? cu_seqlens_k_new, Tensor? cache_batch_idx, Tensor? block_table, Tensor? k_scale,
    Tensor? v_scale) -> ()""",
    """append_slots(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor slot_mapping,
    Tensor? k_scale, Tensor? v_scale) -> ()""",
    """flat_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor? weight_scale,
    Tensor? weight_zero, Tensor? out_scale, str? activation, bool batch_invariant,
    bool static_weight) -> Tensor""",
)

_Library: Any = torch.library.Library
_register_fake: Any = torch.library.register_fake
_library = _Library("limelight", "DEF")
_tags = [torch.Tag.pt2_compliant_tag]
if hasattr(torch.Tag, "needs_exact_strides"):
    _tags.append(torch.Tag.needs_exact_strides)
for _schema in SCHEMAS:
    _library.define(" ".join(_schema.split()), tags=tuple(_tags))


def problem_arguments(p: AttentionProblem) -> tuple[Any, ...]:
    """The operators' arguments that describe the problem."""
    return tuple([getattr(p, name) for name in FIELDS])


def _forward(q: Tensor, k: Tensor, v: Tensor, *problem: Any) -> tuple[Tensor, Tensor]:
    return execute.forward(q, k, v, AttentionProblem(*problem))


def _backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    need_dbias: bool,
    need_dsink: bool,
    stacked: int,
    *problem: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    # stacked 3: dq is dqkv, 2: dk is dkv, with the other gradients written through its views.
    shared = _stack_like(q, k, stacked) if stacked else None
    into: tuple[Tensor | None, ...] = (None, None, None)
    if shared is not None:
        into = (*[None] * (3 - stacked), *shared.unbind(-3))
    gradients: torch_path.Gradients = execute.backward(
        dout,
        dlse,
        q,
        k,
        v,
        out,
        lse,
        AttentionProblem(*problem),
        need_dbias=need_dbias,
        need_dsink=need_dsink,
        into=into,
    )
    return _outputs(q, gradients, shared, stacked)


def _stack_like(q: Tensor, k: Tensor, stacked: int) -> Tensor:
    like = q if stacked == 3 else k
    return like.new_empty((*like.shape[:-2], stacked, *like.shape[-2:]))


def _outputs(
    q: Tensor, found: torch_path.Gradients, shared: Tensor | None, stacked: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator's outputs: no two share memory, and absent ones have no elements."""
    dq, dk, dv, dbias, dsink = found
    if shared is not None:
        dq, dk = (shared, q.new_empty(0)) if stacked == 3 else (dq, shared)
        dv = q.new_empty(0)
    return (
        dq,
        dk,
        dv,
        q.new_empty(0) if dbias is None else dbias,
        q.new_empty(0) if dsink is None else dsink,
    )


def _append(*arguments: Any) -> None:
    append_tokens(*arguments)


def _append_slots(*arguments: Any) -> None:
    append_slots(*arguments)


def _linear(*arguments: Any) -> Tensor:
    return gemm_execute.run(*arguments)


for _key in ("CPU", "CUDA"):
    _library.impl("attention_forward", _forward, _key)
    _library.impl("attention_backward", _backward, _key)
    _library.impl("append_kv", _append, _key)
    _library.impl("append_slots", _append_slots, _key)
    _library.impl("flat_linear", _linear, _key)


def _forward_fake(q: Tensor, k: Tensor, v: Tensor, *problem: Any) -> tuple[Tensor, Tensor]:
    p = AttentionProblem(*problem)
    batch = check_shapes(q, k, v, p)
    out_shape, lse_shape = execute.output_shapes(q, v, p, batch)
    out_dtype, lse_dtype = execute.output_dtypes(q)
    return q.new_empty(out_shape, dtype=out_dtype), q.new_empty(lse_shape, dtype=lse_dtype)


def _backward_fake(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    need_dbias: bool,
    need_dsink: bool,
    stacked: int,
    *problem: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    p = AttentionProblem(*problem)
    dbias = p.bias.new_empty(p.bias.shape) if need_dbias and p.bias is not None else None
    dsink = p.sink.new_empty(p.sink.shape) if need_dsink and p.sink is not None else None
    separate = (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape))
    shared = _stack_like(q, k, stacked) if stacked else None
    return _outputs(q, torch_path.Gradients(*separate, dbias, dsink), shared, stacked)


def _append_fake(*arguments: Any) -> None:
    return None


def _linear_fake(x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    bias, residual, scale, zero, out_scale, activation, *_ = others
    layout = check_linear(x, weight, bias, residual, scale, zero, out_scale, activation)
    return x.new_empty((*x.shape[:-1], layout.n), dtype=x.dtype if out_scale is None else FP8)


_register_fake("limelight::attention_forward", _forward_fake, lib=_library)
_register_fake("limelight::attention_backward", _backward_fake, lib=_library)
_register_fake("limelight::append_kv", _append_fake, lib=_library)
_register_fake("limelight::append_slots", _append_fake, lib=_library)
_register_fake("limelight::flat_linear", _linear_fake, lib=_library)

forward_op = torch.ops.limelight.attention_forward.default
backward_op = torch.ops.limelight.attention_backward.default
append_op = torch.ops.limelight.append_kv.default
append_slots_op = torch.ops.limelight.append_slots.default
linear_op = torch.ops.limelight.flat_linear.default
