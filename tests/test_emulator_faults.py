# SPDX-License-Identifier: BSD-3-Clause
"""Planted faults: each must fail with the right error and text, its healthy twin must pass."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import emulator_tools as emulator
import pytest

FAULTS = Path(__file__).parent / "emulator" / "faults"
SCHEDULES = [("fair", 0), ("late", 0), ("early", 0), ("random", 1), ("random", 2)]


@dataclass(frozen=True)
class Fault:
    """A program of faults/, which of its faults is planted, and what must come of it."""

    program: str
    error: str  # name of the cudaError_t, or a regular expression of names
    texts: tuple[str, ...]  # regular expressions, each must be found in the report
    arch: str = "sm_80"
    planted: int = 1
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.program, str(self.planted), *self.arguments])


RACE, ADDRESS = "cudaErrorLaunchFailure", "cudaErrorIllegalAddress"
FAULT_TABLE = [
    Fault(
        "syncthreads",
        RACE,
        ("data race on shared memory", "earlier (read|write): block", "syncthreads.cu:"),
    ),
    Fault("overwrite", RACE, ("data race on shared memory", "no barrier", "overwrite.cu:")),
    Fault(
        "cp_async_wait",
        RACE,
        (
            "data race on shared memory",
            "earlier asynchronous write",
            "cp.async.cg",
            "not waited for",
        ),
    ),
    Fault("barrier_count", RACE, ("wrong count at barrier 2", "96 threads", "64")),
    Fault(
        "deadlock",
        "cudaErrorLaunchTimeout",
        ("deadlock", "warp 0 waits for bar 2", "warp 1 waits for bar 1", "deadlock.cu:"),
    ),
    Fault(
        "past_the_end",
        ADDRESS,
        ("out-of-bounds read of 4 bytes", "just past the end of", "400 bytes"),
    ),
    Fault(
        "past_the_end",
        ADDRESS,
        (r"just past the end of 'query' \(registered host memory, 400 bytes", r"thread \(99,0,0\)"),
        arguments=("host",),
    ),
    Fault("shared_past_the_end", ADDRESS, ("just past the end of the block's",)),
    Fault("uninitialised", RACE, ("read of uninitialised shared memory", r"thread \(36,0,0\)")),
    Fault("misaligned", "cudaErrorMisalignedAddress", ("misaligned", "16")),
    Fault("use_after_free", ADDRESS, ("use after free", "which was freed")),
    Fault(
        "global_race", RACE, ("data race on global memory", r"block \(0,0,0\)", r"block \(1,0,0\)")
    ),
    Fault(
        "atomic_scope", RACE, ("data race on global memory", "the scope of one does not include")
    ),
    Fault("last_block", RACE, ("data race on global memory", "last_block.cu:")),
    Fault("divergent", "cudaErrorIllegalInstruction", ("divergent", "0x0000ffff", "ldmatrix")),
    Fault("lanes", RACE, ("two threads of one warp write different values",)),
    *(
        Fault(
            "lane_order",
            RACE,
            (
                "between lanes of a warp",
                f"earlier {earlier}: block",
                "__syncwarp",
                "lane_order.cu:",
            ),
            planted=planted,
        )
        for planted, earlier in enumerate(["write"] * 4 + ["read"] + ["write"] * 3, 1)
    ),
    *(
        Fault(
            "elected_lane",
            RACE,
            ("data race on", f"earlier {earlier}: block", "without __syncwarp", "elected_lane.cu:"),
            "sm_90a",
            planted,
        )
        for planted, earlier in enumerate(["read", "write", "write", "read", "write"], 1)
    ),
    Fault(
        "proxy_fence", RACE, ("missing fence.proxy.async", "cp.async.bulk", "st.shared"), "sm_90a"
    ),
    # The wait passes at once, or, once the first copy has landed, never.
    Fault(
        "phase",
        f"{RACE}|cudaErrorLaunchTimeout",
        ("data race on shared memory.*cp.async.bulk|deadlock.*waits for mbarrier",),
        "sm_90a",
    ),
    Fault("tx_count", RACE, ("asynchronous write|tx-count",), "sm_90a"),
    Fault(
        "mbarrier_deadlock",
        "cudaErrorLaunchTimeout",
        ("deadlock", "warp 0 waits for", "warp 1 waits for", "mbarrier"),
        "sm_90a",
    ),
    Fault("mbarrier_count", RACE, ("data race on shared memory",), "sm_90a"),
    Fault("unfinished_store", RACE, ("asynchronous work unfinished at exit",), "sm_90a"),
    Fault("wgmma", RACE, ("while a wgmma in flight uses it", "wait_group"), "sm_90a", 1),
    Fault(
        "wgmma",
        RACE,
        ("data race on shared memory", "asynchronous read", "wgmma.mma_async"),
        "sm_90a",
        2,
    ),
    Fault("wgmma", RACE, ("missing fence.proxy.async",), "sm_90a", 3),
    Fault("wgmma_rows", RACE, ("data race on shared memory", "wgmma.mma_async"), "sm_90a"),
    Fault(
        "register_pool",
        "cudaErrorLaunchTimeout",
        ("setmaxnreg", "registers, it has 64512", "168 a thread"),
        "sm_90a",
    ),
    Fault("mbarrier_misuse", RACE, ("not initialised",), "sm_90a", 1),
    Fault("mbarrier_misuse", RACE, ("2 arrivals where 1 of 1 are pending",), "sm_90a", 2),
    Fault("mbarrier_misuse", RACE, ("tx-count",), "sm_90a", 3),
    Fault("mbarrier_misuse", "cudaErrorMisalignedAddress", ("8 bytes",), "sm_90a", 4),
    Fault("bulk_past_the_end", ADDRESS, ("before the end of", "cp.async.bulk"), "sm_90a"),
    Fault("cluster_sync", RACE, ("data race on shared memory", "ld.shared::cluster"), "sm_90a"),
    Fault("tensor_memory", RACE, ("64 columns of tensor memory are still allocated",), "sm_100a"),
]


@functools.cache
def program(arch: str) -> Path:
    """One executable with all programs of the architecture; called as `name planted ...`."""
    wanted = {(f.program, p) for f in FAULT_TABLE if f.arch == arch for p in (0, f.planted)}
    if arch == "sm_80":
        wanted.add(("strides", 0))
    if arch == "sm_90a":
        wanted |= {("swizzle", 0), ("swizzle", 1)}
    sources = sorted(wanted)
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(FAULTS.iterdir())))
    lines = [
        f"// {digest.hexdigest()}",
        "#include <cstring>",
        "#include <cuda.h>",
        "#include <cuda/atomic>",
        "#include <cuda_fp16.h>",
        "#include <dlfcn.h>",
        '#include "hopper.h"' if arch == "sm_90a" else '#include "fault.h"',
        "static int call(int (*run)(), int, char**) { return run(); }",
        "static int call(int (*run)(int, char**), int n, char** v) { return run(n, v); }",
    ]
    for name, planted in sources:
        lines += [
            "#undef PLANTED",
            f"#define PLANTED {planted}",
            f"namespace {name}_{planted} {{",
            "#define main run",
            f'#include "{name}.cu"',
            "#undef main",
            "}",
        ]
    lines += ["int main(int n, char** v) {"]
    lines += [
        f'if (!std::strcmp(v[1], "{name}") && !std::strcmp(v[2], "{planted}"))'
        f" return call({name}_{planted}::run, n - 2, v + 2);"
        for name, planted in sources
    ]
    lines += ["return 4;", "}"]
    return emulator.compile_cuda(
        "\n".join(lines) + "\n",
        arch.removeprefix("sm_"),
        flags=("-I", str(FAULTS), "-diag-suppress", "177"),
    )


def run(
    name: str,
    planted: int,
    arch: str,
    *arguments: str,
    schedule: str = "fair",
    seed: int = 0,
    **options: bool,
) -> emulator.Run:
    return emulator.run(
        program(arch),
        name,
        planted,
        *arguments,
        arch=arch,
        schedule=schedule,
        seed=seed,
        timeout=120,
        **options,
    )


@pytest.mark.parametrize("fault", FAULT_TABLE, ids=str)
def test_fault_is_caught_and_its_twin_passes(fault: Fault) -> None:
    for schedule, seed in SCHEDULES:
        healthy = run(fault.program, 0, fault.arch, *fault.arguments, schedule=schedule, seed=seed)
        assert healthy.returncode == 0, (schedule, seed, healthy.stdout, healthy.stderr)
        assert healthy.stdout.strip() == "ok"
        planted = run(
            fault.program, fault.planted, fault.arch, *fault.arguments, schedule=schedule, seed=seed
        )
        assert planted.returncode == 2, (schedule, seed, planted.stdout, planted.stderr)
        assert re.fullmatch(fault.error, planted.stdout.strip()), (schedule, seed, planted.stderr)
        assert re.search(r"kernel \S+, grid .*\n  ", planted.stderr), planted.stderr
        for text in fault.texts:
            assert re.search(text, planted.stderr, re.DOTALL), (
                schedule,
                seed,
                text,
                planted.stderr,
            )


@pytest.mark.parametrize("fault", [f for f in FAULT_TABLE if f.program == "cp_async_wait"], ids=str)
def test_late_copies_show_old_data_without_checks(fault: Fault) -> None:
    """The adversary alone makes a missing wait visible: wrong numbers when nothing is checked."""
    late = emulator.run(
        program(fault.arch),
        fault.program,
        fault.planted,
        arch=fault.arch,
        schedule="late",
        checks="none",
    )
    assert late.returncode == 1
    assert "wrong numbers" in late.stdout


def test_swizzle_mismatch_gives_wrong_numbers() -> None:
    assert run("swizzle", 0, "sm_90a").stdout.strip() == "ok"
    planted = run("swizzle", 1, "sm_90a")
    assert planted.returncode == 1, (planted.stdout, planted.stderr)
    assert planted.stdout.startswith("wrong numbers")


# A warp reads 32 elements `stride` apart. 4 bytes: gcd(stride, 32) lanes share a bank. 8 bytes:
# half a warp at a time, 2 * stride words apart; 16 bytes: a quarter of a warp, 4 * stride apart.
@pytest.mark.parametrize(
    ("size", "stride", "wavefronts"),
    [
        (4, 1, 1), (4, 2, 2), (4, 3, 1), (4, 4, 4), (4, 8, 8), (4, 16, 16), (4, 32, 32), (4, 33, 1),
        (8, 1, 2), (8, 2, 4), (8, 16, 32), (8, 17, 2),
        (16, 1, 4), (16, 2, 8), (16, 8, 32), (16, 9, 4),
    ],
)  # fmt: skip
def test_bank_conflicts_are_counted_exactly(size: int, stride: int, wavefronts: int) -> None:
    done = run("strides", 0, "sm_80", str(size), str(stride), counters=True).check()
    (launch,) = done.launches
    sites = {int(line): site for line, site in launch["shared_by_ptx_line"].items()}
    load = sites[max(sites)]  # the stores stand before it
    expected = {"wavefronts": wavefronts, "conflicts": wavefronts - size // 4}
    assert {key: load[key] for key in expected} == expected, sites
