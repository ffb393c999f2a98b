# SPDX-License-Identifier: BSD-3-Clause
"""Validation of what ``flash_attn_with_kvcache`` takes beside an attention call.

All before anything is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limelight.check_values import wanted
from limelight.messages import bad, check_index, check_last_stride, check_tensor

_QUANTISED = (torch.float16, torch.bfloat16, torch.float32)  # for a float8 cache


def check_no_grad(*tensors: Tensor | None) -> None:
    names = ("q", "k_cache", "v_cache", "k", "v", "qv")
    grad = torch.is_grad_enabled()
    for name, x in zip(names, tensors, strict=True):
        if x is None and name in ("k", "v", "qv"):
            continue
        if not isinstance(x, Tensor):
            check_tensor(name, x)
        assert x is not None
        if grad and x.requires_grad:
            was = "True: attention with a cache has no backward pass"
            raise bad(
                f"{name}.requires_grad", was, "False", "flash_attn_func, or under torch.no_grad()"
            )
    for name, x in (("k_cache", tensors[1]), ("v_cache", tensors[2])):
        if x is not None and x.dim() != 4:
            allowed = "4 dimensions (batch or num_pages, seqlen or page_size, heads_kv, headdim)"
            raise bad(f"{name}.shape", x.shape, allowed, f"{name} of that layout")


def count_sequences(q: Tensor, cu_seqlens_q: Tensor | None) -> int:
    """The batch size."""
    if cu_seqlens_q is None:
        return q.shape[0]
    check_index("cu_seqlens_q", cu_seqlens_q, 1)
    return cu_seqlens_q.shape[0] - 1


def new_lengths(k: Tensor, cu_seqlens_k_new: Tensor | None, batch: int) -> int | Tensor:
    """The number of new tokens, one for all sequences or (batch,)."""
    if cu_seqlens_k_new is None:
        if k.dim() != 4 or k.shape[0] != batch:
            raise bad(
                "k.shape",
                k.shape,
                f"({batch}, seqlen_new, heads_kv, headdim)",
                "cu_seqlens_k_new for packed k",
            )
        return k.shape[1]
    check_index("cu_seqlens_k_new", cu_seqlens_k_new, 1)
    if k.dim() != 3 or cu_seqlens_k_new.shape[0] != batch + 1:
        was = f"{tuple(k.shape)} with cu_seqlens_k_new of {cu_seqlens_k_new.shape[0]} entries"
        raise bad(
            "k.shape",
            was,
            f"(total, heads_kv, headdim) with {batch + 1} entries",
            "dense k without it",
        )
    return cu_seqlens_k_new.diff()


def check_append(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_k_new: Tensor | None,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
    cache_seqlens: Tensor,
    batch: int,
) -> None:
    for name, x, cache in (("k", k, k_cache), ("v", v, v_cache)):
        if x.shape[-2:] != cache.shape[-2:]:
            raise bad(
                f"{name}.shape",
                x.shape,
                f"(..., {cache.shape[-2]}, {cache.shape[-1]}), as the cache",
                "that",
            )
        if x.dtype != cache.dtype and not (
            cache.dtype == torch.float8_e4m3fn and x.dtype in _QUANTISED
        ):
            raise bad(
                f"{name}.dtype",
                x.dtype,
                f"{cache.dtype}, as the cache",
                f"{name}.to({cache.dtype})",
                TypeError,
            )
        if x.device != q.device:
            raise bad(
                f"{name}.device", x.device, f"{q.device}, as q has", f"{name}.to({str(q.device)!r})"
            )
        check_last_stride(name, x)
    if v.shape[:-2] != k.shape[:-2]:
        raise bad("v.shape", v.shape, f"{tuple(k.shape[:-2])} tokens, as k has", "v of k's tokens")
    for name, table, dims in (
        ("cache_seqlens", cache_seqlens, 1),
        ("cu_seqlens_k_new", cu_seqlens_k_new, 1),
        ("cache_batch_idx", cache_batch_idx, 1),
        ("block_table", block_table, 2),
    ):
        if table is None:
            continue
        check_index(name, table, dims)
        if name != "cu_seqlens_k_new" and table.shape[0] != batch:
            allowed = f"{batch}, the sequences of q"
            raise bad(f"{name}.shape[0]", table.shape[0], allowed, f"{name} for {batch} sequences")
        if table.device != q.device:
            where = f"{name}.to({str(q.device)!r})"
            raise bad(f"{name}.device", table.device, f"{q.device}, as q has", where)


def check_room(
    cache_seqlens: Tensor,
    new: int | Tensor,
    capacity: int,
    k_cache: Tensor,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
) -> None:
    """Raise where the new tokens do not fit, before anything is written."""
    fresh = new.tolist() if isinstance(new, Tensor) else [new] * len(cache_seqlens)
    rows = None if cache_batch_idx is None else cache_batch_idx.tolist()
    pages = None if block_table is None else block_table.tolist()
    for index, (length, count) in enumerate(zip(cache_seqlens.tolist(), fresh, strict=True)):
        if length < 0 or count < 0 or length + count > capacity:
            was = f"{length} with {count} new tokens"
            raise bad(
                f"cache_seqlens[{index}]",
                was,
                f"at most {capacity} together",
                "a larger cache or block_table",
            )
        if rows is not None and not 0 <= rows[index] < k_cache.shape[0]:
            raise bad(
                f"cache_batch_idx[{index}]",
                rows[index],
                f"0 to {k_cache.shape[0] - 1}",
                "a row of the cache",
            )
        if pages is not None and count > 0:
            page_size = k_cache.shape[1]
            for page in pages[index][length // page_size : (length + count - 1) // page_size + 1]:
                if not 0 <= page < k_cache.shape[0]:
                    raise bad(
                        f"block_table[{index}]",
                        page,
                        f"0 to {k_cache.shape[0] - 1}",
                        "a page for new tokens",
                    )


def check_rotary(
    q: Tensor,
    k: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cache_seqlens: Tensor | None,
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(k, cos, sin, cache_seqlens), all of which rotary embedding needs."""
    if k is None or cache_seqlens is None or cos is None or sin is None:
        was = "given without k and v" if k is None else "given alone"
        raise bad(
            "rotary_cos",
            was,
            "rotary_cos and rotary_sin together with k and v",
            "q rotated before the call",
        )
    for name, x in (("rotary_cos", cos), ("rotary_sin", sin)):
        check_tensor(name, x)
        if not x.is_floating_point():
            allowed = "a floating point type"
            raise bad(f"{name}.dtype", x.dtype, allowed, f"{name}.float()", TypeError)
        if x.dim() != 2 or not 0 < 2 * x.shape[1] <= q.shape[-1] or x.shape != cos.shape:
            allowed = f"(seqlen_rotary, rotary_dim / 2) with rotary_dim at most {q.shape[-1]}"
            raise bad(f"{name}.shape", x.shape, allowed, "both tables of one such shape")
        if x.shape[0] < capacity:
            raise bad(
                f"{name}.shape[0]",
                x.shape[0],
                f"at least {capacity}, the cache's length",
                "a longer table",
            )
        if x.device != q.device:
            raise bad(
                f"{name}.device", x.device, f"{q.device}, as q has", f"{name}.to({str(q.device)!r})"
            )
    return k, cos, sin, cache_seqlens


