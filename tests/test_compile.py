# SPDX-License-Identifier: BSD-3-Clause
"""torch.compile without graph breaks in both passes, torch.export, and capture in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import limelight
import pytest
import torch
import torch._dynamo.testing
from limelight.quantize import quantize_fp8
from torch import Tensor


def make(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(*shape, requires_grad=grad)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = limelight.flash_attn_func(q * 1.5, k, v, causal=True, window_size=(4, 0))
    return out.tanh()


def with_lse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out, lse = limelight.flash_attn_func(q, k, v, softcap=5.0, return_lse=True)
    return out.sum() + lse.sum()


def with_sink_and_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    sink, bias = q[0, 0, :, 0], k.sum().expand(1, 4, 1, 1)
    out: Tensor = limelight.flash_attn_func(q, k, v, sink=sink, bias=bias)
    return out


def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ends = torch.tensor([0, 4, 9], dtype=torch.int32, device=q.device)
    flat: Tensor = limelight.flash_attn_varlen_func(q[0], q[0], q[0], ends, ends, 5, 5, causal=True)
    return flat


def stacked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = limelight.flash_attn_qkvpacked_func(torch.stack((q, q, q), 2))
    return out


def stacked_kv(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = limelight.flash_attn_kvpacked_func(q, torch.stack((k, v), 2), causal=True)
    return out


def packed_stacked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ends = torch.tensor([0, 4, 9], dtype=torch.int32, device=q.device)
    qkv = torch.stack((q[0], q[0] + 1, q[0] * 2), 1)
    out: Tensor = limelight.flash_attn_varlen_qkvpacked_func(qkv, ends, 5, window_size=(3, 0))
    return out


def packed_stacked_kv(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ends = torch.tensor([0, 4, 9], dtype=torch.int32, device=q.device)
    ends_k = torch.tensor([0, 6, 13], dtype=torch.int32, device=q.device)
    kv = torch.stack((k[0], v[0]), 1)
    lengths = (ends, ends_k, 5, 7)
    out: Tensor = limelight.flash_attn_varlen_kvpacked_func(q[0], kv, *lengths, softcap=9.0)
    return out


FUNCTIONS = [
    dense,
    with_lse,
    with_sink_and_bias,
    packed,
    stacked,
    stacked_kv,
    packed_stacked,
    packed_stacked_kv,
]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()


def both_passes(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out.square().sum().backward()
    return [out, *(x.grad if x.grad is not None else torch.zeros(()) for x in leaves)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_no_graph_break_and_the_same_numbers(function: Callable[..., Tensor]) -> None:
    inputs = (make(2, 9, 4, 16), make(2, 13, 2, 16), make(2, 13, 2, 16))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b in zip(both_passes(compiled, *inputs), both_passes(function, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_compiled_graphs_run_the_kernels(
    function: Callable[..., Tensor], kernels: torch.device
) -> None:
    """Falling back is an error here; a compiled call gives the bits of a plain one."""
    inputs = [make(2, n, h, 16).to(kernels, torch.bfloat16) for n, h in ((9, 4), (13, 2), (13, 2))]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b in zip(both_passes(compiled, *inputs), both_passes(function, *inputs), strict=True):
        assert torch.equal(a, b)


def test_inductor() -> None:
    inputs = (make(2, 9, 4, 16), make(2, 13, 2, 16), make(2, 13, 2, 16))
    compiled = torch.compile(dense, fullgraph=True)
    for a, b in zip(both_passes(compiled, *inputs), both_passes(dense, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_lengths_may_vary_without_a_new_graph() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(dense, fullgraph=True, backend=counter, dynamic=True)
    graphs = []
    for seqlen in (5, 9, 14):
        q, k = make(2, seqlen, 4, 16), make(2, seqlen + 3, 2, 16)
        torch.testing.assert_close(compiled(q, k, k), dense(q, k, k))
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[2]


def test_dropout_is_drawn_anew_by_every_compiled_call() -> None:
    x = make(1, 9, 2, 16, grad=False)

    def call(x: Tensor) -> Tensor:
        out: Tensor = limelight.flash_attn_func(x, x, x, 0.5)
        return out

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(x), compiled(x))


def test_out_and_cache_are_written_in_a_compiled_graph() -> None:
    q, new = make(2, 1, 4, 16, grad=False), make(2, 1, 2, 16, grad=False)
    lengths = ints(3, 0)

    def decode(q: Tensor, cache: Tensor, new: Tensor, out: Tensor) -> Tensor:
        found: Tensor = limelight.flash_attn_with_kvcache(
            q, cache, cache.clone(), new, new, cache_seqlens=lengths, causal=True, out=out
        )
        return found

    caches = [torch.zeros(2, 8, 2, 16) for _ in range(2)]
    outs = [torch.zeros(2, 1, 4, 16) for _ in range(2)]
    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    a, b = compiled(q, caches[0], new, outs[0]), decode(q, caches[1], new, outs[1])
    assert torch.equal(a, b)
    assert torch.equal(outs[0], b)
    assert torch.equal(caches[0], caches[1])
    assert bool(caches[0].any())


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return limelight.flat_linear(x * 2, weight, bias, "swiglu").tanh()


def test_flat_linear_compiles_with_gradients() -> None:
    inputs = (make(2, 3, 16), make(12, 16), make(12))
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    for a, b in zip(both_passes(compiled, *inputs), both_passes(linear, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_flat_linear_compiles_with_a_quantised_weight_and_out() -> None:
    stored = quantize_fp8(torch.randn(12, 128))

    def call(x: Tensor, out: Tensor) -> Tensor:
        return limelight.flat_linear(x, stored.weight, weight_scale=stored.scale, out=out) + 1

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=True)
    graphs = []
    for rows in (2, 5, 130):
        x, out = make(rows, 128, grad=False), torch.zeros(rows, 12)
        want = call(x, torch.zeros(rows, 12))
        assert torch.equal(compiled(x, out), want)
        assert torch.equal(out + 1, want)
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[-1]


def test_flat_linear_exports() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return limelight.flat_linear(x, weight, activation="gelu")

    inputs = (make(2, 16, grad=False), make(12, 16, grad=False))
    program = torch.export.export(Layer(), inputs)
    assert "limelight.flat_linear" in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), Layer()(*inputs))


def test_bad_input_is_found_while_tracing() -> None:
    q, k = make(1, 3, 4, 8), make(1, 3, 3, 8)
    compiled = torch.compile(dense, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="q heads is 4; allowed: a multiple of the 3"):
        compiled(q, k, k)
    layer = torch.compile(linear, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="weight rows is 5; allowed: even for swiglu"):
        layer(make(2, 8), make(5, 8), make(5))


def test_export() -> None:
    class Layer(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = limelight.flash_attn_func(q, k, v, causal=True)
            return out

    inputs = (make(2, 9, 4, 16, grad=False), *[make(2, 9, 2, 16, grad=False)] * 2)
    program = torch.export.export(Layer(), inputs)
    assert "limelight.attention_forward" in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), Layer()(*inputs))


def test_decoding_reads_no_device_value_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph forbids .item(), .tolist() and nonzero; meta tensors have nothing to read."""
    cache = torch.zeros(6, 4, 2, 16, device="meta")
    table = torch.zeros(2, 2, dtype=torch.int32, device="meta")
    lengths = torch.zeros(2, dtype=torch.int32, device="meta")
    q = torch.zeros(2, 1, 4, 16, device="meta")
    new = torch.zeros(2, 1, 2, 16, device="meta")
    rotary = torch.zeros(8, 4, device="meta")
    arguments: dict[str, Any] = {"cache_seqlens": lengths, "block_table": table, "causal": True}
    out = limelight.flash_attn_with_kvcache(
        q, cache, cache, new, new, rotary_cos=rotary, rotary_sin=rotary, **arguments
    )
    assert out.shape == q.shape
    ends = torch.zeros(3, dtype=torch.int32, device="meta")
    packed_new = new.flatten(0, 1)
    limelight.flash_attn_with_kvcache(
        q, cache, cache, packed_new, packed_new, cu_seqlens_k_new=ends, **arguments
    )


if torch.cuda.is_available():

    def test_captured_in_a_cuda_graph(kernels: torch.device) -> None:
        q, k, v = (torch.randn(2, 64, 4, 64, device=kernels).half() for _ in range(3))
        out = torch.empty_like(q)
        limelight.flash_attn_func(q, k, v, causal=True, out=out)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            limelight.flash_attn_func(q, k, v, causal=True, out=out)
        q.copy_(torch.randn_like(q))
        out.fill_(float("nan"))
        graph.replay()
        assert torch.equal(out, limelight.flash_attn_func(q, k, v, causal=True))
