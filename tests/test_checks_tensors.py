# SPDX-License-Identifier: BSD-3-Clause
"""Messages about q, k, v, out and what is added to the scores."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checked_calls import FP8, HALF, call, dense, grad, ints, meta, paged, varlen

# (id, call, exception, what the message must hold)
CASES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("not a tensor", lambda: call(q=[1.0]), TypeError, "q is a list; allowed: a torch.Tensor"),
    ("k not a tensor", lambda: call(k=None), TypeError, "k is a NoneType; allowed: a torch.Tensor"),
    (
        "integer dtype",
        lambda: call(q=dense(dtype=torch.int8)),
        TypeError,
        "q.dtype is torch.int8; allowed: float16",
    ),
    (
        "mixed dtype",
        lambda: call(k=dense(dtype=torch.float16)),
        TypeError,
        "v.dtype is torch.bfloat16; allowed: torch.float16, as k has",
    ),
    (
        "k unlike q",
        lambda: call(q=dense(dtype=torch.float16)),
        TypeError,
        "k.dtype is torch.bfloat16; allowed: torch.float16, as q has",
    ),
    ("device mix", lambda: call(k=meta), ValueError, "k.device is meta; allowed: cpu, as q has"),
    (
        "extra's device",
        lambda: call(alibi_slopes=torch.zeros(4, device="meta")),
        ValueError,
        "alibi_slopes.device is meta; allowed: cpu",
    ),
    (
        "last stride",
        lambda: paged(k_cache=torch.zeros(6, 4, 16, 4, dtype=HALF).transpose(2, 3)),
        ValueError,
        "k.stride(-1) is 4; allowed: 1",
    ),
    (
        "headdim 577",
        lambda: call(q=dense(headdim=577), k=dense(headdim=577)),
        ValueError,
        "q headdim is 577; allowed: 1 to 576",
    ),
    (
        "headdim_v 520",
        lambda: call(v=dense(headdim=520)),
        ValueError,
        "v headdim is 520; allowed: 1 to 512",
    ),
    (
        "headdim 0",
        lambda: call(q=dense(headdim=0), k=dense(headdim=0)),
        ValueError,
        "q headdim is 0; allowed: 1 to 576",
    ),
    (
        "headdims differ",
        lambda: call(k=dense(headdim=8)),
        ValueError,
        "k headdim is 8; allowed: 16, as q has",
    ),
    (
        "heads not divisible",
        lambda: call(k=dense(3), v=dense(3)),
        ValueError,
        "q heads is 4; allowed: a multiple of the 3",
    ),
    (
        "no heads",
        lambda: call(q=dense(0), k=dense(0), v=dense(0)),
        ValueError,
        "q heads is 0; allowed: at least 1",
    ),
    (
        "no kv heads",
        lambda: call(k=dense(0), v=dense(0)),
        ValueError,
        "k heads is 0; allowed: at least 1",
    ),
    (
        "v unlike k",
        lambda: call(v=dense(seqlen=4)),
        ValueError,
        "v.shape is (2, 4, 4, 16); allowed: (2, 5, 4, headdim_v)",
    ),
    (
        "batch differs",
        lambda: call(q=dense()[:1]),
        ValueError,
        "the batch of k is 2; allowed: 1, as q has",
    ),
    (
        "three dimensions",
        lambda: call(q=dense()[0]),
        ValueError,
        "q.shape is (5, 4, 16); allowed: 4 dimensions (batch, seqlen, heads, headdim)",
    ),
    (
        "two dimensions",
        lambda: call(q=dense()[0, 0]),
        ValueError,
        "q.shape is (4, 16); allowed: (batch, seqlen, heads, headdim)",
    ),
    (
        "dropout 1",
        lambda: call(dropout_p=1.0),
        ValueError,
        "dropout_p is 1.0; allowed: 0 <= dropout_p < 1",
    ),
    (
        "dropout negative",
        lambda: call(dropout_p=-0.1),
        ValueError,
        "dropout_p is -0.1; allowed: 0 <= dropout_p < 1",
    ),
    (
        "dropout nan",
        lambda: call(dropout_p=float("nan")),
        ValueError,
        "dropout_p is nan; allowed: 0 <= dropout_p < 1",
    ),
    (
        "softcap negative",
        lambda: call(softcap=-1.0),
        ValueError,
        "softcap is -1.0; allowed: 0.0 (off) or a positive number",
    ),
    (
        "scale nan",
        lambda: call(softmax_scale=float("nan")),
        ValueError,
        "softmax_scale is nan; allowed: a finite number",
    ),
    (
        "window shape",
        lambda: call(window_size=3),
        TypeError,
        "window_size is 3; allowed: (left, right) or None",
    ),
    (
        "window negative",
        lambda: call(window_size=(-2, 0)),
        ValueError,
        "window_size is (-2, 0); allowed: integers >= 0, or -1",
    ),
    (
        "causal tensor",
        lambda: call(causal=ints(1)),
        TypeError,
        "causal is a tensor; allowed: True or False",
    ),
    (
        "num_splits",
        lambda: call(num_splits=257),
        ValueError,
        "num_splits is 257; allowed: 0 (heuristic) to 256",
    ),
    (
        "alibi dtype",
        lambda: call(alibi_slopes=torch.zeros(4, dtype=HALF)),
        TypeError,
        "alibi_slopes.dtype is torch.bfloat16; allowed: torch.float32",
    ),
    (
        "alibi shape",
        lambda: call(alibi_slopes=torch.zeros(5)),
        ValueError,
        "alibi_slopes.shape is (5); allowed: (4,) or (2, 4)",
    ),
    (
        "sink shape",
        lambda: call(sink=torch.zeros(2)),
        ValueError,
        "sink is torch.float32 (2); allowed: floating point (4,)",
    ),
    (
        "sink twice",
        lambda: call(sink=torch.zeros(4), s_aux=torch.zeros(4)),
        TypeError,
        "sink and s_aux are the same argument",
    ),
    (
        "bias shape",
        lambda: call(bias=torch.zeros(2, 3, 5, 5)),
        ValueError,
        "bias.shape is (2, 3, 5, 5); allowed: 4-D, each extent 1 or that of (2, 4, 5, 5)",
    ),
    (
        "bias 2-D",
        lambda: call(bias=torch.zeros(5, 5)),
        ValueError,
        "bias.shape is (5, 5); allowed: 4-D",
    ),
    (
        "bias dtype",
        lambda: call(bias=torch.zeros(1, 1, 5, 5, dtype=torch.bool)),
        TypeError,
        "bias.dtype is torch.bool; allowed: torch.float32 or torch.bfloat16",
    ),
    (
        "fp8 with grad",
        lambda: call(q=grad(dense()), k=dense(dtype=FP8), v=dense(dtype=FP8)),
        ValueError,
        "q.requires_grad is True with float8 tensors; allowed: False",
    ),
    (
        "fp8 q beside 16 bits",
        lambda: call(q=dense(dtype=FP8)),
        TypeError,
        "k.dtype is torch.bfloat16; allowed: torch.float8_e4m3fn, as q has",
    ),
    (
        "descale shape",
        lambda: call(
            q=dense(dtype=FP8), k=dense(dtype=FP8), v=dense(dtype=FP8), k_descale=torch.ones(2, 3)
        ),
        ValueError,
        "k_descale is torch.float32 (2, 3); allowed: float32 (2, 4)",
    ),
    (
        "out shape",
        lambda: call(out=torch.zeros(2, 5, 4, 8, dtype=HALF)),
        ValueError,
        "out.shape is (2, 5, 4, 8); allowed: (2, 5, 4, 16)",
    ),
    (
        "out dtype",
        lambda: call(out=torch.zeros(2, 5, 4, 16)),
        TypeError,
        "out.dtype is torch.float32; allowed: torch.bfloat16",
    ),
    (
        "out device",
        lambda: call(out=meta[..., :16]),
        ValueError,
        "out.device is meta; allowed: cpu, as q has",
    ),
    (
        "out stride",
        lambda: call(out=torch.zeros(2, 5, 16, 4, dtype=HALF).transpose(2, 3)),
        ValueError,
        "out.stride(-1) is 4; allowed: 1",
    ),
    (
        "out with grad",
        lambda: call(q=grad(dense()), out=dense()),
        ValueError,
        "out is given while an input requires a gradient",
    ),
    (
        "unknown keyword",
        lambda: call(dropout=0.1),
        TypeError,
        "flash_attn_func() got an unexpected keyword argument 'dropout'",
    ),
    (
        "mask_mod",
        lambda: call(mask_mod=len),
        TypeError,
        "mask_mod is <built-in function len>; allowed: None. Nearest supported call: use causal",
    ),
    (
        "sm_margin",
        lambda: varlen(sm_margin=4),
        TypeError,
        "sm_margin is 4; allowed: None or 0",
    ),
    (
        "dynamic_causal",
        lambda: varlen(dynamic_causal=ints(1, 0)),
        TypeError,
        "dynamic_causal is a torch.int32 tensor of shape (2,); allowed: None",
    ),
    (
        "block_sparse_tensors",
        lambda: paged(block_sparse_tensors=dense()),
        TypeError,
        "block_sparse_tensors is a torch.bfloat16 tensor of shape (2, 5, 4, 16); allowed: None",
    ),
]


@pytest.mark.parametrize(
    ("bad", "error", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_message(bad: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        bad()