def table_rows(block_table: Tensor, cache_batch_idx: Tensor) -> Tensor:
    """The row of block_table that each sequence reads, without a host synchronisation."""
    check_index("block_table", block_table, 2)
    check_index("cache_batch_idx", cache_batch_idx, 1)
    if block_table.device != cache_batch_idx.device:
        was, device = cache_batch_idx.device, str(block_table.device)
        allowed = f"{device}, as block_table has"
        raise bad("cache_batch_idx.device", was, allowed, f"cache_batch_idx.to({device!r})")
    if wanted(block_table.device):
        for index, row in enumerate(cache_batch_idx.tolist()):
            if not 0 <= row < block_table.shape[0]:
                allowed = f"0 to {block_table.shape[0] - 1}"
                raise bad(f"cache_batch_idx[{index}]", row, allowed, "a row of block_table")
    return block_table.index_select(0, cache_batch_idx)


def rotary_positions(rotary_seqlens: Tensor, new: int | Tensor, batch: int, cos: Tensor) -> Tensor:
    """rotary_seqlens, whose sequences with their new tokens have to fit into the tables."""
    check_index("rotary_seqlens", rotary_seqlens, 1)
    if rotary_seqlens.shape[0] != batch or rotary_seqlens.device != cos.device:
        was = f"{tuple(rotary_seqlens.shape)} on {rotary_seqlens.device}"
        raise bad("rotary_seqlens", was, f"({batch},) on {cos.device}", "one position per sequence")
    if wanted(cos.device):
        fresh = new.tolist() if isinstance(new, Tensor) else [new] * batch
        for index, (start, count) in enumerate(zip(rotary_seqlens.tolist(), fresh, strict=True)):
            if start < 0 or start + count > cos.shape[0]:
                was = f"{start} with {count} new tokens"
                allowed = f"at most {cos.shape[0]} together"
                raise bad(f"rotary_seqlens[{index}]", was, allowed, "longer rotary tables")
    return rotary_seqlens
