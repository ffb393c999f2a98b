# SPDX-License-Identifier: BSD-3-Clause
"""qv of flash-attn 3 (absorbed latent attention): scores scale * (q k^T + qv v^T), values v."""

from __future__ import annotations

from typing import Any

import limelight
import pytest
import torch
from kvcache_tools import draw, ints
from torch import Tensor

HALF = torch.bfloat16


def by_definition(
    q: Tensor, qv: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(out, lse) of one sequence (tokens, heads, headdim) in float64."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q.double(), k) + torch.einsum(
        "ihd,jhd->hij", qv.double(), v
    )
    scores = scores * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v), scores.logsumexp(-1)


def causal(rows: int, keys: int) -> Tensor:
    return torch.ones(rows, keys).tril(keys - rows).bool()


def small(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, seed=seed).double()


@pytest.mark.parametrize("heads_kv", [1, 2])
@pytest.mark.parametrize("joint", [False, True], ids=["apart", "columns"])
def test_dense_and_packed(joint: bool, heads_kv: int) -> None:
    q, qv = small(2, 5, 4, 8), small(2, 5, 4, 24, seed=1)
    if joint:
        v, k = small(2, 9, heads_kv, 32, seed=2).split((24, 8), -1)
    else:
        k, v = small(2, 9, heads_kv, 8, seed=2), small(2, 9, heads_kv, 24, seed=3)
    want = [by_definition(q[b], qv[b], k[b], v[b], 32**-0.5, causal(5, 9)) for b in range(2)]
    out, lse = limelight.flash_attn_func(q, k, v, causal=True, qv=qv, return_lse=True)
    lengths = (ints(0, 5, 10), ints(0, 9, 18), 5, 9)
    tokens = (q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    packed, packed_lse = limelight.flash_attn_varlen_func(
        *tokens, *lengths, causal=True, q_v=qv.flatten(0, 1), return_softmax_lse=True
    )
    for b in range(2):
        for found, found_lse in (
            (out[b], lse[b]),
            (packed[5 * b : 5 * b + 5], packed_lse[:, 5 * b : 5 * b + 5]),
        ):
            torch.testing.assert_close(found, want[b][0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found_lse, want[b][1], rtol=1e-12, atol=1e-12)
    own = limelight.flash_attn_func(q, k, v, softmax_scale=0.7, qv=qv)
    want_own = by_definition(q[0], qv[0], k[0], v[0], 0.7)[0]
    torch.testing.assert_close(own[0], want_own, rtol=1e-12, atol=1e-12)


def test_features_beside_it() -> None:
    """Softcap bends the sum of both products; a sink and a window act as ever."""
    q, qv, sink = small(1, 5, 2, 8), small(1, 5, 2, 24, seed=1), small(2, seed=4)
    k, v = small(3, 4, 1, 8, seed=2), small(3, 4, 1, 24, seed=3)
    table, used = ints(2, 0)[None], ints(7)
    options: dict[str, Any] = {"softcap": 3.0, "sink": sink, "window_size": (4, 0)}
    found = limelight.flash_attn_with_kvcache(
        q, k, v, block_table=table, cache_seqlens=used, qv=qv, **options
    )
    keys, values = (x[table[0].long()].flatten(0, 1)[None, :7] for x in (k, v))
    want = limelight.flash_attn_func(
        torch.cat((q, qv), -1), torch.cat((keys, values), -1), values, **options
    )
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_neighbours_that_are_not_columns_of_the_same_rows() -> None:
    """k begins where v's first row ends, but its rows lie elsewhere, or in another order."""
    memory = small(800)
    q, qv = small(1, 5, 2, 8), small(1, 5, 2, 24, seed=1)
    v = memory.as_strided((1, 9, 1, 24), (0, 32, 32, 1))
    for strides in ((0, 40, 40, 1), (0, 64, 8, 1)):
        k = memory.as_strided((1, 9, 1, 8), strides, 24)
        out = limelight.flash_attn_func(q, k, v, qv=qv)
        want = limelight.flash_attn_func(q, k.clone(), v.clone(), qv=qv)
        torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("joint", [False, True], ids=["apart", "columns"])
def test_gradients(joint: bool) -> None:
    q, qv = small(1, 5, 2, 8), small(1, 5, 2, 24, seed=1)
    v, k = small(1, 9, 1, 32, seed=2).split((24, 8), -1)
    leaves = [x if joint else x.clone() for x in (q, qv, k, v)]
    for x in leaves:
        x.requires_grad_()
    out = limelight.flash_attn_func(leaves[0], leaves[2], leaves[3], causal=True, qv=leaves[1])
    seed = small(*out.shape, seed=7)
    found = torch.autograd.grad(out, leaves, seed)
    scale, mask = 32**-0.5, causal(5, 9)
    want = by_definition(leaves[0][0], leaves[1][0], leaves[2][0], leaves[3][0], scale, mask)[0]
    for mine, theirs in zip(found, torch.autograd.grad(want, leaves, seed[0]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_compiled_calls() -> None:
    q, qv = draw(1, 3, 2, 8), draw(1, 3, 2, 24, seed=1)
    v, k = draw(1, 9, 1, 32, seed=2).split((24, 8), -1)

    def call(q: Tensor, qv: Tensor) -> Any:
        return limelight.flash_attn_func(q, k, v, causal=True, qv=qv, attention_chunk=4)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, qv), call(q, qv))
    q.requires_grad_()
    pair = [torch.autograd.grad(f(q, qv).square().sum(), q)[0] for f in (compiled, call)]
    torch.testing.assert_close(*pair)


def test_probabilities_with_dropout() -> None:
    q, qv = small(1, 5, 2, 8), small(1, 5, 2, 24, seed=1)
    k, v = small(1, 9, 1, 8, seed=2), small(1, 9, 1, 24, seed=3)
    torch.manual_seed(1)
    result = limelight.flash_attn_func(q, k, v, 0.4, qv=qv, return_attn_probs=True)
    chance = result[2].abs()
    torch.testing.assert_close(chance.sum(-1), torch.ones(1, 2, 5).double())
    kept = torch.where(result[2] > 0, chance, 0) / 0.6
    torch.testing.assert_close(result[0], torch.einsum("bhij,bjd->bihd", kept, v[:, :, 0]))


def test_refusals() -> None:
    q, qv = draw(1, 5, 2, 8), draw(1, 5, 2, 24, seed=1)
    k, v = draw(1, 9, 1, 8, seed=2), draw(1, 9, 1, 24, seed=3)

    def refused(error: type[Exception], message: str, *given: Tensor, **options: Any) -> None:
        with pytest.raises(error, match=message):
            limelight.flash_attn_func(*(given or (q, k, v)), **options)

    refused(ValueError, r"qv.shape is \(1, 5, 2, 8\); allowed: \(1, 5, 2, 24\)", qv=q)
    refused(TypeError, "qv.dtype is torch.float64", qv=qv.double())
    refused(TypeError, "qv is a list; allowed: a torch.Tensor", qv=[1])
    wide = draw(1, 9, 1, 512)
    refused(
        ValueError,
        "headdim_v 512; allowed: at most 576 together",
        *(draw(1, 5, 2, 72), draw(1, 9, 1, 72), wide),
        qv=draw(1, 5, 2, 512),
    )
    half = [x.to(HALF) for x in (q, k, v, qv)]
    fp8 = [x.to(torch.float8_e4m3fn) for x in half[1:3]]
    refused(ValueError, "qv is given with float8", half[0], *fp8, qv=half[3])
    lengths = (ints(0, 5), ints(0, 9), 5, 9)
    with pytest.raises(TypeError, match="qv and q_v are the same argument"):
        limelight.flash_attn_varlen_func(q[0], k[0], v[0], *lengths, qv=qv[0], q_v=qv[0])
    with pytest.raises(ValueError, match=r"qv\.requires_grad is True"):
        limelight.flash_attn_with_kvcache(q, k, v, qv=qv.requires_grad_())
