# SPDX-License-Identifier: BSD-3-Clause
"""When a result agrees with the float64 reference.

The rule: inf and NaN positions equal; then max |x - ref64| <= 2 * max |low - ref64| + atol.

* ``low`` is the same formula evaluated by ordinary torch operations in the inputs' own dtype, so
  the bound grows and shrinks with the conditioning of the case (headdim, magnitude, length). The
  factor 2 lets an implementation round at other places than torch does, not at more of them. FP8
  inputs are evaluated in bfloat16. Float64 inputs are evaluated in fp32 and the error is scaled by
  the ratio of the units, 2**-29, times 2 because the reference itself has errors of that size.
* ``atol`` is what rounding the truth alone costs: twice max |round(ref64) - ref64|, since a result
  stored in dtype d carries that error even if everything before it were exact, and ``low`` may be
  exact by luck (one key, zeros). ``Interior`` adds the rounding of fp32 statistics.
* LSE is kept in fp32 whatever the inputs are, so its ``low`` is the fp32 evaluation, and its atol
  is 16 units of max(1, |ref|): log turns the relative error of the row sum (blocks and the terms of
  a block, below 16 units here) into an absolute one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from cases import Inputs
from reference import Reference, reference
from torch import Tensor

# In units of 2**-8 for bfloat16: rounding 10**5 results to nearest shows below 0.01, biased
# rounding of P up to 0.4.
SIGNED_LIMIT = 0.05


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return half the distance of 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def rounding(reference: Tensor, dtype: torch.dtype) -> float:
    """Return max |round(reference) - reference| over finite entries, in absolute units."""
    finite = reference[torch.isfinite(reference)]
    if finite.numel() == 0:
        return 0.0
    if dtype == torch.float64:
        return unit_roundoff(dtype) * float(finite.abs().max())
    error = (finite.to(dtype).to(torch.float64) - finite).abs()
    return float(torch.where(torch.isfinite(error), error, 0.0).max())


def max_error(actual: Tensor, reference: Tensor) -> float:
    """Return max |actual - reference| over the entries where the reference is finite."""
    finite = torch.isfinite(reference)
    if not bool(finite.any()):
        return 0.0
    return float((actual.to(torch.float64) - reference)[finite].abs().max())


def assert_same_special_values(name: str, actual: Tensor, reference: Tensor) -> None:
    """NaN, +inf and -inf must be at the reference's places and nowhere else."""
    assert actual.shape == reference.shape, f"{name}: {actual.shape} instead of {reference.shape}"
    for kind, test in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        found, wanted = test(actual.to(torch.float64)), test(reference)
        if not torch.equal(found, wanted):
            where = (found != wanted).nonzero()[0].tolist()
            raise AssertionError(
                f"{name}: {int((found & ~wanted).sum())} unexpected and "
                f"{int((wanted & ~found).sum())} missing {kind}, first at {where}"
            )


def assert_agrees(
    name: str, actual: Tensor, reference: Tensor, low: Tensor, atol: float | None = None
) -> None:
    """Apply the rule; reference is float64, low the low-precision evaluation."""
    actual, reference, low = (x.detach().cpu() for x in (actual, reference, low))
    reference = reference.to(torch.float64)
    assert_same_special_values(name, actual, reference)
    if atol is None:
        atol = 2 * rounding(reference, actual.dtype)
    ratio = 2.0**-28 if actual.dtype == torch.float64 else 1.0
    error, allowed = max_error(actual, reference), 2 * ratio * max_error(low, reference) + atol
    # An infinite or NaN low result would allow everything.
    assert math.isfinite(allowed), f"{name}: the low-precision evaluation is not finite"
    if error > allowed:
        gap = torch.nan_to_num((actual.to(torch.float64) - reference).abs(), 0.0, 0.0, 0.0)
        where = torch.unravel_index(gap.argmax(), gap.shape)
        raise AssertionError(
            f"{name}: error {error:.3e} > {allowed:.3e} (atol {atol:.3e}), worst at "
            f"{[int(x) for x in where]}: {float(actual[where]):.6g} instead of "
            f"{float(reference[where]):.6g}"
        )


