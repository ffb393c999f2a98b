# SPDX-License-Identifier: BSD-3-Clause
"""The gradient of an additive bias by its kernel: every broadcast shape, against float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from cases import FEATURES, LAYOUTS, Case, Inputs, build, vary
from limelight import backward_kernel, runtime
from limelight.autograd import attention
from test_backward_kernel import check, fit, gradients
from test_forward_kernel import BASE, TILES, poisoned_memory
from tolerance import assert_gradients
from torch import Tensor

PATTERNS = ["".join(letters) for letters in product(*(f"{full}1" for full in "bhqk"))]


@pytest.mark.parametrize("enough", [0, 256], ids=["one-sum", "parts"])
@pytest.mark.parametrize("bias", PATTERNS)
def test_every_broadcast_shape(
    bias: str, enough: int, kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tiles of 64 rows and keys, ragged in both directions.

    A bias of few tiles is summed in parts that torch adds up, unless few are enough.
    """
    monkeypatch.setattr(backward_kernel, "_ENOUGH_TILES", enough)
    case = vary(BASE, bias, bias=bias, seqlen_q=133, seqlen_k=75, batch=2, heads_q=3, heads_kv=1)
    check(vary(case, "plain", heads_kv=3, headdim=40), kernels)
    case = vary(case, "masked", causal=True, window=(50, 0), softcap=8.0, dropout_p=0.2)
    found = check(vary(case, "own", seqlen_k=150, bias_dtype="bfloat16"), kernels)
    assert found["dbias"] is not None
    assert found["dbias"].dtype == torch.bfloat16


@pytest.mark.parametrize("bias", ["bhqk", "1hqk", "b1q1", "1h1k", "1111"])
def test_packed_sequences(bias: str, kernels: torch.device) -> None:
    """The bias of a sequence starts at its row 0 and key 0; what lies past its end gets zeros."""
    case = vary(BASE, bias, bias=bias, batch=4, layout_q="packed", layout_k="packed", seqlen_q=90)
    x = fit(vary(case, "used", seqused_q=True, seqused_k=True, causal=True), kernels)
    found = gradients(x)
    assert_gradients(x, found, with_dlse=True)
    p, dbias = x.problem, found["dbias"]
    assert p.seqused_q is not None
    assert p.seqused_k is not None
    assert dbias is not None
    if bias == "bhqk":
        for b, (rows, keys) in enumerate(
            zip(p.seqused_q.tolist(), p.seqused_k.tolist(), strict=True)
        ):
            assert not dbias[b, :, rows:].any()
            assert not dbias[b, :, :, keys:].any()


# Features that the other tests do not combine with the gradient of a bias.
OTHERS = [case for case in [*FEATURES, *LAYOUTS] if not case.bias]


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_with_every_feature(case: Case, kernels: torch.device) -> None:
    check(vary(case, "biased", bias="1hqk", seed=4), kernels)


@pytest.mark.parametrize("headdim", TILES)
def test_headdim_tiles(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "tile", bias="1hqk", headdim=headdim, dtype="float16", seqlen_q=70)
    check(vary(case, "drop", seqlen_k=81, dropout_p=0.3, bias_dtype="float16"), kernels)


def test_expanded_and_foreign_dtypes(kernels: torch.device) -> None:
    """A broadcast view has a full gradient; float16 beside bfloat16 keys is converted."""
    x = build(vary(BASE, "view", bias="11qk", causal=True), str(kernels))
    want = gradients(x)["dbias"]
    bias = x.problem.bias
    assert bias is not None
    assert want is not None
    leaf = bias.detach().requires_grad_()
    wide = leaf.expand(2, 4, 65, 65)
    with poisoned_memory():
        out, lse = attention(x.q, x.k, x.v, replace(x.problem, bias=wide))
        lse = lse.masked_fill(lse == float("-inf"), 0.0)
        torch.autograd.backward([out, lse], [x.dout, x.dlse])
    assert_gradients(x, {"dbias": leaf.grad}, with_dlse=True)
    half = replace(x, problem=replace(x.problem, bias=bias.half()))
    found = gradients(half)["dbias"]
    assert found is not None
    assert found.dtype == torch.float16
    assert_gradients(half, {"dbias": found}, with_dlse=True)


