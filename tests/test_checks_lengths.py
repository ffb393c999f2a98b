# SPDX-License-Identifier: BSD-3-Clause
"""Messages about lengths, tables, caches and the smaller functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import limelight
import pytest
import torch
from checked_calls import HALF, cached, call, dense, grad, ints, packed5, paged, varlen

ROTARY = torch.zeros(9, 8, dtype=HALF)

# (id, call, exception, what the message must hold)
CASES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "seqused dtype",
        lambda: call(seqused_k=torch.zeros(2, dtype=torch.int64)),
        TypeError,
        "seqused_k.dtype is torch.int64; allowed: torch.int32",
    ),
    (
        "seqused too long",
        lambda: call(seqused_k=ints(5, 6)),
        ValueError,
        "seqused_k[1] is 6; allowed: 0 to 5",
    ),
    (
        "seqused batch",
        lambda: call(seqused_q=ints(5)),
        ValueError,
        "the batch of seqused_q is 1; allowed: 2, as q has",
    ),
    (
        "qkv packed",
        lambda: limelight.flash_attn_qkvpacked_func(packed5[:, :, :2]),
        ValueError,
        "qkv.shape is (2, 5, 2, 4, 16); allowed: (batch, seqlen, 3, heads, headdim)",
    ),
    (
        "cu_seqlens int64",
        lambda: varlen(cu_seqlens_q=ints(0, 4, 10).long()),
        TypeError,
        "cu_seqlens_q.dtype is torch.int64; allowed: torch.int32",
    ),
    (
        "cu_seqlens not monotone",
        lambda: varlen(cu_seqlens_k=ints(0, 11, 10)),
        ValueError,
        "cu_seqlens_k[2] is 10 after 11; allowed: never less than the entry before",
    ),
    (
        "cu_seqlens start",
        lambda: varlen(cu_seqlens_q=ints(1, 4, 10)),
        ValueError,
        "cu_seqlens_q[0] is 1; allowed: 0",
    ),
    (
        "cu_seqlens end",
        lambda: varlen(cu_seqlens_k=ints(0, 4, 11), max_seqlen_k=9),
        ValueError,
        "cu_seqlens_k[-1] is 11; allowed: at most 10",
    ),
    (
        "cu_seqlens batch",
        lambda: varlen(cu_seqlens_k=ints(0, 4, 7, 10)),
        ValueError,
        "the batch of cu_seqlens_k is 3; allowed: 2, as cu_seqlens_q has",
    ),
    (
        "cu_seqlens 2-D",
        lambda: varlen(cu_seqlens_q=ints(0, 4, 10)[None]),
        ValueError,
        "cu_seqlens_q.shape is (1, 3); allowed: 1 dimension",
    ),
    (
        "cu_seqlens empty",
        lambda: varlen(cu_seqlens_q=ints()),
        ValueError,
        "cu_seqlens_q.shape is (0); allowed: (batch + 1,)",
    ),
    (
        "cu_seqlens stride",
        lambda: varlen(cu_seqlens_q=ints(0, 9, 4, 9, 10)[::2]),
        ValueError,
        "cu_seqlens_q.stride(-1) is 2; allowed: 1",
    ),
    (
        "max_seqlen missing",
        lambda: varlen(max_seqlen_q=None),
        TypeError,
        "max_seqlen_q is missing; allowed: an int",
    ),
    (
        "max_seqlen too small",
        lambda: varlen(max_seqlen_k=5),
        ValueError,
        "max_seqlen_k is 5; allowed: at least 6",
    ),
    (
        "max_seqlen negative",
        lambda: varlen(max_seqlen_q=-1),
        ValueError,
        "max_seqlen_q is -1; allowed: 0 or more",
    ),
    (
        "table dtype",
        lambda: paged(block_table=torch.zeros(2, 2)),
        TypeError,
        "block_table.dtype is torch.float32; allowed: torch.int32",
    ),
    (
        "table entry",
        lambda: paged(block_table=torch.tensor([[0, 1], [2, 6]], dtype=torch.int32)),
        ValueError,
        "block_table[1, 1] is 6; allowed: 0 to 5",
    ),
    (
        "table capacity",
        lambda: paged(cache_seqlens=ints(3, 9)),
        ValueError,
        "seqused_k[1] is 9; allowed: 0 to 8",
    ),
    (
        "packed k with leftpad",
        lambda: varlen(leftpad_k=ints(0, 0)),
        ValueError,
        "cu_seqlens_k is given with leftpad_k or cache_batch_idx; allowed: a dense cache",
    ),
    (
        "two tables",
        lambda: paged(page_table=ints(0)),
        TypeError,
        "block_table and page_table are the same argument",
    ),
    (
        "table with batch idx",
        lambda: paged(cache_batch_idx=ints(0, 2)),
        ValueError,
        "cache_batch_idx[1] is 2; allowed: 0 to 1. Nearest supported call: a row of block_table",
    ),
    (
        "rotary positions",
        lambda: cached(rotary_cos=ROTARY, rotary_sin=ROTARY, rotary_seqlens=ints(0, 9)),
        ValueError,
        "rotary_seqlens[1] is 9 with 1 new tokens; allowed: at most 9 together",
    ),
    (
        "rotary positions of one",
        lambda: cached(rotary_cos=ROTARY, rotary_sin=ROTARY, rotary_seqlens=ints(0)),
        ValueError,
        "rotary_seqlens is (1,) on cpu; allowed: (2,) on cpu",
    ),
    (
        "table with packed k",
        lambda: varlen(block_table=ints(0)[None]),
        ValueError,
        "k.shape is (10, 4, 16); allowed: (num_pages, page_size, heads_kv, headdim)",
    ),
    (
        "cache int too long",
        lambda: cached(cache_seqlens=9),
        ValueError,
        "cache_seqlens is 9; allowed: 0 to 8",
    ),
    (
        "no room",
        lambda: cached(cache_seqlens=ints(3, 8)),
        ValueError,
        "cache_seqlens[1] is 8 with 1 new tokens; allowed: at most 8 together",
    ),
    (
        "cache row",
        lambda: cached(cache_batch_idx=ints(0, 3)),
        ValueError,
        "cache_batch_idx[1] is 3; allowed: 0 to 2",
    ),
    (
        "k without v",
        lambda: cached(v=None),
        TypeError,
        "v is None; allowed: k, v and cache_seqlens together",
    ),
    (
        "k without lengths",
        lambda: cached(cache_seqlens=None),
        TypeError,
        "cache_seqlens is None; allowed: k, v and cache_seqlens together",
    ),
    (
        "new k shape",
        lambda: cached(k=dense(2, seqlen=1)),
        ValueError,
        "k.shape is (2, 1, 2, 16); allowed: (..., 4, 16), as the cache",
    ),
    (
        "new k dtype",
        lambda: cached(k=dense(seqlen=1, dtype=torch.float16)),
        TypeError,
        "k.dtype is torch.float16; allowed: torch.bfloat16, as the cache",
    ),
    (
        "rotary without k",
        lambda: paged(rotary_cos=torch.zeros(8, 4), rotary_sin=torch.zeros(8, 4)),
        ValueError,
        "rotary_cos is given without k and v",
    ),
    (
        "rotary alone",
        lambda: cached(rotary_cos=torch.zeros(8, 4)),
        ValueError,
        "rotary_cos is given alone",
    ),
    (
        "rotary too short",
        lambda: cached(rotary_cos=torch.zeros(7, 4), rotary_sin=torch.zeros(7, 4)),
        ValueError,
        "rotary_cos.shape[0] is 7; allowed: at least 8",
    ),
    (
        "rotary too wide",
        lambda: cached(rotary_cos=torch.zeros(8, 9), rotary_sin=torch.zeros(8, 9)),
        ValueError,
        "rotary_cos.shape is (8, 9); allowed: (seqlen_rotary, rotary_dim / 2)",
    ),
    (
        "cache with grad",
        lambda: cached(q=grad(dense(seqlen=1))),
        ValueError,
        "q.requires_grad is True: attention with a cache has no backward pass; allowed: False",
    ),
    (
        "leftpad too long",
        lambda: cached(cache_leftpad=ints(0, 9)),
        ValueError,
        "leftpad_k is 9; allowed: 0 to",
    ),
    (
        "combine dtype",
        lambda: limelight.flash_attn_combine(
            torch.zeros(2, 3, 4, 8, dtype=HALF), torch.zeros(2, 3, 4)
        ),
        TypeError,
        "out_partial.dtype is torch.bfloat16; allowed: torch.float32",
    ),
    (
        "combine shape",
        lambda: limelight.flash_attn_combine(torch.zeros(2, 3, 4, 8), torch.zeros(2, 4, 3)),
        ValueError,
        "lse_partial.shape is (2, 4, 3); allowed: (2, 3, 4)",
    ),
    (
        "merge lse",
        lambda: limelight.merge_attn_states(
            torch.zeros(3, 4, 8),
            torch.zeros(3, 4, 8),
            torch.zeros(3, 4),
            torch.zeros(3, 4, 8),
            torch.zeros(4, 3),
        ),
        ValueError,
        "prefix_lse is torch.float32 (3, 4); allowed: float32 (4, 3)",
    ),
    (
        "linear shape",
        lambda: limelight.flat_linear(torch.zeros(2, 8), torch.zeros(4, 7)),
        ValueError,
        "weight.shape is (4, 7); allowed: (N, 8)",
    ),
    (
        "linear dtype",
        lambda: limelight.flat_linear(torch.zeros(2, 8), torch.zeros(4, 8, dtype=HALF)),
        TypeError,
        "weight.dtype is torch.bfloat16; allowed: float16, bfloat16, float32 or float64, the same",
    ),
    (
        "metadata batch",
        lambda: limelight.get_scheduler_metadata(3, 1, 8, 4, 4, 16, ints(1, 2)),
        ValueError,
        "cache_seqlens.shape is (2); allowed: (3,)",
    ),
    (
        "explain feature",
        lambda: limelight.explain(droput=True),
        TypeError,
        "explain() knows no feature 'droput'",
    ),
]


@pytest.mark.parametrize(
    ("bad", "error", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_message(bad: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        bad()
