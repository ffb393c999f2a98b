# SPDX-License-Identifier: BSD-3-Clause
"""Joining partial results; flat_linear."""

from __future__ import annotations

import limelight
import pytest
import torch
from limelight import runtime
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_combine_joins_parts_of_the_keys(
    dense: bool, dtype: torch.dtype | None, where: torch.device
) -> None:
    q, k, v = draw(2, 3, 4, 16), draw(2, 20, 4, 16), draw(2, 20, 4, 16, seed=1)
    cuts = [(0, 7), (7, 8), (8, 8), (8, 20)]
    with runtime.override(backend="torch"):
        want, want_lse = limelight.flash_attn_func(q, k, v, return_lse=True)
        parts = [
            limelight.flash_attn_func(q, k[:, a:b], v[:, a:b], return_lse=True) for a, b in cuts
        ]
    want, want_lse = want.to(where), want_lse.to(where)
    out = torch.stack([o for o, _ in parts]).to(where)
    lse = torch.stack([x.transpose(1, 2) for _, x in parts]).to(where)
    lse[2] = float("inf")  # flash-attn 2's sign for a part without keys
    out[2] = float("nan")
    if not dense:
        out, lse = out.flatten(1, 2), lse.flatten(1, 2)
    found, found_lse = limelight.flash_attn_combine(out, lse, out_dtype=dtype)
    assert found.dtype == (dtype or torch.float32)
    coarse = 2.0**-8 if dtype else 1e-6
    torch.testing.assert_close(found.view_as(want).float(), want, rtol=coarse, atol=coarse)
    torch.testing.assert_close(found_lse.view(2, 3, 4), want_lse.transpose(1, 2))
    target = torch.empty_like(found)
    assert limelight.flash_attn_combine(out, lse, target)[0] is target
    assert torch.equal(target, found)


@pytest.mark.parametrize("empty", [float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_merge_attn_states(empty: float, dtype: torch.dtype, where: torch.device) -> None:
    prefix, suffix = (draw(5, 4, 16, seed=s).to(where, dtype) for s in (0, 1))
    prefix_lse, suffix_lse = draw(4, 5).to(where), draw(4, 5, seed=1).to(where)
    prefix_lse[:, 1], suffix_lse[:, 2] = empty, empty
    prefix_lse[:, 3], suffix_lse[:, 3] = empty, empty
    prefix[1], suffix[2] = float("nan"), float("nan")  # of no keys: never read
    prefix[3], suffix[3] = float("nan"), float("nan")
    output = torch.full_like(prefix, float("nan"), dtype=torch.bfloat16)
    output_lse = torch.empty(4, 5, device=where)
    limelight.merge_attn_states(output, prefix, prefix_lse, suffix, suffix_lse, output_lse)
    assert torch.equal(output[1], suffix[1].bfloat16())
    assert torch.equal(output[2], prefix[2].bfloat16())
    assert not output[3].any()
    assert bool((output_lse[:, 3] == float("-inf")).all())
    weight = torch.sigmoid(prefix_lse[:, 0] - suffix_lse[:, 0])[:, None]
    want = weight * prefix[0].float() + (1 - weight) * suffix[0].float()
    torch.testing.assert_close(output[0].float(), want, rtol=2.0**-8, atol=2.0**-8)
    torch.testing.assert_close(
        output_lse[:, 0], torch.logaddexp(prefix_lse[:, 0], suffix_lse[:, 0])
    )
    limelight.merge_attn_states(
        output, prefix, prefix_lse, suffix, suffix_lse, prefill_tokens_with_context=4
    )
    assert torch.equal(output[4], suffix[4].bfloat16())
    # In place of the suffix's LSE, and from parts of other strides.
    wide = torch.zeros(5, 4, 24, dtype=dtype, device=where)[..., :16]
    wide.copy_(prefix)
    again = suffix_lse.clone()
    other = torch.full_like(output, float("nan"))
    limelight.merge_attn_states(other, wide, prefix_lse, suffix, again, again)
    assert torch.equal(other[:4], output[:4])
    assert torch.equal(again, output_lse)


def test_flat_linear() -> None:
    x, weight, bias = draw(3, 8), draw(5, 8), draw(5)
    want = x @ weight.T + bias
    torch.testing.assert_close(limelight.flat_linear(x, weight, bias), want)
    out = torch.full((3, 5), float("nan"))
    assert limelight.flat_linear(x, weight, bias, out=out) is out
    torch.testing.assert_close(out, want)
    leaf = weight.clone().requires_grad_()
    limelight.flat_linear(x, leaf).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, x.sum(0).expand(5, 8))