def test_rows_that_a_bias_masks_may_hold_any_gradient(kernels: torch.device) -> None:
    """A row whose scores are all -inf gives none, whatever dO holds; so does it without dbias."""
    x = build(vary(BASE, "masked", bias="bhqk", seqlen_q=71), str(kernels))
    assert x.problem.bias is not None
    x.problem.bias[:, :, 5:9] = float("-inf")
    clean = replace(x, dout=x.dout.clone())
    clean.dout[:, 5:9] = 0
    x.dout[:, 5:9] = float("nan")
    found = gradients(x)
    for name, wanted in gradients(clean).items():
        assert torch.equal(found[name], wanted), name  # type: ignore[arg-type]
    assert_gradients(clean, found, with_dlse=True)
    leaves = [t.detach().requires_grad_() for t in (x.q, x.k, x.v)]
    out, _ = attention(*leaves, x.problem)
    out.backward(x.dout)
    assert all(t.grad is not None and bool(torch.isfinite(t.grad).all()) for t in leaves)


def launch(x: Inputs, dbias: Tensor) -> None:
    """The extension's own call with dlse, without a mask."""
    p = x.problem
    assert p.bias is not None
    with torch.no_grad():
        out, lse = attention(x.q, x.k, x.v, p)
    grads = [torch.full_like(t, float("nan")) for t in (x.q, x.k, x.v)]
    workspace = torch.empty(2, *lse.shape, device=dbias.device)
    dlse = x.dlse.contiguous()
    tensors = (x.dout, dlse, *grads, dbias, workspace, x.q, x.k, x.v, out, lse)
    tail = (p.softmax_scale, False, -1, -1, 0, 0.0, 0.0, p.max_seqlen_q, p.max_seqlen_k)
    more = (*[None] * 6, p.bias, None)
    runtime.launch(runtime.core().attention_backward, (*tensors, *more), tail)


@pytest.mark.parametrize("bias", ["bhqk", "1h1k"])
def test_strides_of_the_result(bias: str, kernels: torch.device) -> None:
    x = build(vary(BASE, "strided", bias=bias, seqlen_q=70), str(kernels))
    like = x.problem.bias
    assert like is not None
    space = torch.full((*like.shape[:2], like.shape[3], like.shape[2] + 3), float("nan")).to(like)
    dbias = space[..., :-3].transpose(2, 3)
    launch(x, dbias)
    assert_gradients(x, {"dbias": dbias}, with_dlse=True)
    assert bool(space[..., -3:].isnan().all())


def test_offsets_beyond_2_to_the_31(kernels: torch.device) -> None:
    x = build(vary(BASE, "far", bias="11qk", seqlen_q=3, seqlen_k=3), str(kernels))
    space = torch.empty(2 * (2**30 + 8) + 3, device=kernels)
    dbias = space.as_strided((1, 1, 3, 3), (0, 0, 2**30 + 8, 1)).fill_(float("nan"))
    launch(x, dbias)
    assert_gradients(x, {"dbias": dbias}, with_dlse=True)


def test_what_the_extension_refuses(kernels: torch.device) -> None:
    x = build(vary(BASE, "refused", bias="11qk"), str(kernels))
    bias, p = x.problem.bias, x.problem
    assert bias is not None
    lse = x.dlse.contiguous()
    for dbias, message in (
        (bias[:, :, :3], "dbias has extent 3 in dimension 2, allowed: 1 or 65"),
        (bias[:, :, :1], "dbias must have the extents of bias where those are not 1"),
        (bias.half(), "dbias must have the dtype of bias"),
    ):
        tensors = (x.dout, None, x.q, x.k, x.v, dbias, lse, x.q, x.k, x.v, x.dout, lse)
        tail = (p.softmax_scale, False, -1, -1, 0, 0.0, 0.0, p.max_seqlen_q, p.max_seqlen_k)
        given = (*tensors, *[None] * 6, bias, None)
        with pytest.raises(ValueError, match=message):
            runtime.launch(runtime.core().attention_backward, given, tail)
