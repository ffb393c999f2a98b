# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a visit to a GPU machine: what each runs, and when it has nothing to do."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Command = list[str]
HEADDIMS = (64, 128, 256)
PROFILED = ("--verify-only", "--headdim", "64,128,256", "--seqlen", "4096")
CHECKED = ("--verify-only", "--headdim", "64,128,256", "--seqlen", "333", "--tokens", "333")


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


def machine(visit: Visit) -> list[Command]:
    """What this machine is."""
    nvcc = visit.nvcc()
    packages = [
        "torch",
        "triton",
        "pybind11",
        "scikit_build_core",
        "ninja",
        "pytest",
        "transformers",
    ]
    script = (
        "import importlib.metadata as m, sys; print('python', sys.version)\n"
        f"for name in {packages}:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: print(name, 'missing')"
    )
    compiler = [[nvcc, "--version"]] if nvcc else []
    return [
        ["nvidia-smi"],
        ["nvidia-smi", "-q", "-d", "CLOCK,POWER"],
        *compiler,
        [visit.python, "-c", script],
    ]


def build(visit: Visit) -> list[Command]:
    """The package for this GPU, through its own build backend and without downloads."""
    nvcc = visit.nvcc()
    if nvcc is None:
        raise RuntimeError("no CUDA compiler: put nvcc on PATH or name it in CUDACXX")
    settings = {
        "build-dir": str(visit.build),
        "cmake.define.LIMELIGHT_TARGET": "native",
        "cmake.define.LIMELIGHT_BENCHMARKS": "ON",
        "cmake.define.LIMELIGHT_EXTRA_RPATH": str(Path(nvcc).resolve().parent.parent / "lib64"),
    }
    options = [part for key, value in settings.items() for part in ("-C", f"{key}={value}")]
    pip = [visit.python, "-m", "pip", "install", "-v", "--no-index", "--no-deps", "--upgrade"]
    install = [*pip, "--no-build-isolation", "--target", str(visit.site), *options, str(visit.root)]
    return [install, [visit.python, "-m", "limelight", "info"]]


def _pytest(visit: Visit, name: str, files: list[Path]) -> list[Command]:
    if not files:
        raise Skip("no such tests")
    command = [
        visit.python,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
    ]
    command += [f"--junitxml={visit.out / name}.xml"]
    if not _importable("pytest_timeout"):
        command += [
            "-o",
            "addopts=-ra",
        ]  # drops --strict-config, which refuses the unknown ``timeout``
    return [[*command, *map(str, files)]]


def _importable(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _test_files(visit: Visit) -> list[Path]:
    return sorted((visit.root / "tests").glob("test_*.py"))


def _on_kernels(file: Path) -> bool:
    """Whether a test file asks for the device that kernels serve, by its fixture."""
    return re.search(r"def test\w*\([^)]*\bkernels\b", file.read_text()) is not None


def test_kernels(visit: Visit) -> list[Command]:
    """The kernels on this GPU."""
    files = [file for file in _test_files(visit) if _on_kernels(file)]
    return _pytest(visit, "test-kernels", files)


def test_python(visit: Visit) -> list[Command]:
    """Everything else but the emulator's own tests."""
    rest = [f for f in _test_files(visit) if not _on_kernels(f) and "emulator" not in f.name]
    return _pytest(visit, "test-python", rest)


def test_emulator(visit: Visit) -> list[Command]:
    """The emulator's own tests, which need no GPU."""
    rest = [f for f in _test_files(visit) if not _on_kernels(f) and "emulator" in f.name]
    return _pytest(visit, "test-emulator", rest)


def bench(headdim: int) -> Callable[[Visit], list[Command]]:
    """Side-by-side forward benchmark of one headdim."""

    def commands(visit: Visit) -> list[Command]:
        stem = str(visit.out / f"bench-d{headdim}")
        options = ["--headdim", str(headdim), "--out", f"{stem}.json"]
        options += ["--plot", f"{stem}.png"] if _importable("matplotlib") else []
        return [[visit.python, "-m", "limelight", "bench", *options]]

    return commands


def bench_cpp(visit: Visit) -> list[Command]:
    """liblimelight from C++ alone."""
    return [[_built(visit.bench_cpp), "--json", str(visit.out / "bench-cpp.json")]]


def overhead(visit: Visit) -> list[Command]:
    """Host time of one call."""
    script = visit.root / "benchmarks" / "python" / "host_overhead.py"
    return [[visit.python, str(script), "--json"]]


def resources(visit: Visit) -> list[Command]:
    """Registers, shared memory and stack of every kernel."""
    library = visit.site / "limelight" / "lib" / "liblimelight.so"
    return [[visit.tool("cuobjdump"), "--dump-resource-usage", _built(library)]]


def profile(visit: Visit) -> list[Command]:
    """Nsight Compute profiles of one shape per headdim and mask."""
    report = str(visit.out / "profile")
    ncu = visit.tool("ncu")
    record = [ncu, "--set", "full", "--import-source", "on", "--clock-control", "none", "-f"]
    program = [_built(visit.bench_cpp), *PROFILED]
    return [
        [*record, "-o", report, *program],
        [ncu, "--import", f"{report}.ncu-rep", "--page", "details"],
    ]


def sanitize(tool: str) -> Callable[[Visit], list[Command]]:
    """compute-sanitizer over small ragged shapes."""

    def commands(visit: Visit) -> list[Command]:
        sanitizer = [visit.tool("compute-sanitizer"), "--tool", tool, "--error-exitcode", "3"]
        return [[*sanitizer, _built(visit.bench_cpp), *CHECKED]]

    return commands


def conformance(visit: Visit) -> list[Command]:
    """Golden outputs of single instructions, which hold the emulator to the hardware."""
    script = visit.root / "tests" / "emulator" / "conformance" / "record.py"
    if not script.exists():
        raise Skip(f"{script} is missing")
    golden = str(script.parent / "golden")
    return [[visit.python, str(script)], ["cp", "-r", golden, str(visit.out)]]


def _built(path: Path) -> str:
    if not path.exists():
        raise RuntimeError(f"{path} is missing: run the part build first")
    return str(path)


PARTS: tuple[Part, ...] = (
    Part("machine", "GPU, driver, compiler, packages", machine),
    Part("build", "build and install for this GPU", build),
    Part("test-kernels", "test suite: kernels on this GPU", test_kernels),
    *(Part(f"bench-d{d}", f"against torch's backends, headdim {d}", bench(d)) for d in HEADDIMS),
    Part("bench-cpp", "liblimelight from C++ alone", bench_cpp),
    Part("overhead", "host time of one call", overhead),
    Part("resources", "registers and shared memory (cuobjdump)", resources),
    Part("profile", "Nsight Compute profiles", profile),
    Part("memcheck", "compute-sanitizer memcheck", sanitize("memcheck")),
    Part("racecheck", "compute-sanitizer racecheck", sanitize("racecheck")),
    Part("conformance", "golden outputs for the emulator", conformance),
    Part("test-python", "test suite: the rest", test_python),
    Part("test-emulator", "test suite: the emulator itself", test_emulator),
)
