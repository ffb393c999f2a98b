# SPDX-License-Identifier: BSD-3-Clause
"""The dropout mask: Philox4x32-10 (Salmon et al., SC'11) of seed, offset and element position.

docs/numerics.md states the mapping; every backend reproduces it bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """Philox4x32-10 of broadcastable int64 tensors holding 32-bit words; returns four such."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2**64, so both 32-bit halves are the unsigned ones.
        low, high = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1 = ((high >> 32) & _MASK32) ^ c1 ^ k0, high & _MASK32
        c2, c3 = ((low >> 32) & _MASK32) ^ c3 ^ k1, low & _MASK32
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return c0, c1, c2, c3


def dropout_threshold(dropout_p: float) -> int:
    """Elements whose 16 random bits are below this are dropped: the rate in units of 2**-16."""
    return min(max(round(dropout_p * 65536), 0), 65536)


def dropout_keep_mask(
    rng_state: Tensor,
    dropout_p: float,
    batch: tuple[int, int],
    heads: tuple[int, int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Tensor:
    """Return the kept elements as a bool tensor (batches, heads, rows, columns).

    rng_state: (2,) int64, seed and offset. batch, rows, columns: half-open ranges of indices within
    the batch and the sequence (rows and columns restart at 0 in every sequence). heads: begin, end
    and the total number of query heads. The value at an element does not depend on the ranges asked
    for, the block sizes or the layout.
    """
    device = rng_state.device
    row_tiles = torch.arange(rows[0] // 16, -(-rows[1] // 16), device=device)
    column_tiles = torch.arange(columns[0] // 16, -(-columns[1] // 16), device=device)
    state = rng_state.to(torch.int64)
    seed, offset = state[0], state[1]
    lane = 4 * torch.arange(8, device=device)[:, None, None] + torch.arange(4, device=device)
    head_index = torch.arange(heads[0], heads[1], device=device)
    unit = torch.arange(batch[0], batch[1], device=device)[:, None] * heads[2] + head_index
    # Dimensions: batch, head, row tile, row % 8, column tile, (column % 8) // 2.
    words = philox4x32(
        (
            (32 * column_tiles[:, None] + lane) & _MASK32,
            row_tiles[:, None, None, None],
            ((unit ^ (offset >> 32)) & _MASK32)[:, :, None, None, None, None],
            offset & _MASK32,
        ),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    low = torch.stack([word & 0xFFFF for word in words], dim=-1)
    high = torch.stack([word >> 16 for word in words], dim=-1)
    bits = torch.unflatten(torch.stack((low, high), dim=-1), -2, (2, 2))
    # Now (..., row tile, row % 8, column tile, column pair, row half, column half, parity).
    order = bits.permute(0, 1, 2, 6, 3, 4, 7, 5, 8)
    tile = order.reshape(*order.shape[:2], 16 * len(row_tiles), 16 * len(column_tiles))
    r0, c0 = rows[0] - rows[0] // 16 * 16, columns[0] - columns[0] // 16 * 16
    cut = tile[:, :, r0 : r0 + rows[1] - rows[0], c0 : c0 + columns[1] - columns[0]]
    return cut >= dropout_threshold(dropout_p)
