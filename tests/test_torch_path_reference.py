# SPDX-License-Identifier: BSD-3-Clause
"""The reference itself, against torch's own softmax attention and values worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import Case, build
from reference import philox_keep, reference
from tolerance import assert_agrees

torch.set_num_threads(1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads_kv", [4, 2, 1])
def test_plain_attention_and_gradients(causal: bool, heads_kv: int) -> None:
    x = build(
        Case("plain", seqlen_q=23, seqlen_k=23, heads_kv=heads_kv, dtype="float64", causal=causal)
    )
    q, k, v = (t.transpose(1, 2).detach().requires_grad_() for t in (x.q, x.k, x.v))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    grads = torch.autograd.grad(out, (q, k, v), x.dout.transpose(1, 2))
    found = reference(x.q, x.k, x.v, x.problem, x.dout)
    torch.testing.assert_close(found.out, out.transpose(1, 2))
    for mine, torchs in zip((found.dq, found.dk, found.dv), grads, strict=True):
        torch.testing.assert_close(mine, torchs.transpose(1, 2))


def test_bias_window_and_lse() -> None:
    x = build(Case("mask", seqlen_q=9, seqlen_k=14, dtype="float64", window=(3, 2), bias="bhqk"))
    assert x.problem.bias is not None
    allowed = torch.zeros(9, 14, dtype=torch.bool)
    for i in range(9):
        for j in range(14):
            allowed[i, j] = i + 5 - 3 <= j <= i + 5 + 2
    q, k, v = (t.transpose(1, 2) for t in (x.q, x.k, x.v))
    scores = q @ k.repeat_interleave(2, 1).mT * x.problem.softmax_scale + x.problem.bias.double()
    scores = scores.masked_fill(~allowed, -math.inf)
    found = reference(x.q, x.k, x.v, x.problem)
    torch.testing.assert_close(found.lse, scores.logsumexp(-1))
    expected = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(found.out, expected.transpose(1, 2))


def test_one_key_by_hand() -> None:
    """One key: O = V * e^s / (e^s + e^sink), s = cap * tanh(q k scale / cap) - slope * distance."""
    case = Case("hand", batch=1, seqlen_q=2, seqlen_k=1, heads_q=1, heads_kv=1, headdim=1)
    x = build(
        Case(
            **{**case.__dict__, "dtype": "float64", "softcap": 2.0, "alibi": "heads", "sink": True}
        )
    )
    assert x.problem.alibi_slopes is not None
    assert x.problem.sink is not None
    found = reference(x.q, x.k, x.v, x.problem)
    for i in range(2):
        s = 2.0 * math.tanh(float(x.q[0, i, 0, 0] * x.k[0, 0, 0, 0]) / 2.0)
        s -= float(x.problem.alibi_slopes[0].double()) * abs(i + 1 - 2 - 0)
        lse = math.log(math.exp(s) + math.exp(float(x.problem.sink[0])))
        assert float(found.lse[0, 0, i]) == pytest.approx(lse, rel=1e-12)
        expected = float(x.v[0, 0, 0, 0]) * math.exp(s - lse)
        assert float(found.out[0, i, 0, 0]) == pytest.approx(expected, rel=1e-12)


def test_lse_gradient_is_softmax() -> None:
    """d lse / d bias is P."""
    x = build(
        Case("dlse", dtype="float64", bias="bhqk", bias_dtype="float64", seqlen_q=5, seqlen_k=6)
    )
    zero, one = torch.zeros_like(x.dout), torch.ones_like(x.dlse)
    found = reference(x.q, x.k, x.v, x.problem, zero, one)
    assert found.dbias is not None
    torch.testing.assert_close(found.dbias.sum(-1), one)


def test_rows_without_keys() -> None:
    x = build(Case("tall", seqlen_q=10, seqlen_k=4, causal=True, sink=True, dtype="float64"))
    found = reference(x.q, x.k, x.v, x.problem, x.dout, x.dlse)
    assert bool((found.out[:, :6] == 0).all())
    assert bool((found.lse[:, :, :6] == -math.inf).all())
    assert found.dq is not None
    assert bool((found.dq[:, :6] == 0).all())
    assert found.dsink is not None
    assert bool(torch.isfinite(found.dsink).all())


def test_paged_equals_dense() -> None:
    x = build(
        Case("paged", layout_k="paged", page_size=4, seqlen_q=3, seqlen_k=18, dtype="float64")
    )
    table, used = x.problem.block_table, x.problem.seqused_k
    assert table is not None
    assert used is not None
    found = reference(x.q, x.k, x.v, x.problem)
    for b in range(2):
        n = int(used[b])
        k, v = (
            torch.cat([t[int(page)] for page in table[b]])[:n]
            .transpose(0, 1)
            .repeat_interleave(2, 0)
            for t in (x.k, x.v)
        )
        scores = x.q[b].transpose(0, 1) @ k.mT * x.problem.softmax_scale
        torch.testing.assert_close(found.out[b], (scores.softmax(-1) @ v).transpose(0, 1))


def test_philox_against_published_vectors() -> None:
    """Seed, offset and position 0 give Random123's vector of counter and key 0."""
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    for word in range(4):
        row, column = 8 * (word // 2), 8 * (word % 2)
        for parity in range(2):
            bits = words[word] >> (16 * parity) & 0xFFFF
            for p, kept in ((bits / 65536, True), ((bits + 1) / 65536, False)):
                mask = philox_keep(torch.tensor([0, 0]), p, 0, 1, 0, 16, 16)
                assert bool(mask[row, column + parity]) == kept


def test_the_rule_rejects_errors() -> None:
    truth = torch.randn(50, dtype=torch.float64)
    low = truth.bfloat16()
    assert_agrees("same", low, truth, low)
    with pytest.raises(AssertionError, match="error"):
        assert_agrees("off", (truth + 0.05).bfloat16(), truth, low)
    with pytest.raises(AssertionError, match="unexpected"):
        assert_agrees("nan", low.masked_fill(truth > 0, math.nan), truth, low)
    with pytest.raises(AssertionError, match="missing -inf"):
        assert_agrees("inf", low, truth.masked_fill(truth > 0, -math.inf), low)
