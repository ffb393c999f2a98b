# SPDX-License-Identifier: BSD-3-Clause
"""Compiles and runs the cases of one architecture, on the emulator or on this machine's GPU."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import emulator_tools  # noqa: E402
import isa  # noqa: E402
from forms import Case, program_source, read_results  # noqa: E402

GOLDEN = HERE / "golden"
# Which compute capability a program needs, and whether newer GPUs run it too.
ARCHES = {
    "sm_80": (8, 0, True),
    "sm_89": (8, 9, True),
    "sm_90a": (9, 0, False),
    "sm_100a": (10, 0, False),
    "sm_120a": (12, 0, False),
}


@functools.cache
def cases_of(arch: str) -> list[Case]:
    isa.reseed(int(arch.removeprefix("sm_").removesuffix("a")))
    module = importlib.import_module(f"cases_{arch.replace('_', '').removesuffix('a')}")
    cases: list[Case] = module.cases()
    names = [c.name for c in cases]
    assert len(set(names)) == len(names), f"two cases of {arch} share a name"
    return cases


def program(arch: str, cases: Sequence[Case]) -> Path:
    kernels = HERE / f"{arch.replace('_', '').removesuffix('a')}.cuh"
    handwritten = kernels.read_text() if kernels.exists() else ""
    header = (HERE / "harness.h").read_text().replace("#pragma once", "")
    text = program_source(cases, handwritten).replace('#include "harness.h"', header)
    return emulator_tools.compile_cuda(text, arch.removeprefix("sm_"))


def run(
    arch: str, cases: Sequence[Case], env: Mapping[str, str]
) -> tuple[dict[str, NDArray[Any] | int], str]:
    """Results by case name and what the program wrote to stderr; a failing case ends a program."""
    binary = program(arch, cases_of(arch))
    results: dict[str, NDArray[Any] | int] = {}
    messages = ""
    left = list(cases)
    while left:
        with tempfile.TemporaryDirectory() as scratch:
            jobs, out = Path(scratch) / "jobs", Path(scratch) / "results"
            jobs.write_bytes(b"".join(c.job() for c in left))
            done = subprocess.run(
                [binary, jobs, out],
                env={**os.environ, **env},
                check=False,
                capture_output=True,
                text=True,
                timeout=600,
            )
            got = read_results(out.read_bytes(), left) if out.exists() else {}
        messages += done.stderr
        if not got:
            results[left[0].name] = -999  # the program died
            messages += f"{left[0].name}: the program ended with {done.returncode}\n{done.stdout}"
            left = left[1:]
            continue
        results.update(got)
        left = left[len(got) :]
    return results, messages


def emulated(
    arch: str, cases: Sequence[Case], schedule: str = "fair", seed: int = 0
) -> tuple[dict[str, NDArray[Any] | int], str]:
    settings = emulator_tools.settings(arch, schedule=schedule, seed=seed)
    folder = str(emulator_tools.emulator().parent)
    return run(arch, cases, {"LD_LIBRARY_PATH": folder, **settings})


def golden(arch: str) -> dict[str, NDArray[Any]]:
    """Outputs recorded on a GPU, by case; empty when nobody has recorded any."""
    file = GOLDEN / f"{arch}.npz"
    if not file.exists():
        return {}
    with np.load(file) as data:
        return {name: data[name] for name in data.files if not name.startswith("__")}
