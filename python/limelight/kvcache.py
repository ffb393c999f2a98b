# SPDX-License-Identifier: BSD-3-Clause
"""Decoding with a key/value cache: append, rotary embedding and attention in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limelight.absorbed import joined
from limelight.arguments import (
    build_problem,
    chunk_length,
    host_int,
    one_of,
    refuse_foreign,
    window_bounds,
)
from limelight.autograd import attention, is_eager
from limelight.cache_append import Places, Rotary, kernel_refusal, run_kernel, token_places
from limelight.check_values import wanted
from limelight.execute import run, validate
from limelight.inputs import autocast
from limelight.kvcache_checks import (
    check_append,
    check_no_grad,
    check_room,
    check_rotary,
    count_sequences,
    new_lengths,
    rotary_positions,
    table_rows,
)
from limelight.messages import bad, check_index, contiguous_rows
from limelight.ops import append_op
from limelight.torch_path import apply_rotary

if TYPE_CHECKING:
    from limelight.arguments import WindowSize


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    page_table: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    max_seqlen_q: int | None = None,
    rotary_seqlens: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    sink: Tensor | None = None,
    sinks: Tensor | None = None,
    s_aux: Tensor | None = None,
    learnable_sink: Tensor | None = None,
    bias: Tensor | None = None,
    qv: Tensor | None = None,
    attention_chunk: int = 0,
    tree_mask: Tensor | None = None,
    unified_max: float | None = None,
    batch_invariant: bool = False,
    out: Tensor | None = None,
    return_lse: bool = False,
    scheduler_metadata: Tensor | None = None,
    fa_version: int | None = None,
    ver: int | None = None,
    **others: Any,
) -> Any:
    """Append k and v to the cache in place, rotate q and k, and attend to the cache.

    q: (batch, seqlen_q, heads_q, headdim), or (total_q, heads_q, headdim) with cu_seqlens_q and
        max_seqlen_q. q, k and v are copied unless their last dimension is contiguous.
    k_cache, v_cache: (batch_cache, seqlen_cache, heads_kv, headdim), or pages (num_pages,
        page_size, heads_kv, headdim) with block_table, of any page size; any strides with a
        contiguous last dimension.
    k, v: (batch, seqlen_new, heads_kv, headdim), or (total_new, heads_kv, headdim) with
        cu_seqlens_k_new. Token t of sequence b goes to position cache_seqlens[b] + t, v (and k
        without rotary) bit for bit. A float8_e4m3fn cache takes float8 bits as they are and other
        dtypes as k / k_descale and v / v_descale, saturated to +-448. A token beyond the cache or
        its block table raises where lengths are checked (CPU, LIMELIGHT_CHECK=1); elsewhere it is
        not stored, and no memory outside of the cache is touched.
    rotary_cos, rotary_sin: (seqlen_rotary, rotary_dim / 2), at least as long as the cache. Keys
        turn by their position; query i by cache_seqlens + i where causal, windowed or in chunks,
        otherwise every query by cache_seqlens. Leftpad does not shift positions. In fp32.
    rotary_seqlens: (batch,) int32, positions to count from in the place of cache_seqlens.
    rotary_interleaved: pairs (0, 1), (2, 3), ... (GPT-J); otherwise halves (GPT-NeoX).
    cache_seqlens: int or (batch,) int32, the cached tokens before this call; None: all.
    cache_batch_idx: (batch,) int32, the cache's (or the block table's) row of each sequence.
    cache_leftpad: (batch,) int32, how many tokens at the row's start are invisible.
    block_table (= page_table): (batch, max_pages) int32, the pages of each sequence in order.
    bias: (batch, heads_q, seqlen_q, the cache's length), each extent may be 1.
    qv: q's shape with headdim_v, not turned: as in flash_attn_func; q is then the rotary part.
    attention_chunk: as in flash_attn_func; chunks are counted from cache_leftpad.
    tree_mask: (batch, seqlen_q, ceil(seqlen_q / 32)) int32 of ``pack_tree_mask`` (with
        cu_seqlens_q: max_seqlen_q): which of the last seqlen_q keys, the new tokens, each query
        sees; it sees all earlier keys. Not with causal, window_size or attention_chunk.
    unified_max: about the largest score of any row (natural-log units, after scale and softcap), as
        ``calibrate_unified_max`` finds it: a hint that saves decode kernels an exchange of maxima.
        Results agree within rounding however wrong it is.
    num_splits: 0 (limelight chooses), 1, or more; results agree within rounding.
    scheduler_metadata: of ``get_scheduler_metadata`` for the same lengths: a hint.
    fa_version, ver: choose kernels elsewhere, change nothing here.

    Returns out in q's layout, with return_softmax_lse (= return_lse) (out, lse); the rest as in
    flash_attn_func. There is no backward pass. Raises ValueError or TypeError naming a bad argument
    before anything is written.
    """
    if others:
        refuse_foreign("flash_attn_with_kvcache", others)
    if page_table is not None:
        block_table = one_of("the pages", block_table=block_table, page_table=page_table)
    if sinks is not None or s_aux is not None or learnable_sink is not None:
        sink = one_of(
            "a logit per head", sink=sink, sinks=sinks, s_aux=s_aux, learnable_sink=learnable_sink
        )
    check_no_grad(q, k_cache, v_cache, k, v, qv)
    q = contiguous_rows(_cast(q, k_cache))
    k = k if k is None else contiguous_rows(_cast(k, k_cache))
    v = v if v is None else contiguous_rows(_cast(v, v_cache))
    batch = count_sequences(q, cu_seqlens_q)
    if block_table is not None and cache_batch_idx is not None:
        block_table, cache_batch_idx = table_rows(block_table, cache_batch_idx), None
    if block_table is not None:
        check_index("block_table", block_table, 2)
    capacity = k_cache.shape[1] * (1 if block_table is None else block_table.shape[1])
    if isinstance(cache_seqlens, int):
        if not 0 <= cache_seqlens <= capacity:
            raise bad(
                "cache_seqlens",
                cache_seqlens,
                f"0 to {capacity}, what the cache holds",
                "a larger cache",
            )
        cache_seqlens = torch.full((batch,), cache_seqlens, dtype=torch.int32, device=q.device)
    seqused_k = cache_seqlens
    rotary: Rotary | None = None
    by_kernel = False
    if k is not None or v is not None:
        if k is None or v is None or cache_seqlens is None:
            missing = "k" if k is None else ("v" if v is None else "cache_seqlens")
            raise bad(
                missing, None, "k, v and cache_seqlens together", "without k and v", TypeError
            )
        new = new_lengths(k, cu_seqlens_k_new, batch)
        tables = (cu_seqlens_k_new, cache_batch_idx, block_table)
        check_append(q, k_cache, v_cache, k, v, *tables, cache_seqlens, batch)
        if wanted(q.device):
            check_room(cache_seqlens, new, capacity, k_cache, cache_batch_idx, block_table)
    if rotary_cos is not None or rotary_sin is not None:
        k, cos, sin, starts = check_rotary(q, k, rotary_cos, rotary_sin, cache_seqlens, capacity)
        if rotary_seqlens is not None:
            starts = rotary_positions(rotary_seqlens, new, batch, cos)
        by_row = chunk_length(attention_chunk) > 0 or max(window_bounds(window_size, causal)) >= 0
        rotary = Rotary(cos, sin, rotary_interleaved, q, cu_seqlens_q, by_row)
    if k is not None and v is not None and cache_seqlens is not None and batch > 0:
        by_kernel = is_eager(q) and kernel_refusal(k_cache, v_cache, k, v, rotary) is None
        # The append kernel turns by the places where it stores.
        by_kernel = by_kernel and (rotary is None or starts is cache_seqlens)
        if by_kernel and not wanted(q.device):
            seqused_k = torch.empty_like(cache_seqlens)  # the append kernel writes it
        else:
            seqused_k = cache_seqlens + new
    problem = build_problem(
        q,
        k_cache,
        v_cache,
        dropout_p=0.0,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        deterministic=False,
        max_seqlen_q=q.shape[1] if cu_seqlens_q is None else host_int("max_seqlen_q", max_seqlen_q),
        max_seqlen_k=capacity,
        cu_seqlens_q=cu_seqlens_q,
        seqused_k=seqused_k,
        block_table=block_table,
        leftpad_k=cache_leftpad,
        cache_batch_idx=cache_batch_idx,
        alibi_slopes=alibi_slopes,
        sink=sink,
        bias=bias,
        qv=qv,
        attention_chunk=attention_chunk,
        descales=(q_descale, k_descale, v_descale),
        num_splits=num_splits,
        batch_invariant=batch_invariant,
        tree_mask=tree_mask,
        unified_max=unified_max,
        schedule=scheduler_metadata,
    )
    if k is not None and not torch.compiler.is_compiling():
        # Nothing is written where the attention would refuse.
        plan = validate(*joined(q, k_cache, v_cache, problem), out)
    if k is not None and v is not None and cache_seqlens is not None and batch > 0:
        places = Places(cache_seqlens, cu_seqlens_k_new, cache_batch_idx, block_table)
        scales = (problem.k_descale, problem.v_descale)
        if by_kernel:
            lengths = None if wanted(q.device) else seqused_k
            turned = run_kernel(
                k_cache, v_cache, k, v, places, None, scales, rotary, seqlens_out=lengths
            )
            q = q if turned is None else turned
        else:
            if rotary is not None:
                q, k = _turn(rotary, k, k_cache, starts, cu_seqlens_k_new)
            append_op(k_cache, v_cache, k, v, *places, *scales)
    if by_kernel and problem.sink is None and problem.bias is None:
        # Nothing can require a gradient.
        result = run(plan, *joined(q, k_cache, v_cache, problem), out)
    else:
        result = attention(q, k_cache, v_cache, problem, out)
    return result if return_softmax_lse or return_lse else result[0]


def _cast(x: Tensor, cache: Tensor) -> Tensor:
    """x as autocast wants it beside a cache of 16 bits; a float8 one rounds what it is given."""
    return autocast(x) if x.dtype is torch.float32 and cache.element_size() == 2 else x


def _turn(
    rotary: Rotary, k: Tensor, cache: Tensor, starts: Tensor, cu_seqlens_k_new: Tensor | None
) -> tuple[Tensor, Tensor]:
    """q and k turned in torch; k stays fp32 for a float8 cache, so that it is rounded once."""
    row, position, _ = token_places(rotary.q, starts, rotary.cu_seqlens_q)
    if not rotary.by_row:
        position = starts.long()[row]
    tables, interleaved = (rotary.cos, rotary.sin), rotary.interleaved
    q = apply_rotary(rotary.q, *tables, position, interleaved=interleaved)
    position = token_places(k, starts, cu_seqlens_k_new)[1]
    if cache.element_size() < k.element_size():
        k = k.float()
    return q, apply_rotary(k, *tables, position, interleaved=interleaved)
