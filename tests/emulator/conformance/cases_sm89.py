# SPDX-License-Identifier: BSD-3-Clause
"""sm_89: FP8 mma.sync and conversions."""

from __future__ import annotations

import numpy as np
from cases_sm80 import halves, mma_case, simple
from forms import Case
from fp8_sums import TERMS
from isa import RNG, fp8_bits, fp8_values


def conversions() -> list[Case]:
    cases = []
    x = np.concatenate([RNG.normal(0, 30, 20), RNG.normal(0, 0.01, 8), [1e6, -1e6, 448, 57344]])
    x = x.astype(np.float32)
    y = x[::-1].copy()
    for kind in ("e4m3", "e5m2"):

        def pair(hi: np.ndarray, lo: np.ndarray, kind: str = kind) -> np.ndarray:
            codes = fp8_bits(hi, kind).astype(np.uint32) << 8
            return (codes | fp8_bits(lo, kind)).astype(np.uint32)

        op = f"cvt.rn.satfinite.{kind}x2.f32"
        cases.append(simple(op, "h", "ff", [x, y], pair(x, y)))
        op = f"cvt.rn.satfinite.relu.{kind}x2.f32"
        cases.append(simple(op, "h", "ff", [x, y], pair(np.maximum(x, 0), np.maximum(y, 0))))
        a, b = np.clip(x, -6e4, 6e4).astype(np.float16), np.clip(y, -6e4, 6e4).astype(np.float16)
        packed = halves(b.view(np.uint16), a.view(np.uint16))
        op = f"cvt.rn.satfinite.{kind}x2.f16x2"
        cases.append(simple(op, "h", "r", [packed], pair(a, b)))
        codes = RNG.integers(0, 0x78, (2, 32)) | RNG.integers(0, 2, (2, 32)) << 7
        values = fp8_values(kind)[codes].astype(np.float16).view(np.uint16)
        word = (codes[0] | codes[1] << 8).astype(np.uint32)
        cases.append(
            simple(f"cvt.rn.f16x2.{kind}x2", "r", "h", [word], halves(values[0], values[1]))
        )
    return cases


def cases() -> list[Case]:
    kinds = ("e4m3", "e5m2")
    products = [mma_case(a, b, "f32", 32) for a in kinds for b in kinds]
    sums = [
        mma_case(a, b, c, 32, fp8_terms=TERMS["sm_89"])
        for a, b, c in (
            ("e4m3", "e4m3", "f32"),
            ("e5m2", "e4m3", "f32"),
            ("e5m2", "e5m2", "f16"),
        )
    ]
    return [*products, *conversions(), *sums]
