# SPDX-License-Identifier: BSD-3-Clause
"""Runs a call on the backend that dispatch chose; checks and choice are cached by its metadata.

A kernel call can be captured in a CUDA graph: it reads nothing from the device on the host, takes
memory (out unless given, lse, copies of misaligned inputs) only from torch's caching allocator, and
runs on the current stream. Replay reads new lengths and tables from the same tensors; what the host
decides (shapes, max_seqlen, scalars) is fixed at capture. LIMELIGHT_CHECK=1 is ignored in capture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limelight import dispatch, runtime, torch_path
from limelight.absorbed import copied, joined
from limelight.backward_kernel import run_backward_kernel
from limelight.check_values import check_values, wanted
from limelight.checks import check_shapes
from limelight.decode_kernel import (
    fits_schedule,
    run_decode_kernel,
    shares_rows,
    workspace_bytes,
)
from limelight.forward_kernel import odd_strides, run_forward_kernel, split_workspace_bytes
from limelight.kernel_plan import Plan
from limelight.messages import check_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from limelight.problem import AttentionProblem

_PLANS: dict[tuple[object, ...], Plan] = {}
_MAX_PLANS = 4096
runtime.on_change(_PLANS.clear)
# Called with q, k and the problem of every forward call, for calibration.
observers: list[Callable[[Tensor, Tensor, AttentionProblem], None]] = []
_NO_KERNEL = frozenset[tuple[str, int]]()


def output_shapes(
    q: Tensor, v: Tensor, p: AttentionProblem, batch: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of out and lse."""
    out = (*q.shape[:-1], v.shape[-1])
    return out, (q.shape[1], q.shape[0]) if p.cu_seqlens_q is not None else (
        batch,
        q.shape[2],
        q.shape[1],
    )


