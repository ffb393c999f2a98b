# SPDX-License-Identifier: BSD-3-Clause
"""Writes new keys and values into a dense or paged cache, without a host synchronisation.

On a device the append kernel does it in one pass, rotary embedding of keys and queries included;
elsewhere torch operations that round alike: caches of k's dtype get the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limelight import runtime

E4M3_MAX = 448.0
_ROTARY_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_TWO_BYTES = (torch.float16, torch.bfloat16)


class Places(NamedTuple):
    """Where new tokens go; see ``flash_attn_with_kvcache``."""

    cache_seqlens: Tensor
    cu_seqlens_k_new: Tensor | None
    cache_batch_idx: Tensor | None
    block_table: Tensor | None


class Rotary(NamedTuple):
    """Rotary embedding of new keys and of q."""

    cos: Tensor
    sin: Tensor
    interleaved: bool
    q: Tensor
    cu_seqlens_q: Tensor | None
    by_row: bool  # query i turns by cache_seqlens + i, otherwise by cache_seqlens


def token_places(
    k: Tensor, cache_seqlens: Tensor, cu_seqlens_k_new: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Batch row, position in the sequence, and whether there is a sequence, of every new token.

    k: (batch, seqlen_new, ...), or (total_new, ...) with cu_seqlens_k_new (batch + 1,).
    """
    starts = cache_seqlens.long()
    if cu_seqlens_k_new is None:
        row = torch.arange(k.shape[0], device=k.device)[:, None].expand(k.shape[:2])
        return row, starts[:, None] + torch.arange(k.shape[1], device=k.device), None
    ends = cu_seqlens_k_new.long()
    token = torch.arange(k.shape[0], device=k.device)
    row = torch.searchsorted(ends[1:].contiguous(), token, right=True)
    real = row < starts.shape[0]
    row = row.clamp(max=max(starts.shape[0] - 1, 0))
    return row, starts[row] + token - ends[row], real


def _in_pairs(x: Tensor) -> bool:
    """Whether float8 rows can be viewed as numbers of 16 bits."""
    places = (x.storage_offset(), x.data_ptr(), x.shape[-1], *x.stride()[:-1])
    return not any(place % 2 for place in places)


def kernel_refusal(
    k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None = None
) -> str | None:
    """Why the append kernel does not serve a call, or None where it does."""
    capability = runtime.capability(k.device)
    if capability is None or runtime.settings.backend == "torch":
        return ""
    problem = runtime.device_problem(k.device)
    if problem:
        return problem
    if capability < (8, 0):
        return "the device is older than compute capability 8.0"
    if k.dtype != v.dtype:
        return f"k is {k.dtype} and v is {v.dtype}; nearest: one dtype"
    if k.element_size() == 1:
        if rotary is not None or not all(map(_in_pairs, (k_cache, v_cache, k, v))):
            return "k is float8; nearest: k and v of 16 bits"
    elif k.dtype not in _TWO_BYTES:
        return f"k is {k.dtype}; nearest: float16 or bfloat16"
    if rotary is not None:
        if rotary.cos.dtype not in _ROTARY_DTYPES or rotary.cos.dtype != rotary.sin.dtype:
            return "rotary_cos and rotary_sin are not of one dtype of float16, bfloat16, float32"
        if rotary.q.dtype != k.dtype:
            return f"q is {rotary.q.dtype} and k is {k.dtype}; nearest: one dtype"
    return None


def run_kernel(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    places: Places | None,
    slot_mapping: Tensor | None = None,
    scales: tuple[Tensor | None, Tensor | None] = (None, None),
    rotary: Rotary | None = None,
    seqlens_out: Tensor | None = None,
) -> Tensor | None:
    """Launch the append kernel; return the turned q where rotary is given.

    seqlens_out: (batch,) int32 that receives the lengths after the call.
    """
    if k.element_size() == 1:  # bits are kept: two float8 numbers move as one of 16 bits
        k_cache, v_cache, k, v = (x.view(torch.float16) for x in (k_cache, v_cache, k, v))
        scales = (None, None)
    q_out = None if rotary is None else torch.empty_like(rotary.q)
    q = cos = sin = cu_seqlens_q = None
    if rotary is not None:
        q, cos, sin, cu_seqlens_q = rotary.q, rotary.cos, rotary.sin, rotary.cu_seqlens_q
    runtime.launch(
        runtime.core().append_kv,
        (
            k,
            v,
            k_cache,
            v_cache,
            *((None, None, None, None) if places is None else places),
            slot_mapping,
            *scales,
            cos,
            sin,
            q,
            q_out,
            cu_seqlens_q,
            seqlens_out,
        ),
        (rotary is None or bool(rotary.interleaved), rotary is not None and rotary.by_row),
    )
    return q_out


