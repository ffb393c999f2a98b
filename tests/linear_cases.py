# SPDX-License-Identifier: BSD-3-Clause
"""Cases of flat_linear, their float64 reference, and the rule by which a result agrees.

The rule is tolerance.py's: max |out - exact| <= 2 max |low - exact| + atol. low is the formula in
x's dtype, each step rounded, on the weight that the format stores, expanded to x's dtype; exact
takes the same stored weight in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import limelight
import pytest
import torch
import torch.nn.functional as F
from limelight import gemm_execute, gemm_tables
from limelight.quantize import MODES, QuantizedWeight, quantize
from tolerance import assert_agrees
from torch import Tensor

FORMATS = MODES
EPILOGUES = (None, "gelu", "gelu_tanh", "silu", "swiglu")


@pytest.fixture(autouse=True)
def no_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model decides in modules that import this, whatever was measured on this machine."""
    monkeypatch.setattr(gemm_tables, "read_file", lambda path: {})
    gemm_execute.forget()
    yield
    gemm_execute.forget()


@dataclass(frozen=True)
class LinearCase:
    """x (m, k) times a weight of ``rows`` rows."""

    m: int
    rows: int
    k: int
    weight_format: str = "dense"  # or one of FORMATS
    activation: str | None = None
    bias: bool = False
    residual: bool = False
    dtype: torch.dtype = torch.bfloat16

    @property
    def n(self) -> int:
        """Columns of out."""
        return self.rows // 2 if self.activation == "swiglu" else self.rows


@dataclass
class LinearInputs:
    """The tensors of a case."""

    case: LinearCase
    x: Tensor
    stored: QuantizedWeight  # scale is empty for a plain weight
    bias: Tensor | None
    residual: Tensor | None

    def call(self, **changes: Any) -> Tensor:
        """flat_linear on the case, with some arguments replaced."""
        quantized = self.case.weight_format != "dense"
        arguments: dict[str, Any] = {
            "x": self.x,
            "weight": self.stored.weight,
            "bias": self.bias,
            "activation": self.case.activation,
            "residual": self.residual,
            "weight_scale": self.stored.scale if quantized else None,
            "weight_zero": self.stored.zero,
        }
        return limelight.flat_linear(**(arguments | changes))

    def weight(self) -> Tensor:
        """The stored weight in float64, computed element by element from the format's text."""
        weight, scale, zero = (None if t is None else t.cpu() for t in self.stored)
        assert weight is not None
        assert scale is not None
        rows, k = self.case.rows, self.case.k
        if self.case.weight_format == "dense":
            return weight.double()
        row, column = torch.arange(rows)[:, None], torch.arange(k)[None, :]
        if self.case.weight_format == "fp8":
            return weight.double() * scale.double()[row]
        if self.case.weight_format == "fp8_block":
            return weight.double() * scale.double()[row // 128, column // 128]
        group = k // scale.shape[1]
        nibbles = (weight[row, column // 2].int() >> 4 * (column % 2)) & 15
        offset = 8 if zero is None else zero.int()[row, column // group]
        return (nibbles - offset).double() * scale.double()[row, column // group]

    def formula(self, dtype: torch.dtype, x: Tensor | None = None) -> Tensor:
        """activation(x w^T + bias) + residual in dtype, on the CPU."""
        x = (self.x.detach() if x is None else x).cpu().to(dtype)
        z = x @ self.weight().to(dtype).T
        if self.bias is not None:
            z = z + self.bias.detach().cpu().to(dtype)
        if self.case.activation == "swiglu":
            z = F.silu(z[..., : self.case.n]) * z[..., self.case.n :]
        elif self.case.activation == "silu":
            z = F.silu(z)
        elif self.case.activation is not None:
            z = F.gelu(z, approximate="tanh" if "tanh" in self.case.activation else "none")
        return z if self.residual is None else z + self.residual.cpu().to(dtype)

    def exact(self, x: Tensor | None = None) -> Tensor:
        """The formula in float64."""
        return self.formula(torch.float64, x)


def draw(case: LinearCase, device: Any = "cpu", seed: int = 0) -> LinearInputs:
    """Random tensors of a case; outliers in the weight make one scale for all wrong."""
    generator = torch.Generator().manual_seed(seed + case.m)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    spread = torch.exp2(torch.randint(-2, 3, (case.rows, 1), generator=generator).float())
    weight = (normal(case.rows, case.k) * spread * case.k**-0.5).to(case.dtype)
    if case.weight_format == "dense":
        stored = QuantizedWeight(weight, torch.empty(0))
    else:
        stored = quantize(weight, case.weight_format)
    x = normal(case.m, case.k).to(case.dtype)
    bias = normal(case.rows).to(case.dtype).to(device) if case.bias else None
    residual = normal(case.m, case.n).to(case.dtype).to(device) if case.residual else None
    moved = QuantizedWeight(*(None if t is None else t.to(device) for t in stored))  # type: ignore[arg-type]
    return LinearInputs(case, x.to(device), moved, bias, residual)


def assert_linear(case: LinearCase, inputs: LinearInputs, out: Tensor | None = None) -> None:
    """Judge out, default that of a call, by the rule."""
    out = inputs.call() if out is None else out
    assert out.dtype == case.dtype
    assert out.shape == (*inputs.x.shape[:-1], case.n)
    low = inputs.formula(torch.float32 if case.dtype == torch.float64 else case.dtype)
    assert_agrees(f"out of {case}", out, inputs.exact(), low)
