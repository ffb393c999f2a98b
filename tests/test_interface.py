# SPDX-License-Identifier: BSD-3-Clause
"""The functions agree with each other: packed forms, aliases, optional arguments, results."""

from __future__ import annotations

from typing import Any

import limelight
import pytest
import torch
from torch import Tensor

ENDS = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
FLAGS: dict[str, Any] = {"causal": True, "window_size": (5, -1), "softcap": 4.0}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_packed_forms() -> None:
    qkv = draw(2, 9, 3, 4, 16)
    q, k, v = qkv.unbind(2)
    want = limelight.flash_attn_func(q, k, v, **FLAGS)
    assert torch.equal(limelight.flash_attn_qkvpacked_func(qkv, **FLAGS), want)
    assert torch.equal(limelight.flash_attn_kvpacked_func(q, qkv[:, :, 1:], **FLAGS), want)


def test_packed_forms_of_varlen() -> None:
    qkv = draw(9, 3, 4, 16)
    q, k, v = qkv.unbind(1)
    lengths = (ENDS, ENDS, 5, 5)
    want, lse = limelight.flash_attn_varlen_func(q, k, v, *lengths, return_lse=True, **FLAGS)
    assert lse.shape == (4, 9)
    assert torch.equal(limelight.flash_attn_varlen_qkvpacked_func(qkv, ENDS, 5, **FLAGS), want)
    both = limelight.flash_attn_varlen_kvpacked_func(q, qkv[:, 1:], *lengths, **FLAGS)
    assert torch.equal(both, want)
    for start, end in ((0, 4), (4, 9)):
        alone = limelight.flash_attn_func(*(x[None, start:end] for x in (q, k, v)), **FLAGS)
        torch.testing.assert_close(alone[0], want[start:end])


def test_positional_calls_of_flash_attn_2() -> None:
    q, k, v = draw(2, 9, 4, 16), draw(2, 9, 2, 16, seed=1), draw(2, 9, 2, 16, seed=2)
    slopes = torch.rand(4)
    tail = (0.0, 0.3, True, (3, 0), 2.0, slopes, True)
    names = ("dropout_p", "softmax_scale", "causal", "window_size", "softcap", "alibi_slopes")
    by_name = dict(zip(names, tail, strict=False))
    want = limelight.flash_attn_func(q, k, v, **by_name)
    assert torch.equal(limelight.flash_attn_func(q, k, v, *tail), want)
    out, lse, none = limelight.flash_attn_func(q, k, v, *tail, True)
    assert torch.equal(out, want)
    assert lse.shape == (2, 4, 9)
    assert none.numel() == 0


@pytest.mark.parametrize("alias", ["s_aux", "learnable_sink"])
def test_sink_aliases(alias: str) -> None:
    x, sink = draw(1, 5, 4, 16), draw(4, seed=3)
    assert torch.equal(
        limelight.flash_attn_func(x, x, x, **{alias: sink}),
        limelight.flash_attn_func(x, x, x, sink=sink),
    )


def test_arguments_of_sglangs_varlen_calls() -> None:
    x, sink = draw(9, 4, 16), draw(4, seed=3)
    want = limelight.flash_attn_varlen_func(x, x, x, ENDS, ENDS, 5, 5, sink=sink)
    found = limelight.flash_attn_varlen_func(x, x, x, ENDS, ENDS, 5, 5, sinks=sink, ver=4)
    assert torch.equal(found, want)


@pytest.mark.parametrize("window", [None, (None, None), [-1, -1], (2**40, -1)])
def test_unbounded_windows(window: Any) -> None:
    x = draw(1, 5, 4, 16)
    assert torch.equal(
        limelight.flash_attn_func(x, x, x, window_size=window), limelight.flash_attn_func(x, x, x)
    )


