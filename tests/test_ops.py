# SPDX-License-Identifier: BSD-3-Clause
"""The torch operators and autograd: opcheck, meta tensors, checkpointing, autocast."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import limelight
import linear_cases
import pytest
import torch
from cases import FEATURES, LAYOUTS, Case, build, vary
from limelight.autograd import attention
from limelight.ops import (
    FIELDS,
    SCHEMAS,
    append_op,
    append_slots_op,
    backward_op,
    forward_op,
    linear_op,
    problem_arguments,
)
from limelight.problem import AttentionProblem
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

BASE = vary(Case("base"), "small", seqlen_q=9, seqlen_k=13, headdim=16, dtype="float32")
CHOSEN = [
    c
    for c in FEATURES + LAYOUTS
    if c.name
    in {
        "base",
        "base-causal",
        "base-alibi",
        "base-sink",
        "base-bias",
        "base-varlen",
        "base-seqused-both",
    }
]
SMALL = [vary(c, "small", seqlen_q=9, seqlen_k=13, headdim=16, dtype="float32") for c in CHOSEN]
OPCHECKS = ("test_schema", "test_faketensor", "test_autograd_registration")


def leaves(case: Case) -> tuple[list[Tensor], Any]:
    """q, k, v (and sink, bias) that require gradients, and the case's tensors."""
    x = build(case)
    return [t.nan_to_num().requires_grad_() for t in (x.q, x.k, x.v)], x


def test_schemas_follow_the_problem() -> None:
    """The operators take the fields of AttentionProblem in their order."""
    names = [field.name for field in fields(AttentionProblem)]
    assert list(FIELDS) == names
    for schema in SCHEMAS[:2]:
        arguments = schema.split("->")[0]
        found = re.findall(r"(\w+)\s*[,)]", arguments)
        assert found[-len(names) :] == names


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_opcheck_forward(case: Case) -> None:
    x = build(case)
    torch.library.opcheck(
        forward_op, (x.q.nan_to_num(), x.k, x.v, *problem_arguments(x.problem)), test_utils=OPCHECKS
    )


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("need", [False, True])
def test_opcheck_backward(case: Case, need: bool) -> None:
    x = build(case)
    problem = problem_arguments(x.problem)
    out, lse = forward_op(x.q, x.k, x.v, *problem)
    tensors = (x.dout, x.dlse if need else None, x.q, x.k, x.v, out, lse)
    arguments = (*tensors, need, need, 2 if need else 0, *problem)
    torch.library.opcheck(backward_op, arguments, test_utils=OPCHECKS)


def test_opcheck_append() -> None:
    cache, new = torch.zeros(3, 8, 2, 16), torch.randn(2, 2, 2, 16)
    lengths = torch.tensor([1, 6], dtype=torch.int32)
    rows = torch.tensor([2, 0], dtype=torch.int32)
    for index in (None, rows):
        arguments = (cache.clone(), cache.clone(), new, new, lengths, None, index, *[None] * 3)
        torch.library.opcheck(append_op, arguments, test_utils=OPCHECKS)
    slots = torch.tensor([3, -1, 12])
    arguments = (cache.clone(), cache.clone(), new[:, 0], new[:, 1], slots[:2], None, None)
    torch.library.opcheck(append_slots_op, arguments, test_utils=OPCHECKS)


@pytest.mark.parametrize("weight_format", ["dense", *linear_cases.FORMATS])
def test_opcheck_flat_linear(weight_format: str) -> None:
    case = linear_cases.LinearCase(3, 6, 128, weight_format, "swiglu", bias=True, residual=True)
    x = linear_cases.draw(case)
    scale = None if weight_format == "dense" else x.stored.scale
    arguments = (x.x, x.stored.weight, x.bias, x.residual, scale, x.stored.zero)
    for out_scale in (None, torch.ones(1)):
        # test_schema compares by multiplying, which torch does not do in float8.
        float8 = out_scale is not None or "fp8" in weight_format
        torch.library.opcheck(
            linear_op,
            (*arguments, out_scale, case.activation, False, False),
            test_utils=OPCHECKS[1:] if float8 else OPCHECKS,
        )


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_meta_and_fake_tensors(case: Case) -> None:
    x = build(case)
    out, lse = attention(x.q, x.k, x.v, x.problem)
    moved = {name: getattr(x.problem, name) for name in FIELDS}
    moved = {n: t.to("meta") if isinstance(t, Tensor) else t for n, t in moved.items()}
    on_meta = [t.to("meta").requires_grad_() for t in (x.q, x.k, x.v)]
    found, found_lse = attention(*on_meta, AttentionProblem(**moved))
    for a, b in ((found, out), (found_lse, lse)):
        assert a.device.type == "meta"
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
    found.sum().backward()
    assert on_meta[0].grad is not None
    assert on_meta[0].grad.shape == x.q.shape
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in (x.q, x.k, x.v)]
        plain = {n: mode.from_tensor(t) if isinstance(t, Tensor) else t for n, t in moved.items()}
    if case.name == "base-small":
        with mode:
            assert attention(*fake, AttentionProblem(**plain))[0].shape == out.shape


def test_bad_input_is_found_on_meta_tensors() -> None:
    q, k = torch.zeros(1, 3, 4, 8, device="meta"), torch.zeros(1, 3, 3, 8, device="meta")
    with pytest.raises(ValueError, match="q heads is 4; allowed: a multiple of the 3"):
        limelight.flash_attn_func(q, k, k)


