# SPDX-License-Identifier: BSD-3-Clause
"""Arguments of another type, of another layout, or for another batch: all named before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import limelight
import numpy as np
import pytest
import torch
from checked_calls import FP8, HALF, cached, call, dense, grad, ints, meta, paged, varlen

WEIGHT = torch.zeros(8, 16, dtype=HALF)
ROWS = torch.zeros(3, 16, dtype=HALF)
TABLE = torch.zeros(8, 4)
QUANTISED = {"weight": WEIGHT.to(FP8), "weight_scale": torch.ones(8)}


def linear(**changes: Any) -> Any:
    return limelight.flat_linear(**{"x": ROWS, "weight": WEIGHT, **changes})


def merge(**changes: Any) -> Any:
    part, lse = torch.zeros(5, 4, 16), torch.zeros(4, 5)
    arguments = {"output": part, "prefix_output": part, "suffix_output": part}
    arguments |= {"prefix_lse": lse, "suffix_lse": lse}
    return limelight.merge_attn_states(**(arguments | changes))


def store(**changes: Any) -> Any:
    new, cache = torch.zeros(2, 4, 16), torch.zeros(3, 8, 4, 16)
    arguments = {"key": new, "value": new, "key_cache": cache, "value_cache": cache.clone()}
    arguments |= {"slot_mapping": torch.tensor([1, 2])}
    return limelight.append_kv(**(arguments | changes))


def plan(**changes: Any) -> Any:
    arguments: dict[str, Any] = {"batch_size": 2, "max_seqlen_q": 1, "max_seqlen_k": 64}
    arguments |= {"num_heads_q": 4, "num_heads_kv": 2, "headdim": 64, "cache_seqlens": ints(3, 7)}
    return limelight.get_scheduler_metadata(**(arguments | changes))


CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: call(softmax_scale="a"), TypeError, "softmax_scale is 'a'"),
    (lambda: call(softmax_scale=[1]), TypeError, "softmax_scale is [1]; allowed: a number"),
    (lambda: call(softcap=None), TypeError, "softcap is None"),
    (lambda: call(dropout_p="x"), TypeError, "dropout_p is 'x'"),
    (lambda: call(num_splits=None), ValueError, "num_splits is None"),
    (lambda: call(num_splits=1.5), ValueError, "num_splits is 1.5"),
    (lambda: call(window_size=(1.5, 2)), TypeError, "window_size[0] is 1.5; allowed: an int"),
    (lambda: call(window_size="ab"), TypeError, "window_size[0] is 'a'"),
    (lambda: call(sink=1.5), TypeError, "sink is a float"),
    (lambda: call(bias=1.0), TypeError, "bias is a float"),
    (lambda: call(k=dense().to_sparse()), TypeError, "k.layout is torch.sparse_coo"),
    (lambda: call(v=torch.zeros(())), ValueError, "v.shape is ()"),
    (lambda: varlen(max_seqlen_q="x"), TypeError, "max_seqlen_q is 'x'"),
    (lambda: varlen(max_seqlen_k=6.5), TypeError, "max_seqlen_k is 6.5"),
    (lambda: varlen(unified_max="x"), TypeError, "unified_max is 'x'"),
    (lambda: varlen(scheduler_metadata=7), TypeError, "scheduler_metadata is a int"),
    (
        lambda: limelight.flash_attn_varlen_func(
            dense(seqlen=1),
            dense(),
            dense(),
            None,
            ints(0, 5),
            block_table=ints(0, 1)[:, None],
            seqused_k=ints(3, 3),
        ),
        ValueError,
        "seqused_k is a torch.int32 tensor of shape (2,)",
    ),
    (lambda: cached(q=None), TypeError, "q is a NoneType"),
    (lambda: cached(k_cache=None), TypeError, "k_cache is a NoneType"),
    (lambda: cached(cache_seqlens=ints(3, 7, 1)), ValueError, "cache_seqlens.shape[0] is 3"),
    (lambda: cached(cache_batch_idx=ints(1)), ValueError, "cache_batch_idx.shape[0] is 1"),
    (
        lambda: cached(cache_seqlens=ints(3, 7).to("meta")),
        ValueError,
        "cache_seqlens.device is meta",
    ),
    (lambda: cached(rotary_cos=TABLE, rotary_sin=np.zeros((8, 4))), TypeError, "rotary_sin is a"),
    (
        lambda: cached(rotary_cos=TABLE.long(), rotary_sin=TABLE),
        TypeError,
        "rotary_cos.dtype is torch.int64",
    ),
    (lambda: paged(block_table=ints(0, 1)), ValueError, "block_table.shape is (2)"),
    (lambda: linear(bias=3), TypeError, "bias is a int"),
    (lambda: linear(activation=["gelu"]), ValueError, "activation is ['gelu']"),
    (
        lambda: linear(**QUANTISED, x=grad(ROWS.clone()), weight_zero=8),
        ValueError,
        "weight_zero is",
    ),
    (lambda: merge(prefix_lse=None), TypeError, "prefix_lse is a NoneType"),
    (lambda: merge(prefix_output=meta[0]), ValueError, "prefix_output.device is meta"),
    (lambda: merge(output=grad(torch.zeros(5, 4, 16))), ValueError, "output.requires_grad is True"),
    (lambda: merge(output=torch.zeros(5, 4, 16).long()), TypeError, "output.dtype is torch.int64"),
    (
        lambda: merge(prefill_tokens_with_context=-1),
        ValueError,
        "prefill_tokens_with_context is -1",
    ),
    (
        lambda: limelight.flash_attn_combine(
            torch.zeros(2, 3, 4, 16),
            torch.zeros(2, 3, 4),
            out=3,  # type: ignore[arg-type]
        ),
        TypeError,
        "out is a int",
    ),
    (
        lambda: store(key_cache=grad(torch.zeros(3, 8, 4, 16))),
        ValueError,
        "key_cache.requires_grad is True",
    ),
    (lambda: plan(headdim=None), TypeError, "headdim is None"),
    (lambda: plan(max_seqlen_q=-1), ValueError, "max_seqlen_q is -1"),
    (lambda: plan(num_splits=257), ValueError, "num_splits is 257"),
    (lambda: plan(qkv_dtype="half"), TypeError, "qkv_dtype is 'half'"),
    (lambda: plan(cu_seqlens_q=ints(0, 1)), ValueError, "cu_seqlens_q is (2) on cpu"),
    (lambda: plan(cache_leftpad=3), TypeError, "cache_leftpad is a int"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), CALLS, ids=[c[2] for c in CALLS])
def test_message(wrong: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        wrong()
    assert str(caught.value).startswith(message)
    assert "allowed: " in str(caught.value)
    assert "Nearest supported call: " in str(caught.value)


def test_whole_numbers_of_other_types_are_taken() -> None:
    want = call(window_size=(2, 1), softcap=3.0)
    assert torch.equal(call(window_size=(np.int64(2), 1.0), softcap=3), want)
    assert torch.equal(varlen(max_seqlen_q=torch.tensor(6), max_seqlen_k=np.int32(6)), varlen())
