# SPDX-License-Identifier: BSD-3-Clause
"""The attention functions of flash-attn 2.

Same names, positional order and defaults; later arguments keyword-only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limelight.arguments import build_problem, host_int, one_of, refuse_foreign
from limelight.autograd import attention
from limelight.inputs import attention_inputs, paged_extent
from limelight.probabilities import signed_probabilities

if TYPE_CHECKING:
    from limelight.arguments import WindowSize


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    learnable_sink: Tensor | None = None,
    bias: Tensor | None = None,
    qv: Tensor | None = None,
    attention_chunk: int = 0,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    num_splits: int = 0,
    batch_invariant: bool = False,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
    return_lse: bool = False,
    return_softmax_lse: bool = False,
    **others: Any,
) -> Any:
    """Exact attention, softmax(softmax_scale * q k^T) v, tile by tile (arXiv 2205.14135).

    q: (batch, seqlen_q, heads_q, headdim); heads_q a multiple of heads_kv, headdim 1 to 576,
        headdim_v 1 to 512.
    k: (batch, seqlen_k, heads_kv, headdim). v: (batch, seqlen_k, heads_kv, headdim_v).
        float16, bfloat16, float32, float64, or float8_e4m3fn (k and v, or all; forward only); any
        strides (copied unless the last is 1). Autocast casts float32 to its dtype.
    dropout_p: in [0, 1). generator: where the seed is drawn, default torch's of q's device.
    softmax_scale: default headdim**-0.5. softcap: softcap * tanh(score / softcap) if > 0.
    causal, window_size (left, right; -1 or None unbounded): bottom-right aligned.
    alibi_slopes: (heads_q,) or (batch, heads_q) fp32.
    sink (= s_aux = learnable_sink): (heads_q,), one more logit in the denominator; has a gradient.
    bias: (batch, heads_q, seqlen_q, seqlen_k), each extent may be 1, added to the scaled score; has
        a gradient.
    qv: q's shape with headdim_v: scores are softmax_scale * (q k^T + qv v^T) (absorbed latent
        attention), softmax_scale by default (headdim + headdim_v)**-0.5. Kernels read k and v in
        place where they are columns of the same rows, v first. Not float8.
    attention_chunk: in chunks of so many tokens from the first key on, rows see keys of their own
        chunk only (FA3; Llama 4); 0 = off.
    seqused_q, seqused_k: (batch,) int32, how many rows and keys of each sequence take part.
    q_descale, k_descale, v_descale: (batch, heads_kv) fp32, not negative; of float8 tensors, else
        without effect.
    deterministic: equal bits in every run. batch_invariant: equal bits whatever is in the batch.
    num_splits: into how many parts the keys are split; 0 lets limelight choose.
    out: written in place, without gradient. Rows that belong to no sequence are unspecified.

    Returns out (batch, seqlen_q, heads_q, headdim_v) in q's dtype (bfloat16 for float8). With
    return_lse (= return_softmax_lse) (out, lse): lse (batch, heads_q, seqlen_q) fp32, natural log,
    differentiable. With return_attn_probs FA2's (out, lse, S_dmask); S_dmask is empty unless
    dropout_p > 0. A row that sees no key has out = 0 and lse = -inf (FA2: +inf).
    Raises ValueError or TypeError naming a bad argument; FallbackError as LIMELIGHT_FALLBACK says.
    """
    stack = others.pop("_stack", None) if others else None  # what q, k, v are views of
    if others:
        refuse_foreign("flash_attn_func", others)
    q, k, v = attention_inputs(q, k, v)
    problem = build_problem(
        q,
        k,
        v,
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        deterministic=deterministic,
        max_seqlen_q=q.shape[-3],
        max_seqlen_k=k.shape[-3],
        seqused_q=seqused_q,
        seqused_k=seqused_k,
        alibi_slopes=alibi_slopes,
        sink=_sink(sink, s_aux, learnable_sink),
        bias=bias,
        qv=qv,
        attention_chunk=attention_chunk,
        descales=(q_descale, k_descale, v_descale),
        num_splits=num_splits,
        batch_invariant=batch_invariant,
        generator=generator,
    )
    result = attention(q, k, v, problem, out, stack)
    if return_attn_probs:
        return *result, signed_probabilities(q, k, v, problem)
    return result if return_lse or return_softmax_lse else result[0]


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    page_table: Tensor | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    leftpad_k: Tensor | None = None,
    sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    sinks: Tensor | None = None,
    learnable_sink: Tensor | None = None,
    bias: Tensor | None = None,
    qv: Tensor | None = None,
    q_v: Tensor | None = None,
    attention_chunk: int = 0,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    num_splits: int = 0,
    batch_invariant: bool = False,
    tree_mask: Tensor | None = None,
    unified_max: float | None = None,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
    return_lse: bool = False,
    return_softmax_lse: bool = False,
    scheduler_metadata: Tensor | None = None,
    fa_version: int | None = None,
    ver: int | None = None,
    **others: Any,
) -> Any:
    """Attention over sequences of different lengths that are packed one after the other.

    q: (total_q, heads_q, headdim) with cu_seqlens_q and max_seqlen_q; without them dense, as in
        flash_attn_func.
    k, v: (total_k, heads_kv, ...) with cu_seqlens_k and max_seqlen_k; without them dense; or pages
        (num_pages, page_size, heads_kv, ...) with block_table, of any page size, not copied.
    cu_seqlens_q, cu_seqlens_k: (batch + 1,) int32, prefix sums of the lengths; for pages, lengths.
    max_seqlen_q, max_seqlen_k: at least the longest sequence.
    block_table (= page_table): (batch, max_pages) int32, the pages of each sequence in order.
    seqused_q, seqused_k: (batch,) int32. leftpad_k: (batch,) int32, invisible keys at the start.
    bias: (batch, heads_q, max_seqlen_q, max_seqlen_k), each extent may be 1; for pages the last is
        max_pages * page_size.
    sinks: = sink. tree_mask, unified_max, scheduler_metadata: as in flash_attn_with_kvcache.
    fa_version, ver: choose kernels elsewhere, change nothing here. q_v: = qv.

    Everything else, and what is returned, as in flash_attn_func; lse is (heads_q, total_q) where
    cu_seqlens_q is given.
    """
    stack = others.pop("_stack", None) if others else None  # what q, k, v are views of
    if others:
        refuse_foreign("flash_attn_varlen_func", others)
    if page_table is not None:
        block_table = one_of("the pages", block_table=block_table, page_table=page_table)
    if q_v is not None:
        qv = one_of("queries of the values", qv=qv, q_v=q_v)
    q, k, v = attention_inputs(q, k, v, block_table)
    if cu_seqlens_q is None:
        max_seqlen_q = q.shape[-3]
    elif type(max_seqlen_q) is not int:
        max_seqlen_q = host_int("max_seqlen_q", max_seqlen_q)
    if block_table is not None:
        max_seqlen_k = paged_extent(k, block_table)
    elif cu_seqlens_k is None:
        max_seqlen_k = k.shape[-3]
    elif type(max_seqlen_k) is not int:
        max_seqlen_k = host_int("max_seqlen_k", max_seqlen_k)
    problem = build_problem(
        q,
        k,
        v,
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        deterministic=deterministic,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        seqused_q=seqused_q,
        seqused_k=seqused_k,
        leftpad_k=leftpad_k,
        block_table=block_table,
        alibi_slopes=alibi_slopes,
        sink=_sink(sink, s_aux, learnable_sink, sinks),
        bias=bias,
        qv=qv,
        attention_chunk=attention_chunk,
        descales=(q_descale, k_descale, v_descale),
        num_splits=num_splits,
        batch_invariant=batch_invariant,
        tree_mask=tree_mask,
        unified_max=unified_max,
        schedule=scheduler_metadata,
        generator=generator,
    )
    result = attention(q, k, v, problem, out, stack)
    if return_attn_probs:
        return *result, signed_probabilities(q, k, v, problem)
    return result if return_lse or return_softmax_lse else result[0]


def _sink(
    sink: Tensor | None,
    s_aux: Tensor | None,
    learnable_sink: Tensor | None,
    sinks: Tensor | None = None,
) -> Tensor | None:
    if s_aux is None and learnable_sink is None and sinks is None:
        return sink
    return one_of(
        "one logit per head", sink=sink, s_aux=s_aux, sinks=sinks, learnable_sink=learnable_sink
    )
