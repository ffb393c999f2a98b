# SPDX-License-Identifier: BSD-3-Clause
"""Calibration of unified_max; packing of tree masks."""

from __future__ import annotations

import limelight
import pytest
import torch
from limelight.unified_max import ABOVE, BELOW
from torch import Tensor


def test_the_value_covers_the_maxima_of_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(50, 700, generator=generator) + 20
    scores[:, 400:] = float("-inf")
    value, coverage = limelight.calibrate_unified_max(scores)
    for block in scores[:, :400].split(256, 1):
        maxima = block.amax(1)
        assert bool(((maxima - value > BELOW) & (maxima - value < ABOVE)).all())
    assert coverage == 1.0


def test_a_range_too_wide_is_told() -> None:
    scores = torch.linspace(-40, 40, 8001)[:, None]
    found = limelight.calibrate_unified_max([scores, scores])
    assert found.coverage == pytest.approx((ABOVE - BELOW) / 80, abs=0.01)
    lopsided = torch.cat((torch.zeros(100, 1), torch.full((1, 1), 50.0)))
    assert limelight.calibrate_unified_max(lopsided) == pytest.approx((-1.0, 100 / 101), abs=0.2)


def test_a_model_is_observed() -> None:
    """The maxima of every attention call, after scale, softcap and masks."""
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(2, n, h, 16, generator=generator) for n, h in ((40, 4), (300, 2)))
    k[:, -1] = float("nan")  # never visible

    def model(x: Tensor, *, lengths: Tensor) -> Tensor:
        out: Tensor = limelight.flash_attn_with_kvcache(
            x, k, k, cache_seqlens=lengths, softmax_scale=1.0, softcap=30.0
        )
        return out

    lengths = torch.tensor([299, 150], dtype=torch.int32)
    found = limelight.calibrate_unified_max(model, q, lengths=lengths)
    maxima = []
    for b, n in enumerate(lengths.tolist()):
        keys = k[b, :n].repeat_interleave(2, 1)
        scores = 30 * torch.tanh(torch.einsum("qhd,khd->hqk", q[b], keys) / 30)
        maxima += [block.amax(-1).flatten() for block in scores.split(256, -1)]
    assert found == limelight.calibrate_unified_max([x[:, None] for x in maxima])
    assert found.coverage > 0.9
    assert not limelight.execute.observers


def test_nothing_observed() -> None:
    with pytest.raises(ValueError, match="the observed scores is none; allowed: at least one"):
        limelight.calibrate_unified_max(lambda: None)


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 70])
def test_packed_bits(tokens: int) -> None:
    mask = torch.rand(2, tokens, tokens, generator=torch.Generator().manual_seed(tokens)) < 0.5
    words = limelight.pack_tree_mask(mask)
    assert (words.dtype, words.shape) == (torch.int32, (2, tokens, -(-tokens // 32)))
    for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in mask.shape)).tolist():
        assert bool(int(words[b, i, j // 32]) >> (j % 32) & 1) == bool(mask[b, i, j])


def test_messages() -> None:
    with pytest.raises(TypeError, match=r"mask.dtype is torch.float32; allowed: torch.bool"):
        limelight.pack_tree_mask(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"mask.shape is \(2, 3\); allowed: \(..., seqlen_q"):
        limelight.pack_tree_mask(torch.zeros(2, 3, dtype=torch.bool))
    q, cache = torch.zeros(1, 2, 1, 8), torch.zeros(1, 4, 1, 8)
    words = torch.zeros(1, 2, 1, dtype=torch.int32)
    call = limelight.flash_attn_with_kvcache
    with pytest.raises(ValueError, match="tree_mask is given with causal, window_size or"):
        call(q, cache, cache, causal=True, tree_mask=words)
    with pytest.raises(ValueError, match=r"tree_mask is torch.int64 \(1, 2, 1\); allowed: int32"):
        call(q, cache, cache, tree_mask=words.long())
    with pytest.raises(ValueError, match=r"tree_mask is torch.int32 \(1, 2, 0\); allowed: int32"):
        call(q, cache, cache, tree_mask=words[..., :0])
    with pytest.raises(ValueError, match="unified_max is inf; allowed: a finite number or None"):
        call(q, cache, cache, unified_max=float("inf"))
