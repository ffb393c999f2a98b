# SPDX-License-Identifier: BSD-3-Clause
"""replace_linears: what it exchanges, and what it leaves and why."""

from __future__ import annotations

import pytest
import torch
from limelight import replace_linears
from torch import Tensor, nn

HALF = torch.bfloat16


class Model(nn.Module):
    """Layers that can be replaced, and one of each kind that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 64, dtype=HALF)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(64, 64, dtype=HALF)) for _ in "ab"])
        self.odd = nn.Linear(12, 64, dtype=HALF)
        self.wide = nn.Linear(64, 64)
        self.hooked = nn.Linear(64, 64, dtype=HALF)
        self.hooked.register_forward_hook(lambda module, arguments, out: out * 2)
        self.attention = nn.MultiheadAttention(64, 2, dtype=HALF)
        self.head = nn.Linear(64, 20, bias=False, dtype=HALF)
        self.head.weight = self.embedding.weight
        self.again = self.blocks[0]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in [*self.blocks, self.again]:
            x = x + torch.tanh(block(x))
        return self.head(self.hooked(x))


def test_replace_linears_says_what_it_did() -> None:
    torch.manual_seed(0)
    model, tokens = Model(), torch.arange(6)
    want = model(tokens)
    result = replace_linears(model)
    assert list(result.replaced) == ["head", "blocks.0.0", "blocks.1.0", "again.0"]
    assert model.again[0] is model.blocks[0][0]
    assert model.head.weight is model.embedding.weight
    assert result.kept == {
        "odd": "in_features is 12; nearest: a multiple of 8",
        "wide": "its dtype is torch.float32; nearest: torch.float16 or torch.bfloat16",
        "hooked": "it has hooks",
        "attention.out_proj": ("it is a NonDynamicallyQuantizableLinear, a subclass of nn.Linear"),
    }
    assert "4 layers replaced, 4 kept" in str(result)
    assert torch.equal(model(tokens), want)
    assert not replace_linears(model).replaced


def test_replace_linears_quantises_and_skips() -> None:
    torch.manual_seed(0)
    model, tokens = Model(), torch.arange(6)
    want = model(tokens).detach().float()
    result = replace_linears(model, quantization="int4_g64", skip=("blocks.1.0",))
    assert list(result.replaced) == ["blocks.0.0", "again.0"]
    assert result.kept["head"] == "its weight is shared with another module"
    assert result.kept["blocks.1.0"] == "named in skip"
    found = model(tokens).detach().float()
    assert 0 < float((found - want).abs().max()) < 0.1 * float(want.abs().max())
    assert not replace_linears(Model(), skip=lambda name, layer: True).replaced
    assert "nearest: a multiple of 128" in replace_linears(Model(), quantization="int4").kept["odd"]
    with pytest.raises(ValueError, match=r"model is an nn.Linear itself"):
        replace_linears(nn.Linear(8, 8))


class Wrapped(Tensor):
    """A tensor that is not torch's own."""


def test_weights_that_are_no_plain_tensors_are_left() -> None:
    model = nn.Sequential(nn.Linear(16, 16, dtype=HALF))
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(Wrapped))
    assert replace_linears(model).kept == {"0": "its weight is a Wrapped, no plain tensor"}
