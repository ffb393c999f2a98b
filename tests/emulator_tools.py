# SPDX-License-Identifier: BSD-3-Clause
"""Build the emulator, compile CUDA programs for it, run them and read what they report."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = ROOT / "tests" / "emulator"
LIBRARY = ROOT / "build" / "emulator" / "libcudart.so.13"
CACHE = ROOT / "build" / "emulator-programs"
BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    """A program beside this Python, or on PATH."""
    beside = BIN / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is neither in {BIN} nor on PATH")
    return found


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time: several pytest workers want the same build."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        env=env,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        line = " ".join(map(str, command))
        raise RuntimeError(f"{line}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


@functools.cache
def emulator() -> Path:
    """Path of build/emulator/libcudart.so.13, built or brought up to date first.

    LIMELIGHT_EMULATOR_LIBRARY names one that is taken as it is.
    """
    if os.environ.get("LIMELIGHT_EMULATOR_LIBRARY"):
        return Path(os.environ["LIMELIGHT_EMULATOR_LIBRARY"])
    folder = ROOT / "build" / "emulator-cmake"
    with _locked("emulator"):
        env = dict(os.environ, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        if not (folder / "build.ninja").exists():
            _run(
                [
                    tool("cmake"),
                    "-S",
                    EMULATOR,
                    "-B",
                    folder,
                    "-G",
                    "Ninja",
                    f"-DPython_EXECUTABLE={sys.executable}",
                    f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
                ],
                env,
            )
        _run([tool("cmake"), "--build", folder, "-j", str(os.cpu_count() or 1)], env)
    return LIBRARY


@dataclass(frozen=True)
class Toolkit:
    nvcc: Path
    library: Path  # the real libcudart.so.13, which programs are linked to

    def environment(self) -> dict[str, str]:
        """nvcc's own profile names lib64, the PyPI toolkit has lib."""
        paths = [str(self.library.parent), *filter(None, [os.environ.get("LIBRARY_PATH")])]
        return dict(os.environ, LIBRARY_PATH=os.pathsep.join(paths))


@functools.cache
def toolkit() -> Toolkit:
    """CUDACXX, else the PyPI toolkit of this Python, else nvcc on PATH."""
    candidates = []
    if os.environ.get("CUDACXX"):
        candidates.append(Path(os.environ["CUDACXX"]))
    candidates.append(Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "nvcc")
    on_path = shutil.which("nvcc")
    if on_path:
        candidates.append(Path(on_path))
    for nvcc in candidates:
        top = nvcc.resolve().parent.parent
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib"):
            library = top / folder / "libcudart.so.13"
            if nvcc.exists() and library.exists():
                return Toolkit(nvcc, library)
    raise FileNotFoundError(f"no nvcc with libcudart.so.13 among {', '.join(map(str, candidates))}")


@functools.cache
def _nvcc_version() -> str:
    return _run([toolkit().nvcc, "--version"])


def compile_cuda(
    source: str | Path,
    arch: str = "80",
    *,
    flags: Sequence[str] = (),
    shared: bool = False,
    keep_default_compression: bool = True,
    extra_arches: Sequence[str] = (),
) -> Path:
    """An executable (or a shared library) with the PTX of compute_<arch>, cached by what goes in.

    source: a .cu file, or CUDA C++ text. The flags are those of any program that is built with the
    shared runtime; only the library is named by path because the PyPI toolkit has no libcudart.so.
    """
    kit = toolkit()
    text = source.read_text() if isinstance(source, Path) else source
    arches = [arch, *extra_arches]
    command: list[str] = [str(kit.nvcc), "-std=c++20", "-O3", "-lineinfo", "-cudart", "none"]
    for a in arches:
        command += ["-gencode", f"arch=compute_{a},code=compute_{a}"]
    if not keep_default_compression:
        command += ["--compress-mode=none"]
    if shared:
        command += ["-shared", "-Xcompiler", "-fPIC"]
    if isinstance(source, Path):
        command += ["-I", str(source.parent)]
    command += [*flags, "-Xlinker", str(kit.library)]
    headers = sorted(source.parent.glob("*.h")) if isinstance(source, Path) else []
    parts = [text, *(h.read_text() for h in headers), *command, _nvcc_version()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    name = source.stem if isinstance(source, Path) else "program"
    target = CACHE / f"{name}-{key}{'.so' if shared else ''}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        file = Path(scratch) / f"{name}.cu"
        file.write_text(text)
        output = Path(scratch) / target.name
        _run([*command, "-o", str(output), str(file)], kit.environment())
        output.rename(target)
    return target


@dataclass
class Run:
    """What an emulated program did."""

    returncode: int
    stdout: str
    stderr: str
    launches: list[dict[str, Any]] = field(default_factory=list)  # one per kernel launch

    def check(self) -> Run:
        """Itself when the program ended with 0; otherwise AssertionError with all its output."""
        assert self.returncode == 0, f"exit {self.returncode}\n{self.stdout}\n{self.stderr}"
        return self


def settings(
    arch: str = "sm_80",
    *,
    schedule: str = "fair",
    seed: int = 0,
    checks: str = "all",
    **others: object,
) -> dict[str, str]:
    """Environment variables of the emulator; `others` are further settings by lower-case name."""
    values = {"arch": arch, "schedule": schedule, "seed": seed, "checks": checks, **others}
    return {f"LIMELIGHT_EMULATOR_{key.upper()}": str(value) for key, value in values.items()}


def run(
    program: Path,
    *arguments: object,
    arch: str = "sm_80",
    schedule: str = "fair",
    seed: int = 0,
    checks: str = "all",
    counters: bool = False,
    timeout: float = 300,
    env: Mapping[str, str] | None = None,
    **others: object,
) -> Run:
    """Runs a program with the emulator in place of libcudart.so.13."""
    folder = emulator().parent
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.jsonl"
        if counters:
            others["report"] = report
        values = settings(arch, schedule=schedule, seed=seed, checks=checks, **others)
        done = subprocess.run(
            [program, *map(str, arguments)],
            env={**os.environ, "LD_LIBRARY_PATH": str(folder), **values, **(env or {})},
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        launches = []
        if report.exists():
            launches = [json.loads(line) for line in report.read_text().splitlines()]
    return Run(done.returncode, done.stdout, done.stderr, launches)


def compile_and_run(source: str | Path, arch: str = "sm_80", **options: Any) -> Run:
    """Compiles for the emulated architecture itself (sm_90a -> compute_90a) and runs there."""
    flags = options.pop("flags", ())
    return run(compile_cuda(source, arch.removeprefix("sm_"), flags=flags), arch=arch, **options)
