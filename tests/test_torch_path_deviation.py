# SPDX-License-Identifier: BSD-3-Clause
"""The deviation report."""

import pytest
import torch
from limelight.autograd import attention as differentiable
from limelight.problem import AttentionProblem
from limelight.torch_path import forward
from limelight.torch_path.deviation import deviations
from torch import Tensor

torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_blockwise_is_closer_than_eager_for_every_length_and_tile(
    dtype: torch.dtype, causal: bool
) -> None:
    """O is rounded once, eager rounds S and P too."""
    found = list(
        deviations(dtype=dtype, causal=causal, seqlens=(33, 130, 500), tile_keys=(None, 1, 16, 64))
    )
    assert [(d.seqlen, d.tile_keys) for d in found] == [
        (n, tile) for n in (33, 130, 500) for tile in (None, 1, 16, 64)
    ]
    for d in found:
        assert 0 < d.ratio < 1, d
        assert d.rms_error <= d.max_error
    # With an fp32 interior the tile size is invisible beside the rounding of O.
    for n in (33, 130, 500):
        rms = [d.rms_error for d in found if d.seqlen == n]
        assert max(rms) <= 1.02 * min(rms)


def test_gradients_are_measured_for_every_length_and_tile() -> None:
    found = list(deviations(seqlens=(33, 200), tile_keys=(None, 16), gradients=True))
    assert [d.tensor for d in found] == ["out", "dq", "dk", "dv"] * 4
    for d in found:
        assert 0 < d.ratio < 1, d


def test_a_wrong_gradient_is_measured() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> Tensor:
        return differentiable(q, k + 0.1 * (q - q.detach()), v, p)[0]

    found = {d.tensor: d for d in deviations(seqlens=(40,), gradients=True, attention=attention)}
    assert found["dq"].ratio > 5
    assert max(found[name].ratio for name in ("out", "dk", "dv")) < 1


def test_a_given_attention_is_what_is_measured() -> None:
    exact = list(deviations(seqlens=(40,), attention=lambda q, k, v, p: forward(q, k, v, p)[0]))
    off = list(deviations(seqlens=(40,), attention=lambda q, k, v, p: forward(q, k, v, p)[0] + 1))
    assert len(exact) == len(off) == 1
    assert exact[0].tile_keys is None
    assert off[0].rms_error == pytest.approx(1, abs=0.01)
    assert off[0].ratio > 100