def low_dtype(inputs: Inputs) -> torch.dtype:
    """The dtype of the low-precision evaluation."""
    dtype = inputs.q.dtype
    if dtype.itemsize == 1:
        return torch.bfloat16
    return torch.float32 if dtype == torch.float64 else dtype


# Of tanh_exp2 in csrc/arch/math.cuh: absolute, so that a score is off by up to softcap times it.
KERNELS_TANH_ERROR = 3e-7


def assert_forward(inputs: Inputs, out: Tensor, lse: Tensor, tanh_error: float = 0.0) -> None:
    """Judge out and lse of any implementation against the reference.

    tanh_error: the absolute error of the tanh of softcap. LSE is a mean of the scores' errors.
    """
    x = on_cpu(inputs)
    truth = reference(x.q, x.k, x.v, x.problem)
    low = reference(x.q, x.k, x.v, x.problem, dtype=low_dtype(inputs))
    low_lse = reference(x.q, x.k, x.v, x.problem, dtype=torch.float32).lse
    wide = x.q.dtype == torch.float64
    assert lse.dtype == (torch.float64 if wide else torch.float32)
    assert out.dtype == (torch.float64 if wide else low_dtype(inputs))
    largest = max(1.0, _largest(truth.lse))
    atol = 16 * unit_roundoff(lse.dtype) * largest + x.problem.softcap * tanh_error
    assert_agrees("lse", lse, truth.lse, low_lse, atol=atol)
    atol = 2 * rounding(truth.out, out.dtype) + Interior.of(x, truth).error("out")
    assert_agrees("out", out, truth.out, low.out, atol=atol)


def assert_gradients(
    inputs: Inputs, found: Mapping[str, Tensor | None], *, with_dlse: bool = False
) -> None:
    """Judge gradients by name (dq, dk, dv, dbias, dsink) against the reference."""
    x = on_cpu(inputs)
    dlse = x.dlse if with_dlse else None
    truth = reference(x.q, x.k, x.v, x.problem, x.dout, dlse)
    low = reference(x.q, x.k, x.v, x.problem, x.dout, dlse, dtype=low_dtype(inputs))
    interior = Interior.of(x, truth, with_dlse=with_dlse)
    for name, actual in found.items():
        wanted, coarse = getattr(truth, name), getattr(low, name)
        assert (actual is None) == (wanted is None), f"{name}: {actual} instead of {wanted}"
        if actual is not None:
            atol = 2 * rounding(wanted, actual.dtype) + interior.error(name)
            assert_agrees(name, actual, wanted, coarse, atol=atol)


