# SPDX-License-Identifier: BSD-3-Clause
"""Single instructions on the emulator against the PTX ISA and recorded GPU outputs."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent / "emulator" / "conformance"))

import record
import run

SCHEDULES = ("fair", "early", "late", "random")


@functools.cache
def outputs(arch: str, schedule: str) -> tuple[dict[str, NDArray[Any] | int], str]:
    return run.emulated(arch, run.cases_of(arch), schedule)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", run.ARCHES)
def test_forms_follow_the_isa(arch: str, schedule: str) -> None:
    results, messages = outputs(arch, schedule)
    wrong = []
    for case in run.cases_of(arch):
        got = results.get(case.name)
        difference = case.agrees(got) if isinstance(got, np.ndarray) else f"{case.name}: {got}"
        wrong += [difference] if difference else []
    assert not wrong, "\n".join([*wrong, messages])


@pytest.mark.parametrize("arch", run.ARCHES)
def test_forms_follow_the_gpu(arch: str) -> None:
    """Bitwise where the ISA determines the bits, else both within the ISA's bound."""
    recorded = run.golden(arch)
    results, _ = outputs(arch, "fair")
    wrong = []
    for case in run.cases_of(arch):
        if case.name not in recorded:
            continue
        gpu, got = recorded[case.name], results[case.name]
        assert isinstance(got, np.ndarray), case.name
        if case.tolerance is None and gpu.tobytes() != got.tobytes():
            wrong.append(case.name)
        if case.agrees(gpu):
            wrong.append(f"recorded: {case.agrees(gpu)}")
    assert not wrong, wrong


def test_table_of_forms_is_current() -> None:
    assert (run.GOLDEN / "FORMS.md").read_text() == record.forms(), (
        "run python tests/emulator/conformance/record.py --forms"
    )


def test_a_wrong_answer_is_seen() -> None:
    """The comparison itself can fail, with equal bits and with a bound."""
    cases = {c.name: c for c in run.cases_of("sm_80")}
    exact, bounded = cases["popc_b32"], cases["ex2_approx_ftz_f32"]
    flipped = exact.expected.copy()
    flipped.flat[7] ^= 1
    assert "1 of 32 differ, first at (0, 7)" in exact.agrees(flipped)
    assert exact.agrees(exact.expected.copy()) == ""
    off = bounded.expected * np.float32(1 + 2.0**-20)
    assert "differ" in bounded.agrees(off)


TENSOR_LOAD = """
#include <cstdint>
#include <cstdio>
__global__ void load(float* out) {
    __shared__ uint32_t at;
    const uint32_t slot = static_cast<uint32_t>(__cvta_generic_to_shared(&at));
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], 32;" ::"r"(slot));
    __syncwarp();
    const uint32_t base = at;
    asm volatile("tcgen05.st.sync.aligned.32x32b.x1.b32 [%0], {%1};" ::"r"(base), "r"(0x40400000));
    asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory");
    uint32_t bits;
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x1.b32 {%0}, [%1];" : "=r"(bits) : "r"(base));
    const float value = __uint_as_float(bits);  // a rename, which nvcc may put before the wait
    if (WAIT) asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
    out[threadIdx.x] = value + 1;
    asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, 32;" ::"r"(base));
}
int main() {
    float* out;
    float host[32];
    cudaMalloc(&out, sizeof host);
    load<<<1, 32>>>(out);
    const cudaError_t error = cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost);
    std::printf("%s %g", cudaGetErrorName(error), host[31]);
}
"""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_missing_wait_for_a_tensor_load_is_named(schedule: str) -> None:
    def ran(wait: int) -> Any:
        return run.emulator_tools.compile_and_run(
            TENSOR_LOAD, "sm_100a", flags=(f"-DWAIT={wait}",), schedule=schedule
        )

    assert ran(1).stdout == "cudaSuccess 4"
    planted = ran(0)
    assert planted.stdout.startswith("cudaErrorLaunchFailure")
    assert "tcgen05.wait::ld is missing" in planted.stderr
