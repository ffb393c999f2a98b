# SPDX-License-Identifier: BSD-3-Clause
"""Absorbed latent attention, FA3's qv: scores softmax_scale * (q k^T + qv v^T), values v.

Where k and v are columns of the same rows, v first (a latent and its rotary part), that is ordinary
attention of [qv, q] to whole rows [v, k], which kernels read in place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limelight.messages import bad, check_last_stride, check_tensor

if TYPE_CHECKING:
    from limelight.problem import AttentionProblem

MAX_HEADDIM = 576  # of both parts together

Inputs = tuple[Tensor, Tensor, Tensor, "AttentionProblem"]


def check_qv(q: Tensor, v: Tensor, qv: Tensor) -> None:
    """Raise unless qv belongs to these queries and values."""
    check_tensor("qv", qv)
    if q.element_size() == 1 or v.element_size() == 1:
        was = "given with float8 tensors"
        raise bad("qv", was, "float16, bfloat16, float32 or float64 q, k, v", "v.to(q.dtype)")
    if qv.dtype != q.dtype:
        raise bad("qv.dtype", qv.dtype, f"{q.dtype}, as q has", f"qv.to({q.dtype})", TypeError)
    if qv.device != q.device:
        nearest = f"qv.to({str(q.device)!r})"
        raise bad("qv.device", qv.device, f"{q.device}, as q has", nearest)
    shape = (*q.shape[:-1], v.shape[-1])
    if tuple(qv.shape) != shape:
        allowed = f"({', '.join(map(str, shape))}), q's with the headdim of v"
        raise bad("qv.shape", qv.shape, allowed, "qv of that shape")
    check_last_stride("qv", qv)
    both = q.shape[-1] + v.shape[-1]
    if both > MAX_HEADDIM:
        was = f"given with headdim {q.shape[-1]} and headdim_v {v.shape[-1]}"
        raise bad("qv", was, f"at most {MAX_HEADDIM} together", "64 and 512")


def joined(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> Inputs:
    """The call without qv, where that takes no copy of a cache; else the call as it is.

    Keys and values that are apart are copied together where they are the call's own: dense or
    packed and used as a whole.
    """
    if p.qv is None:
        return q, k, v, p
    check_qv(q, v, p.qv)
    places = (p.block_table, p.cache_batch_idx, p.leftpad_k, p.seqused_k)
    rows = whole_rows(k, v, own=all(x is None for x in places))
    if rows is None:
        return q, k, v, p
    return torch.cat((p.qv, q), -1), rows, rows[..., : v.shape[-1]], replace(p, qv=None)


def whole_rows(k: Tensor, v: Tensor, *, own: bool = False) -> Tensor | None:
    """[v, k]: a view of the rows that hold both, or a copy where k and v are the call's own."""
    if k.shape[:-1] != v.shape[:-1] or k.dtype != v.dtype or k.device != v.device:
        return None  # which the checks refuse
    if are_columns(k, v):
        width = v.shape[-1] + k.shape[-1]
        return v.as_strided((*v.shape[:-1], width), v.stride())
    return torch.cat((v, k), -1) if own else None


def copied(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> Inputs:
    """The call without qv, its keys copied; differentiable."""
    if p.qv is None:
        return q, k, v, p
    check_qv(q, v, p.qv)
    return torch.cat((p.qv, q), -1), torch.cat((v, k), -1), v, replace(p, qv=None)


def are_columns(k: Tensor, v: Tensor) -> bool:
    """Whether k is the columns behind v in the same memory.

    Strides of dimensions of extent 1 say nothing: unsqueeze makes up others for k and v.
    """
    dims = zip(v.shape[:-1], k.stride(), v.stride(), strict=False)
    return (
        (k.stride(-1), v.stride(-1)) == (1, 1)
        and not any(extent > 1 and a != b for extent, a, b in dims)
        and k.data_ptr() == v.data_ptr() + v.shape[-1] * v.element_size()
        and k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    )