def append_tokens(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    cache_seqlens: Tensor,
    cu_seqlens_k_new: Tensor | None,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:
    """Store token t of sequence b at position cache_seqlens[b] + t of its cache row or pages.

    Values are copied bit for bit, or quantised to x / scale (batch, heads_kv) for a float8 cache.
    Tokens past cu_seqlens_k_new[-1] belong to no sequence; they and what would fall outside of the
    cache or its table are not stored.
    """
    if k.numel() == 0:
        return
    refusal = kernel_refusal(k_cache, v_cache, k, v)
    if refusal is None:
        places = Places(cache_seqlens, cu_seqlens_k_new, cache_batch_idx, block_table)
        run_kernel(k_cache, v_cache, k, v, places, scales=(k_scale, v_scale))
        return
    if refusal:
        runtime.fall_back(f"appending to a cache on {k.device}", refusal)
    row, position, real = token_places(k, cache_seqlens, cu_seqlens_k_new)
    if cu_seqlens_k_new is None:
        row, position, k, v = (x.flatten(0, 1) for x in (row, position, k, v))
    rows, size = k_cache.shape[:2]
    pages = 1 if block_table is None else block_table.shape[1]
    if rows * size * pages == 0:
        return
    inside = (position >= 0) & (position < size * pages)
    position = position.clamp(0, size * pages - 1)
    where = row if cache_batch_idx is None else cache_batch_idx.long()[row]
    if block_table is not None:
        where = block_table.long()[row, position // size]
    inside = inside & (where >= 0) & (where < rows)
    stored = inside if real is None else real & inside
    for cache, new, scale in ((k_cache, k, k_scale), (v_cache, v, v_scale)):
        per_token = None if scale is None else scale[row]
        _store(cache, new, per_token, (where, position % size), stored)


def append_slots(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    slot_mapping: Tensor,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:
    """Store token t at slot_mapping[t] = row * row_size + place, unless that is negative.

    k_scale, v_scale: (1, heads_kv).
    """
    if slot_mapping.numel() == 0 or k.numel() == 0:
        return
    refusal = kernel_refusal(k_cache, v_cache, k, v)
    if refusal is None:
        run_kernel(k_cache, v_cache, k, v, None, slot_mapping, (k_scale, v_scale))
        return
    if refusal:
        runtime.fall_back(f"appending to a cache on {k.device}", refusal)
    slots = k_cache.shape[0] * k_cache.shape[1]
    real = (slot_mapping >= 0) & (slot_mapping < slots)
    index = (slot_mapping // k_cache.shape[1], slot_mapping % k_cache.shape[1])
    tokens = slot_mapping.shape[0]
    for cache, new, scale in ((k_cache, k, k_scale), (v_cache, v, v_scale)):
        _store(cache, new[:tokens], scale, index, real)


def quantised(x: Tensor, scale: Tensor | None) -> Tensor:
    """x / scale (broadcastable to x's tokens and heads) in e4m3, saturated; float8 x as it is."""
    if x.element_size() == 1:
        return x
    x = x.float() if scale is None else x.float() / scale.unsqueeze(-1)
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _store(
    cache: Tensor,
    new: Tensor,
    scale: Tensor | None,
    index: tuple[Tensor, Tensor],
    real: Tensor,
) -> None:
    if cache.element_size() == 1:  # float8 has no indexed assignment
        cache, new = cache.view(torch.uint8), quantised(new, scale).view(torch.uint8)
    # A token that is not stored repeats the write of one that is; with none, nothing changes.
    some = real.int().argmax()
    place = [torch.where(real, x, torch.where(real[some], x[some], 0)) for x in index]
    there = cache[place[0][some], place[1][some]]
    stored = real.view(-1, *[1] * (new.dim() - 1))
    cache[place[0], place[1]] = torch.where(stored, new, torch.where(real[some], new[some], there))
