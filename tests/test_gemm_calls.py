# SPDX-License-Identifier: BSD-3-Clause
"""flat_linear and FlatLinear on the kernels: formats, epilogues, batch invariance, compile."""

from __future__ import annotations

from typing import Any

import limelight
import pytest
import torch
from limelight import gemm_execute
from limelight.bench import linear
from limelight.bench.harness import Plan
from limelight.quantize import quantize
from linear_cases import (
    EPILOGUES,
    FORMATS,
    LinearCase,
    LinearInputs,
    assert_linear,
    draw,
    no_tables,  # noqa: F401
)

CASES = [
    LinearCase(1, 72, 256, "dense"),
    LinearCase(3, 40, 136, "dense", "gelu_tanh", bias=True, dtype=torch.float16),
    LinearCase(8, 264, 128, "dense", "swiglu", bias=True, residual=True),
    LinearCase(9, 130, 192, "dense", "silu", residual=True),
    LinearCase(33, 48, 128, "dense", "gelu", bias=True, residual=True),
    *(LinearCase(m, 136, 256, f, "swiglu", bias=True) for f in FORMATS for m in (2, 17)),
]


def which(inputs: LinearInputs) -> str:
    """The implementation that dispatch chooses."""
    scale = None if inputs.case.weight_format == "dense" else inputs.stored.scale
    found = limelight.explain_linear(
        inputs.x, inputs.stored.weight, weight_scale=scale, weight_zero=inputs.stored.zero
    )
    return found.implementation


def test_every_kernel_is_chosen_somewhere(kernels: torch.device) -> None:
    chosen = {which(draw(LinearCase(m, 4096, 512), kernels)) for m in (1, 16, 129)}
    assert chosen == {"gemv", "flat", "torch"}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.weight_format}-m{c.m}-{c.activation}")
def test_kernels_agree_with_float64(case: LinearCase, kernels: torch.device) -> None:
    """The kernels fixture makes a fallback an error; both kernels are chosen."""
    inputs = draw(case, kernels)
    assert which(inputs) in (("gemv", "flat") if case.m <= 8 else ("flat",))
    assert_linear(case, inputs)


@pytest.mark.parametrize("only", ["gemv", "flat"])
def test_either_kernel_on_request(only: str, kernels: torch.device) -> None:
    case = LinearCase(5, 50, 128)
    inputs = draw(case, kernels)
    out = gemm_execute.run(inputs.x, inputs.stored.weight, only=only)
    assert_linear(case, inputs, out)


def test_strides_leading_dimensions_and_out(kernels: torch.device) -> None:
    case = LinearCase(6, 24, 64, residual=True)
    inputs = draw(case, kernels)
    wide = torch.full((6, 83), float("nan"), dtype=case.dtype, device=kernels)
    wide[:, 3:67] = inputs.x
    residual = torch.full((6, 40), float("nan"), dtype=case.dtype, device=kernels)
    residual[:, 5:29] = inputs.residual
    want = inputs.call()
    assert torch.equal(inputs.call(x=wide[:, 3:67], residual=residual[:, 5:29]), want)
    shaped = inputs.call(x=inputs.x.view(2, 3, 64), residual=inputs.residual.view(2, 3, 24))
    assert torch.equal(shaped.view(6, 24), want)
    for out in (torch.full_like(want, float("nan")), torch.full_like(wide, float("nan"))[:, :24]):
        assert inputs.call(out=out) is out
        assert torch.equal(out, want)
    assert limelight.flat_linear(inputs.x[:0], inputs.stored.weight).shape == (0, 24)


@pytest.mark.parametrize("weight_format", ["dense", "fp8_block", "int4_zero"])
def test_batch_invariant_bits(weight_format: str, kernels: torch.device) -> None:
    """A row alone, in any number of rows up to beyond one launch, and at another place."""
    inputs = draw(LinearCase(131, 40, 256, weight_format, "gelu"), kernels)
    whole = inputs.call(batch_invariant=True)
    for rows in (slice(0, 1), slice(5, 9), slice(126, 131), slice(3, 36)):
        part = inputs.call(x=inputs.x[rows], batch_invariant=True)
        assert torch.equal(part, whole[rows])


def test_equal_bits_in_every_run(kernels: torch.device) -> None:
    for m in (1, 16):
        inputs = draw(LinearCase(m, 48, 512, "dense", "silu"), kernels)
        assert torch.equal(inputs.call(), inputs.call())


