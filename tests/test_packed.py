# SPDX-License-Identifier: BSD-3-Clause
"""The packed forms: the same numbers as the separate ones, and one gradient without copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import limelight
import pytest
import torch
from limelight import runtime
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

LENGTHS = (5, 0, 9)


def ends(device: torch.device) -> Tensor:
    starts = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0)
    return starts.to(device, torch.int32)


# name -> (call of the packed form, call of the separate form); inputs are q, k, v of 4 heads.
def qkvpacked(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Any, Tensor]:
    qkv = torch.stack((q, k, v), -3).detach().requires_grad_()
    if q.dim() == 4:
        return limelight.flash_attn_qkvpacked_func(qkv, causal=True, **options), qkv
    cu = ends(q.device)
    return limelight.flash_attn_varlen_qkvpacked_func(qkv, cu, 9, causal=True, **options), qkv


def kvpacked(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Any, Tensor]:
    kv = torch.stack((k, v), -3).detach().requires_grad_()
    if q.dim() == 4:
        return limelight.flash_attn_kvpacked_func(q, kv, causal=True, **options), kv
    lengths = (ends(q.device), ends(q.device), 9, 9)
    return limelight.flash_attn_varlen_kvpacked_func(q, kv, *lengths, causal=True, **options), kv


def separate(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    if q.dim() == 4:
        return limelight.flash_attn_func(q, k, v, causal=True, **options)
    lengths = (ends(q.device), ends(q.device), 9, 9)
    return limelight.flash_attn_varlen_func(q, k, v, *lengths, causal=True, **options)


FORMS = pytest.mark.parametrize("form", [qkvpacked, kvpacked])
VARLEN = pytest.mark.parametrize("varlen", [False, True], ids=["dense", "varlen"])


def operands(dtype: torch.dtype, varlen: bool, headdim: int, device: torch.device) -> list[Tensor]:
    torch.manual_seed(0)
    # Two packed rows belong to no sequence: their gradient is zero.
    tokens = (sum(LENGTHS) + 2,) if varlen else (2, 9)
    return [torch.randn(*tokens, 4, headdim).to(device, dtype) for _ in range(4)]


def check(form: Callable[..., Any], inputs: list[Tensor]) -> None:
    *qkv, dout = inputs
    leaves = [x.clone().requires_grad_() for x in qkv]
    want_out = separate(*leaves)
    want = torch.autograd.grad(want_out, leaves, dout)
    q = qkv[0].clone().requires_grad_()
    out, leaf = form(q, *qkv[1:])
    covered = slice(None) if q.dim() == 4 else slice(sum(LENGTHS))
    assert torch.equal(out[covered], want_out[covered])
    asked = [leaf] if form is qkvpacked else [q, leaf]
    found = torch.autograd.grad(out, asked, dout)
    parts = [*found[:-1], *found[-1].unbind(-3)]
    assert found[-1].is_contiguous()
    for name, a, b in zip("qkv", parts, want, strict=True):
        assert torch.equal(a, b), name


@FORMS
@VARLEN
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_torch_path_agrees_with_the_separate_form(
    dtype: torch.dtype, varlen: bool, form: Callable[..., Any]
) -> None:
    check(form, operands(dtype, varlen, 16, torch.device("cpu")))


@FORMS
@VARLEN
@pytest.mark.parametrize("headdim", [16, 20])
def test_the_kernels_agree_with_the_separate_form(
    headdim: int, varlen: bool, form: Callable[..., Any], kernels: torch.device
) -> None:
    check(form, operands(torch.bfloat16, varlen, headdim, kernels))


class Copies(TorchDispatchMode):
    """Records the operators that a backward pass runs beside limelight's own."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@FORMS
