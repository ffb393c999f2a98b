# SPDX-License-Identifier: BSD-3-Clause
"""Validation of lengths and tables by their contents.

On a GPU this synchronises, so it runs on request only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limelight import runtime
from limelight.messages import bad

if TYPE_CHECKING:
    from limelight.problem import AttentionProblem


def wanted(device: torch.device) -> bool:
    """CPU tensors always; CUDA tensors with LIMELIGHT_CHECK=1 outside of graph capture.

    Never where a tracer or a dispatch mode watches: its tensors may hold no values.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    if device.type == "cpu":
        return True
    return (
        runtime.settings.check
        and device.type == "cuda"
        and not torch.cuda.is_current_stream_capturing()
    )


def check_values(q: Tensor, k: Tensor, p: AttentionProblem) -> None:
    """Raise ValueError where a length or a table entry points outside of its tensor.

    Shapes are checked before.
    """
    lengths_q = _lengths("q", p.cu_seqlens_q, p.seqused_q, q, p.max_seqlen_q)
    if p.block_table is not None:
        extent = p.block_table.shape[1] * k.shape[1]
        lengths_k = _used("seqused_k", p.seqused_k, [extent] * p.block_table.shape[0])
        _check_pages(p.block_table, lengths_k, k)
    elif p.cache_batch_idx is not None:
        for row in p.cache_batch_idx.tolist():
            if not 0 <= row < k.shape[0]:
                raise bad(
                    "cache_batch_idx",
                    row,
                    f"0 to {k.shape[0] - 1}, the rows of the cache",
                    "a row in it",
                )
        lengths_k = _used("seqused_k", p.seqused_k, [k.shape[1]] * len(lengths_q))
    else:
        lengths_k = _lengths("k", p.cu_seqlens_k, p.seqused_k, k, p.max_seqlen_k)
    if p.leftpad_k is not None:
        for pad, length in zip(p.leftpad_k.tolist(), lengths_k, strict=True):
            if not 0 <= pad <= length:
                raise bad(
                    "leftpad_k", pad, f"0 to {length}, the sequence's length", "leftpad_k=None"
                )


def _lengths(
    which: str, cu_seqlens: Tensor | None, seqused: Tensor | None, x: Tensor, max_seqlen: int
) -> list[int]:
    """The lengths of every sequence of q or k."""
    if cu_seqlens is None:
        full = [x.shape[1]] * x.shape[0]
    else:
        name = f"cu_seqlens_{which}"
        starts = cu_seqlens.tolist()
        if starts[0] != 0:
            raise bad(f"{name}[0]", starts[0], "0", f"{name} - {name}[0]")
        for index in range(1, len(starts)):
            if starts[index] < starts[index - 1]:
                was = f"{starts[index]} after {starts[index - 1]}"
                raise bad(
                    f"{name}[{index}]", was, "never less than the entry before", f"{name}.sort()"
                )
        if starts[-1] > x.shape[0]:
            total = x.shape[0]
            raise bad(
                f"{name}[-1]",
                starts[-1],
                f"at most {total}, the rows of {which}",
                f"{name}.clamp(max={total})",
            )
        full = [end - start for start, end in pairwise(starts)]
    used = _used(f"seqused_{which}", seqused, full)
    if used and max(used) > max_seqlen:
        raise bad(
            f"max_seqlen_{which}",
            max_seqlen,
            f"at least {max(used)}, the longest sequence",
            f"max_seqlen_{which}={max(used)}",
        )
    return used


def _used(name: str, seqused: Tensor | None, full: list[int]) -> list[int]:
    if seqused is None:
        return full
    used: list[int] = seqused.tolist()
    for index, (length, extent) in enumerate(zip(used, full, strict=True)):
        if not 0 <= length <= extent:
            raise bad(
                f"{name}[{index}]",
                length,
                f"0 to {extent}, what the tensor holds",
                f"{name}[{index}]={extent}",
            )
    return used


def _check_pages(block_table: Tensor, lengths: list[int], k: Tensor) -> None:
    num_pages, page_size = k.shape[:2]
    for row, (pages, length) in enumerate(zip(block_table.tolist(), lengths, strict=True)):
        for column in range(-(-length // page_size)):
            if not 0 <= pages[column] < num_pages:
                raise bad(
                    f"block_table[{row}, {column}]",
                    pages[column],
                    f"0 to {num_pages - 1}, the cache's pages, where {length} tokens are used",
                    "a table that names a page for every used slot",
                )
