# SPDX-License-Identifier: BSD-3-Clause
"""Every wait, fence and release of the real Hopper forward kernels is needed.

Left out on purpose: wgmma_fence (orders register accesses, which the emulator does not delay), the
consumers' turns (order without need, for speed) and each __syncwarp but those after which one lane
hands over what the warp wrote: the others bring lanes together, free slots that only wgmma read
(over for all lanes with wgmma_wait), or belong to outputs that the drivers do not make. A fence
with a remark on its line is a precaution: its writer fences, though the ISA is content with a later
one.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import emulator_tools as emulator
import pytest

CSRC = emulator.ROOT / "csrc"
# The driver of a kernel, and the files whose statements it answers for.
KERNELS = {
    "attention_sm90": ("producer.cuh", "consumer.cuh", "store.cuh", "fwd.cuh"),
    "attention_sm90_gather": ("gather.cuh",),
    "attention_sm90_fp8": ("fwd_fp8.cuh", "transpose_fp8.cuh"),
}
# Conditions that hold nothing back when they are made true.
CONDITIONS = {
    "attention_sm90_gather": [
        ("gather.cuh", "key < end_key"),  # entries of the table behind the end
        ("gather.cuh", "(from >> 32) >= 0"),  # zeros in place of rows
    ],
}
WHOLE_WARPS = {"attention_sm90_gather"}  # cp.async: the emulator does not tell its lanes apart
SEEDS = 4  # of the random schedule: an mbarrier used before it is ready shows in three of four
SYNCHRONISATION = re.compile(
    r"\s*(mbarrier_wait|mbarrier_arrive|release|fence_async_proxy|sync_warpgroup"
    r"|tma_store_wait_read|wgmma_wait<\d>|cp_async_commit|cp_async_wait<\d>|__syncthreads)\(.*\);$"
)


def is_hand_over(before: str, line: str) -> bool:
    return (before.strip(), line.strip()) == ("fence_async_proxy();", "__syncwarp();")


@cache
def statements(kernel: str) -> list[tuple[Path, int]]:
    """(file, line) of every synchronising statement; the number of one is its place here."""
    found = []
    for name in KERNELS[kernel]:
        source = CSRC / "sm90" / name
        lines = source.read_text().splitlines()
        found += [
            (source, i)
            for i, line in enumerate(lines)
            if SYNCHRONISATION.match(line)
            or (kernel not in WHOLE_WARPS and is_hand_over(lines[i - 1], line))
        ]
    return found


@cache
def program(kernel: str) -> Path:
    """The driver with a condition before each synchronising statement."""
    driver = emulator.EMULATOR / "faults" / f"{kernel}.cuh"
    texts: dict[Path, list[str]] = {}
    for number, (source, line) in enumerate(statements(kernel)):
        text = texts.setdefault(source, source.read_text().splitlines())
        text[line] = f"if (removed() != {number}) {{ {text[line]} }}"
    for number, (name, condition) in enumerate(CONDITIONS.get(kernel, []), len(statements(kernel))):
        source = CSRC / "sm90" / name
        text = texts.setdefault(source, source.read_text().splitlines())
        (line,) = (i for i, x in enumerate(text) if condition in x)
        text[line] = text[line].replace(condition, f"({condition} || removed() == {number})")
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh", ".cpp"})
    parts = ["\n".join(text) for text in texts.values()] + [p.read_text() for p in headers]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = emulator.CACHE / "mutations" / digest[:24]
    (folder / "sm90").mkdir(parents=True, exist_ok=True)
    for source, text in texts.items():
        (folder / "sm90" / source.name).write_text("\n".join(text) + "\n")
    includes = [folder, CSRC, CSRC / "include", driver.parent]
    return emulator.compile_cuda(
        f"// {digest}\n{driver.read_text()}", "90a", flags=[f"-I{path}" for path in includes]
    )


def run(kernel: str, *arguments: object, schedule: str, seed: int = 0) -> emulator.Run:
    return emulator.run(
        program(kernel), *arguments, arch="sm_90a", schedule=schedule, seed=seed, hang_seconds=1
    )


@pytest.mark.parametrize("schedule", ["fair", "late", "early", "random"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_as_it_is_passes(kernel: str, schedule: str) -> None:
    assert len(statements(kernel)) >= 5
    done = run(kernel, schedule=schedule)
    assert done.stdout.strip() == "ok", (done.stdout, done.stderr)


ALL = [(kernel, number) for kernel in KERNELS for number in range(len(statements(kernel)))]


@pytest.mark.parametrize(("kernel", "number"), ALL)
def test_without_one_of_them_it_is_caught(kernel: str, number: int) -> None:
    source, line = statements(kernel)[number]
    for seed in range(number, number + SEEDS):
        done = run(kernel, number, schedule="random", seed=seed)
        if "(cudaError" in done.stdout:
            return
    raise AssertionError(f"{source.name}:{line + 1}: {done.stdout} {done.stderr}")


@pytest.mark.parametrize(
    ("kernel", "place"),
    [(kernel, i) for kernel in CONDITIONS for i in range(len(CONDITIONS[kernel]))],
)
def test_without_one_of_the_conditions_it_is_caught(kernel: str, place: int) -> None:
    done = run(kernel, len(statements(kernel)) + place, schedule="random")
    assert "(cudaError" in done.stdout or "wrong numbers" in done.stdout, done.stdout
