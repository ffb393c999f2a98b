# SPDX-License-Identifier: BSD-3-Clause
"""Whole calls through the kernels: a cache, gradients, errors of the extension."""

from __future__ import annotations

import limelight
import pytest
import torch
from cases import Case, build, vary
from limelight import runtime
from limelight.autograd import attention
from limelight.problem import AttentionProblem


def test_decoding_with_a_dense_cache(kernels: torch.device) -> None:
    """Appended keys, then the kernel over cache_seqlens; what lies beyond them is NaN."""
    results = []
    for backend in (runtime.settings.backend, "torch"):
        generator = torch.Generator().manual_seed(0)
        cache = torch.full((2, 40, 2, 64), float("nan"))
        cache[0, :21] = torch.randn(21, 2, 64, generator=generator)
        cache[1, :3] = torch.randn(3, 2, 64, generator=generator)
        q, new = (torch.randn(2, 3, h, 64, generator=generator) for h in (4, 2))
        q, cache, new = (x.to(kernels).bfloat16() for x in (q, cache, new))
        lengths = torch.tensor([21, 3], dtype=torch.int32, device=kernels)
        with runtime.override(backend=backend):
            out = limelight.flash_attn_with_kvcache(
                q, cache, cache.clone(), new, new, cache_seqlens=lengths, causal=True
            )
        results.append(out.float())
    # Both round P and out to bfloat16, 2**-9 each of values below 4.
    assert float((results[0] - results[1]).abs().max()) <= 4 * 4 * 2.0**-9


def test_gradients_of_the_kernel_path(kernels: torch.device) -> None:
    """The kernel's (out, lse) feed the backward kernel; the torch path computes both itself."""
    x = build(vary(Case("base"), "grad", causal=True, sink=True, seqlen_q=33), str(kernels))
    leaves = [t.clone().requires_grad_() for t in (x.q, x.k, x.v)]
    with runtime.override(fallback="silent"):
        out, _ = attention(*leaves, x.problem)
        out.backward(x.dout)
    with runtime.override(backend="torch"):
        again = [t.clone().requires_grad_() for t in (x.q, x.k, x.v)]
        attention(*again, x.problem)[0].backward(x.dout)
    for a, b in zip(leaves, again, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        # Two roundings of out and of the gradient itself, each 2**-8 of the largest entry.
        bound = 4 * 2.0**-8 * float(b.grad.abs().max())
        assert float((a.grad - b.grad).abs().max()) <= bound


def test_cudas_errors_are_not_swallowed(kernels: torch.device) -> None:
    """What the extension refuses reaches the caller as an exception."""
    q = torch.zeros(1, 4, 2, 32, device=kernels).half()
    problem = AttentionProblem(softmax_scale=1.0, max_seqlen_q=4, max_seqlen_k=4)
    lse = torch.empty(1, 2, 3, device=kernels)  # one row short
    tail = (problem.softmax_scale, False, -1, -1, 0, 0.0, 0.0, 4, 4, 0, False)
    with pytest.raises(ValueError, match="lse"):
        runtime.launch(runtime.core().attention_forward, (q, q, q, q, lse, *[None] * 15), tail)
