# SPDX-License-Identifier: BSD-3-Clause
"""A tiny Llama whose linear layers all run on flat_linear's kernels, in prefill and decoding."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

pytest.importorskip("transformers")

from limelight import gemm_execute, replace_linears
from test_linear_models import STEPS, generate, logits
from tiny_models import assert_agree, build, one_thread, tokens  # noqa: F401


def test_kernels_serve_every_layer(kernels: torch.device) -> None:
    """Prefill and decoding on the kernels' device; the kernels fixture forbids falling back."""
    prompt = tokens()[:1, :6]
    model = build("llama", "AutoModelForCausalLM").bfloat16()
    state = model.state_dict()
    eager = logits(model, prompt)
    exact_model = build("llama", "AutoModelForCausalLM").double()
    exact_model.load_state_dict(state)
    exact = logits(exact_model, prompt)
    ours = build("llama", "AutoModelForCausalLM").bfloat16().to(kernels)
    ours.load_state_dict(state)
    result = replace_linears(ours)
    assert len(result.replaced) == 15
    ran = []
    launch = gemm_execute._run_kernel

    def count(plan, *arguments):
        ran.append(plan.implementation)
        return launch(plan, *arguments)

    with mock.patch.object(gemm_execute, "_run_kernel", count):
        assert_agree(logits(ours, prompt.to(kernels)), eager, exact)
        generated = generate(ours, prompt.to(kernels))
    assert len(ran) == 15 * (1 + STEPS)
    assert set(ran) <= {"gemv", "flat"}
    assert generated.shape == (1, 6 + STEPS)
    # The first new token is the float64 model's wherever its lead exceeds both models' error.
    two = exact[0, -1].topk(2).values
    if float(two[0] - two[1]) > 4 * float((eager.double() - exact).abs().max()):
        assert int(generated[0, 6]) == int(exact[0, -1].argmax())
