# SPDX-License-Identifier: BSD-3-Clause
"""What a conformance case is, how its kernel text is made, and how cases of one program are run."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Array = NDArray[Any]
CTYPE = {"f": "float", "r": "uint32_t", "d": "double", "l": "uint64_t", "h": "uint16_t"}


@dataclass(frozen=True)
class TensorMap:
    """Arguments of cuTensorMapEncodeTiled over the input buffer; dimensions innermost first."""

    type: int
    dims: Sequence[int]
    strides: Sequence[int]
    box: Sequence[int]
    steps: Sequence[int] = ()
    swizzle: int = 0
    nan_fill: bool = False

    def pack(self) -> bytes:
        rank = len(self.dims)

        def padded(values: Sequence[int], fill: int) -> list[int]:
            return [*values, *[fill] * (5 - len(values))]

        steps = self.steps or [1] * rank
        return struct.pack(
            "<4i10q10i",
            self.type,
            rank,
            self.swizzle,
            int(self.nan_fill),
            *padded(self.dims, 1),
            *padded(self.strides, 0),
            *padded(self.box, 1),
            *padded(steps, 1),
        )


@dataclass(frozen=True)
class Case:
    """One kernel launch with its input, and the output that the ISA's text demands.

    expected: the output as an array (its dtype says how to read the bytes). tolerance None means
    equal bits; otherwise it maps (got, expected) to an array of bools. kernel: name in the program,
    by default the case's own. source: kernel text made from the form, for register-only forms.
    """

    name: str
    inputs: Array
    expected: Array
    kernel: str = ""
    source: str = ""
    grid: int = 1
    block: int = 32
    cluster: int = 1
    shared: int = 0
    tensor_map: TensorMap | None = None
    tolerance: Callable[[Array, Array], Array] | None = field(default=None, compare=False)
    own_gpu: bool = False  # newer GPUs that run it answer otherwise

    def job(self) -> bytes:
        data = np.ascontiguousarray(self.inputs).tobytes()
        head = struct.pack(
            "<64s12i",
            (self.kernel or self.name).encode(),
            self.grid,
            self.block,
            self.cluster,
            self.shared,
            len(data),
            self.expected.nbytes,
            int(self.tensor_map is not None),
            *[0] * 5,
        )
        return head + (self.tensor_map.pack() if self.tensor_map else b"") + data

    def agrees(self, got: Array) -> str:
        """Empty when `got` is right, else the first difference."""
        want = self.expected
        if self.tolerance is not None:
            good = self.tolerance(got, want)
        else:
            raw = f"u{want.dtype.itemsize}"
            good = got.view(raw) == want.view(raw)
        if bool(np.all(good)):
            return ""
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        return (
            f"{self.name}: {int(np.sum(~good))} of {want.size} differ, first at {where}: "
            f"{got[where]!r}, the ISA demands {want[where]!r}"
        )


def register_kernel(name: str, asm: str, outputs: str, inputs: str, tied: int = 0) -> str:
    """A kernel that runs one instruction per lane on registers.

    asm uses %0.. for the outputs and the operands after them for the inputs; one letter of
    `outputs` / `inputs` per register (f, r, d, l, h). Register k of lane l is word k * 32 + l of
    the buffers (64-bit registers take two consecutive planes, low words first). The first `tied`
    outputs are read-write and start from the first inputs of the buffer.
    """
    lines = [f'extern "C" __global__ void {name}(const uint32_t* in, uint32_t* out) {{']
    lines.append("    const int l = threadIdx.x;")
    plane = 0
    values = outputs[:tied] + inputs
    names = [f"o{i}" for i in range(tied)] + [f"i{i}" for i in range(len(inputs))]
    for letter, variable in zip(values, names, strict=True):
        lines.append(f"    {CTYPE[letter]} {variable} = load<{CTYPE[letter]}>(in, {plane}, l);")
        plane += 2 if letter in "dl" else 1
    lines += [f"    {CTYPE[c]} o{i};" for i, c in enumerate(outputs) if i >= tied]
    outs = ", ".join(f'"{"+" if i < tied else "="}{c}"(o{i})' for i, c in enumerate(outputs))
    ins = ", ".join(f'"{c}"(i{i})' for i, c in enumerate(inputs))
    lines.append(f'    asm volatile("{asm}" : {outs} : {ins});')
    plane = 0
    for i, c in enumerate(outputs):
        lines.append(f"    store(out, {plane}, l, o{i});")
        plane += 2 if c in "dl" else 1
    lines.append("}")
    return "\n".join(lines) + "\n"


REGISTER_PROLOGUE = """// SPDX-License-Identifier: BSD-3-Clause
#include "harness.h"
template <class T> __device__ T load(const uint32_t* in, int plane, int lane) {
    const uint32_t lo = in[plane * 32 + lane];
    if constexpr (sizeof(T) == 8) {
        const uint64_t v = lo | static_cast<uint64_t>(in[(plane + 1) * 32 + lane]) << 32;
        T t; memcpy(&t, &v, 8); return t;
    } else if constexpr (sizeof(T) == 2) {
        return static_cast<T>(lo);
    } else {
        T t; memcpy(&t, &lo, 4); return t;
    }
}
template <class T> __device__ void store(uint32_t* out, int plane, int lane, T value) {
    if constexpr (sizeof(T) == 8) {
        uint64_t v; memcpy(&v, &value, 8);
        out[plane * 32 + lane] = static_cast<uint32_t>(v);
        out[(plane + 1) * 32 + lane] = static_cast<uint32_t>(v >> 32);
    } else if constexpr (sizeof(T) == 2) {
        out[plane * 32 + lane] = value;
    } else {
        memcpy(&out[plane * 32 + lane], &value, 4);
    }
}
"""


def program_source(cases: Sequence[Case], handwritten: str = "") -> str:
    """The program of one architecture: generated kernels, handwritten ones, the table of names."""
    kernels = {c.kernel or c.name: c.source for c in cases}
    table = ",\n".join(
        f'    {{"{k}", reinterpret_cast<const void*>({k})}}' for k in sorted(kernels)
    )
    return (
        REGISTER_PROLOGUE
        + handwritten
        + "".join(kernels.values())
        + f"\nstatic const Entry entries[] = {{\n{table}\n}};\n"
        + "int main(int argc, char** argv) {\n"
        + "    return run_jobs(argc, argv, entries, sizeof entries / sizeof *entries);\n}\n"
    )


def read_results(raw: bytes, cases: Sequence[Case]) -> dict[str, Array | int]:
    """Per case its output or its cudaError_t; cases after an error are absent."""
    results: dict[str, Array | int] = {}
    at = 0
    for case in cases:
        if at + 4 > len(raw):
            break
        (error,) = struct.unpack_from("<i", raw, at)
        data = raw[at + 4 : at + 4 + case.expected.nbytes]
        at += 4 + case.expected.nbytes
        if error != 0:
            results[case.name] = int(error)
            break
        results[case.name] = np.frombuffer(data, case.expected.dtype).reshape(case.expected.shape)
    return results
