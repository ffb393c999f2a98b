# SPDX-License-Identifier: BSD-3-Clause
"""Implementations of attention behind one signature: f(q, k, v, case) -> out.

All tensors are (batch, seqlen, heads, headdim).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import limelight
from limelight.bench.cases import Case

Attention = Callable[[Tensor, Tensor, Tensor, Case], Tensor]


def ours(q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """limelight, on whatever backend its settings allow."""
    out: Tensor = limelight.flash_attn_func(q, k, v, causal=case.causal)
    return out


def plain(q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """softmax(q k^T / sqrt(headdim)) v with scores in memory.

    The scores and probabilities are rounded to the inputs' dtype, as eager models do.
    """
    group = case.heads // case.heads_kv
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 1) if group > 1 else x for x in (k, v))
    scores = q @ k.mT * case.headdim**-0.5
    if case.causal:
        hidden = torch.ones(case.seqlen, case.seqlen, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    statistics = torch.promote_types(q.dtype, torch.float32)
    return (torch.softmax(scores, -1, dtype=statistics).to(q.dtype) @ v).transpose(1, 2)


def _sdpa(backend: SDPBackend) -> Attention:
    def run(q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
        with sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                is_causal=case.causal,
                enable_gqa=case.heads != case.heads_kv,
            )
        return out.transpose(1, 2)

    return run


@lru_cache(maxsize=1)
def _compiled_flex(case: Case, device: torch.device) -> tuple[Any, Any]:
    """FlexAttention compiled for one case, and its mask.

    A reset of dynamo before each case keeps it below its recompile limit.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()
    mask = None
    if case.causal:
        seqlen = case.seqlen
        mask = create_block_mask(
            lambda b, h, i, j: i >= j, B=None, H=None, Q_LEN=seqlen, KV_LEN=seqlen, device=device
        )
    return torch.compile(flex_attention, dynamic=False), mask


def flex(q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """torch's FlexAttention, compiled."""
    attention, mask = _compiled_flex(case, q.device)
    out: Tensor = attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        block_mask=mask,
        enable_gqa=case.heads != case.heads_kv,
    )
    return out.transpose(1, 2)


OURS = "limelight"
PEERS: dict[str, Attention] = {
    OURS: ours,
    "torch-flash": _sdpa(SDPBackend.FLASH_ATTENTION),
    "torch-cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
    "torch-efficient": _sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "flex": flex,
    "plain": plain,
}
