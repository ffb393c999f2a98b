# SPDX-License-Identifier: BSD-3-Clause
"""Small valid calls; a test of a message spoils one argument."""

from __future__ import annotations

from typing import Any

import limelight
import torch
from torch import Tensor

HALF = torch.bfloat16


def dense(heads: int = 4, dtype: torch.dtype = HALF, headdim: int = 16, seqlen: int = 5) -> Tensor:
    return torch.zeros(2, seqlen, heads, headdim, dtype=dtype)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def call(**changes: Any) -> Any:
    arguments: dict[str, Any] = {"q": dense(), "k": dense(), "v": dense()}
    arguments.update(changes)
    return limelight.flash_attn_func(**arguments)


def varlen(**changes: Any) -> Any:
    packed = torch.zeros(10, 4, 16, dtype=HALF)
    arguments: dict[str, Any] = {
        "q": packed,
        "k": packed,
        "v": packed,
        "cu_seqlens_q": ints(0, 4, 10),
        "cu_seqlens_k": ints(0, 4, 10),
        "max_seqlen_q": 6,
        "max_seqlen_k": 6,
    }
    arguments.update(changes)
    return limelight.flash_attn_varlen_func(**arguments)


def paged(**changes: Any) -> Any:
    pages = torch.zeros(6, 4, 4, 16, dtype=HALF)
    arguments: dict[str, Any] = {
        "q": dense(seqlen=1),
        "k_cache": pages,
        "v_cache": pages,
        "cache_seqlens": ints(3, 7),
        "block_table": torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
    }
    arguments.update(changes)
    return limelight.flash_attn_with_kvcache(**arguments)


def cached(**changes: Any) -> Any:
    cache = torch.zeros(3, 8, 4, 16, dtype=HALF)
    arguments: dict[str, Any] = {
        "q": dense(seqlen=1),
        "k_cache": cache,
        "v_cache": cache.clone(),
        "k": dense(seqlen=1),
        "v": dense(seqlen=1),
        "cache_seqlens": ints(3, 7),
        "cache_batch_idx": ints(0, 2),
    }
    arguments.update(changes)
    return limelight.flash_attn_with_kvcache(**arguments)


def grad(x: Tensor) -> Tensor:
    return x.requires_grad_()


FP8 = torch.float8_e4m3fn
packed5 = torch.zeros(2, 5, 3, 4, 16, dtype=HALF)
meta = torch.zeros(2, 5, 4, 16, dtype=HALF, device="meta")
