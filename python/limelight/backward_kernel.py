# SPDX-License-Identifier: BSD-3-Clause
"""Runs the backward kernels: pads, copies what they cannot read in place, adds the sink's gradient.

Like the forward call it can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from limelight import runtime
from limelight.torch_path import Gradients

if TYPE_CHECKING:
    from limelight.problem import AttentionProblem


def _readable(x: Tensor, pad: int) -> Tensor:
    """x with a contiguous last dimension, strides of 8 elements and a 16-byte aligned address."""
    if pad:
        return F.pad(x, (0, pad))
    fits = x.stride(-1) == 1 and not any(stride % 8 for stride in x.stride()[:-1])
    return x if fits and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


def _written(like: Tensor, packed: bool, into: Tensor | None) -> Tensor:
    """Where the kernel writes the gradient of ``like``: into, if its headdim needs no padding.

    Packed ones may hold rows that no sequence covers: those are zero.
    """
    if into is not None and into.shape == like.shape:
        return into.zero_() if packed else into
    return like.new_zeros(like.shape) if packed else like.new_empty(like.shape)


def _may_see_no_key(q: Tensor, k: Tensor, p: AttentionProblem) -> bool:
    """Whether masks, or a bias of -inf, can leave a row without keys.

    A left window alone never does.
    """
    if p.bias is not None:
        return True
    ahead = 0 if p.attention_chunk > 0 else p.window_right  # rows before the first key see none
    if ahead < 0:
        return False
    if p.seqused_q is not None or p.seqused_k is not None:
        return True
    if p.cu_seqlens_q is None and p.cu_seqlens_k is None:
        return q.shape[1] - k.shape[1] > ahead
    return (
        p.cu_seqlens_q is None
        or p.cu_seqlens_k is None
        or p.cu_seqlens_q.data_ptr() != p.cu_seqlens_k.data_ptr()
    )


def _cut(x: Tensor, headdim: int, into: Tensor | None) -> Tensor:
    if into is None:
        return x if x.shape[-1] == headdim else x[..., :headdim].contiguous()
    return into if x is into else into.copy_(x[..., :headdim])


# A thread block owns one tile of dbias; fewer of them than this leave a large GPU partly idle.
_TILE, _ENOUGH_TILES = 64, 256


def _partial_shape(bias: Tensor, q: Tensor, p: AttentionProblem, batch: int) -> list[int]:
    """The shape that the kernel sums dbias in.

    Where bias has too few tiles, it is spread over the batch, the heads, then the keys, as long as
    that takes no more floats than q has elements. It depends on shapes alone.
    """
    shape = list(bias.shape)
    full = (batch, q.shape[-2], p.max_seqlen_q, p.max_seqlen_k)
    for dim in (0, 1, 3):
        tiles = shape[0] * shape[1] * -(-shape[2] // _TILE) * -(-shape[3] // _TILE)
        if shape[dim] == 1 and tiles < _ENOUGH_TILES and math.prod(shape) * full[dim] <= q.numel():
            shape[dim] = full[dim]
    return shape


def run_backward_kernel(
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
) -> Gradients:
    """Gradients of sum(dout * out) + sum(dlse * lse) with respect to q, k, v, bias and sink.

    into: where to write dq, dk and dv; a copy is made only where a headdim is no multiple of 8.

    Extra memory: two floats a row of q, parts of dbias no larger than q in floats, and copies of
    what is misaligned or has a headdim that is no multiple of 8, and of q and dout where rows may
    see no key.
    """
    headdim, headdim_v = q.shape[-1], v.shape[-1]
    if _may_see_no_key(q, k, p):
        # Such rows may hold NaN, and 0 * NaN would reach dK and dV.
        live = (lse != -math.inf).transpose(-1, -2).unsqueeze(-1)
        q, dout = torch.where(live, q, 0), torch.where(live, dout, 0)
    pad_qk, pad_v = -headdim % 8, -headdim_v % 8
    q, k = _readable(q, pad_qk), _readable(k, pad_qk)
    v, out, dout = _readable(v, pad_v), _readable(out, pad_v), _readable(dout, pad_v)
    packed_q, packed_k = p.cu_seqlens_q is not None, p.cu_seqlens_k is not None
    dq = _written(q, packed_q, into[0])
    dk, dv = _written(k, packed_k, into[1]), _written(v, packed_k, into[2])
    make = torch.zeros if packed_q else torch.empty
    workspace = make((2, *lse.shape), dtype=torch.float32, device=q.device)
    bias, sink, alibi_slopes = p.bias, p.sink, p.alibi_slopes
    if bias is not None and bias.numel() == 0:
        bias = None  # of no sequence or row
    if bias is not None and bias.dtype is not torch.float32 and bias.dtype is not q.dtype:
        bias = bias.float()
    dbias = None
    if bias is not None and need_dbias:
        batch = lse.shape[0] if p.cu_seqlens_q is None else p.cu_seqlens_q.shape[0] - 1
        shape = _partial_shape(bias, q, p, batch)
        if shape != list(bias.shape):
            bias = bias.float()  # so that parts of the sum are not rounded
        dbias = bias.new_empty(shape)
    runtime.launch(
        runtime.core().attention_backward,
        (
            dout,
            None if dlse is None else dlse.float().contiguous(),
            dq,
            dk,
            dv,
            dbias,
            workspace,
            q,
            k,
            v,
            out,
            lse,
            p.cu_seqlens_q,
            p.cu_seqlens_k,
            p.seqused_q,
            p.seqused_k,
            None if alibi_slopes is None else alibi_slopes.contiguous(),
            None if sink is None else sink.contiguous(),
            bias,
            p.rng_state,
        ),
        (
            p.softmax_scale,
            p.causal,
            p.window_left,
            p.window_right,
            p.attention_chunk,
            p.softcap,
            p.dropout_p,
            p.max_seqlen_q,
            p.max_seqlen_k,
        ),
    )
    dsink = None
    if need_dsink and sink is not None:
        # The sink is a logit with value 0: dS = P * (0 - delta), P = exp(sink - lse).
        delta, lse_log2 = workspace
        logit = sink.float()[:, None] / math.log(2)
        over = (1,) if packed_q else (0, 2)
        # Rows of no sequence have 0 for both: the sink is in every LSE, larger ones are theirs.
        p_sink = torch.exp2((logit - lse_log2).clamp(max=0))
        dsink = -(p_sink * delta).sum(over).to(sink.dtype)
    dq = _cut(dq, headdim, into[0])
    dk, dv = _cut(dk, headdim, into[1]), _cut(dv, headdim_v, into[2])
    if need_dbias and p.bias is not None:
        found = torch.zeros_like(p.bias) if dbias is None else dbias
        dbias = found.sum_to_size(p.bias.shape).to(p.bias.dtype)
    return Gradients(dq, dk, dv, dbias, dsink)
