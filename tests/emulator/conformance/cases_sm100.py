# SPDX-License-Identifier: BSD-3-Clause
"""sm_100a: tensor memory, tcgen05 ld/st and dense products of one and two CTAs, f32x2."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases_sm80 import wide_planes
from cases_sm90 import place
from forms import Case, TensorMap, register_kernel
from isa import BITS, RNG
from numpy.typing import NDArray

Array = NDArray[Any]

# lane, column and thread map of tcgen05.ld/st, per the ISA's matrix fragments of each shape
SHAPES = {"32x32b": 1, "16x64b": 1, "16x128b": 2, "16x256b": 4}


def cell(shape: str, lane: int, reg: int) -> tuple[int, int]:
    """Tensor-memory lane and column that register `reg` of thread `lane` holds."""
    quad, thread = lane >> 2, lane & 3
    if shape == "32x32b":
        return lane, reg
    if shape == "16x64b":  # even threads rows 0-7, odd threads rows 8-15; 2 columns a register
        return quad + 8 * (lane & 1), 2 * reg + ((lane >> 1) & 1)
    if shape == "16x128b":  # r0 rows 0-7, r1 rows 8-15; 4 columns a pair of registers
        return quad + 8 * (reg & 1), 4 * (reg // 2) + thread
    return quad + 8 * ((reg >> 1) & 1), 8 * (reg // 4) + 2 * thread + (reg & 1)


def move_case(shape: str, num: int, via: str = "32x32b") -> Case:
    """Each warp fills its lanes with .32x32b stores and reads them back in `shape`."""
    regs = SHAPES[shape] * num
    lanes = 32 if shape == "32x32b" else 16
    columns = {"32x32b": 1, "16x64b": 2, "16x128b": 4, "16x256b": 8}[shape] * num
    value = np.arange(128)[:, None] * 1000 + np.arange(columns)[None, :]
    want = np.zeros((4, regs, 32), np.uint32)
    for w, r, t in np.ndindex(4, regs, 32):
        lane, column = cell(shape, t, r)
        want[w, r, t] = value[32 * w + (16 if lanes == 16 else 0) + lane, column]
    name = f"tcgen05_ld_{shape}_x{num}"
    outs = ", ".join(f'"=r"(d[{i}])' for i in range(regs))
    d = ", ".join(f"%{i}" for i in range(regs))
    low = 16 if lanes == 16 else 0
    source = f"""extern "C" __global__ void {name}(const uint32_t*, uint32_t* out) {{
    __shared__ uint32_t at;
    const int t = threadIdx.x, warp = t / 32, l = t % 32;
    if (warp == 0) {{
        asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], 256;"
                     :: "r"(shared_at(&at)) : "memory");
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;");
    }}
    __syncthreads();
    const uint32_t base = at + (warp << 21);
    for (int c = 0; c < {columns}; ++c) {{
        asm volatile("tcgen05.st.sync.aligned.32x32b.x1.b32 [%0], {{%1}};"
                     :: "r"(base + c), "r"(t * 1000 + c) : "memory");
    }}
    asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory");
    uint32_t d[{regs}];
    asm volatile("tcgen05.ld.sync.aligned.{shape}.x{num}.b32 {{{d}}}, [%{regs}];"
                 : {outs} : "r"(base + ({low} << 16)));
    asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
    _Pragma("unroll") for (int i = 0; i < {regs}; ++i) out[(warp * {regs} + i) * 32 + l] = d[i];
    __syncthreads();
    if (warp == 0) {{
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, 256;" :: "r"(at));
    }}
}}
"""
    return Case(name, np.zeros(4, np.uint32), want, source=source, block=128)


FORMATS = {"f16": 0, "bf16": 1, "tf32": 2, "e4m3": 0, "e5m2": 1}
KINDS = {"f16": "f16", "bf16": "f16", "tf32": "tf32", "e4m3": "f8f6f4", "e5m2": "f8f6f4"}


def instruction(a: str, b: str, m: int, n: int, trans: bool) -> int:
    """The 32-bit descriptor of the dense kinds with an f32 accumulator."""
    majors = (1 << 15 | 1 << 16) if trans else 0
    return 1 << 4 | FORMATS[a] << 7 | FORMATS[b] << 10 | majors | (n // 8) << 17 | (m // 16) << 24


def smem_descriptor(start: int, leading: int, stride: int, span: int) -> int:
    layout = {0: 0, 128: 2, 64: 4, 32: 6}[span]
    return start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | 1 << 46 | layout << 61


def spot(m: int, ctas: int, n: int, i: int, j: int) -> tuple[int, int, int]:
    """CTA, lane, column of accumulator element (i, j): layouts F, D (one CTA), A, B (two)."""
    if ctas == 1:
        return (0, i % 16 + 32 * (i // 16), j) if m == 64 else (0, i, j)
    if m == 128:
        return i // 64, i % 64 + (64 if j >= n // 2 else 0), j % (n // 2)
    return i // 128, i % 128, j


def mma_case(
    a: str, b: str, m: int, n: int, *, span: int = 128, ctas: int = 1, trans: bool = False
) -> Case:
    """Two products into one accumulator: the first overwrites it, the second adds."""
    k = 256 // BITS[a]
    x = RNG.integers(-2, 3, (m, k)).astype(float)
    y = RNG.integers(-2, 3, (n, k)).astype(float)
    parts, head = [], np.zeros(8, np.uint32)
    rows, columns = m // ctas, n // ctas
    for c in range(ctas):
        image_a, lead_a, stride_a = place(x[c * rows : (c + 1) * rows], a, span, trans)
        image_b, lead_b, stride_b = place(y[c * columns : (c + 1) * columns], b, span, trans)
        parts.append(np.frombuffer(image_a + image_b, np.uint32))
    da = smem_descriptor(0, lead_a, stride_a, span)
    db = smem_descriptor(len(image_a), lead_b, stride_b, span)
    head[:4] = np.array([da, db], np.uint64).view(np.uint32)
    head[4] = len(parts[0])
    head[5] = instruction(a, b, m, n, trans)
    width = n // 2 if ctas == 2 and m == 128 else n
    want = np.full((ctas, 128, width), 7, np.float32)
    result = 2 * (x @ y.T)
    for i, j in np.ndindex(m, n):
        want[spot(m, ctas, n, i, j)] = result[i, j]
    name = f"tcgen05_mma_{ctas}cta_m{m}n{n}k{k}_{a}_{b}_swizzle_{span}{'_t' if trans else ''}"
    zeros = ", ".join(["%4"] * (4 * ctas))
    group = f"cta_group::{ctas}"
    sync = "cluster_sync();" if ctas == 2 else "__syncthreads();"
    multicast = ".multicast::cluster" if ctas == 2 else ""
    mask = ', "h"(uint16_t(3))' if ctas == 2 else ""
    source = f"""extern "C" __global__ void {name}(const uint32_t* in, uint32_t* out) {{
    extern __shared__ uint8_t raw[];
    __shared__ uint32_t at;
    __shared__ uint64_t done;
    uint32_t* image = reinterpret_cast<uint32_t*>(aligned(raw));
    const int t = threadIdx.x, warp = t / 32, words = in[4];
    const uint32_t cta = rank();
    for (int i = t; i < words; i += 128) image[i] = in[8 + cta * words + i];
    if (t == 0) barrier_init(&done, 1);
    if (warp == 0) {{
        asm volatile("tcgen05.alloc.{group}.sync.aligned.shared::cta.b32 [%0], 256;"
                     :: "r"(shared_at(&at)) : "memory");
        asm volatile("tcgen05.relinquish_alloc_permit.{group}.sync.aligned;");
    }}
    asm volatile("fence.proxy.async;" ::: "memory");
    {sync}
    const uint32_t lane = at + (warp << 21);
    for (int c = 0; c < {width}; ++c) {{
        asm volatile("tcgen05.st.sync.aligned.32x32b.x1.b32 [%0], {{%1}};"
                     :: "r"(lane + c), "r"(0x40e00000) : "memory");
    }}
    asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory");
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    {sync}
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
    if (t == 0 && cta == 0) {{
        const uint64_t base = shared_at(image) >> 4;
        const uint64_t da = (in[0] | uint64_t(in[1]) << 32) + base;
        const uint64_t db = (in[2] | uint64_t(in[3]) << 32) + base;
        for (uint32_t pass = 0; pass < 2; ++pass) {{
            asm volatile("{{ .reg .pred p; setp.ne.u32 p, %5, 0; "
                         "tcgen05.mma.{group}.kind::{KINDS[a]} [%0], %1, %2, %3, {{{zeros}}}, p; }}"
                         :: "r"(at), "l"(da), "l"(db), "r"(in[5]), "r"(0), "r"(pass) : "memory");
        }}
        asm volatile("tcgen05.commit.{group}.mbarrier::arrive::one.shared::cluster{multicast}"
                     ".b64 [%0]{", %1" if ctas == 2 else ""};"
                     :: "r"(shared_at(&done)){mask} : "memory");
    }}
    wait(&done, 0);
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
    for (int c = 0; c < {width}; ++c) {{
        uint32_t v;
        asm volatile("tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%0}}, [%1];"
                     : "=r"(v) : "r"(lane + c));
        asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
        out[(cta * 128 + t) * {width} + c] = v;
    }}
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    {sync}
    if (warp == 0) {{
        asm volatile("tcgen05.dealloc.{group}.sync.aligned.b32 %0, 256;" :: "r"(at));
    }}
}}
"""
    return Case(
        name,
        np.concatenate([head, *parts]),
        want.view(np.uint32),
        source=source,
        grid=ctas,
        cluster=ctas,
        block=128,
        shared=parts[0].nbytes + 1024,
    )


def packed_pairs() -> list[Case]:
    """add, mul, fma on two fp32 values in a 64-bit register."""
    x, y, z = (RNG.integers(-999, 999, (2, 32)).astype(np.float32) / 8 for _ in range(3))

    def wide(v: Array) -> Array:
        u = np.ascontiguousarray(v, np.float32).view(np.uint32).astype(np.uint64)
        return u[0] | u[1] << np.uint64(32)

    cases = []
    for op, operands, want in (
        ("add.rn.f32x2", (x, y), x + y),
        ("mul.rn.f32x2", (x, y), x * y),
        ("fma.rn.f32x2", (x, y, z), x * y + z),
    ):
        name = op.replace(".", "_")
        spots = ", ".join(f"%{i}" for i in range(len(operands) + 1))
        source = register_kernel(name, f"{op} {spots};", "l", "l" * len(operands))
        planes = np.concatenate([wide_planes(wide(o)) for o in operands])
        cases.append(Case(name, planes, wide_planes(wide(want)), source=source))
    return cases


def launches_and_gathers() -> list[Case]:
    matrix = RNG.integers(0, 2**31, (8, 64)).astype(np.uint32)
    rows = np.stack([matrix[3], matrix[1], np.zeros(64, np.uint32), matrix[6]])[:, 8:40]
    gather = TensorMap(2, (64, 8), (256,), (32, 1))
    return [
        Case("cluster_launch_refused", np.zeros(4, np.uint32), np.zeros(1, np.uint32)),
        Case("tma_gather4", matrix, rows.copy(), shared=2048, tensor_map=gather),
    ]


def cases() -> list[Case]:
    moves = [
        move_case(shape, num)
        for shape, nums in (
            ("32x32b", (1, 8, 64)),
            ("16x64b", (1, 4)),
            ("16x128b", (1, 4)),
            ("16x256b", (1, 4)),
        )
        for num in nums
    ]
    products = [
        mma_case("f16", "f16", 128, 64),
        mma_case("bf16", "bf16", 128, 256),
        mma_case("bf16", "bf16", 64, 64),
        mma_case("f16", "f16", 128, 128, span=64),
        mma_case("f16", "f16", 128, 32, span=32),
        mma_case("f16", "f16", 128, 32, span=0),
        mma_case("bf16", "bf16", 128, 64, trans=True),
        mma_case("tf32", "tf32", 128, 32),
        mma_case("e4m3", "e5m2", 128, 64),
        mma_case("bf16", "bf16", 256, 64, ctas=2),
        mma_case("bf16", "bf16", 128, 64, ctas=2),
        mma_case("e4m3", "e4m3", 256, 128, ctas=2),
    ]
    return [*packed_pairs(), *moves, *products, *launches_and_gathers()]
