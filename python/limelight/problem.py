# SPDX-License-Identifier: BSD-3-Clause
"""The one description of an attention call, shared by the public functions and every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttentionProblem:
    """What one call computes, beside the tensors q, k and v.

    Layouts of q, k, v: dense (batch, seqlen, heads, headdim); varlen (total, heads, headdim) where
    the matching ``cu_seqlens`` is given; paged keys and values (num_pages, page_size, heads_kv,
    headdim) where ``block_table`` is given. Sequence lengths: ``cu_seqlens`` else the dense extent,
    cut to ``seqused``; ``leftpad_k`` keys at the start of each row are invisible.

    Key j of seqlen_k is visible to row i of seqlen_q iff
    ``i + seqlen_k - seqlen_q - window_left <= j <= i + seqlen_k - seqlen_q + window_right``
    (-1 = unbounded; ``causal`` means window_right = 0: bottom-right alignment). With
    ``attention_chunk`` > 0 keys and rows are cut into chunks of that many tokens from the first key
    on, leftpad_k: j has to lie in the chunk of i + seqlen_k - seqlen_q. With ``tree_mask`` the last
    seqlen_q keys are the new tokens: row i sees new token t iff bit t % 32 of word
    tree_mask[b, i, t // 32] is set, and every earlier key.

    Score: ``s = softmax_scale * q.k``, with ``qv`` ``softmax_scale * (q.k + qv.v)``;
    ``s = softcap * tanh(s / softcap)`` if softcap > 0;
    ``s -= alibi_slope * |i + seqlen_k - seqlen_q - j|``; ``s += bias``; then the softmax over
    visible keys, with one extra logit ``sink[head]`` in the denominator only, then dropout (kept
    entries divided by 1 - dropout_p). LSE is the natural log of that denominator (sink included).
    A row that sees no key has O = 0, LSE = -inf.
    """

    softmax_scale: float
    max_seqlen_q: int
    max_seqlen_k: int
    causal: bool = False
    window_left: int = -1
    window_right: int = -1  # already 0 when causal
    attention_chunk: int = 0  # 0 = off
    softcap: float = 0.0
    dropout_p: float = 0.0
    deterministic: bool = False
    batch_invariant: bool = False
    num_splits: int = 0  # 0 = heuristic
    unified_max: float | None = None  # a guess of row maxima (FlashDecoding++): a hint to kernels
    cu_seqlens_q: Tensor | None = None  # (batch + 1,) int32
    cu_seqlens_k: Tensor | None = None  # (batch + 1,) int32
    seqused_q: Tensor | None = None  # (batch,) int32
    seqused_k: Tensor | None = None  # (batch,) int32
    leftpad_k: Tensor | None = None  # (batch,) int32
    cache_batch_idx: Tensor | None = None  # (batch,) int32: batch row -> row of k and v
    block_table: Tensor | None = None  # (batch, max_pages) int32
    tree_mask: Tensor | None = None  # (batch, max_seqlen_q, ceil(max_seqlen_q / 32)) int32 words
    alibi_slopes: Tensor | None = None  # (heads_q,) or (batch, heads_q) fp32
    sink: Tensor | None = None  # (heads_q,) fp32
    bias: Tensor | None = None  # 4-D, each extent 1 or full: (batch, heads_q, seqlen_q, seqlen_k)
    qv: Tensor | None = None  # q's shape with headdim_v: absorbed latent attention
    q_descale: Tensor | None = None  # (batch, heads_kv) fp32, any strides
    k_descale: Tensor | None = None
    v_descale: Tensor | None = None
    rng_state: Tensor | None = None  # (2,) int64: Philox seed and offset, when dropout_p > 0
    schedule: Tensor | None = None  # (n,) int32, of get_scheduler_metadata: changes no result
