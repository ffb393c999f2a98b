# SPDX-License-Identifier: BSD-3-Clause
"""Small parts of a case's tensors: prefix sums, poison, trees of draft tokens."""

from __future__ import annotations

import torch
from limelight import pack_tree_mask
from torch import Tensor


def random_trees(batch: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Packed (batch, tokens, words): token i sees itself and its ancestors, drawn before it."""
    sees = torch.eye(tokens, dtype=torch.bool).repeat(batch, 1, 1)
    for b in range(batch):
        for i in range(1, tokens):
            parent = int(torch.randint(-1, i, (1,), generator=generator))
            if parent >= 0:
                sees[b, i] |= sees[b, parent]
    return pack_tree_mask(sees)


def offsets(lengths: Tensor) -> Tensor:
    return torch.cat((torch.zeros(1, dtype=torch.int32), lengths.cumsum(0).int()))


def poison_packed(x: Tensor, cu_seqlens: Tensor, seqused: Tensor | None) -> None:
    if seqused is None:
        return
    for b, n in enumerate(seqused.tolist()):
        x[int(cu_seqlens[b]) + n : int(cu_seqlens[b + 1])] = float("nan")
