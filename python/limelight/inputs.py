# SPDX-License-Identifier: BSD-3-Clause
"""q, k and v as the attention functions take them: cast, with contiguous rows."""

from __future__ import annotations

import torch
from torch import Tensor

from limelight.messages import bad, check_index, check_tensor, contiguous_rows

_FLOAT32 = torch.float32


def attention_inputs(
    q: Tensor, k: Tensor, v: Tensor, block_table: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as tensors that have at least three dimensions, cast as autocast wants.

    Rows are made contiguous; those of pages never, which a call would copy as a whole.
    """
    if not (
        isinstance(q, Tensor)
        and isinstance(k, Tensor)
        and isinstance(v, Tensor)
        and q.dim() > 2
        and k.dim() > 2
        and v.dim() > 2
    ):
        _refuse_inputs(q, k, v)
    if q.dtype is _FLOAT32 or k.dtype is _FLOAT32 or v.dtype is _FLOAT32:
        q, k, v = autocast(q), autocast(k), autocast(v)
    if q.stride(-1) != 1 or k.stride(-1) != 1 or v.stride(-1) != 1:
        q = contiguous_rows(q)
        if block_table is None:
            k, v = contiguous_rows(k), contiguous_rows(v)
    return q, k, v


def autocast(x: Tensor) -> Tensor:
    """x, cast to autocast's dtype if that is on and x is float32."""
    device = x.device.type
    if x.dtype is _FLOAT32 and device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


def _refuse_inputs(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, x)
        if x.dim() < 3:
            allowed = "(batch, seqlen, heads, headdim) or (total, heads, headdim)"
            raise bad(f"{name}.shape", x.shape, allowed, f"{name} of that layout")


def paged_extent(k: Tensor, block_table: Tensor) -> int:
    """The tokens that block_table can address."""
    check_index("block_table", block_table, 2)
    if k.dim() != 4:
        allowed = "(num_pages, page_size, heads_kv, headdim) with block_table"
        raise bad("k.shape", k.shape, allowed, "block_table=None for keys that are not paged")
    return k.shape[1] * block_table.shape[1]
