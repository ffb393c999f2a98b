# SPDX-License-Identifier: BSD-3-Clause
"""Every route of the transformers integration is served by kernels in 16-bit, and agrees."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from limelight.cli.observe import backends_used
from tiny_models import assert_agree, one_thread, padding, tokens, twins  # noqa: F401


@pytest.mark.parametrize("side", ["none", "right", "left", "holes"])
@pytest.mark.parametrize("name", ["bert", "llama", "mistral", "gemma2", "t5"])
def test_kernels_serve_models(name: str, side: str, kernels: torch.device) -> None:
    """float16 on the kernels' device; the kernels fixture makes a fallback an error."""
    ours, low, high = twins(name)
    arguments = {"input_ids": tokens()}
    if side != "none":
        arguments["attention_mask"] = padding(side)
    if name == "t5":
        arguments["decoder_input_ids"] = tokens(4)[:, :5]
    with torch.no_grad():
        on_device = {key: value.to(kernels) for key, value in arguments.items()}
        with backends_used() as used:
            out = ours.half().to(kernels)(**on_device).last_hidden_state.cpu()
        # The weights that both read are those rounded to float16.
        high.load_state_dict(ours.state_dict())
        eager = low.half()(**arguments).last_hidden_state
        exact = high(**arguments).last_hidden_state
    assert "torch" not in used
    assert sum(used.values()) == (6 if name == "t5" else 2)
    assert_agree(out, eager, exact, rows=padding(side) if name != "t5" else None)