def test_pages_take_lengths_from_cu_seqlens_or_seqused() -> None:
    """flash-attn 2 passes cu_seqlens_k with pages, vLLM seqused_k; max_seqlen may be a tensor."""
    pages = draw(8, 4, 2, 16)
    table = torch.tensor([[3, 1], [0, 7], [2, 5]], dtype=torch.int32)
    q = draw(9, 4, 16)
    used = torch.tensor([5, 0, 8], dtype=torch.int32)
    starts = torch.tensor([0, 5, 5, 13], dtype=torch.int32)
    longest = torch.tensor(5)
    by_starts = limelight.flash_attn_varlen_func(
        q, pages, pages, ENDS, starts, longest, longest, causal=True, block_table=table
    )
    by_used = limelight.flash_attn_varlen_func(
        q, pages, pages, ENDS, max_seqlen_q=5, seqused_k=used, causal=True, page_table=table
    )
    assert torch.equal(by_starts, by_used)
    dense = pages[table.long()].flatten(1, 2)
    one = limelight.flash_attn_func(q[None, 4:], dense[2:, :8], dense[2:, :8], causal=True)
    torch.testing.assert_close(by_used[4:], one[0])


def test_dense_queries_of_varlen() -> None:
    q, k = draw(3, 2, 4, 16), draw(9, 2, 16)
    out = limelight.flash_attn_varlen_func(q, k, k, cu_seqlens_k=ENDS, max_seqlen_k=5, causal=True)
    one = limelight.flash_attn_func(q[2:], k[None, 4:], k[None, 4:], causal=True)
    torch.testing.assert_close(out[2:], one)


def test_out_is_returned_and_written() -> None:
    q, k = draw(2, 9, 4, 16), draw(2, 9, 2, 16)
    want = limelight.flash_attn_func(q, k, k)
    out = torch.full((2, 4, 9, 16), float("nan")).transpose(1, 2)
    assert limelight.flash_attn_func(q, k, k, out=out) is out
    assert torch.equal(out, want)


def test_rows_that_are_not_contiguous(where: torch.device) -> None:
    """q, k and v are copied, as in flash-attn; the gradients are those of contiguous tensors."""
    shape = (2, 9, 4, 16)
    q, k, v = (draw(*shape, seed=s).bfloat16().to(where).requires_grad_() for s in range(3))
    want = limelight.flash_attn_func(q, k, v, causal=True)
    dout = draw(*shape, seed=4).bfloat16().to(where)
    expected = torch.autograd.grad(want, (q, k, v), dout)
    turned = [x.detach().mT.contiguous().mT.requires_grad_() for x in (q, k, v)]
    out = limelight.flash_attn_func(*turned, causal=True)
    assert torch.equal(out, want)
    for found, wanted in zip(
        torch.autograd.grad(out, turned, dout.mT.contiguous().mT), expected, strict=True
    ):
        assert torch.equal(found, wanted)


def test_packed_rows_that_are_not_contiguous(where: torch.device) -> None:
    qkv = draw(9, 3, 4, 16).bfloat16().to(where)
    turned = qkv.mT.contiguous().mT.requires_grad_()
    qkv.requires_grad_()
    ends = ENDS.to(where)
    pair = [limelight.flash_attn_varlen_qkvpacked_func(x, ends, 5) for x in (qkv, turned)]
    assert torch.equal(*pair)
    grads = [
        torch.autograd.grad(out.float().sum(), x)[0]
        for out, x in zip(pair, (qkv, turned), strict=True)
    ]
    assert torch.equal(*grads)


def test_sixteen_bit_tensors_ignore_descales() -> None:
    """Servers pass scales always; they belong to float8 tensors only, as in flash-attn 3."""
    x = draw(1, 5, 4, 16).bfloat16()
    scale = torch.full((1, 4), 3.0)
    out = limelight.flash_attn_func(x, x, x, q_descale=scale, k_descale=scale, v_descale=scale)
    assert torch.equal(out, limelight.flash_attn_func(x, x, x))
