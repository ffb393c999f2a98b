# SPDX-License-Identifier: BSD-3-Clause
"""The execution core: programs whose results are stated by the same C++ on the host."""

from __future__ import annotations

import emulator_tools as emu
import pytest

PROGRAMS = emu.EMULATOR / "programs"
# Host code that changes its rounding mode and must not fuse, as the device's separate operations.
HOST = ("-Xcompiler", "-frounding-math,-ffp-contract=off,-mfma")


@pytest.mark.parametrize("schedule", ["fair", "early", "late", "random"])
@pytest.mark.parametrize("name", ["divergence", "warp_level"])
def test_lanes_go_their_own_ways(name: str, schedule: str) -> None:
    program = emu.compile_cuda(PROGRAMS / f"{name}.cu")
    for seed in range(3 if schedule == "random" else 1):
        done = emu.run(program, schedule=schedule, seed=seed).check()
        assert done.stdout.splitlines()[-1] == "ok"


@pytest.mark.parametrize("name", ["arithmetic", "rounding"])
def test_arithmetic_has_the_bits_of_the_host(name: str) -> None:
    # fmad off: the host does not fuse either.
    program = emu.compile_cuda(PROGRAMS / f"{name}.cu", flags=("-fmad=false", *HOST))
    assert emu.run(program).check().stdout.splitlines()[-1] == "ok"


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_host_threads_share_a_grid(threads: int) -> None:
    program = emu.compile_cuda(PROGRAMS / "warp_level.cu")
    assert emu.run(program, threads=threads).check().stdout.splitlines()[-1] == "ok"
