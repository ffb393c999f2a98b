# SPDX-License-Identifier: BSD-3-Clause
"""Every wait, fence and release of the real Hopper forward kernel is needed.

Left out on purpose: wgmma_fence (orders register accesses, which the emulator does not delay),
__syncwarp (it does not tell the lanes of a warp apart) and the consumers' turns (order without
need, for speed).
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import emulator_tools as emulator
import pytest

CSRC = emulator.ROOT / "csrc"
SOURCES = [CSRC / "sm90" / name for name in ("producer.cuh", "consumer.cuh", "fwd.cuh")]
DRIVER = emulator.EMULATOR / "faults" / "attention_sm90.cuh"
SYNCHRONISATION = re.compile(
    r"\s*(mbarrier_wait|mbarrier_arrive|release|fence_async_proxy|sync_warpgroup"
    r"|tma_store_wait_read|wgmma_wait<\d>|__syncthreads)\(.*\);$"
)


@cache
def statements() -> list[tuple[Path, int]]:
    """(file, line) of every synchronising statement; the number of one is its place here."""
    found = []
    for source in SOURCES:
        lines = source.read_text().splitlines()
        found += [(source, i) for i, line in enumerate(lines) if SYNCHRONISATION.match(line)]
    return found


@cache
def program() -> Path:
    """The driver with a condition before each synchronising statement."""
    texts = {source: source.read_text().splitlines() for source in SOURCES}
    for number, (source, line) in enumerate(statements()):
        texts[source][line] = f"if (removed() != {number}) {{ {texts[source][line]} }}"
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh", ".cpp"})
    parts = ["\n".join(text) for text in texts.values()] + [p.read_text() for p in headers]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = emulator.CACHE / "mutations" / digest[:24]
    (folder / "sm90").mkdir(parents=True, exist_ok=True)
    for source, text in texts.items():
        (folder / "sm90" / source.name).write_text("\n".join(text) + "\n")
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
    assert len(statements()) > 20
    done = run(schedule=schedule)
    assert done.stdout.strip() == "ok", (done.stdout, done.stderr)


@pytest.mark.parametrize("number", range(len(statements())))
def test_without_one_of_them_it_is_caught(number: int) -> None:
    source, line = statements()[number]
    done = run(number, schedule="random", seed=number)
    where = f"{source.name}:{line + 1}: {done.stdout} {done.stderr}"
    assert "(cudaError" in done.stdout, where