def output_dtypes(q: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes of out and lse."""
    out = torch.bfloat16 if q.element_size() == 1 else q.dtype
    return out, torch.float64 if q.dtype == torch.float64 else torch.float32


def make_query(
    op: str, q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, *, need_dbias: bool = False
) -> dispatch.Query:
    """The dispatch query of a call."""
    features = dispatch.call_features(q, k, v, p)
    return dispatch.Query(
        op,
        runtime.capability(q.device),
        str(q.dtype).removeprefix("torch."),
        q.shape[-1],
        v.shape[-1],
        features | {"dbias"} if need_dbias and p.bias is not None else features,
        p.max_seqlen_q * (q.shape[-2] // max(k.shape[-2], 1)),
        _shared_kv(q, k, v),
    )


def _shared_kv(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return q.shape[-1] >= dispatch.SHARED_KV_FROM and shares_rows(q, k, v)


def choose(
    op: str, q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, *, need_dbias: bool = False
) -> tuple[dispatch.Choice, str]:
    """The choice for a call, and why it falls back: empty where it does not or should."""
    query = make_query(op, q, k, v, p, need_dbias=need_dbias)
    normal = query.capability is None or runtime.settings.backend == "torch"
    if normal or q.numel() == 0 or k.numel() == 0:
        return dispatch.choose(query, _NO_KERNEL), ""
    unusable = runtime.device_problem(q.device)
    if unusable:
        return dispatch.choose(query, _NO_KERNEL), unusable
    choice = dispatch.choose(query, runtime.installed())
    return choice, "" if choice.kernel is not None else choice.reason


def _make_plan(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> Plan:
    batch = check_shapes(q, k, v, p)
    choice, fallback = choose("forward", q, k, v, p)
    out_shape, lse_shape = output_shapes(q, v, p, batch)
    out_dtype, lse_dtype = output_dtypes(q)
    step = 16 // k.element_size()  # kernels read 16 bytes at a time
    few_rows = choice.kernel is not None and choice.kernel.few_rows
    pad = (-q.shape[-1] % step, -v.shape[-1] % step)
    workspace = 0
    if few_rows:
        workspace = workspace_bytes(q, k, v, p, batch)
    elif choice.kernel is not None and choice.kernel.splits:
        workspace = split_workspace_bytes(q, k, v, p, batch, pad)
    return Plan(
        kernel=choice.kernel,
        fallback=fallback,
        out_shape=out_shape,
        out_dtype=out_dtype,
        lse_shape=lse_shape,
        lse_dtype=lse_dtype,
        pad=pad,
        out_like_q=out_shape == q.shape
        and out_dtype == q.dtype
        and q.is_contiguous()
        and not odd_strides(q, 8),
        copy=(odd_strides(q, 16 // q.element_size()), odd_strides(k, step), odd_strides(v, step)),
        pack=_scattered(p.sink) or _scattered(p.alibi_slopes),
        read_values=q.device.type == "cpu" or runtime.settings.check,
        workspace=workspace,
        fits_schedule=few_rows and fits_schedule(q, k, v, p, batch),
    )


def _scattered(x: Tensor | None) -> bool:
    return x is not None and x.shape[-1] > 1 and x.stride(-1) != 1


def _metadata(x: Tensor | None) -> object:
    return None if x is None else (x.shape, x.dtype, x.device, x.stride())


def _plan(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> Plan:
    key = (
        q.shape,
        k.shape,
        v.shape,
        q.stride(),
        k.stride(),
        v.stride(),
        q.dtype,
        k.dtype,
        v.dtype,
        q.device,
        k.device,
        v.device,
        _shared_kv(q, k, v),
        p.softmax_scale,
        p.max_seqlen_q,
        p.max_seqlen_k,
        p.causal,
        p.window_left,
        p.window_right,
        p.attention_chunk,
        p.softcap,
        p.dropout_p,
        p.deterministic,
        p.batch_invariant,
        p.num_splits,
        p.unified_max is None,
        p.cu_seqlens_q if p.cu_seqlens_q is None else _metadata(p.cu_seqlens_q),
        p.cu_seqlens_k if p.cu_seqlens_k is None else _metadata(p.cu_seqlens_k),
        p.seqused_q if p.seqused_q is None else _metadata(p.seqused_q),
        p.seqused_k if p.seqused_k is None else _metadata(p.seqused_k),
        p.leftpad_k if p.leftpad_k is None else _metadata(p.leftpad_k),
        p.cache_batch_idx if p.cache_batch_idx is None else _metadata(p.cache_batch_idx),
        p.block_table if p.block_table is None else _metadata(p.block_table),
        p.tree_mask if p.tree_mask is None else _metadata(p.tree_mask),
        p.schedule if p.schedule is None else _metadata(p.schedule),
        p.alibi_slopes if p.alibi_slopes is None else _metadata(p.alibi_slopes),
        p.sink if p.sink is None else _metadata(p.sink),
        p.bias if p.bias is None else _metadata(p.bias),
        p.qv if p.qv is None else _metadata(p.qv),
        p.q_descale if p.q_descale is None else _metadata(p.q_descale),
        p.k_descale if p.k_descale is None else _metadata(p.k_descale),
        p.v_descale if p.v_descale is None else _metadata(p.v_descale),
    )
    plan = _PLANS.get(key)
    if plan is None:
        plan = _make_plan(q, k, v, p)
        if len(_PLANS) >= _MAX_PLANS:
            _PLANS.clear()
        _PLANS[key] = plan
    return plan


def validate(
    q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, out: Tensor | None = None
) -> Plan:
    """Check a call as a whole and return its plan."""
    try:
        plan = _plan(q, k, v, p)
    except (AttributeError, TypeError):
        check_shapes(q, k, v, p)  # names the argument that is no tensor
        raise
    if plan.read_values and wanted(q.device):
        check_values(q, k, p)
    if out is not None:
        check_out(out, plan.out_shape, plan.out_dtype, q)
    if plan.fallback and runtime.settings.fallback == "error":
        _fall_back(plan, q)  # raises, before a cache is written
    return plan


def forward(
    q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Check and compute (out, lse) without autograd."""
    if p.qv is not None:
        q, k, v, p = joined(q, k, v, p)
    return run(validate(q, k, v, p, out), q, k, v, p, out)


def run(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute a call that validate has checked."""
    if observers:
        whole_q, whole_k, _, whole = copied(q, k, v, p)
        for observe in observers:
            observe(whole_q, whole_k, whole)
    if plan.kernel is not None:
        return _run_kernel(plan, q, k, v, p, out)
    if plan.fallback:
        _fall_back(plan, q)
    result, lse = torch_path.forward(q, k, v, p)
    return (result if out is None else out.copy_(result)), lse


def _fall_back(plan: Plan, q: Tensor) -> None:
    runtime.fall_back(f"forward attention on {q.device}", plan.fallback, stacklevel=6)


def _run_kernel(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    few_rows = plan.kernel is not None and plan.kernel.few_rows
    return (run_decode_kernel if few_rows else run_forward_kernel)(plan, q, k, v, p, out)


def backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    p: AttentionProblem,
    *,
    need_dbias: bool,
    need_dsink: bool,
    into: tuple[Tensor | None, ...] = (None, None, None),
) -> torch_path.Gradients:
    """Gradients of a forward call; the arguments were checked by it.

    into: where to write dq, dk and dv: tensors like q, k and v of any strides, or None for new.
    """
    choice, fallback = choose("backward", q, k, v, p, need_dbias=need_dbias)
    if choice.kernel is not None:
        return run_backward_kernel(
            dout,
            dlse,
            q,
            k,
            v,
            out,
            lse,
            p,
            need_dbias=need_dbias,
            need_dsink=need_dsink,
            into=into,
        )
    if fallback:
        runtime.fall_back(f"backward attention on {q.device}", fallback)
    return torch_path.backward(
        dout, dlse, q, k, v, out, lse, p, need_dbias=need_dbias, need_dsink=need_dsink, into=into
    )
