# SPDX-License-Identifier: BSD-3-Clause
"""sm_90a: stmatrix, mbarrier, bulk and tensor copies, clusters, wgmma."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from cases_sm80 import halves
from forms import Case, TensorMap
from fp8_sums import TERMS, product
from isa import (
    BITS,
    RNG,
    bf16_bits,
    encode,
    fp8_accumulator,
    fp8_operand,
    mma_a,
    pack_fragment,
    swizzle,
)
from numpy.typing import NDArray

Array = NDArray[Any]


def random_words(n: int) -> NDArray[np.uint32]:
    return RNG.integers(0, 2**32, n, dtype=np.uint64).astype(np.uint32)


def stores() -> list[Case]:
    m = RNG.integers(0, 2**16, (4, 8, 8), dtype=np.uint32)
    lane = np.arange(32)
    row, column = lane // 4, 2 * (lane % 4)
    cases = []
    for n, trans in itertools.product((1, 2, 4), (False, True)):
        planes = []
        for k in range(4):
            t = m[k].T if trans else m[k]
            planes.append(halves(t[row, column], t[row, column + 1]))
        want = m.astype(np.uint16)
        want[n:] = 0
        name = f"stmatrix_x{n}{'_trans' if trans else ''}"
        cases.append(Case(name, np.stack(planes), want.view(np.uint32)))
    return cases


def barriers_and_bulk() -> list[Case]:
    words = random_words(256)
    a, b = words[:64], words[64:128]
    phases = [1, 0, 2, 0, 0, 1, 1, 0, 1, 1, 1]
    cases = [
        Case("elect_sync", words[:1], np.array([1, 1], np.uint32)),
        Case("mbarrier_phases", words[:1], np.array(phases, np.uint32)),
        Case("bulk_round_trip", words, words + np.uint32(1)),
        Case("cp_async_arrive", words[:32], words[31::-1].copy()),
        Case("remote_arrive", words[:1], np.full(32, words[0]), grid=2, cluster=2),
    ]
    signed = np.minimum(a.view(np.int32), b.view(np.int32)).view(np.uint32)
    small = RNG.integers(-50, 50, (2, 128))
    f32 = small[:, :64].astype(np.float32)
    for name, ab, want in (
        ("add_u32", (a, b), a + b),
        ("min_s32", (a, b), signed),
        ("max_u32", (a, b), np.maximum(a, b)),
        ("and_b32", (a, b), a & b),
        ("xor_b32", (a, b), a ^ b),
        ("add_f32", f32, f32[0] + f32[1]),
        ("add_f16", small.astype(np.float16), (small[0] + small[1]).astype(np.float16)),
        ("add_bf16", bf16_bits(small), bf16_bits(small[0] + small[1])),
    ):
        data = np.concatenate([np.ascontiguousarray(v).view(np.uint32) for v in ab])
        result = np.ascontiguousarray(want).view(np.uint32)
        cases.append(Case(f"bulk_reduce_{name}", data, result))
    x, y = words[:32], words[32:64]
    exchanged = [y, y ^ 1, y ^ 2, y, x, x ^ 1, x ^ 2, x]
    cases.append(Case("cluster_exchange", words[:64], np.concatenate(exchanged), grid=2, cluster=2))
    return cases


# ---- tensor copies

TYPES = {"u8": (0, np.uint8), "u32": (2, np.uint32), "f16": (6, np.uint16), "f32": (7, np.uint32)}


def tile(
    tensor: Array, corner: tuple[int, ...], box: tuple[int, ...], steps: tuple[int, ...], fill: int
) -> Array:
    """The box at `corner` (outermost first here), elements outside the tensor filled."""
    counts = [-(-b // s) for b, s in zip(box[:-1], steps[:-1], strict=True)] + [box[-1]]
    out = np.full(counts, fill, tensor.dtype)
    for index in np.ndindex(*counts):
        stride = [*steps[:-1], 1]
        at = tuple(c + i * s for c, i, s in zip(corner, index, stride, strict=True))
        if all(0 <= p < n for p, n in zip(at, tensor.shape, strict=True)):
            out[index] = tensor[at]
    return out


def swizzled(box: Array, span: int) -> NDArray[np.uint8]:
    flat = np.ascontiguousarray(box).view(np.uint8).ravel()
    out = np.zeros_like(flat)
    for piece in range(0, len(flat), 16):
        to = swizzle(piece, span)
        out[to : to + 16] = flat[piece : piece + 16]
    return out


def tma_kernel(name: str, corner: tuple[int, ...], size: int, kind: str) -> str:
    """load, store or reduce of one box of `size` bytes; the corner is given innermost first."""
    rank = len(corner)
    coords = ", ".join(str(c) for c in corner)
    load = (
        f"cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        f" [%0], [%1, {{{coords}}}], [%2];"
    )
    verb = "cp.reduce" if kind == "reduce" else "cp"
    op = ".add" if kind == "reduce" else ""
    store = (
        f"{verb}.async.bulk.tensor.{rank}d.global.shared::cta{op}.tile.bulk_group"
        f" [%0, {{{coords}}}], [%1];"
    )
    head = f"""extern "C" __global__ void {name}(const __grid_constant__ CUtensorMap map,
    const uint32_t* in, uint32_t* out, int = 0) {{
    extern __shared__ uint8_t raw[];
    __shared__ uint64_t full;
    uint32_t* buffer = reinterpret_cast<uint32_t*>(aligned(raw));
    const int l = threadIdx.x;
    if (l == 0) barrier_init(&full, 1);
"""
    if kind == "load":
        body = f"""    __syncthreads();
    if (l == 0) {{
        expect(&full, {size});
        asm volatile("{load}" :: "r"(shared_at(buffer)), "l"(&map), "r"(shared_at(&full))
                     : "memory");
    }}
    wait(&full, 0);
    for (int i = l; i < {size // 4}; i += 32) out[i] = buffer[i];
}}
"""
    else:
        body = f"""    for (int i = l; i < {size // 4}; i += 32) buffer[i] = STORED(i);
    fence_async();
    __syncthreads();
    if (l == 0) {{
        asm volatile("{store}" :: "l"(&map), "r"(shared_at(buffer)) : "memory");
        commit_and_wait();
        for (int i = 0; i < WORDS; ++i) out[i] = in[i];
    }}
}}
"""
    return (head + body).replace(", int = 0", "")


def tma_load(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    corner: tuple[int, ...],
    box: tuple[int, ...],
    *,
    span: int = 0,
    steps: tuple[int, ...] = (),
    nan: bool = False,
    pad: int = 0,
) -> Case:
    """shape, corner, box, steps: outermost first; the innermost rows of the tensor are padded."""
    code, dtype = TYPES[kind]
    pitch = shape[-1] + pad
    info = np.iinfo(dtype)
    store = RNG.integers(0, info.max, (*shape[:-1], pitch), dtype=np.uint64).astype(dtype)
    tensor = store[..., : shape[-1]]
    steps = steps or (1,) * len(shape)
    nan_code = {2: 0x7FFF, 4: 0x7FFFFFFF}.get(dtype().itemsize, 0)
    inside = tile(tensor, corner, box, steps, nan_code if nan else 0)
    want = swizzled(inside, span)
    strides, step = [], pitch * dtype().itemsize
    for n in reversed(shape[:-1]):
        strides.append(step)
        step *= n
    tensor_map = TensorMap(
        code,
        shape[::-1],
        strides,
        box[::-1],
        steps[::-1],
        {0: 0, 32: 1, 64: 2, 128: 3}[span],
        nan,
    )
    source = tma_kernel(name, corner[::-1], want.nbytes, "load")
    return Case(name, store, want, source=source, shared=want.nbytes + 1024, tensor_map=tensor_map)


def tma_store(name: str, kind: str, reduce: bool, span: int) -> Case:
    """A box that hangs over two edges of an f32 or u32 matrix; only its inside is written."""
    code, dtype = TYPES[kind]
    rows, columns, corner, box = 13, 40, (9, 32), (8, 16 if span in (0, 64) else 32)
    before = RNG.integers(0, 1000, (rows, columns)).astype(np.float32 if kind == "f32" else dtype)
    values = np.arange(box[0] * box[1]).reshape(box)
    inside = np.ascontiguousarray(values.astype(before.dtype))
    # Shared memory word i holds i; the box element in it follows from the swizzle.
    flat = np.zeros(inside.size, inside.dtype)
    for word in range(inside.size):
        flat[word] = swizzle(4 * word, span) // 4
    inside = flat.reshape(box)
    want = before.copy()
    h, w = min(box[0], rows - corner[0]), min(box[1], columns - corner[1])
    part = want[corner[0] : corner[0] + h, corner[1] : corner[1] + w]
    part[:] = part + inside[:h, :w] if reduce else inside[:h, :w]
    tensor_map = TensorMap(
        code, (columns, rows), (columns * 4,), box[::-1], (), {0: 0, 64: 2, 128: 3}[span]
    )
    stored = "__float_as_uint(float(i))" if kind == "f32" else "uint32_t(i)"
    source = tma_kernel(name, corner[::-1], inside.nbytes, "reduce" if reduce else "store")
    source = source.replace("STORED(i)", stored).replace("WORDS", str(before.size))
    return Case(
        name,
        before,
        want.view(np.uint32),
        source=source,
        shared=inside.nbytes + 1024,
        tensor_map=tensor_map,
    )


def tma_multicast() -> Case:
    """CTA 0 loads one box for both CTAs of the pair; each waits on its own barrier."""
    tensor = random_words(32 * 8).reshape(8, 32)
    source = """extern "C" __global__ void tma_multicast(const __grid_constant__ CUtensorMap map,
    const uint32_t* in, uint32_t* out) {
    extern __shared__ uint8_t raw[];
    __shared__ uint64_t full;
    uint32_t* buffer = reinterpret_cast<uint32_t*>(aligned(raw));
    const int l = threadIdx.x;
    if (l == 0) {
        barrier_init(&full, 1);
        expect(&full, 1024);
    }
    cluster_sync();
    if (l == 0 && rank() == 0) {
        const uint16_t mask = 3;
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile"
                     ".mbarrier::complete_tx::bytes.multicast::cluster"
                     " [%0], [%1, {0, 0}], [%2], %3;"
                     :: "r"(shared_at(buffer)), "l"(&map), "r"(shared_at(&full)), "h"(mask)
                     : "memory");
    }
    wait(&full, 0);
    for (int i = l; i < 256; i += 32) out[256 * rank() + i] = buffer[i];
    cluster_sync();
}
"""
    return Case(
        "tma_multicast",
        tensor,
        np.stack([tensor, tensor]),
        source=source,
        grid=2,
        cluster=2,
        shared=2048,
        tensor_map=TensorMap(2, (32, 8), (128,), (32, 8)),
    )


def tensor_copies() -> list[Case]:
    cases = [
        tma_load("tma_load_1d", "u32", (100,), (90,), (32,)),
        tma_load("tma_load_2d", "f16", (20, 72), (3, 8), (8, 32), pad=8),
        tma_load("tma_load_2d_corner", "f16", (20, 72), (15, 56), (8, 32), pad=8),
        tma_load("tma_load_2d_negative", "u32", (20, 72), (-3, -5), (8, 32)),
        tma_load("tma_load_2d_nan", "f16", (20, 72), (-3, 60), (8, 32), nan=True),
        tma_load("tma_load_3d", "f32", (4, 6, 24), (1, 4, 12), (2, 4, 16)),
        tma_load("tma_load_4d", "f16", (3, 4, 5, 16), (1, 2, 3, 8), (2, 2, 2, 8)),
        tma_load("tma_load_5d", "f16", (2, 3, 4, 5, 16), (0, 2, 1, 3, 0), (2, 2, 2, 2, 16)),
        tma_load("tma_load_steps", "f16", (40, 64), (1, 0), (16, 32), steps=(2, 1)),
        tma_load("tma_load_u8", "u8", (16, 64), (5, 16), (8, 32)),
    ]
    for span in (32, 64, 128):
        box = (16, span // 2)
        cases.append(tma_load(f"tma_load_swizzle_{span}", "f16", (24, 64), (3, 0), box, span=span))
    for kind, reduce, span in (
        ("u32", False, 0),
        ("f32", False, 64),
        ("u32", False, 128),
        ("u32", True, 0),
        ("f32", True, 128),
    ):
        name = f"tma_{'reduce_add' if reduce else 'store'}_{kind}_swizzle_{span}"
        cases.append(tma_store(name, kind, reduce, span))
    cases.append(tma_multicast())
    return cases


# ---- wgmma


def place(matrix: Array, kind: str, span: int, mn_major: bool) -> tuple[bytes, int, int]:
    """An operand (mn x k) in shared memory as the ISA's canonical layouts; leading, stride bytes.

    Swizzled K-major: rows of `span` bytes, 8 rows an atom, atoms along mn `stride` apart.
    Swizzled MN-major: rows of `span` bytes along mn, 8 k an atom; atoms along mn `leading` apart,
    along k `stride` apart. Without swizzle: core matrices of 8 rows x 16 bytes.
    """
    codes = encode(matrix, kind)
    size = BITS[kind] // 8
    mn, k = matrix.shape
    per = 16 // size
    where: dict[tuple[int, int], int] = {}
    if not mn_major and span:
        leading, stride = 16, 8 * span
        total = (mn // 8) * stride
        for i, j in np.ndindex(mn, k):
            where[i, j] = swizzle((i // 8) * stride + (i % 8) * span + j * size, span)
    elif not mn_major:
        leading, stride = 128, 128 * (k // per)
        total = (mn // 8) * stride
        for i, j in np.ndindex(mn, k):
            where[i, j] = (i // 8) * stride + (j // per) * leading + (i % 8) * 16 + j % per * size
    elif span:
        row = span // size
        leading = 8 * span
        stride = leading * -(-mn // row)
        total = stride * (k // 8)
        for i, j in np.ndindex(mn, k):
            linear = (i // row) * leading + (j // 8) * stride + (j % 8) * span + i % row * size
            where[i, j] = swizzle(linear, span)
    else:
        stride = 128
        leading = 128 * (mn // per)
        total = leading * (k // 8)
        for i, j in np.ndindex(mn, k):
            where[i, j] = (i // per) * stride + (j // 8) * leading + (j % 8) * 16 + i % per * size
    total = -(-total // 1024) * 1024
    image = np.zeros(total, np.uint8)
    for (i, j), at in where.items():
        image[at : at + size] = np.frombuffer(int(codes[i, j]).to_bytes(4, "little"), np.uint8)[
            :size
        ]
    return image.tobytes(), leading, stride


def descriptor(start: int, leading: int, stride: int, span: int) -> int:
    layout = {0: 0, 128: 1, 64: 2, 32: 3}[span]
    return start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | layout << 62


def accumulator(d: str, n: int) -> tuple[int, Any]:
    """Elements per lane and their places in the 16 rows of one warp."""

    def spot(lane: int, i: int) -> tuple[int, int]:
        block, inside = i // 4, i % 4
        row = (lane >> 2) + (8 if inside >= 2 else 0)
        return row, 8 * block + 2 * (lane % 4) + (inside & 1)

    return n // 2, spot


def wgmma_kernel(name: str, op: str, regs: int, letter: str, from_regs: bool, tail: str) -> str:
    """in: descriptors (2 x 64 bits), image bytes, accumulators per warp, A fragments per warp."""
    d = ", ".join(f"%{i}" for i in range(regs))
    ctype = "float" if letter == "f" else "uint32_t"
    if from_regs:
        a = "{" + ", ".join(f"%{regs + i}" for i in range(4)) + "}"
        inputs = ", ".join(f'"r"(a[{i}])' for i in range(4))
        b = f"%{regs + 4}"
    else:
        a, inputs, b = f"%{regs}", '"l"(da)', f"%{regs + 1}"
    outs = ", ".join(f'"+{letter}"(d[{i}])' for i in range(regs))
    return f"""extern "C" __global__ void {name}(const uint32_t* in, uint32_t* out) {{
    extern __shared__ uint8_t raw[];
    uint32_t* image = reinterpret_cast<uint32_t*>(aligned(raw));
    const int t = threadIdx.x, words = in[4];
    for (int i = t; i < words; i += 128) image[i] = in[8 + i];
    fence_async();
    __syncthreads();
    const uint64_t base = shared_at(image) >> 4;
    [[maybe_unused]] const uint64_t da = (in[0] | uint64_t(in[1]) << 32) + base;
    const uint64_t db = (in[2] | uint64_t(in[3]) << 32) + base;
    const uint32_t* planes = in + 8 + words + (t / 32) * {regs} * 32 + t % 32;
    const uint32_t* fragment = in + 8 + words + 4 * {regs} * 32 + (t / 32) * 128 + t % 32;
    {ctype} d[{regs}];
    [[maybe_unused]] uint32_t a[4];
    _Pragma("unroll") for (int i = 0; i < {regs}; ++i) memcpy(&d[i], planes + 32 * i, 4);
    for (int i = 0; i < 4; ++i) a[i] = fragment[32 * i];
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("{op} {{{d}}}, {a}, {b}, {tail};" : {outs} : {inputs}, "l"(db));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    _Pragma("unroll") for (int i = 0; i < {regs}; ++i) {{
        memcpy(out + ((t / 32) * {regs} + i) * 32 + t % 32, &d[i], 4);
    }}
}}
"""


def wgmma(
    a: str,
    b: str,
    d: str,
    n: int,
    *,
    span: int = 128,
    from_regs: bool = False,
    trans_a: bool = False,
    trans_b: bool = False,
    negate: bool = False,
    accumulate: bool = True,
    fp8_terms: int = 0,
) -> Case:
    k = 256 // BITS[a]
    low = [0 if t == "u8" else -2 for t in (a, b)]
    x = RNG.integers(low[0], 3, (64, k)).astype(float)
    y = RNG.integers(low[1], 3, (n, k)).astype(float)
    z = RNG.integers(-9, 9, (64, n)).astype(float)
    if fp8_terms:
        x, y, z = fp8_operand(a, 64, k), fp8_operand(b, n, k), fp8_accumulator(d, 64, n)
    image_a, lead_a, stride_a = place(x, a, span, trans_a)
    image_b, lead_b, stride_b = place(y, b, span, trans_b)
    count, spot = accumulator(d, n)
    before = [pack_fragment(z[16 * w : 16 * w + 16], d, count, spot) for w in range(4)]
    result = (-1 if negate else 1) * (x @ y.T) + (z if accumulate else 0)
    if fp8_terms:
        result = product(x, y.T, z if accumulate else 0 * z, (a, b), fp8_terms, d)
    after = [pack_fragment(result[16 * w : 16 * w + 16], d, count, spot) for w in range(4)]
    count_a, place_a = mma_a(a, k)
    fragments = [pack_fragment(x[16 * w : 16 * w + 16], a, count_a, place_a) for w in range(4)]
    image = np.frombuffer(image_a + image_b, np.uint32)
    head = np.zeros(8, np.uint32)
    head[:2] = np.array([descriptor(0, lead_a, stride_a, span)], np.uint64).view(np.uint32)
    head[2:4] = np.array([descriptor(len(image_a), lead_b, stride_b, span)], np.uint64).view(
        np.uint32
    )
    head[4] = len(image)
    data = np.concatenate([head, image, *[p.ravel() for p in before + fragments]])
    tail = str(int(accumulate))
    if d != "s32":
        tail += f", {-1 if negate else 1}, 1"
        if BITS[a] == 16:
            tail += "" if from_regs else f", {int(trans_a)}"
            tail += f", {int(trans_b)}"
    marks = "".join(
        mark
        for mark, on in (
            ("_rs", from_regs),
            ("_ta", trans_a),
            ("_tb", trans_b),
            ("_neg", negate),
            ("_zero", not accumulate),
            ("_sizes", fp8_terms > 0),
        )
        if on
    )
    name = f"wgmma_m64n{n}k{k}_{d}_{a}_{b}_swizzle_{span}{marks}"
    regs = n // 4 if d == "f16" else n // 2
    op = f"wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{a}.{b}"
    source = wgmma_kernel(name, op, regs, "f" if d == "f32" else "r", from_regs, "p" + tail[1:])
    predicate = "{ .reg .pred p; setp.ne.u32 p, " + tail[0] + ", 0; "
    source = source.replace(f'"{op}', f'"{predicate}{op}').replace('" : "+', ' }" : "+')
    return Case(name, data, np.stack(after), source=source, block=128, shared=image.nbytes + 1024)


def products() -> list[Case]:
    cases = []
    for span in (0, 32, 64, 128):
        cases.append(wgmma("f16", "f16", "f32", 64, span=span))
        cases.append(wgmma("bf16", "bf16", "f32", 32, span=span, trans_b=True))
        cases.append(wgmma("f16", "f16", "f32", 128, span=span, trans_a=True, trans_b=True))
        cases.append(wgmma("e4m3", "e5m2", "f32", 32, span=span))
    cases += [
        wgmma("f16", "f16", "f16", 64),
        wgmma("bf16", "bf16", "f32", 256),
        wgmma("bf16", "bf16", "f32", 8, accumulate=False),
        wgmma("f16", "f16", "f32", 24, negate=True),
        wgmma("bf16", "bf16", "f32", 64, from_regs=True),
        wgmma("f16", "f16", "f16", 64, from_regs=True, trans_b=True),
        # One atom of 64 columns and 8 columns of the next; three atoms of 32; rows that end inside
        # no power of two: what the attention kernels use.
        wgmma("bf16", "bf16", "f32", 72, from_regs=True, trans_b=True),
        wgmma("bf16", "bf16", "f32", 96, span=64, from_regs=True, trans_b=True),
        wgmma("bf16", "bf16", "f32", 112),
        wgmma("f16", "f16", "f32", 160),
        wgmma("e4m3", "e4m3", "f32", 136, from_regs=True),
        wgmma("e4m3", "e4m3", "f16", 64),
        wgmma("e5m2", "e5m2", "f32", 64, from_regs=True),
        wgmma("tf32", "tf32", "f32", 32),
        wgmma("s8", "s8", "s32", 64),
        wgmma("u8", "s8", "s32", 32, from_regs=True),
    ]
    return cases


def sums() -> list[Case]:
    """8-bit floats of many sizes: what the tensor cores drop."""
    terms = TERMS["sm_90a"]
    return [
        wgmma("e4m3", "e4m3", "f32", 16, fp8_terms=terms),
        wgmma("e4m3", "e4m3", "f32", 16, fp8_terms=terms, accumulate=False),
        wgmma("e5m2", "e4m3", "f32", 24, fp8_terms=terms, from_regs=True),
        wgmma("e5m2", "e5m2", "f16", 16, fp8_terms=terms),
    ]


def cases() -> list[Case]:
    return [*stores(), *barriers_and_bulk(), *tensor_copies(), *products(), *sums()]
