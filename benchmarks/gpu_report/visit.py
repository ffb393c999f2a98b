# SPDX-License-Identifier: BSD-3-Clause
"""Where things are on a GPU machine, and what a part of a visit is."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Command = list[str]


class Skip(Exception):
    """The part has nothing to do on this machine; the message says why."""


@dataclass(frozen=True)
class Visit:
    """Where things are on the machine."""

    root: Path
    out: Path
    python: str = sys.executable
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def site(self) -> Path:
        """Where the built package is installed."""
        return self.out / "site"

    @property
    def build(self) -> Path:
        """The CMake build folder, kept between runs."""
        return self.out / "build"

    @property
    def bench_cpp(self) -> Path:
        """The C++ benchmark."""
        return self.build / "benchmarks" / "cpp" / "bench_attention"

    def tool(self, name: str) -> str:
        """A program of the CUDA toolkit; Skip where it is missing."""
        home = Path(self.nvcc() or "nvcc").parent
        for found in (shutil.which(name), home / name):
            if found and Path(found).exists():
                return str(found)
        raise Skip(f"{name} is not on this machine")

    def nvcc(self) -> str | None:
        """The CUDA compiler: CUDACXX, else nvcc on PATH, else the usual place."""
        usual = Path("/usr/local/cuda/bin/nvcc")
        return (
            os.environ.get("CUDACXX")
            or shutil.which("nvcc")
            or (str(usual) if usual.exists() else None)
        )

    def environment(self) -> dict[str, str]:
        """Variables of every command: the built package, and caches that stay under the report."""
        variables = dict(os.environ)
        nvcc = self.nvcc()
        if nvcc:
            variables["CUDACXX"] = nvcc
            variables.setdefault("CUDA_HOME", str(Path(nvcc).resolve().parent.parent))
        paths = [str(self.site), *filter(None, [variables.get("PYTHONPATH")])]
        variables |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CMAKE_BUILD_PARALLEL_LEVEL": str(self.jobs),
            "CMAKE_GENERATOR": "Ninja",
            "TORCHINDUCTOR_CACHE_DIR": str(self.out / "cache" / "inductor"),
            "TRITON_CACHE_DIR": str(self.out / "cache" / "triton"),
            "HF_HUB_OFFLINE": "1",
        }
        return variables


@dataclass(frozen=True)
class Part:
    """One step with a name; ``commands`` raises Skip where there is nothing to do."""

    name: str
    about: str
    commands: Callable[[Visit], list[Command]]