def test_gradcheck_of_every_differentiable_input() -> None:
    """Numerical derivatives in float64, those of lse, sink and bias included."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, h, 4, dtype=torch.float64) for n, h in ((3, 2), (5, 1), (5, 1)))
    sink = torch.randn(2, dtype=torch.float64)
    bias = torch.randn(1, 2, 1, 5, dtype=torch.float64)

    def call(*x: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = limelight.flash_attn_func(
            *x[:3], window_size=(3, 1), softcap=3.0, sink=x[3], bias=x[4], return_lse=True
        )
        return found

    inputs = tuple(t.requires_grad_() for t in (q, k, v, sink, bias))
    assert torch.autograd.gradcheck(call, inputs)


def test_only_asked_gradients_are_returned() -> None:
    (q, k, v), x = leaves(BASE)
    limelight.flash_attn_func(q.detach(), k, v.detach()).sum().backward()
    assert k.grad is not None
    assert q.grad is None
    assert v.grad is None
    sink = torch.zeros(x.q.shape[2], requires_grad=True)
    limelight.flash_attn_func(x.q, x.k, x.v, sink=sink).sum().backward()
    assert sink.grad is not None


def test_sixteen_bit_sink_gets_its_gradient() -> None:
    (q, k, v), x = leaves(BASE)
    sink = torch.zeros(x.q.shape[2], dtype=torch.bfloat16, requires_grad=True)
    limelight.flash_attn_func(q, k, v, s_aux=sink).sum().backward()
    assert sink.grad is not None
    assert sink.grad.dtype == torch.bfloat16
    assert bool(sink.grad.any())


def test_gradient_of_lse_alone() -> None:
    (q, k, v), _ = leaves(BASE)
    limelight.flash_attn_func(q, k, v, return_lse=True)[1].sum().backward()
    assert v.grad is not None
    assert not v.grad.any()
    assert bool(q.grad is not None and q.grad.any())


def test_second_derivatives_are_refused() -> None:
    (q, k, v), _ = leaves(BASE)
    out = limelight.flash_attn_func(q, k, v)
    (dq,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="allowed: first derivatives"):
        (dq.square().sum() + q.sum()).backward()
    (dq,) = torch.autograd.grad(limelight.flash_attn_func(q, k, v).sum(), q)
    assert not dq.requires_grad


def test_functional_gradient() -> None:
    (q, k, v), _ = leaves(BASE)
    found = torch.func.grad(lambda x: limelight.flash_attn_func(x, k, v).square().sum())(q.detach())
    limelight.flash_attn_func(q, k, v).square().sum().backward()
    assert torch.equal(found, q.grad)


def test_forward_mode_is_refused() -> None:
    """No tangent is dropped in silence."""
    x = torch.randn(1, 5, 2, 8)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: limelight.flash_attn_func(x, x, x), (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError, match="jvp"):
            limelight.flash_attn_func(dual, x, x)


def test_dropout_is_replayed_by_checkpointing() -> None:
    def block(*x: Tensor) -> Tensor:
        out: Tensor = limelight.flash_attn_func(*x, dropout_p=0.4)
        return out

    plain, _ = leaves(BASE)
    again = [t.detach().clone().requires_grad_() for t in plain]
    torch.manual_seed(3)
    out = block(*plain)
    torch.manual_seed(3)
    saved = checkpoint(block, *again, use_reentrant=False)
    assert torch.equal(out, saved)
    out.square().sum().backward()
    saved.square().sum().backward()
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_generator_decides_dropout() -> None:
    x = torch.randn(1, 9, 2, 16)

    def call(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        out: Tensor = limelight.flash_attn_func(x, x, x, 0.3, generator=generator)
        return out

    assert torch.equal(call(1), call(1))
    assert not torch.equal(call(1), call(2))


def test_probabilities_tell_the_dropout_pattern() -> None:
    """out = (S_dmask where positive) @ v / (1 - p), dense and packed."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 9, 4, 16), torch.randn(2, 13, 2, 16), torch.randn(2, 13, 2, 16)
    out, _, chance = limelight.flash_attn_func(q, k, v, 0.25, causal=True, return_attn_probs=True)
    assert chance.shape == (2, 4, 9, 13)
    kept = chance.clamp(min=0) / 0.75
    want = torch.einsum("bhqk,bkhd->bqhd", kept, v.repeat_interleave(2, 2))
    torch.testing.assert_close(out, want)
    assert 0.15 < float((chance < 0).sum() / (chance != 0).sum()) < 0.35
    ends = torch.tensor([0, 4, 9], dtype=torch.int32)
    packed = (q[0], q[0], q[0], ends, ends, 5, 5, 0.25)
    out, _, chance = limelight.flash_attn_varlen_func(*packed, return_attn_probs=True)
    assert chance.shape == (2, 4, 5, 5)
    kept = chance[1].clamp(min=0) / 0.75
    torch.testing.assert_close(out[4:], torch.einsum("hqk,khd->qhd", kept, q[0, 4:]))
    none = limelight.flash_attn_func(q, k, v, return_attn_probs=True)[2]
    assert none.numel() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_float32_as_torchs_attention_does(dtype: torch.dtype) -> None:
    x = torch.randn(1, 9, 2, 16, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        out = limelight.flash_attn_func(x, x, x)
        torchs = torch.nn.functional.scaled_dot_product_attention(*[x.transpose(1, 2)] * 3)
    assert out.dtype == torchs.dtype == dtype
    out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert limelight.flash_attn_func(x, x, x).dtype == torch.float32


def test_modes_see_the_operator() -> None:
    """A call under a dispatch mode goes through the operator: tools can count and replace it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    x = torch.randn(1, 3, 2, 8)
    with Seen() as seen:
        limelight.flash_attn_func(x, x, x)
    assert "limelight.attention_forward.default" in seen.names
