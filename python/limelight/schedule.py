# SPDX-License-Identifier: BSD-3-Clause
"""Schedules of decode steps, made ahead of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limelight import dispatch, runtime
from limelight.arguments import chunk_length, refuse_foreign, window_bounds
from limelight.checks import MAX_SPLITS
from limelight.decode_kernel import make_schedule, padded
from limelight.kernel_table import SHARED_KV_FROM
from limelight.messages import as_text, as_whole, bad, check_index

if TYPE_CHECKING:
    from limelight.arguments import WindowSize


def get_scheduler_metadata(
    batch_size: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_heads_q: int,
    num_heads_kv: int,
    headdim: int,
    cache_seqlens: Tensor,
    qkv_dtype: torch.dtype = torch.bfloat16,
    headdim_v: int | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    page_size: int | None = None,
    max_seqlen_k_new: int = 0,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    attention_chunk: int = 0,
    has_softcap: bool = False,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
) -> Tensor:
    """Plan the schedule of a decode step ahead of it, once for all layers (FA3's signature).

    cache_seqlens: (batch,) int32, the keys in the cache before the step; the step's own are
    cu_seqlens_k_new.diff() or max_seqlen_k_new for each sequence. max_seqlen_k: the tokens of a
    cache row, or of max_pages pages. The other arguments have to be those of the call, too.

    Returns an int32 tensor on cache_seqlens' device, to be passed as scheduler_metadata by one
    stream at a time; its size depends on no length, so it may be copied into a fixed buffer that a
    CUDA graph reads. No host synchronisation. It has no elements where no decode kernel runs; a
    call with batch_invariant, another num_splits or another grid ignores it and plans for itself.
    With lengths, masks or heads other than the call's the result is undefined. The schedule divides
    the keys of all sequences evenly over the thread blocks (stream-K; LeanAttention, arXiv
    2405.10480).
    """
    check_index("cache_seqlens", cache_seqlens, 1)
    sizes = {
        "batch_size": (batch_size, 0),
        "max_seqlen_q": (max_seqlen_q, 0),
        "max_seqlen_k": (max_seqlen_k, 0),
        "num_heads_q": (num_heads_q, 1),
        "num_heads_kv": (num_heads_kv, 1),
        "headdim": (headdim, 1),
        "headdim_v": (headdim if headdim_v is None else headdim_v, 1),
        "max_seqlen_k_new": (max_seqlen_k_new, 0),
        "num_splits": (num_splits, 0),
    }
    for name, (size, least) in sizes.items():
        if as_whole(name, size, max(least, 1)) < least:
            raise bad(name, size, f"{least} or more", f"{name}={max(least, 1)}")
    if num_splits > MAX_SPLITS:
        raise bad("num_splits", num_splits, f"0 (heuristic) to {MAX_SPLITS}", "num_splits=0")
    if not isinstance(qkv_dtype, torch.dtype):
        raise bad("qkv_dtype", repr(qkv_dtype), "a torch.dtype", "torch.bfloat16", TypeError)
    for name, x, extent in (
        ("cu_seqlens_q", cu_seqlens_q, batch_size + 1),
        ("cu_seqlens_k_new", cu_seqlens_k_new, batch_size + 1),
        ("cache_leftpad", cache_leftpad, batch_size),
    ):
        if x is not None:
            check_index(name, x, 1)
            if x.shape[0] != extent or x.device != cache_seqlens.device:
                found = f"{as_text(x.shape)} on {x.device}"
                raise bad(
                    name, found, f"({extent},) on {cache_seqlens.device}", "of the call itself"
                )
    if cache_seqlens.shape[0] != batch_size:
        was, allowed = cache_seqlens.shape, f"({batch_size},)"
        raise bad("cache_seqlens.shape", was, allowed, "one length per sequence")
    if num_heads_kv < 1 or num_heads_q < 1 or num_heads_q % num_heads_kv != 0:
        allowed = f"a multiple of num_heads_kv = {num_heads_kv}"
        raise bad("num_heads_q", num_heads_q, allowed, "repeated keys")
    left, right = window_bounds(window_size, causal)
    masks = (causal, left, right, chunk_length(attention_chunk))
    refuse_foreign(
        "get_scheduler_metadata",
        {"pack_gqa": pack_gqa, "sm_margin": sm_margin},
    )
    dims = (headdim, headdim if headdim_v is None else headdim_v)
    if headdim < SHARED_KV_FROM <= dims[1]:
        dims = (headdim + dims[1], dims[1])  # a call with qv, which joins it to q
    if not _has_kernel(cache_seqlens.device, qkv_dtype, dims):
        return cache_seqlens.new_empty(0)
    lengths = cache_seqlens
    if cu_seqlens_k_new is not None:
        lengths = cache_seqlens + cu_seqlens_k_new.diff()
    elif max_seqlen_k_new > 0:
        lengths = cache_seqlens + max_seqlen_k_new
    heads = (num_heads_q, num_heads_kv)
    dims = (padded(dims[0]), padded(dims[1]))
    extents = (batch_size, *heads, *dims, max_seqlen_q, max_seqlen_k, num_splits, False)
    return make_schedule(lengths, extents, masks, cu_seqlens_q, cache_leftpad)


def _has_kernel(device: torch.device, dtype: torch.dtype, dims: tuple[int, int]) -> bool:
    """Whether a decode kernel would serve these calls."""
    capability = runtime.capability(device)
    if capability is None or runtime.settings.backend == "torch" or runtime.device_problem(device):
        return False
    name = str(torch.bfloat16 if dtype.itemsize == 1 else dtype).removeprefix("torch.")
    query = dispatch.Query(
        "forward", capability, name, *dims, frozenset({"paged"}), 1, shared_kv=True
    )
    kernel = dispatch.choose(query, runtime.installed()).kernel
    return kernel is not None and kernel.few_rows
