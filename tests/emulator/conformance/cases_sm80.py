# SPDX-License-Identifier: BSD-3-Clause
"""sm_80: mma.sync, approximations, rounding, conversions, shuffles, ldmatrix, cp.async."""

from __future__ import annotations

from typing import Any

import numpy as np
from forms import Case, register_kernel
from fp8_sums import product
from isa import (
    BITS,
    RNG,
    bf16_bits,
    encode,
    fp8_accumulator,
    fp8_operand,
    mma_a,
    mma_b,
    mma_c,
    pack_fragment,
)
from numpy.typing import NDArray

Array = NDArray[Any]


def words(values: Array) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32).reshape(-1, 32)


def mma_case(a: str, b: str, c: str, k: int, prefix: str = "", fp8_terms: int = 0) -> Case:
    """mma.sync on small integers: every partial sum is exact, so the bits are determined.

    With fp8_terms on 8-bit floats of many sizes instead, summed as fp8_sums.py says.
    """
    low_a, low_b = (0 if kind.startswith("u") else -2 for kind in (a, b))
    x = RNG.integers(low_a, 3, (16, k)).astype(float)
    y = RNG.integers(low_b, 3, (k, 8)).astype(float)
    z = RNG.integers(-9, 9, (16, 8)).astype(float)
    if fp8_terms:
        x, y, z = fp8_operand(a, 16, k), fp8_operand(b, k, 8), fp8_accumulator(c, 16, 8)
    count_a, place_a = mma_a(a, k)
    count_b, place_b = mma_b(b, k)
    planes = [
        pack_fragment(x, a, count_a, place_a),
        pack_fragment(y, b, count_b, place_b),
        pack_fragment(z, c, 4, mma_c),
    ]
    result = product(x, y, z, (a, b), fp8_terms, c) if fp8_terms else x @ y + z
    expected = pack_fragment(result, c, 4, mma_c)
    na, nb, nc = (len(p) for p in planes)
    letter = "f" if c == "f32" else "r"
    text = ", ".join
    c_regs = text(f"%{i}" for i in range(nc))
    a_regs = text(f"%{i}" for i in range(nc, nc + na))
    b_regs = text(f"%{i}" for i in range(nc + na, nc + na + nb))
    name = f"mma_m16n8k{k}_{c}_{a}_{b}" + ("_sizes" if fp8_terms else "")
    asm = (
        f"mma.sync.aligned.{prefix}m16n8k{k}.row.col.{c}.{a}.{b}.{c} "
        f"{{{c_regs}}}, {{{a_regs}}}, {{{b_regs}}}, {{{c_regs}}};"
    )
    return Case(
        name,
        np.concatenate([planes[2], planes[0], planes[1]]),
        expected,
        source=register_kernel(name, asm, letter * nc, "r" * (na + nb), tied=nc),
        own_gpu=bool(fp8_terms),
    )


