# SPDX-License-Identifier: BSD-3-Clause
"""From a mask's layout to a call of the public functions, without seqlen^2 entries wherever the
mask has structure.

    mask                             call                                       rows of padding
    no padding                       dense
    packed sequences, cu_seq_lens    varlen
    causal, real tokens first        dense with seqused_q = seqused_k           zero
    causal, real tokens last         varlen over the real tokens                zero
    bidirectional, tokens first      dense with seqused_k                       as eager
    any other 2-D padding            bias (batch, 1, 1, seqlen_k)               as eager
    packed sequences with a bias     bias (batch, 1 or heads, seqlen_q, seqlen_k)

A bidirectional mask may belong to cross-attention, whose queries are not padded where the keys are:
none is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import limelight
from limelight.integrations.masks import Layout, Padding, Structure, additive, segment_ends

Options = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Packing:
    """Sequences packed into the flattened (batch * seqlen) tokens, as cu_seqlens (number of
    sequences + 1,)."""

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int | Tensor | None = None
    max_seqlen_k: int | Tensor | None = None

    def bias(self, q: Tensor, k: Tensor) -> Tensor:
        """(batch, 1, seqlen_q, seqlen_k): 0 inside one sequence, -inf across."""
        same = (
            _sequence_of(self.cu_seqlens_q, q)[:, :, None]
            == _sequence_of(self.cu_seqlens_k, k)[:, None]
        )
        return additive(same, q.dtype)[:, None]


def packed(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, structure: Structure, options: Options
) -> Tensor:
    """Attention inside each packed sequence; q, k, v (batch, seqlen, heads, headdim)."""
    tokens = (q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return _batched(_varlen(tokens, packing, structure, options), q)


def structured(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None, options: Options
) -> Tensor:
    """Attention under a structured mask; q, k, v (batch, seqlen, heads, headdim)."""
    structure, padding = layout.structure, layout.padding
    if padding is not None:
        k, v, bias = _cut(k, v, bias, padding.mask.shape[1])
    segments = structure.segments
    if segments is not None:
        cu_seqlens = layout.once("segments", lambda: segment_ends(segments))
        packing = Packing(cu_seqlens, cu_seqlens)
        if bias is None:
            return packed(q, k, v, packing, structure, options)
        bias = bias + packing.bias(q, k)
    if padding is None or padding.side == "none":
        return _dense(q, k, v, structure, bias, options)
    same_tokens = structure.causal and q.shape[1] == k.shape[1]
    unbounded = structure.window_left < 0 and structure.chunk == 0
    if padding.side == "right" and same_tokens:
        lengths = padding.lengths
        return _dense(
            q, k, v, structure, bias, options | {"seqused_q": lengths, "seqused_k": lengths}
        )
    if padding.side == "right" and structure.unmasked:
        return _dense(q, k, v, structure, bias, options | {"seqused_k": padding.lengths})
    # Dropping padding between real tokens would shorten the distances that a window measures.
    if (
        bias is None
        and same_tokens
        and (
            (padding.side == "left" and structure.chunk == 0)
            or (padding.side == "holes" and unbounded)
        )
    ):
        return _unpadded(q, k, v, layout, padding, options)
    hidden = layout.once(("bias", q.dtype), lambda: additive(padding.mask, q.dtype)[:, None, None])
    return _dense(q, k, v, structure, hidden if bias is None else bias + hidden, options)


def _cut(
    k: Tensor, v: Tensor, bias: Tensor | None, keys: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Leave out the slots of a static cache behind the last key that the mask knows."""
    if k.shape[1] < keys:
        raise ValueError(
            f"attention_mask has {keys} keys but key has seqlen_k = {k.shape[1]}; "
            "pass a mask of that length"
        )
    if bias is not None and bias.shape[3] != 1:
        bias = bias[..., :keys]
    return k[:, :keys], v[:, :keys], bias


def _dense(
    q: Tensor, k: Tensor, v: Tensor, structure: Structure, bias: Tensor | None, options: Options
) -> Tensor:
    window = (structure.window_left, structure.window_right)
    if structure.chunk > 0:
        options = options | {"attention_chunk": structure.chunk}
    out: Tensor = limelight.flash_attn_func(
        q, k, v, causal=structure.causal, window_size=window, bias=bias, **options
    )
    return out


def _varlen(
    tokens: tuple[Tensor, Tensor, Tensor], packing: Packing, structure: Structure, options: Options
) -> Tensor:
    longest_q, longest_k = packing.max_seqlen_q, packing.max_seqlen_k
    out: Tensor = limelight.flash_attn_varlen_func(
        *tokens,
        packing.cu_seqlens_q.to(torch.int32),
        packing.cu_seqlens_k.to(torch.int32),
        int(packing.cu_seqlens_q.diff().max() if longest_q is None else longest_q),
        int(packing.cu_seqlens_k.diff().max() if longest_k is None else longest_k),
        causal=structure.causal,
        window_size=(structure.window_left, structure.window_right),
        **options,
    )
    return out


def _unpadded(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, padding: Padding, options: Options
) -> Tensor:
    """Self-attention over the real tokens only; rows of padding are zero."""
    real = layout.once("real", lambda: torch.nonzero(padding.mask.flatten()).flatten())
    cu_seqlens = layout.once("cu_seqlens", padding.cu_seqlens)
    packing = Packing(cu_seqlens, cu_seqlens, padding.max_length, padding.max_length)
    q_real, k_real, v_real = (x.flatten(0, 1).index_select(0, real) for x in (q, k, v))
    out = _varlen((q_real, k_real, v_real), packing, layout.structure, options)
    rows = out.new_zeros(q.shape[0] * q.shape[1], *out.shape[1:])
    return _batched(rows.index_copy(0, real, out), q)


def _batched(rows: Tensor, q: Tensor) -> Tensor:
    """(batch * seqlen_q, heads, headdim_v) -> (batch, seqlen_q, heads, headdim_v)."""
    return rows.view(q.shape[0], q.shape[1], *rows.shape[1:])


def _sequence_of(cu_seqlens: Tensor, tokens: Tensor) -> Tensor:
    """(batch, seqlen) number of the sequence that each token of a (batch, seqlen, ...) tensor
    belongs to."""
    batch, seqlen = tokens.shape[:2]
    position = torch.arange(batch * seqlen, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens, position, right=True).view(batch, seqlen)
