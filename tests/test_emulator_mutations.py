# SPDX-License-Identifier: BSD-3-Clause
"""Every wait and barrier of the real forward kernel is needed: each removal alone is caught."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import emulator_tools as emulator
import pytest

CSRC = emulator.ROOT / "csrc"
KERNEL = CSRC / "sm80" / "fwd.cuh"
DRIVER = emulator.EMULATOR / "faults" / "attention.cuh"
SCHEDULES = [("fair", 0), ("late", 0), ("random", 1)]
SYNCHRONISATION = re.compile(r"\s*(cp_async_wait<.*>\(\)|__syncthreads\(\));")


def synchronising_lines() -> list[int]:
    lines = KERNEL.read_text().splitlines()
    return [i for i, line in enumerate(lines) if SYNCHRONISATION.match(line)]


def build(without: int | None) -> Path:
    """The driver with the kernel's source, one of its lines emptied."""
    lines = KERNEL.read_text().splitlines(keepends=True)
    if without is not None:
        lines[without] = "\n"
    text = "".join(lines)
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh"})
    parts = [text, *(p.read_text() for p in headers), (DRIVER.parent / "fault.h").read_text()]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = emulator.CACHE / "mutations" / digest[:24]
    (folder / "sm80").mkdir(parents=True, exist_ok=True)
    (folder / "sm80" / "fwd.cuh").write_text(text)
    includes = [folder, CSRC, CSRC / "include", DRIVER.parent]
    return emulator.compile_cuda(
        f"// {digest}\n{DRIVER.read_text()}",
        "80",
        flags=[f"-I{path}" for path in includes],
    )


def test_the_kernel_as_it_is_passes() -> None:
    assert len(synchronising_lines()) >= 4
    program = build(None)
    for schedule, seed in SCHEDULES:
        done = emulator.run(program, schedule=schedule, seed=seed)
        assert done.stdout.strip() == "ok", (schedule, done.stdout, done.stderr)


@pytest.mark.parametrize("number", range(len(synchronising_lines())))
def test_without_one_of_its_waits_it_is_caught(number: int) -> None:
    line = synchronising_lines()[number]
    program = build(line)
    for schedule, seed in SCHEDULES:
        done = emulator.run(program, schedule=schedule, seed=seed)
        where = f"fwd.cuh:{line + 1} under {schedule}: {done.stdout} {done.stderr}"
        assert done.stdout.strip() == "cudaErrorLaunchFailure", where
        assert "data race on shared memory" in done.stderr, where
        if "cp_async_wait" in KERNEL.read_text().splitlines()[line]:
            assert "the earlier operation was not waited for" in done.stderr, where