def mma_cases() -> list[Case]:
    cases = []
    for k in (8, 16):
        cases += [mma_case("f16", "f16", c, k) for c in ("f32", "f16")]
        cases.append(mma_case("bf16", "bf16", "f32", k))
        cases.append(mma_case("tf32", "tf32", "f32", k // 2))
        for a in ("s8", "u8"):
            cases += [mma_case(a, b, "s32", 2 * k) for b in ("s8", "u8")]
        cases.append(mma_case("s4", "s4", "s32", 4 * k))
    return cases


def relative(bound: float) -> Any:
    def good(got: Array, want: Array) -> Array:
        return np.abs(got.astype(np.float64) - want) <= bound * np.abs(want)

    return good


def absolute(bound: float) -> Any:
    def good(got: Array, want: Array) -> Array:
        return np.abs(got.astype(np.float64) - want) <= bound

    return good


def approx_case(op: str, x: Array, want: Array, tolerance: Any) -> Case:
    name = op.replace(".", "_")
    source = register_kernel(name, f"{op} %0, %1;", "f", "f")
    x = x.astype(np.float32).reshape(1, 32)
    return Case(
        name,
        words(x),
        want.astype(np.float32).reshape(1, 32),
        source=source,
        tolerance=lambda got, _: tolerance(got.ravel(), want.ravel()).reshape(1, 32),
    )


def approximations() -> list[Case]:
    wide = RNG.uniform(-20, 20, 32).astype(np.float32).astype(np.float64)
    positive = np.exp2(wide).astype(np.float32).astype(np.float64)
    near_one = RNG.uniform(0.5, 2, 32).astype(np.float32).astype(np.float64)
    angle = RNG.uniform(-np.pi, np.pi, 32).astype(np.float32).astype(np.float64)
    small = RNG.uniform(-3, 3, 32).astype(np.float32).astype(np.float64)
    return [
        approx_case("ex2.approx.ftz.f32", wide, np.exp2(wide), relative(2**-22)),
        approx_case(
            "ex2.approx.f32",
            wide * 6,
            np.exp2((wide * 6).astype(np.float32).astype(float)),
            relative(2**-22),
        ),
        approx_case("lg2.approx.f32", near_one, np.log2(near_one), absolute(2**-22)),
        approx_case("lg2.approx.ftz.f32", positive * 4, np.log2(positive * 4), absolute(2**-17.7)),
        approx_case("rcp.approx.ftz.f32", positive, 1 / positive, relative(2**-23)),
        approx_case("rsqrt.approx.ftz.f32", positive, positive**-0.5, relative(2**-22.4)),
        approx_case("sqrt.approx.f32", positive, np.sqrt(positive), relative(2**-23)),
        approx_case("sin.approx.f32", angle, np.sin(angle), absolute(2**-20.5)),
        approx_case("cos.approx.f32", angle, np.cos(angle), absolute(2**-20.5)),
        approx_case("tanh.approx.f32", small, np.tanh(small), relative(2**-11)),
    ]


def round_f32(exact: Array, mode: str) -> NDArray[np.float32]:
    """float64 to float32 under a rounding mode; `exact` holds the exact result."""
    near = exact.astype(np.float32)
    back = near.astype(np.float64)
    up = np.nextafter(near, np.float32(np.inf))
    down = np.nextafter(near, np.float32(-np.inf))
    high, low = np.where(back < exact, up, near), np.where(back > exact, down, near)
    if mode == "rn":
        return near
    if mode == "rp":
        return high.astype(np.float32)
    if mode == "rm":
        return low.astype(np.float32)
    return np.where(exact < 0, high, low).astype(np.float32)


def simple(op: str, outputs: str, inputs: str, operands: list[Array], want: Array) -> Case:
    """One instruction, results equal in every bit."""
    name = "_".join(op.replace("::", ".").split("."))
    spots = ", ".join(f"%{i}" for i in range(len(outputs) + len(inputs)))
    planes = [words(o) if o.dtype.itemsize == 4 else wide_planes(o) for o in operands]
    result = words(want) if want.dtype.itemsize == 4 else wide_planes(want)
    source = register_kernel(name, f"{op} {spots};", outputs, inputs)
    return Case(name, np.concatenate(planes), result, source=source)


def wide_planes(values: Array) -> NDArray[np.uint32]:
    u = np.ascontiguousarray(values).view(np.uint64).reshape(-1, 32)
    parts = [np.stack([(r & 0xFFFFFFFF), (r >> 32)]) for r in u]
    return np.concatenate(parts).astype(np.uint32)


def rounding() -> list[Case]:
    cases = []
    # 12-bit operands of near exponents: products and sums are exact in float64.
    a = np.ldexp(RNG.integers(-4095, 4096, 32), RNG.integers(-12, 3, 32)).astype(np.float32)
    b = np.ldexp(RNG.integers(1, 4096, 32), RNG.integers(-12, 3, 32)).astype(np.float32)
    c = np.ldexp(RNG.integers(-4095, 4096, 32), RNG.integers(-20, 8, 32)).astype(np.float32)
    a64, b64, c64 = (x.astype(np.float64) for x in (a, b, c))
    tiny = (c64 * 2.0**-14).astype(np.float32)
    for mode in ("rn", "rz", "rm", "rp"):
        cases.append(
            simple(
                f"fma.{mode}.f32",
                "f",
                "fff",
                [a, b, tiny],
                round_f32(a64 * b64 + tiny.astype(np.float64), mode),
            )
        )
        cases.append(
            simple(
                f"add.{mode}.f32",
                "f",
                "ff",
                [a, tiny],
                round_f32(a64 + tiny.astype(np.float64), mode),
            )
        )
        cases.append(
            simple(
                f"mul.{mode}.f32",
                "f",
                "ff",
                [a * 4097, b * 4099],
                round_f32((a * 4097).astype(np.float64) * (b * 4099).astype(np.float64), mode),
            )
        )
    return cases


def halves(lo: Array, hi: Array) -> NDArray[np.uint32]:
    return (lo.astype(np.uint32) | hi.astype(np.uint32) << 16).astype(np.uint32)


def f16(values: Array) -> NDArray[np.uint16]:
    return values.astype(np.float16).view(np.uint16)


def sixteen_bit() -> list[Case]:
    cases = []
    x, y, z = (
        np.ldexp(RNG.integers(-1023, 1024, (2, 32)), -8).astype(np.float64) for _ in range(3)
    )
    z = z / 64

    def operands(round_to: Any) -> list[Array]:
        return [halves(round_to(v[0]), round_to(v[1])) for v in (x, y, z)]

    def exact(kind: str) -> list[Array]:
        if kind == "f16":
            return [v.astype(np.float16).astype(np.float64) for v in (x, y, z)]
        return [
            (bf16_bits(v).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
            for v in (x, y, z)
        ]

    for kind, code in (("f16", f16), ("bf16", bf16_bits)):
        ins = operands(code)
        p, q, r = exact(kind)

        def out(v: Array, code: Any = code) -> Array:
            # float64 -> float32 -> bf16 would round twice: results here have at most 24 bits.
            return halves(code(v[0]), code(v[1]))

        fma = p * q + r
        assert kind == "f16" or np.all(fma == fma.astype(np.float32)), "fma must fit 24 bits"
        cases.append(simple(f"fma.rn.{kind}x2", "r", "rrr", ins, out(fma)))
        cases.append(simple(f"fma.rn.relu.{kind}x2", "r", "rrr", ins, out(np.maximum(fma, 0))))
        cases.append(simple(f"max.{kind}x2", "r", "rr", ins[:2], out(np.maximum(p, q))))
        cases.append(simple(f"min.NaN.{kind}x2", "r", "rr", ins[:2], out(np.minimum(p, q))))
    ins = operands(f16)
    p, q, r = exact("f16")
    cases.append(
        simple("add.f16x2", "r", "rr", [ins[0], ins[2]], halves(f16(p + r)[0], f16(p + r)[1]))
    )
    cases.append(simple("mul.f16x2", "r", "rr", ins[:2], halves(f16(p * q)[0], f16(p * q)[1])))
    return cases


def conversions() -> list[Case]:
    x = np.concatenate(
        [
            RNG.uniform(-70000, 70000, 16),
            RNG.uniform(-2e-5, 2e-5, 12),
            [np.inf, -np.inf, 65520, 2**-25],
        ]
    )
    x = x.astype(np.float32)
    y = RNG.uniform(-9, 9, 32).astype(np.float32)
    with np.errstate(over="ignore"):
        near = x.astype(np.float16)
    toward = near.copy()
    grew = np.abs(near.astype(np.float64)) > np.abs(x.astype(np.float64))
    toward[grew] = np.nextafter(near[grew], np.float16(0))
    u = y.view(np.uint32)
    rna = ((u + 0x1000) & 0xFFFFE000).astype(np.uint32)
    half = (np.arange(32) - 16 + 0.5).astype(np.float32)
    return [
        simple("cvt.rn.f16.f32", "h", "f", [x], near.view(np.uint16).astype(np.uint32)),
        simple("cvt.rz.f16.f32", "h", "f", [x], toward.view(np.uint16).astype(np.uint32)),
        simple("cvt.rn.f16x2.f32", "r", "ff", [y, y[::-1].copy()], halves(f16(y[::-1]), f16(y))),
        simple(
            "cvt.rn.bf16x2.f32",
            "r",
            "ff",
            [y, y[::-1].copy()],
            halves(bf16_bits(y[::-1]), bf16_bits(y)),
        ),
        simple(
            "cvt.rn.relu.bf16x2.f32",
            "r",
            "ff",
            [y, y[::-1].copy()],
            halves(bf16_bits(np.maximum(y[::-1], 0)), bf16_bits(np.maximum(y, 0))),
        ),
        simple("cvt.rna.tf32.f32", "r", "f", [y], rna),
        simple("cvt.rni.s32.f32", "r", "f", [half], np.rint(half).astype(np.int32)),
        simple("cvt.rzi.s32.f32", "r", "f", [half], np.trunc(half).astype(np.int32)),
        simple("cvt.rpi.s32.f32", "r", "f", [half], np.ceil(half).astype(np.int32)),
        simple("cvt.rmi.s32.f32", "r", "f", [half], np.floor(half).astype(np.int32)),
    ]


def integers() -> list[Case]:
    a = RNG.integers(0, 2**32, 32, dtype=np.uint64).astype(np.uint32)
    b = RNG.integers(0, 2**32, 32, dtype=np.uint64).astype(np.uint32)
    c = RNG.integers(0, 2**32, 32, dtype=np.uint64).astype(np.uint32)
    n = RNG.integers(0, 32, 32).astype(np.uint32)
    a64, b64, c64 = (v.astype(np.uint64) for v in (a, b, c))
    s64 = a.view(np.int32).astype(np.int64)
    bytes_of = np.stack([v.view(np.uint8).reshape(32, 4) for v in (a, b)], 1).reshape(32, 8)
    select = RNG.integers(0, 8, (32, 4))
    nibbles = sum((select[:, i] << (4 * i)).astype(np.uint32) for i in range(4)).astype(np.uint32)
    picked = np.take_along_axis(bytes_of, select, 1).copy().view(np.uint32).ravel()
    dp = np.sum(a.view(np.int8).reshape(32, 4).astype(np.int64) * b.view(np.int8).reshape(32, 4), 1)
    popc = np.array([bin(int(v)).count("1") for v in a], np.uint32)
    brev = np.array([int(f"{int(v):032b}"[::-1], 2) for v in a], np.uint32)
    clz = np.array([32 - int(v).bit_length() for v in (a64 >> n)], np.uint32)
    funnel = (((b64 << 32) | a64) >> n.astype(np.uint64)).astype(np.uint32)
    lop = (a & b) ^ c  # immLut: (0xf0 & 0xcc) ^ 0xaa = 0x6a
    cases = [
        simple("mul.hi.u32", "r", "rr", [a, b], ((a64 * b64) >> np.uint64(32)).astype(np.uint32)),
        simple("mul.wide.s32", "l", "rr", [a, b], (s64 * b.view(np.int32)).astype(np.int64)),
        simple("mad.lo.u32", "r", "rrr", [a, b, c], (a64 * b64 + c64).astype(np.uint32)),
        simple("prmt.b32", "r", "rrr", [a, b, nibbles], picked),
        simple("dp4a.s32.s32", "r", "rrr", [a, b, c], (dp + c.view(np.int32)).astype(np.int32)),
        simple("popc.b32", "r", "r", [a], popc),
        simple("brev.b32", "r", "r", [a], brev),
        simple("clz.b32", "r", "r", [(a64 >> n).astype(np.uint32)], clz),
        simple("shf.r.wrap.b32", "r", "rrr", [a, b, n], funnel),
        simple(
            "bfe.u32",
            "r",
            "rrr",
            [a, n, n],
            ((a64 >> n) & ((np.uint64(1) << n.astype(np.uint64)) - np.uint64(1))).astype(np.uint32),
        ),
    ]
    name = "lop3_b32"
    source = register_kernel(name, "lop3.b32 %0, %1, %2, %3, 0x6a;", "r", "rrr")
    cases.append(Case(name, np.stack([a, b, c]), lop.reshape(1, 32), source=source))
    return cases


def shuffles() -> list[Case]:
    v = RNG.integers(0, 2**32, 32, dtype=np.uint64).astype(np.uint32)
    lane = np.arange(32)
    cases = []
    for mode, clamp, source_lane in (
        ("idx", 0x1F, np.full(32, 5)),
        ("bfly", 0x1F, lane ^ 5),
        ("down", 0x1F, np.where(lane + 5 < 32, lane + 5, lane)),
        ("up", 0, np.where(lane - 5 >= 0, lane - 5, lane)),
    ):
        name = f"shfl_sync_{mode}_b32"
        asm = f"shfl.sync.{mode}.b32 %0, %1, 5, {clamp}, 0xffffffff;"
        cases.append(
            Case(
                name,
                v.reshape(1, 32),
                v[source_lane].reshape(1, 32),
                source=register_kernel(name, asm, "r", "r"),
            )
        )
    signed = v.view(np.int32)
    for op, want in (
        ("add.s32", np.sum(signed, dtype=np.int32)),
        ("max.u32", v.max()),
        ("min.s32", signed.min()),
        ("xor.b32", np.bitwise_xor.reduce(v)),
    ):
        name = f"redux_sync_{op.replace('.', '_')}"
        source = register_kernel(name, f"redux.sync.{op} %0, %1, 0xffffffff;", "r", "r")
        result = np.full((1, 32), want).view(np.uint32)
        cases.append(Case(name, v.reshape(1, 32), result, source=source))
    ballot = sum(1 << i for i in range(32) if v[i] & 1)
    name = "vote_sync_ballot_b32"
    asm = (
        "{ .reg .pred p; .reg .b32 t; and.b32 t, %1, 1; setp.ne.b32 p, t, 0; "
        "vote.sync.ballot.b32 %0, p, 0xffffffff; }"
    )
    cases.append(
        Case(
            name,
            v.reshape(1, 32),
            np.full((1, 32), ballot, np.uint32),
            source=register_kernel(name, asm, "r", "r"),
        )
    )
    return cases


def matrices() -> list[Case]:
    """ldmatrix: the buffer is four 8x8 matrices of halves, rows one after another; movmatrix."""
    m = RNG.integers(0, 2**16, (4, 8, 8), dtype=np.uint32)
    lane = np.arange(32)
    row, column = lane // 4, 2 * (lane % 4)
    cases = []
    for n in (1, 2, 4):
        for trans in (False, True):
            planes = []
            for k in range(n):
                t = m[k].T if trans else m[k]
                planes.append(halves(t[row, column], t[row, column + 1]))
            name = f"ldmatrix_x{n}{'_trans' if trans else ''}"
            cases.append(
                Case(name, m.astype(np.uint16).view(np.uint32), np.stack(planes), kernel=name)
            )
    word = halves(m[0][row, column], m[0][row, column + 1])
    want = halves(m[0].T[row, column], m[0].T[row, column + 1])
    source = register_kernel("movmatrix", "movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;", "r", "r")
    cases.append(Case("movmatrix", word.reshape(1, 32), want.reshape(1, 32), source=source))
    return cases


def copies() -> list[Case]:
    data = RNG.integers(0, 2**32, 256, dtype=np.uint64).astype(np.uint32)
    cases = []
    for size in (4, 8, 16):
        n = 32 * size // 4
        cases.append(Case(f"cp_async_ca_{size}", data, data[:n].copy()))
    zfill = data[:128].copy().reshape(32, 4)
    zfill[:, 1:] = 0  # source size 4 of 16 bytes
    cases.append(Case("cp_async_zfill", data, zfill))
    ring = np.concatenate([data[32 * k : 32 * k + 32] for k in range(8)])
    cases.append(Case("cp_async_groups", data, ring))
    return cases


def wmma() -> list[Case]:
    """The wmma API: a fragment's layout is open, so elements are only doubled, all alike."""
    cases = []
    for m, n, k, d, a, col_a, col_b in (
        (16, 16, 16, "f32", "f16", False, True),
        (16, 16, 16, "f16", "f16", False, False),
        (32, 8, 16, "f32", "f16", True, False),
        (8, 32, 16, "f32", "bf16", False, True),
        (16, 16, 16, "s32", "s8", False, True),
        (16, 16, 8, "f32", "tf32", False, True),
    ):
        x = RNG.integers(-2, 3, (m, k)).astype(float)
        y = RNG.integers(-2, 3, (k, n)).astype(float)
        z = RNG.integers(-9, 9, (m, n)).astype(float)
        parts = [
            memory(x.T if col_a else x, a),
            memory(y.T if col_b else y, a),
            memory(z, d),
        ]
        want = memory(2 * (x @ y + z), d)
        cases.append(Case(f"wmma_m{m}n{n}k{k}_{d}_{a}", np.concatenate(parts), want))
    return cases


def memory(matrix: Array, kind: str) -> NDArray[np.uint32]:
    """Row-major in memory, as 32-bit words."""
    width = {8: np.uint8, 16: np.uint16, 32: np.uint32}[BITS[kind]]
    return np.ascontiguousarray(encode(matrix, kind).astype(width)).reshape(-1).view(np.uint32)


def cases() -> list[Case]:
    return [
        *mma_cases(),
        *approximations(),
        *rounding(),
        *sixteen_bit(),
        *conversions(),
        *integers(),
        *shuffles(),
        *matrices(),
        *copies(),
        *wmma(),
    ]
