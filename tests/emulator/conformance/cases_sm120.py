# SPDX-License-Identifier: BSD-3-Clause
"""sm_120a: mma.sync of the narrow formats (kind::f8f6f4), each element in a byte of its own."""

from __future__ import annotations

import numpy as np
from forms import Case, register_kernel
from isa import RNG, mma_a, mma_b, mma_c, pack_fragment

# Codes of 0, 0.5, 1, 1.5, 2 in their byte: e2m1 in bits 2 to 5, the 6-bit formats in bits 0 to 5.
CODES = {
    "e4m3": [0x00, 0x30, 0x38, 0x3C, 0x40],
    "e5m2": [0x00, 0x38, 0x3C, 0x3E, 0x40],
    "e3m2": [0x00, 0x08, 0x0C, 0x0E, 0x10],
    "e2m3": [0x00, 0x04, 0x08, 0x0C, 0x10],
    "e2m1": [0x0 << 2, 0x1 << 2, 0x2 << 2, 0x3 << 2, 0x4 << 2],
}
SIGN = {"e4m3": 0x80, "e5m2": 0x80, "e3m2": 0x20, "e2m3": 0x20, "e2m1": 0x20}


def draw(kind: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Values in halves from -2 to 2, and their bytes."""
    index, sign = RNG.integers(0, 5, shape), RNG.integers(0, 2, shape)
    values = index / 2 * np.where(sign == 1, -1.0, 1.0)
    return values, np.array(CODES[kind])[index] | sign * SIGN[kind]


def product(a: str, b: str) -> Case:
    x, bytes_a = draw(a, (16, 32))
    y, bytes_b = draw(b, (32, 8))
    z = RNG.integers(-9, 9, (16, 8)).astype(float)
    planes = [
        pack_fragment(z, "f32", 4, mma_c),
        pack_fragment(bytes_a, "u8", *mma_a("u8", 32)),
        pack_fragment(bytes_b, "u8", *mma_b("u8", 32)),
    ]
    name = f"mma_f8f6f4_m16n8k32_f32_{a}_{b}"
    asm = (
        f"mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.{a}.{b}.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
    )
    expected = pack_fragment(x @ y + z, "f32", 4, mma_c)
    source = register_kernel(name, asm, "ffff", "rrrrrr", tied=4)
    return Case(name, np.concatenate(planes), expected, source=source)


def cases() -> list[Case]:
    kinds = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")
    return [product(a, b) for a, b in zip(kinds, kinds[1:] + kinds[:1], strict=True)]