@VARLEN
def test_kernels_write_into_views_of_one_gradient(
    form: Callable[..., Any],
    varlen: bool,
    kernels: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v, dout = operands(torch.bfloat16, varlen, 16, kernels)
    out, leaf = form(q, k, v)
    given: list[Tensor | None] = []
    real = runtime.launch

    def launch(entry: Any, tensors: Any, arguments: Any) -> None:
        given.extend(tensors)
        real(entry, tensors, arguments)

    monkeypatch.setattr(runtime, "launch", launch)
    with Copies() as copies:
        (found,) = torch.autograd.grad(out, leaf, dout)
    parts = found.unbind(-3)
    addresses = [t.data_ptr() for t in given if t is not None]
    for part in (*parts, *leaf.detach().unbind(-3)):
        assert part.data_ptr() in addresses
    unwanted = ("stack", "cat", "copy", "clone", "_to_copy")
    assert not [n for n in copies.names if any(f"aten.{word}" in n for word in unwanted)]


def test_the_torch_path_accumulates_in_views_of_one_gradient() -> None:
    """Nothing of the size of the whole gradient is stacked or copied afterwards."""
    q, k, v, dout = operands(torch.float32, False, 16, torch.device("cpu"))
    out, leaf = qkvpacked(q, k, v, softcap=5.0)
    with Copies() as copies:
        torch.autograd.grad(out, leaf, dout)
    assert not [n for n in copies.names if "aten.stack" in n or "aten.cat" in n]


@FORMS
def test_a_second_derivative_is_refused(form: Callable[..., Any]) -> None:
    q, k, v, _ = operands(torch.float32, False, 16, torch.device("cpu"))
    out, leaf = form(q, k, v)
    (first,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="allowed: first derivatives"):
        first.square().sum().backward()


@FORMS
@VARLEN
def test_autocast_casts_the_whole_tensor_once(form: Callable[..., Any], varlen: bool) -> None:
    q, k, v, dout = operands(torch.float32, varlen, 16, torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, leaf = form(q, k, v)
    assert out.dtype == torch.bfloat16
    (found,) = torch.autograd.grad(out, leaf, dout.bfloat16())
    assert found.dtype == torch.float32
    out, leaf = form(*(x.bfloat16() for x in (q, k, v)))
    (want,) = torch.autograd.grad(out, leaf, dout.bfloat16())
    assert torch.equal(found, want.float())


@FORMS
@VARLEN
def test_checkpointing_replays_dropout(form: Callable[..., Any], varlen: bool) -> None:
    check_replay(form, operands(torch.float32, varlen, 16, torch.device("cpu")), varlen)


@FORMS
@VARLEN
def test_checkpointing_replays_dropout_on_kernels(
    form: Callable[..., Any], varlen: bool, kernels: torch.device
) -> None:
    check_replay(form, operands(torch.float16, varlen, 16, kernels), varlen)


def check_replay(form: Callable[..., Any], inputs: list[Tensor], varlen: bool) -> None:
    """Equal bits with and without recomputation, and dropout that really drops."""
    q, k, v, dout = inputs
    found = []
    for wrap in (False, True):
        torch.manual_seed(5)
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]

        def block(*x: Tensor) -> Tensor:
            # Non-leaf stacks, as a model has them: the forms' own leaves would cut the graph.
            result: Tensor
            cu = ends(x[0].device)
            if form is qkvpacked:
                stack = torch.stack(x, -3)
                if varlen:
                    result = limelight.flash_attn_varlen_qkvpacked_func(stack, cu, 9, 0.4)
                else:
                    result = limelight.flash_attn_qkvpacked_func(stack, 0.4)
                return result
            kv = torch.stack(x[1:], -3)
            if varlen:
                lengths = (cu, cu, 9, 9)
                result = limelight.flash_attn_varlen_kvpacked_func(x[0], kv, *lengths, 0.4)
            else:
                result = limelight.flash_attn_kvpacked_func(x[0], kv, 0.4)
            return result

        out = checkpoint(block, *leaves, use_reentrant=False) if wrap else block(*leaves)
        found.append(torch.autograd.grad(out, leaves, dout))
        with torch.random.fork_rng(devices=[q.device] if q.is_cuda else []):
            other = block(*leaves)  # the next draw
        assert not torch.equal(out, other)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
