# SPDX-License-Identifier: BSD-3-Clause
"""Dropout in the kernels, on a GPU or on the emulator: the documented mask, in both passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import limelight
import pytest
import torch
from cases import DROPOUT, FEATURES, LAYOUTS, Case, Inputs, build, vary
from limelight import runtime
from limelight.autograd import attention
from limelight.problem import AttentionProblem
from limelight.torch_path import dropout_keep_mask
from reference import philox_keep
from test_backward_kernel import check as check_gradients
from test_backward_kernel import gradients
from test_forward_kernel import BASE, TILES
from test_forward_kernel import check as check_forward
from tolerance import assert_forward, assert_gradients
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def check(case: Case, device: torch.device) -> None:
    check_forward(case, device)
    check_gradients(case, device)


def documented(x: Inputs, rows: int, columns: int) -> Tensor:
    """The mask of docs/numerics.md, (batch, heads_q, rows, columns)."""
    p = x.problem
    assert p.rng_state is not None
    batch, heads = x.q.shape[0], x.q.shape[2]
    masks = [
        philox_keep(p.rng_state.cpu(), p.dropout_p, b, heads, h, rows, columns)
        for b in range(batch)
        for h in range(heads)
    ]
    return torch.stack([torch.from_numpy(m) for m in masks]).view(batch, heads, rows, columns)


def one_hot(like: Tensor, first: int) -> Tensor:
    """Column c of every head is 1 at token first + c."""
    tokens = torch.arange(like.shape[1], device=like.device)[:, None, None]
    columns = torch.arange(like.shape[3], device=like.device)
    return (tokens == first + columns).to(like.dtype).expand_as(like).contiguous()


@pytest.mark.parametrize("headdim", TILES)
def test_both_passes_draw_the_documented_mask(headdim: int, kernels: torch.device) -> None:
    """With one-hot columns V shows the mask of S, and dO that of the transposed S."""
    case = vary(BASE, "mask", heads_q=2, heads_kv=2, headdim=headdim, dropout_p=0.3, magnitude=0.1)
    x = build(vary(case, "ragged", seqlen_q=83, seqlen_k=101, seed=headdim), str(kernels))
    rows, columns = 83, 101
    want = documented(x, rows, columns)
    assert x.problem.rng_state is not None
    again = dropout_keep_mask(x.problem.rng_state, 0.3, (0, 2), (0, 2, 2), (0, rows), (0, columns))
    assert torch.equal(want, again.cpu())
    drawn = torch.zeros_like(want)
    for first in range(0, columns, headdim):
        out, _ = attention(x.q, x.k, one_hot(x.v, first), x.problem)
        part = (out != 0).transpose(1, 2).cpu()
        drawn[..., first : first + headdim] = part[..., : columns - first]
    assert torch.equal(drawn, want)
    drawn = torch.zeros_like(want)
    for first in range(0, rows, headdim):
        v = x.v.detach().requires_grad_()
        out, _ = attention(x.q, x.k, v, x.problem)
        out.backward(one_hot(out, first))
        assert v.grad is not None
        part = (v.grad != 0).permute(0, 2, 3, 1).cpu()
        drawn[:, :, first : first + headdim] = part[:, :, : rows - first]
    assert torch.equal(drawn, want)
    # 33532 draws at most 5 standard errors from the rate, which is rounded to 2**-16.
    rate = 1 - round(0.3 * 65536) / 65536
    assert abs(float(want.double().mean()) - rate) <= 5 * (rate * (1 - rate) / want.numel()) ** 0.5


@pytest.mark.parametrize("case", [*FEATURES, *LAYOUTS], ids=str)
def test_with_every_feature(case: Case, kernels: torch.device) -> None:
    check(vary(case, "dropped", dropout_p=0.2, seed=3), kernels)


@pytest.mark.parametrize("case", DROPOUT, ids=str)
def test_half_precision(case: Case, kernels: torch.device) -> None:
    check(vary(case, "half", dtype="float16"), kernels)


@pytest.mark.parametrize("p", [2.0**-20, 0.5, 0.99, 1 - 2.0**-20])
def test_rates(p: float, kernels: torch.device) -> None:
    """2**-20 keeps everything, 1 - 2**-20 nothing."""
    check(vary(BASE, "rate", dropout_p=p, seqlen_q=37, causal=True), kernels)


@pytest.mark.parametrize(
    ("units", "kept"), [(44107.5, True), (44108.5, True), (44108.5 + 1e-6, False), (44109, False)]
)
def test_the_threshold_is_rounded_as_documented(
    units: float, kept: bool, kernels: torch.device
) -> None:
    """Seed and offset 0 draw 44108 for row 8: halves round to even, in double precision."""
    x = build(vary(BASE, "one", batch=1, heads_q=1, heads_kv=1, seqlen_q=9, seqlen_k=1))
    state = torch.zeros(2, dtype=torch.int64)
    x = replace(x, problem=replace(x.problem, dropout_p=units / 65536, rng_state=state))
    assert bool(documented(x, 9, 1)[0, 0, 8, 0]) == kept
    on_device = state.to(kernels)
    q, k = x.q.to(kernels), x.k.to(kernels)
    out, _ = attention(q, k, torch.ones_like(k), replace(x.problem, rng_state=on_device))
    assert bool((out[0, 8] != 0).all()) == kept


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "varlen"])
def test_everything_at_once(packed: bool, kernels: torch.device) -> None:
    layout = "packed" if packed else "dense"
    case = vary(BASE, "all", batch=3, seqlen_q=150, seqlen_k=199, causal=True, window=(60, 0))
    case = vary(case, "scores", softcap=15.0, alibi="batch", sink=True, bias="bh1k")
    case = vary(case, "used", seqused_q=True, seqused_k=True, heads_q=3, heads_kv=1)
    check_gradients(vary(case, "drop", layout_q=layout, layout_k=layout, dropout_p=0.4), kernels)


def test_seed_and_offset_decide(kernels: torch.device) -> None:
    """rng_state is read on the device: new numbers in the same tensor give a new mask."""
    x = build(vary(BASE, "state", dropout_p=0.5), str(kernels))
    state = x.problem.rng_state
    assert state is not None
    first, _ = attention(x.q, x.k, x.v, x.problem)
    assert torch.equal(attention(x.q, x.k, x.v, x.problem)[0], first)
    seen = [first]
    for values in ([1, 2], [1, 3], [2, 2], [1, 2 + 2**32], [2**62, -1]):
        state.copy_(torch.tensor(values))
        out, lse = attention(x.q, x.k, x.v, x.problem)
        assert_forward(x, out, lse)
        assert not any(torch.equal(out, other) for other in seen)
        seen.append(out)


def test_generator_checkpointing_and_compiled_graphs(kernels: torch.device) -> None:
    leaves = [torch.randn(2, 40, 2, 32, device=kernels).half() for _ in range(3)]
    dout = torch.randn(2, 40, 2, 32, device=kernels).half()

    def call(*x: Tensor) -> Tensor:
        return limelight.flash_attn_func(*x, dropout_p=0.4, causal=True)  # type: ignore[no-any-return]

    def checkpointed(*x: Tensor) -> Tensor:
        return checkpoint(call, *x, use_reentrant=False)  # type: ignore[no-any-return]

    def run(function: Callable[..., Tensor]) -> list[Tensor]:
        x = [t.clone().requires_grad_() for t in leaves]
        torch.manual_seed(5)
        out = function(*x)
        out.backward(dout)
        return [out.detach(), *(t.grad for t in x if t.grad is not None)]

    plain = run(call)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for other in (checkpointed, compiled):
        assert all(torch.equal(a, b) for a, b in zip(plain, run(other), strict=True))
    assert not torch.equal(call(*leaves), plain[0])
    draws = []
    for seed in (7, 7, 8):
        generator = torch.Generator(kernels).manual_seed(seed)
        draws.append(limelight.flash_attn_func(*leaves, dropout_p=0.4, generator=generator))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_returned_probabilities_are_those_of_the_kernel(kernels: torch.device) -> None:
    q, k, v = torch.randn(3, 2, 33, 2, 64, device=kernels).half()
    out, _, chance = limelight.flash_attn_func(
        q, k, v, dropout_p=0.25, causal=True, return_attn_probs=True
    )
    kept = chance.double().clamp(min=0)
    want = torch.einsum("bhqk,bkhd->bqhd", kept, v.double()) / 0.75
    # P and out are rounded to half; a wrong mask is off by order 1.
    assert float((out.double() - want).abs().max()) < 0.02


def test_dropout_without_a_state_is_refused(kernels: torch.device) -> None:
    q = torch.zeros(1, 4, 2, 32, device=kernels).half()
    lse = torch.empty(1, 2, 4, device=kernels)
    problem = AttentionProblem(softmax_scale=1.0, max_seqlen_q=4, max_seqlen_k=4, dropout_p=0.5)
    with pytest.raises(ValueError, match=r"rng_state must not be null when dropout_p is 0\.5"):
        attention(q, q, q, problem)
    tail = (1.0, False, -1, -1, 0, 0.0, 0.5, 4, 4, 0, False)
    for state, message in (
        (torch.zeros(2, device=kernels), "rng_state is float32, allowed: int64"),
        (torch.zeros(3, device=kernels).long(), "rng_state must be contiguous and hold a seed"),
    ):
        tensors = (q, q, q, q, lse, *[None] * 10, state, *[None] * 4)
        with pytest.raises(ValueError, match=message):
            runtime.launch(runtime.core().attention_forward, tensors, tail)


def test_only_lse_is_differentiated(kernels: torch.device) -> None:
    """LSE does not see the mask, its gradient neither."""
    x = build(vary(BASE, "lse", dropout_p=0.5, seqlen_q=90), str(kernels))
    still = replace(x, dout=torch.zeros_like(x.dout))
    found = gradients(still)
    assert_gradients(still, found, with_dlse=True)
    without = replace(still, problem=replace(x.problem, dropout_p=0.0, rng_state=None))
    for name, gradient in gradients(without).items():
        assert gradient is not None
        assert float((gradient - found[name]).abs().max()) <= 2.0**-7 * float(gradient.abs().max())
