# SPDX-License-Identifier: BSD-3-Clause
"""How the tensor cores of Ada and Hopper sum products of 8-bit floats, in NumPy.

Stated apart from the emulator's code, which tests hold to it; tests/emulator/README.md names where
the rules come from. Finite values only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 13
TERMS = {"sm_89": 16, "sm_90a": 32}  # products of one step
LOWEST = {"e4m3": -6, "e5m2": -14, "f16": -14, "f32": -126}  # exponents of subnormal numbers
NOTHING = -1000  # the exponent of 0

Values = NDArray[np.float64]


def exponent(x: Values, kind: str) -> NDArray[np.int64]:
    found = np.maximum(np.frexp(x)[1].astype(np.int64) - 1, LOWEST[kind])
    return np.where(x == 0, NOTHING, found)


def step(a: Values, b: Values, c: Values, kinds: tuple[str, str], d: str = "f32") -> Values:
    """c + a b of one instruction step: a (m, terms), b (terms, n), c (m, n)."""
    ea, eb = exponent(a, kinds[0]), exponent(b, kinds[1])
    top = exponent(c, d)
    for t in range(a.shape[1]):
        top = np.maximum(top, ea[:, t, None] + eb[None, t])
    unit = np.ldexp(1.0, np.maximum(top, NOTHING + FRACTION_BITS) - FRACTION_BITS)
    total = np.trunc(c / unit)
    for t in range(a.shape[1]):
        total = total + np.trunc(a[:, t, None] * b[None, t] / unit)
    result = total * unit
    if d == "f16":
        return result.astype(np.float16).astype(np.float64)
    last = np.ldexp(1.0, np.maximum(exponent(result, d), LOWEST[d]) - FRACTION_BITS)
    return np.trunc(result / last) * last


def product(
    a: Values, b: Values, c: Values, kinds: tuple[str, str], terms: int, d: str = "f32"
) -> Values:
    """c + a b, as many products a step as `terms` says."""
    for first in range(0, a.shape[1], terms):
        here = slice(first, first + terms)
        c = step(a[:, here], b[here], c, kinds, d)
    return c
