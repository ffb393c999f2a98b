# SPDX-License-Identifier: BSD-3-Clause
"""Every wait and barrier of the GEMM kernels is needed: each removal alone is caught."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import emulator_tools as emulator
import pytest

CSRC = emulator.ROOT / "csrc"
DRIVER = emulator.EMULATOR / "faults" / "flat_gemm.cuh"
SCHEDULES = [("fair", 0), ("late", 0), ("random", 1)]
# Statements that synchronise; in schedule.cuh those of sum_pieces, not what they are made of. Not
# listed: __syncwarp in epilogue.cuh, of which one matters only to warps that turn two tiles of y.
SYNCHRONISATION = {
    "flat.cuh": re.compile(r"\s*(cp_async_wait<.*>\(\)|__syncthreads\(\));"),
    "gemv.cuh": re.compile(r"\s*__syncthreads\(\);"),
    "schedule.cuh": re.compile(r"\s*sync_threads<kThreads, kWholeBlock>\(\);"),
}
Place = tuple[str, int]


def lines(name: str) -> list[str]:
    return (CSRC / "gemm" / name).read_text().splitlines(keepends=True)


def synchronising_lines() -> list[Place]:
    return [
        (name, number)
        for name, pattern in SYNCHRONISATION.items()
        for number, line in enumerate(lines(name))
        if pattern.match(line)
    ]


def build(without: Place | None) -> Path:
    """The driver with the kernels' sources, one of their lines emptied."""
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh"})
    parts = [*(p.read_text() for p in headers), (DRIVER.parent / "fault.h").read_text()]
    digest = hashlib.sha256("\0".join([*parts, str(without)]).encode()).hexdigest()
    folder = emulator.CACHE / "mutations" / digest[:24]
    (folder / "gemm").mkdir(parents=True, exist_ok=True)
    if without is not None:
        name, number = without
        text = lines(name)
        text[number] = "\n"
        (folder / "gemm" / name).write_text("".join(text))
    includes = [folder, CSRC, CSRC / "include", DRIVER.parent]
    return emulator.compile_cuda(
        f"// {digest}\n{DRIVER.read_text()}", "80", flags=[f"-I{path}" for path in includes]
    )


def test_the_kernels_as_they_are_pass() -> None:
    assert len(synchronising_lines()) == 6
    program = build(None)
    for schedule, seed in [*SCHEDULES, ("early", 0), *(("random", s) for s in range(2, 12))]:
        done = emulator.run(program, schedule=schedule, seed=seed)
        assert done.stdout.strip() == "ok", (schedule, seed, done.stdout, done.stderr)


@pytest.mark.parametrize("place", synchronising_lines(), ids=str)
def test_without_one_of_its_waits_it_is_caught(place: Place) -> None:
    program = build(place)
    for schedule, seed in SCHEDULES:
        done = emulator.run(program, schedule=schedule, seed=seed)
        where = f"{place[0]}:{place[1] + 1} under {schedule}: {done.stdout} {done.stderr}"
        assert done.stdout.strip() == "cudaErrorLaunchFailure", where
        assert "data race on" in done.stderr, where