def test_float8_results(kernels: torch.device) -> None:
    inputs = draw(LinearCase(4, 40, 64, "dense", "silu"), kernels)
    exact = inputs.exact()
    scale = (exact.abs().amax().float() / 900).to(kernels).reshape(1)
    found = inputs.call(out_scale=scale)
    assert found.dtype == torch.float8_e4m3fn
    want = (exact / scale.double().cpu()).clamp(-448, 448)
    # Half a unit of three mantissa bits, and the fp32 arithmetic before it.
    allowed = want.abs() * 2.0**-4 * 1.001 + 2.0**-10
    assert bool(((found.cpu().double() - want).abs() <= allowed).all())
    assert float(found.float().abs().max()) == 448


@pytest.mark.parametrize("activation", EPILOGUES)
def test_gradients_of_the_kernel_path(activation: str | None, kernels: torch.device) -> None:
    inputs = draw(LinearCase(4, 24, 64, "dense", activation, bias=True), kernels)
    leaves = [inputs.x, inputs.stored.weight, inputs.bias]
    found = []
    for backend in (limelight.runtime.settings.backend, "torch"):
        again = [t.clone().requires_grad_() for t in leaves if t is not None]
        with limelight.runtime.override(backend=backend):
            out = inputs.call(x=again[0], weight=again[1], bias=again[2])
            out.float().sum().backward()
        found.append([t.grad for t in again])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)  # the backward pass is torch's either way


def test_compiled_calls_reach_the_kernels(kernels: torch.device) -> None:
    layer = limelight.FlatLinear(64, 24, activation="swiglu", dtype=torch.bfloat16, device=kernels)
    inputs = draw(LinearCase(3, 48, 64), kernels)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(inputs.x), layer(inputs.x))


def test_what_no_kernel_serves_is_named(kernels: torch.device) -> None:
    x, weight = (torch.randn(*s, device=kernels).bfloat16() for s in ((2, 60), (8, 60)))
    with pytest.raises(limelight.FallbackError, match="K is 60; nearest: a multiple of 8"):
        limelight.flat_linear(x, weight)
    with pytest.raises(limelight.FallbackError, match="x is float32; nearest: float16"):
        limelight.flat_linear(x.float(), weight.float())
    padded = torch.randn(8, 70, device=kernels).bfloat16()
    with pytest.raises(limelight.FallbackError, match=r"weight.stride\(0\) is 70; nearest: a mul"):
        limelight.flat_linear(torch.cat((x, x[:, :4]), 1), padded[:, :64])
    shifted = torch.randn(8, 72, device=kernels).bfloat16()[:, 4:68]
    with pytest.raises(limelight.FallbackError, match="weight is not 16-byte aligned"):
        limelight.flat_linear(torch.cat((x, x[:, :4]), 1), shifted)
    many = torch.randn(130, 64, device=kernels).bfloat16()
    assert limelight.flat_linear(many, padded[:, :64]).shape == (130, 8)  # torch's by choice
    stored = quantize(padded[:, :64].float(), "fp8")
    assert limelight.flat_linear(many, stored.weight, weight_scale=stored.scale).shape == (130, 8)


def test_a_fallback_warns_the_caller_once(kernels: torch.device) -> None:
    x = torch.randn(2, 36, device=kernels).bfloat16()
    with limelight.runtime.override(fallback="warn"):
        with pytest.warns(limelight.FallbackWarning, match="K is 36; nearest: a mul") as seen:
            limelight.flat_linear(x, x)
        assert [warning.filename for warning in seen] == [__file__]
        limelight.flat_linear(x, x)  # a second warning would be an error


def test_every_peer_of_the_benchmark_is_verified(kernels: torch.device) -> None:
    class Timer:
        def microseconds(self, call: Any, first: int, iterations: int) -> float:
            for index in range(first, first + iterations):
                call(index)
            return 10.0

    case = linear.LinearCase(3, 300, 256)
    plan = Plan(rounds=1, round_us=10.0, max_iterations=2, memory_bytes=1 << 20)
    sets = linear.input_sets(case, linear.weight_sets(case, kernels, 0, plan))
    found = linear.measure(case, sets, linear.PEERS, Timer(), plan)
    assert [(m.peer, m.error, m.rounds_us) for m in found] == [
        (peer, "", [10.0]) for peer in linear.PEERS
    ]


if torch.cuda.is_available():

    def test_captured_in_a_cuda_graph(kernels: torch.device) -> None:
        for m in (1, 16):
            inputs = draw(LinearCase(m, 512, 4096, "dense", "silu", bias=True), kernels)
            inputs.call()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outs = [inputs.call() for _ in range(3)]
            inputs.x.copy_(torch.randn_like(inputs.x))
            graph.replay()
            graph.replay()
            want = inputs.call()
            assert all(torch.equal(out, want) for out in outs)
