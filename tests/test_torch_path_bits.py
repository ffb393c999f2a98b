# SPDX-License-Identifier: BSD-3-Clause
"""Determinism, batch invariance, unbiased rounding."""

from dataclasses import replace

import pytest
import torch
from cases import CACHES, DROPOUT, FEATURES, LAYOUTS, Case, build
from limelight.problem import AttentionProblem
from limelight.torch_path import backward, forward
from reference import reference
from tolerance import SIGNED_LIMIT, assert_unbiased, signed_mean, tied_maxima

torch.set_num_threads(1)


@pytest.mark.parametrize("case", FEATURES + LAYOUTS + CACHES + DROPOUT, ids=str)
def test_equal_bits_from_run_to_run(case: Case) -> None:
    x = build(case)
    runs = []
    for _ in range(3):
        out, lse = forward(x.q, x.k, x.v, x.problem)
        found = backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
        runs.append([t for t in (out, lse, *found) if t is not None])
    for again in runs[1:]:
        for a, b in zip(runs[0], again, strict=True):
            assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_autocast_changes_nothing(dtype: str) -> None:
    x = build(Case("autocast", dtype=dtype, softcap=20.0, bias="bhqk"))
    out, lse = forward(x.q, x.k, x.v, x.problem)
    plain = (out, lse, *backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = forward(x.q, x.k, x.v, x.problem)
        inside = (out, lse, *backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem))
    for a, b in zip(plain, inside, strict=True):
        assert a is b or torch.equal(a, b)


INVARIANT = [
    Case("plain"),
    Case("features", softcap=20.0, alibi="heads", sink=True, bias="11qk"),
    Case("window", window=(40, 0)),
    Case("gqa", heads_q=6, heads_kv=2, headdim=72, headdim_v=40),
]


@pytest.mark.parametrize("case", INVARIANT, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_prefill_chunks_and_decode_give_equal_bits(case: Case, dtype: str) -> None:
    """Token t has the same O and LSE alone, in a chunk, in a whole prefill, in any batch."""
    n = 300
    x = build(
        replace(
            case, batch=3, seqlen_q=n, seqlen_k=n, causal=True, dtype=dtype, batch_invariant=True
        )
    )
    bias = x.problem.bias
    whole, whole_lse = forward(x.q, x.k, x.v, x.problem)
    for begin, end in ((0, 1), (0, 77), (77, 190), (190, 300), (255, 256), (256, 257), (299, 300)):
        part = replace(
            x.problem,
            max_seqlen_q=end - begin,
            max_seqlen_k=end,
            bias=None if bias is None else bias[:, :, begin:end, :end],
        )
        for first, last in ((0, 3), (1, 2)):
            batch = slice(first, last)
            q, k, v = x.q[batch, begin:end], x.k[batch, :end], x.v[batch, :end]
            out, lse = forward(q, k, v, part)
            assert torch.equal(out, whole[batch, begin:end])
            assert torch.equal(lse, whole_lse[batch, :, begin:end])


def test_packed_and_dense_give_equal_bits() -> None:
    x = build(Case("dense", batch=1, seqlen_q=70, seqlen_k=70, causal=True, batch_invariant=True))
    offsets = torch.tensor([0, 30, 30, 70], dtype=torch.int32)
    packed = replace(x.problem, cu_seqlens_q=offsets, cu_seqlens_k=offsets)
    out, lse = forward(x.q[0], x.k[0], x.v[0], packed)
    for begin, end in ((0, 30), (30, 70)):
        part = slice(begin, end)
        alone, alone_lse = forward(x.q[:, part], x.k[:, part], x.v[:, part], x.problem)
        assert torch.equal(out[part], alone[0])
        assert torch.equal(lse[:, part], alone_lse[0])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(("ties", "gap"), [(2, 6.0), (2, 9.0), (4, 6.0), (2, 3.0), (1, 6.0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_unbiased(dtype: torch.dtype, ties: int, gap: float, sign: float) -> None:
    """O, and delta = rowsum(dO * O) with dO of one sign, after arXiv 2510.04212."""
    q, k, v = tied_maxima(ties, 30, gap, sign, dtype)
    problem = AttentionProblem(softmax_scale=1.0, max_seqlen_q=16, max_seqlen_k=ties + 30)
    out, _ = forward(q, k, v, problem)
    truth = reference(q, k, v, problem).out
    unit = torch.finfo(dtype).eps / 2
    assert_unbiased("out", out, truth, unit)
    dout = torch.rand(truth.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert_unbiased("delta", (dout * out.double()).sum(-1), (dout * truth).sum(-1), unit)


def test_biased_rounding_is_found() -> None:
    """The helper sees the effect: unnormalised O rounded to bfloat16, P rounded but not its sum."""
    q, k, v = tied_maxima(2, 30, 6.0, -1.0, torch.bfloat16)
    problem = AttentionProblem(softmax_scale=1.0, max_seqlen_q=16, max_seqlen_k=32)
    truth = reference(q, k, v, problem).out
    scores = q[:, :, 0].double() @ k[:, :, 0].double().mT
    values = v[:, :, 0].double()
    p = torch.exp(scores - scores.amax(-1, keepdim=True))
    unnormalised = (p.bfloat16().double() @ values).bfloat16().double()
    biased = (unnormalised / p.sum(-1, keepdim=True)).bfloat16().unsqueeze(2)
    assert abs(signed_mean(biased, truth)) > 2 * SIGNED_LIMIT * 2.0**-8
    # A shift of the maximum rounds every tied P by the same relative error, which the sum must
    # share.
    p = torch.exp(scores - scores.amax(-1, keepdim=True) - 0.7)
    rounded = p.bfloat16().double()
    biased = (rounded @ values / p.sum(-1, keepdim=True)).bfloat16().unsqueeze(2)
    assert abs(signed_mean(biased, truth)) > 2 * SIGNED_LIMIT * 2.0**-8
    shared = (rounded @ values / rounded.sum(-1, keepdim=True)).bfloat16().unsqueeze(2)
    assert_unbiased("sum of the rounded P", shared, truth)
