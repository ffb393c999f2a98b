# SPDX-License-Identifier: BSD-3-Clause
"""A tiny Llama whose linear layers were replaced generates what it generated before."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from limelight import replace_linears
from tiny_models import build, one_thread, tokens  # noqa: F401

STEPS = 5


def generate(model, prompt: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.generate(
            prompt, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, pad_token_id=0
        )


def logits(model, prompt: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=prompt).logits.cpu()


def test_the_same_tokens_on_the_torch_path() -> None:
    model = build("llama", "AutoModelForCausalLM").bfloat16()
    prompt = tokens()[:, :6]
    want = generate(model, prompt)
    result = replace_linears(model)
    assert len(result.replaced) == 2 * 7 + 1
    assert not result.kept
    assert torch.equal(generate(model, prompt), want)


def test_quantised_layers_stay_near() -> None:
    model = build("llama", "AutoModelForCausalLM").bfloat16()
    prompt = tokens()[:, :6]
    want = logits(model, prompt).float()
    result = replace_linears(model, quantization="fp8", skip=("lm_head",))
    assert result.kept == {"lm_head": "named in skip"}
    found = logits(model, prompt).float()
    # e4m3 rounds weights by up to 2^-4; 15 products of independent errors stay below a quarter.
    assert 0 < float((found - want).norm()) < 0.25 * float(want.norm())
