# SPDX-License-Identifier: BSD-3-Clause
"""Every wait and release of the Hopper flat GEMM is needed: each removal alone is caught.

Left out: wgmma_fence, whose register accesses the emulator does not delay, and the __syncwarp that
frees a slot: only wgmma read it, and wgmma_wait has ended that for all lanes of the warp.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import emulator_tools as emulator
import pytest

CSRC = emulator.ROOT / "csrc"
KERNEL = CSRC / "gemm" / "flat_sm90.cuh"
DRIVER = emulator.EMULATOR / "faults" / "flat_gemm_sm90.cuh"
SYNCHRONISATION = re.compile(
    r"\s*(mbarrier_wait|mbarrier_arrive|mbarrier_arrive_expect_tx|wgmma_wait<0>|__syncthreads)"
    r"\(.*\);$"
)


@cache
def statements() -> list[int]:
    """The lines of the kernel's source that synchronise."""
    lines = KERNEL.read_text().splitlines()
    return [number for number, line in enumerate(lines) if SYNCHRONISATION.match(line)]


@cache
def program() -> Path:
    """The driver with a condition before each of them."""
    lines = KERNEL.read_text().splitlines()
    for number, line in enumerate(statements()):
        lines[line] = f"if (removed() != {number}) {{ {lines[line]} }}"
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh", ".cpp", ".cu"})
    parts = ["\n".join(lines), DRIVER.read_text(), *(p.read_text() for p in headers)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = emulator.CACHE / "mutations" / digest[:24]
    (folder / "gemm").mkdir(parents=True, exist_ok=True)
    (folder / "gemm" / KERNEL.name).write_text("\n".join(lines) + "\n")
    includes = [folder, CSRC, CSRC / "include", DRIVER.parent]
    return emulator.compile_cuda(
        f"// {digest}\n{DRIVER.read_text()}", "90a", flags=[f"-I{path}" for path in includes]
    )


def run(*arguments: object, schedule: str, seed: int = 0) -> emulator.Run:
    return emulator.run(
        program(), *arguments, arch="sm_90a", schedule=schedule, seed=seed, hang_seconds=1
    )


@pytest.mark.parametrize("schedule", ["fair", "late", "early", "random"])
def test_the_kernel_as_it_is_passes(schedule: str) -> None:
    assert len(statements()) == 6
    done = run(schedule=schedule)
    assert done.stdout.strip() == "ok", (done.stdout, done.stderr)


@pytest.mark.parametrize("number", range(len(statements())))
def test_without_one_of_them_it_is_caught(number: int) -> None:
    done = run(number, schedule="random", seed=number)
    where = f"{KERNEL.name}:{statements()[number] + 1}: {done.stdout} {done.stderr}"
    assert "cudaError" in done.stdout, where
