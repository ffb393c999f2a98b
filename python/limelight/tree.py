# SPDX-License-Identifier: BSD-3-Clause
"""Masks over the new tokens of speculative decoding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from limelight.messages import bad, check_tensor


def pack_tree_mask(mask: Tensor) -> Tensor:
    """Pack (..., seqlen_q, seqlen_q) bool into int32 words (..., seqlen_q, ceil(seqlen_q / 32)).

    mask[..., i, j]: whether new token i sees new token j; in a tree of drafts j is i or one of its
    ancestors (SpecInfer, Miao et al., arXiv 2305.09781). Bit j % 32 of word j / 32 is mask[..., i,
    j]. The result is tree_mask of ``flash_attn_with_kvcache``, where it has a batch dimension
    (expand one mask with ``expand(batch, -1, -1)``). Packing takes a few small operations on the
    mask's device: pack once for all layers.
    """
    check_tensor("mask", mask)
    if mask.dtype != torch.bool:
        raise bad("mask.dtype", mask.dtype, "torch.bool", "mask.bool()", TypeError)
    if mask.dim() < 2 or mask.shape[-1] != mask.shape[-2]:
        raise bad("mask.shape", mask.shape, "(..., seqlen_q, seqlen_q)", "a square mask")
    device, words = mask.device, -(-mask.shape[-1] // 32)
    bits = pad(mask, (0, 32 * words - mask.shape[-1])).reshape(*mask.shape[:-1], words, 32)
    place = torch.arange(32, dtype=torch.int32, device=device)
    one = torch.ones((), dtype=torch.int32, device=device)
    packed: Tensor = (bits * (one << place)).sum(-1, dtype=torch.int32)
    return packed
