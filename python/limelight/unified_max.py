# SPDX-License-Identifier: BSD-3-Clause
"""Calibration of the unified maximum of decode kernels.

FlashDecoding++ (Hong et al., arXiv 2311.01282): partial softmax results that are taken relative to
one number, known before, add up without an exchange of maxima. It pays where the largest scores of
a model stay in a narrow range; kernels compute ranges of keys outside of it the ordinary way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limelight import execute
from limelight.messages import bad
from limelight.problem import AttentionProblem
from limelight.torch_path.maxima import block_maxima

# Kernels take the short way where BELOW <= largest score - unified_max <= ABOVE (decode.h).
BELOW, ABOVE = -6.9, 8.9
_LIMIT, _BINS_PER_UNIT = 2048, 8


class UnifiedMax(NamedTuple):
    """value: for unified_max=. coverage: the share of maxima that the short way serves."""

    value: float
    coverage: float


class _Histogram:
    """Counts of maxima, in memory that does not grow with what is observed."""

    def __init__(self) -> None:
        self.counts = torch.zeros(2 * _LIMIT * _BINS_PER_UNIT, dtype=torch.int64)

    def add(self, maxima: Tensor) -> None:
        """Count the finite ones."""
        finite = maxima[maxima.isfinite()].double()
        bins = ((finite + _LIMIT) * _BINS_PER_UNIT).long().clamp(0, len(self.counts) - 1)
        self.counts += torch.bincount(bins.cpu(), minlength=len(self.counts))

    def best(self) -> UnifiedMax:
        """The middle of all values that cover most."""
        total = int(self.counts.sum())
        if total == 0:
            raise bad("the observed scores", "none", "at least one finite score", "a longer input")
        width = int((ABOVE - BELOW) * _BINS_PER_UNIT)
        sums = torch.cat((torch.zeros(1, dtype=torch.int64), self.counts.cumsum(0)))
        covered = sums[width:] - sums[:-width]
        best = int(covered.max())
        starts = (covered == best).nonzero().flatten()
        start = (int(starts[0]) + int(starts[-1])) / 2
        return UnifiedMax(start / _BINS_PER_UNIT - _LIMIT - BELOW, best / total)


def calibrate_unified_max(
    model_or_scores: Callable[..., Any] | Tensor | Iterable[Tensor], *inputs: Any, **options: Any
) -> UnifiedMax:
    """Choose ``unified_max`` of ``flash_attn_with_kvcache`` from what a model computes.

    model_or_scores: a model (any callable), which runs once as model(*inputs, **options) without
    gradients and whose calls of limelight's attention are observed; or a tensor, or several, of
    scores (..., keys) as they enter the softmax: after the scale, softcap, ALiBi and bias, -inf
    where masked.

    Returns (value, coverage): the value for which most maxima of a row over a block of keys lie in
    [value - 6.9, value + 8.9], and that share. With a coverage much below 1 the option costs more
    than it saves: leave unified_max=None. The results of attention agree within rounding whatever
    the value is. One value serves one model; calibrate with inputs as long as those in use. Raises
    ValueError where no attention call or no finite score was seen.
    """
    histogram = _Histogram()
    if callable(model_or_scores) and not isinstance(model_or_scores, Tensor):

        def observe(q: Tensor, k: Tensor, problem: AttentionProblem) -> None:
            for maxima in block_maxima(q, k, problem, tile_keys=256):
                histogram.add(maxima)

        execute.observers.append(observe)
        try:
            with torch.no_grad():
                model_or_scores(*inputs, **options)
        finally:
            execute.observers.remove(observe)
        return histogram.best()
    scores = [model_or_scores] if isinstance(model_or_scores, Tensor) else model_or_scores
    for x in scores:
        for block in x.split(256, -1):
            if block.shape[-1] > 0:
                histogram.add(block.amax(-1))
    return histogram.best()
