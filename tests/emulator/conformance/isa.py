# SPDX-License-Identifier: BSD-3-Clause
"""Layouts and number formats of the PTX ISA in NumPy, stated apart from the emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Array = NDArray[Any]
Place = Callable[[int, int], tuple[int, int]]  # (lane, element) -> (row, column)

RNG = np.random.default_rng()


def reseed(seed: int) -> None:
    """Cases draw from RNG: the same numbers in every process, whatever was drawn before."""
    RNG.bit_generator.state = np.random.default_rng(seed).bit_generator.state


BITS = {
    "f16": 16,
    "bf16": 16,
    "tf32": 32,
    "f32": 32,
    "s32": 32,
    "e4m3": 8,
    "e5m2": 8,
    "s8": 8,
    "u8": 8,
    "s4": 4,
    "u4": 4,
}


def bf16_bits(values: Array) -> NDArray[np.uint16]:
    """Round to nearest even; for finite values."""
    u = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def fp8_values(kind: str) -> NDArray[np.float64]:
    """The value of each of the 256 codes (OCP E4M3 without infinities, E5M2 like IEEE)."""
    mantissa = 3 if kind == "e4m3" else 2
    bias = 7 if kind == "e4m3" else 15
    values = np.zeros(256)
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        exponent = (code & 0x7F) >> mantissa
        fraction = (code & ((1 << mantissa) - 1)) / (1 << mantissa)
        if exponent == 0:
            value = fraction * 2.0 ** (1 - bias)
        else:
            value = (1 + fraction) * 2.0 ** (exponent - bias)
        if kind == "e4m3" and code & 0x7F == 0x7F:
            value = np.nan
        if kind == "e5m2" and exponent == 31:
            value = np.inf if code & 3 == 0 else np.nan
        values[code] = sign * value
    return values


def fp8_bits(values: Array, kind: str) -> NDArray[np.uint8]:
    """cvt.rn.satfinite: nearest code, ties to even mantissa, clamped; NaN is 0x7f."""
    table = fp8_values(kind)[:128]
    finite = np.where(np.isfinite(table), table, np.inf)
    codes = np.zeros(values.shape, np.uint8)
    for index, v in np.ndenumerate(np.asarray(values, np.float64)):
        if np.isnan(v):
            codes[index] = 0x7F
            continue
        gap = np.abs(finite - min(abs(v), float(np.max(finite[np.isfinite(finite)]))))
        nearest = np.flatnonzero(gap == gap.min())
        best = nearest[0] if len(nearest) == 1 or nearest[0] % 2 == 0 else nearest[1]
        codes[index] = best | (0x80 if np.signbit(v) else 0)
    return codes


def fp8_operand(kind: str, rows: int, columns: int) -> NDArray[np.float64]:
    """8-bit floats over 12 powers of two and more, subnormals and zeros among them."""
    sizes = np.exp2(RNG.integers(-9, 3, (rows, columns)))
    return fp8_values(kind)[fp8_bits(RNG.normal(0, 1, (rows, columns)) * sizes, kind)]


def fp8_accumulator(kind: str, rows: int, columns: int) -> NDArray[np.float64]:
    """f32 or f16 with all fraction bits in use, below and above sums of such products."""
    values = RNG.normal(0, 1, (rows, columns)) * np.exp2(RNG.integers(-6, 8, (rows, columns)))
    return values.astype(np.float32 if kind == "f32" else np.float16).astype(np.float64)


def encode(values: Array, kind: str) -> NDArray[np.uint32]:
    """Element codes of small exactly representable values."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16).astype(np.uint32)
    if kind == "bf16":
        return bf16_bits(values).astype(np.uint32)
    if kind in ("f32", "tf32"):
        return np.ascontiguousarray(values, np.float32).view(np.uint32)
    if kind in ("e4m3", "e5m2"):
        return fp8_bits(values, kind).astype(np.uint32)
    mask = (1 << BITS[kind]) - 1
    return (values.astype(np.int64) & mask).astype(np.uint32)


def pack_fragment(matrix: Array, kind: str, elements: int, place: Place) -> Words:
    """Planes [register][lane] of a matrix; element i of a lane sits at place(lane, i)."""
    per_word = 32 // BITS[kind]
    planes = np.zeros((elements // per_word, 32), np.uint32)
    codes = encode(matrix, kind)
    for lane in range(32):
        for i in range(elements):
            shift = BITS[kind] * (i % per_word)
            planes[i // per_word, lane] |= np.uint32(int(codes[place(lane, i)]) << shift)
    return planes


def mma_a(kind: str, k: int) -> tuple[int, Place]:
    """Elements per lane and their places in A of mma.m16n8k{k}."""
    bits = BITS[kind]
    w = 32 // bits  # elements of a register
    wide = 16 * k // 32 // w == 4  # four registers

    def place(lane: int, i: int) -> tuple[int, int]:
        group, thread, register = lane >> 2, lane % 4, i // w
        if wide:
            row = group if register in (0, 2) else group + 8
            column = thread * w + i % w + (0 if register < 2 else 4 * w)
        else:
            row = group if register == 0 else group + 8
            column = thread * w + i % w
        return row, column

    return 16 * k // 32, place


def mma_b(kind: str, k: int) -> tuple[int, Place]:
    """Elements per lane and their places (k, n) in B of mma.m16n8k{k}."""
    w = 32 // BITS[kind]

    def place(lane: int, i: int) -> tuple[int, int]:
        group, thread = lane >> 2, lane % 4
        return thread * w + i % w + 4 * w * (i // w), group

    return k * 8 // 32, place


def mma_c(lane: int, i: int) -> tuple[int, int]:
    """Place of element i of the accumulator of mma.m16n8k*: c0 c1 in row g, c2 c3 in row g + 8."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def swizzle(address: int, span: int) -> int:
    """16-byte pieces of a span of 32, 64 or 128 bytes, permuted by address bits 7 and up."""
    if span == 0:
        return address
    bits = {32: 1, 64: 2, 128: 3}[span]
    return address ^ (((address >> 7) & ((1 << bits) - 1)) << 4)
