# SPDX-License-Identifier: BSD-3-Clause
"""How far attention on float8 tensors may be from float64 of the same (dequantised) tensors.

The kernel rounds P = 256 exp(S - max) to e4m3 and divides by the sum of the rounded P, so to first
order O is off by sum_j d_j w_j (V_j - O), with w the softmax and d_j the relative rounding of P_j.
e4m3 has 8 steps for each power of two: d_j is at most U = 2**-4 and, spread evenly over a step, has
a root mean square of at most RMS = 2**-3 / sqrt(12), independently for each j. Below 2**-6 steps
stop shrinking: P_j is off by at most 2**-10 there, 2**-18 before the factor.

The tensor cores of Hopper (fp8_sums.py) take 32 products and the accumulator a step, cut each
of these 33 terms by less than 2**-13 of the largest one's power of two and the sum by less than
2**-13 of itself, so with A the sum of their magnitudes a step is off by less than 34 * 2**-13 A.
A block's P V has fresh accumulators and at most 4 steps, and blocks are added in fp32: with
CORES = 4 * 34 * 2**-13 the sums of P V and of P, as a fraction of those of P |V| and P, are off by
CORES more than U. A subnormal factor counts as 2**-6 in the power of two: V is clamped to that, and
a block (of 64 keys or more) whose P are all subnormal is off by less than SMALLEST more.
S is not bounded so: summed over headdim / 32 steps on accumulators far above their terms, its
bound would be 100 times what happens. `score_error` is what the rules of fp8_sums.py make of this
call's own q and k, at most.

The root mean square has no allowance for the tensor cores: it stays below RMS with them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from cases import Inputs
from fp8_sums import TERMS, product
from reference import reference
from tolerance import assert_agrees, assert_same_special_values, on_cpu, unit_roundoff
from torch import Tensor

U = 2.0**-4
RMS = 2.0**-3 / math.sqrt(12)
CORES = 4 * 34 * 2.0**-13
SMALLEST = 2.0**-18
LEAST_NORMAL = 2.0**-6


def dequantised(inputs: Inputs) -> Inputs:
    """The same call on float64 tensors, descales multiplied in."""
    x = on_cpu(inputs)
    return replace(x, q=x.q.double(), k=x.k.double(), v=x.v.double())


def weighted(x: Inputs, values: Tensor) -> Tensor:
    """The attention of x over other values."""
    return reference(x.q, x.k, values, replace(x.problem, v_descale=None)).out


def score_error(inputs: Inputs) -> float:
    """The largest error that the tensor cores make in a score of the call."""
    problem = inputs.problem
    heads = inputs.q.shape[-2] // inputs.k.shape[-2]
    scale = abs(problem.softmax_scale)
    for factor in (problem.q_descale, problem.k_descale):
        scale *= 1.0 if factor is None else float(factor.abs().max())
    worst = 0.0
    for head in range(inputs.q.shape[-2]):
        sides = (inputs.q[..., head, :], inputs.k[..., head // heads, :])
        q, k = (np.nan_to_num(x.cpu().double().flatten(0, -2).numpy()) for x in sides)
        summed = product(q, k.T, np.zeros((len(q), len(k))), ("e4m3", "e4m3"), TERMS["sm_90a"])
        worst = max(worst, float(np.abs(summed - q @ k.T).max(initial=0.0)))
    return worst * scale


def assert_fp8_forward(inputs: Inputs, out: Tensor, lse: Tensor) -> None:
    """Judge out by the largest error that rounding can make, element by element, and lse."""
    x = dequantised(inputs)
    truth = reference(x.q, x.k, x.v, x.problem)
    largest = float(truth.lse[torch.isfinite(truth.lse)].abs().max())
    of_scores = score_error(inputs) + 3e-7 * x.problem.softcap  # of the kernels' tanh
    low = reference(x.q, x.k, x.v, x.problem, dtype=torch.float32).lse
    atol = 16 * unit_roundoff(torch.float32) * max(1.0, largest) + of_scores
    assert_agrees("lse", lse, truth.lse, low, atol=atol)

    out = out.cpu()
    assert_same_special_values("out", out, truth.out)
    v_scale = 1.0 if x.problem.v_descale is None else float(x.problem.v_descale.max())
    finite_v = torch.nan_to_num(x.v)
    absolute = weighted(x, finite_v.abs().clamp(min=LEAST_NORMAL)) * v_scale
    largest_v = float(finite_v.abs().max().clamp(min=LEAST_NORMAL)) * v_scale
    relative = 2 * ((U + CORES) / (1 - U - CORES) + of_scores)
    worst = relative * absolute + unit_roundoff(out.dtype) * truth.out.abs()
    worst = worst + SMALLEST * (x.k.shape[-3] * 65 / 64 + 1) * largest_v
    excess = (out.double() - truth.out).abs() - worst
    assert bool((excess <= 0).all()), f"out: error {float(excess.max()):.3e} beyond its bound"


def mean_square_ratio(inputs: Inputs, out: Tensor) -> float:
    """The error's root mean square over what independent rounding makes; dense calls, no sink."""
    x = dequantised(inputs)
    p = x.problem
    heads = x.q.shape[2] // x.k.shape[2]
    q, k, v = x.q, x.k.repeat_interleave(heads, 2), x.v.repeat_interleave(heads, 2)
    if p.q_descale is not None and p.k_descale is not None and p.v_descale is not None:
        scale = (p.q_descale * p.k_descale).double()[:, None, :, None]
        q = q * scale.repeat_interleave(heads, 2)
        v = v * p.v_descale.double()[:, None, :, None].repeat_interleave(heads, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * p.softmax_scale
    if p.causal:
        hidden = torch.ones(scores.shape[-2:]).tril(k.shape[1] - q.shape[1]) == 0
        scores = scores.masked_fill(hidden, float("-inf"))
    w = scores.softmax(-1)
    truth = torch.einsum("bhqk,bkhd->bqhd", w, v)
    squares = w.square()
    spread = (
        torch.einsum("bhqk,bkhd->bqhd", squares, v.square())
        - 2 * torch.einsum("bhqk,bkhd->bqhd", squares, v) * truth
        + squares.sum(-1).transpose(1, 2)[..., None] * truth.square()
    )
    rounding = (unit_roundoff(out.dtype) * truth).square() / 3
    allowed = (RMS**2 * spread + rounding).mean()
    return float(((out.cpu().double() - truth).square().mean() / allowed).sqrt())
