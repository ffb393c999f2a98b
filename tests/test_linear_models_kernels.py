# SPDX-License-Identifier: BSD-3-Clause
"""A tiny Llama whose linear layers all run on flat_linear's kernels, in prefill and decoding."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

pytest.importorskip("transformers")

from limelight import FlatLinear, gemm_execute, replace_linears
from limelight.gemm_checks import check_linear
from limelight.gemm_torch import dequantize
from linear_cases import no_tables  # noqa: F401
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


def test_kernels_serve_quantised_layers(kernels: torch.device) -> None:
    """Against eager models that hold the weights which fp8 stands for."""
    prompt = tokens()[:1, :6]
    ours = build("llama", "AutoModelForCausalLM").bfloat16().to(kernels)
    state = {name: tensor.cpu() for name, tensor in ours.state_dict().items()}
    assert len(replace_linears(ours, quantization="fp8").replaced) == 15
    for name, layer in ours.named_modules():
        if isinstance(layer, FlatLinear):
            scale = layer.weight_scale
            row = torch.zeros(1, layer.in_features, dtype=torch.bfloat16, device=kernels)
            layout = check_linear(row, layer.weight, None, None, scale, None, None, None)
            full = dequantize(layer.weight, scale, None, layout, torch.float64)
            state[f"{name}.weight"] = full.cpu()
    low = build("llama", "AutoModelForCausalLM").bfloat16()
    exact = build("llama", "AutoModelForCausalLM").double()
    for model in (low, exact):
        model.load_state_dict(state)
    found = logits(ours, prompt.to(kernels))
    assert_agree(found, logits(low, prompt), logits(exact, prompt))