@dataclass(frozen=True)
class Interior:
    """What the rounding of S, LSE and P inside an implementation costs, in absolute units.

    In units u of the interior (2**-24; 2**-53 for float64): S, LSE and their difference each carry
    |LSE| u, so P is off by 2 u (1 + |LSE|) relatively; dP and delta carry u |dO| |V|, and cancel.
    As a row of P sums to at most 1 (1 / (1 - p) with dropout), a row of O is off by that times max
    |V|, a row of dS by ds in total, and what sums over n rows by sqrt(n) times that (independent
    signs). Negligible for 16-bit inputs, the size of the whole error for fp32. Beside that delta is
    summed from the O that was stored, which is off by half a unit of its dtype in every feature:
    |dO * O| in total.
    """

    p: float
    ds: float
    rows: int
    largest: Mapping[str, float]
    scale: float

    @staticmethod
    def of(x: Inputs, truth: Reference, *, with_dlse: bool = False) -> Interior:
        unit = unit_roundoff(torch.float64 if x.q.dtype == torch.float64 else torch.float32)
        live = torch.isfinite(truth.lse)
        live_tokens = live.t() if live.dim() == 2 else live.transpose(1, 2)
        dout = _largest(x.dout.double().norm(dim=-1)[live_tokens])
        dp = dout * _largest(x.v.double().norm(dim=-1))
        if with_dlse:
            dp += _largest(x.dlse[live])
        p = 2 * unit * (1 + _largest(truth.lse)) / (1 - x.problem.dropout_p)
        delta = (
            unit_roundoff(x.dout.dtype) * (x.dout.double() * truth.out).norm(dim=-1)[live_tokens]
        )
        largest = {"q": _largest(x.q), "k": _largest(x.k), "v": _largest(x.v), "dout": dout}
        return Interior(
            p,
            p * dp + _largest(delta),
            x.q.shape[:-1].numel(),
            largest,
            abs(x.problem.softmax_scale),
        )

    def error(self, name: str) -> float:
        """Return the absolute error to allow in the named gradient."""
        spread = math.sqrt(self.rows)
        return {
            "out": self.p * self.largest["v"],
            "dq": self.scale * self.largest["k"] * self.ds,
            "dk": self.scale * self.largest["q"] * self.ds * spread,
            "dv": self.p * self.largest["dout"] * spread,
            "dbias": self.ds * spread,
            "dsink": self.ds * spread,
        }[name]


def _largest(x: Tensor) -> float:
    finite = x.double()[torch.isfinite(x.double())]
    return float(finite.abs().max()) if finite.numel() else 0.0


def on_cpu(inputs: Inputs) -> Inputs:
    """Move every tensor of inputs to the CPU."""
    problem = inputs.problem
    moved = {
        field.name: getattr(problem, field.name).cpu()
        for field in fields(problem)
        if isinstance(getattr(problem, field.name), Tensor)
    }
    q, k, v, dout, dlse = (
        x.cpu() for x in (inputs.q, inputs.k, inputs.v, inputs.dout, inputs.dlse)
    )
    return Inputs(q, k, v, replace(problem, **moved), dout, dlse)


def signed_mean(actual: Tensor, reference: Tensor) -> float:
    """Return the mean of (actual - ref) / |ref| over finite, non-zero entries."""
    reference = reference.detach().cpu().to(torch.float64)
    actual = actual.detach().cpu().to(torch.float64)
    known = torch.isfinite(reference) & (reference != 0)
    return float(((actual - reference)[known] / reference[known].abs()).mean())


def assert_unbiased(name: str, actual: Tensor, reference: Tensor, unit: float = 2.0**-8) -> None:
    """Rounding may scatter results but not shift them: |signed mean| < SIGNED_LIMIT * unit."""
    mean = signed_mean(actual, reference) / unit
    assert abs(mean) < SIGNED_LIMIT, f"{name}: mean signed relative error {mean:+.4f} * {unit:.3g}"


def tied_maxima(
    ties: int, rest: int, gap: float, sign: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q (256, 16, 1, 64), k and v (256, ties + rest, 1, 64) that provoke biased rounding.

    After arXiv 2510.04212: with softmax_scale 1 every row has ``ties`` keys that share its maximum
    exactly and ``rest`` keys ``gap`` (natural log) or more below; V has one sign. Rounding P V, or
    P but not the sum of P, then shifts O. 2**14 independent columns of V keep the sample's own mean
    small.
    """
    generator = torch.Generator().manual_seed(7)
    q = torch.zeros(256, 16, 1, 64)
    k = torch.zeros(256, ties + rest, 1, 64)
    # Feature 0 lowers the keys that do not tie, by an amount that differs from row to row.
    q[..., 0] = 1.0 + 0.5 * torch.rand(256, 16, 1, generator=generator)
    k[:, ties:, :, 0] = -gap - torch.rand(256, rest, 1, generator=generator)
    v = sign * (2.3 + 0.25 * torch.randn(k.shape, generator=generator)).abs()
    return q.to(dtype), k.to(dtype), v.to(dtype)
