# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a visit to a GPU machine: what each runs, and when it has nothing to do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from visit import Command, Part, Skip, Visit

HEADDIMS = (64, 128, 256)
BACKWARD = ("--direction", "backward")
GQA = ("--gqa", "--headdim", "128", "--seqlen", "2048", "4096", "8192", "16384")
CHUNK = ("--batch", "1", "--seqlen", "131072", "--heads", "8", "--heads-kv", "1")
QUANTIZED = ("linear", "--format", "fp8", "int4", "--model", "llama-3-8b", "--rounds", "5")
TUNED = ("--format", "16bit", "fp8", "int4", "--rounds", "3")
VARIANTS_SECONDS = 450  # of the 480 that a part may take
PROFILED = ("--verify-only", "--headdim", "64,128,256", "--seqlen", "4096")
CHECKED = ("--verify-only", "--headdim", "64,128,256", "--seqlen", "333", "--tokens", "333")


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


def bench(name: str, *options: str, plot: bool = True) -> Callable[[Visit], list[Command]]:
    """``python -m limelight bench`` with options; the report is bench-NAME.json."""

    def commands(visit: Visit) -> list[Command]:
        stem = str(visit.out / f"bench-{name}")
        files = ["--out", f"{stem}.json"]
        files += ["--plot", f"{stem}.png"] if plot and _importable("matplotlib") else []
        return [[visit.python, "-m", "limelight", "bench", *options, *files]]

    return commands


def tune(visit: Visit) -> list[Command]:
    """Where flat_linear's implementations cross, for the wheel's table of this GPU."""
    table = str(visit.out / "tune.json")
    return [[visit.python, "-m", "limelight", "tune", *TUNED, "--out", table]]


def variants(visit: Visit) -> list[Command]:
    """Hopper's tiles beside others."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    capability = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    if capability.strip() != "9.0":
        raise Skip(f"the GPU has capability {capability.strip()}, the tiles are for 9.0")
    script = str(visit.root / "benchmarks" / "sm90" / "variants.py")
    limits = ["--limit", str(VARIANTS_SECONDS), "--jobs", str(visit.jobs)]
    return [[visit.python, script, *limits, "--out", str(visit.out / "sm90-variants.json")]]


def _of(headdim: int) -> tuple[str, str]:
    return "--headdim", str(headdim)


def bench_cpp(visit: Visit) -> list[Command]:
    """liblimelight from C++ alone."""
    return [[_built(visit.bench_cpp), "--json", str(visit.out / "bench-cpp.json")]]


def overhead(visit: Visit) -> list[Command]:
    """Host time of one call."""
    script = visit.root / "benchmarks" / "python" / "host_overhead.py"
    return [[visit.python, str(script), "--json"]]


def numerics(visit: Visit) -> list[Command]:
    """Deviations from float64 beside eager's, to 8192 keys."""
    command = [visit.python, "-m", "limelight", "numerics", "--seqlen", "512", "2048", "8192"]
    return [[*command, *_of(headdim)] for headdim in HEADDIMS]


def train(visit: Visit) -> list[Command]:
    """Loss curves of three implementations and two seeds."""
    script = str(visit.root / "examples" / "train_char_gpt.py")
    sizes = ["--batch", "32", "--seqlen", "512", "--width", "256", "--steps", "300"]
    runs = ["--attention", "eager", "sdpa", "limelight", "--seed", "0", "1"]
    files = ["--json", str(visit.out / "train.json"), "--save", str(visit.out / "char_gpt.pt")]
    files += ["--plot", str(visit.out / "train.png")] if _importable("matplotlib") else []
    return [[visit.python, script, *runs, *sizes, *files]]


def serve(visit: Visit) -> list[Command]:
    """Continuous batching over a paged cache, every token checked; once with scarce memory."""
    command = [visit.python, str(visit.root / "examples" / "serve_tiny.py"), "--requests", "64"]
    long = ["--max-prompt", "1000", "--max-new", "200", "--budget", "512"]
    return [command, [*command, *long, "--pages", "4000"], [*command, *long, "--pages", "300"]]


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
    *(
        Part(f"bench-d{d}", f"forward against torch's, headdim {d}", bench(f"d{d}", *_of(d)))
        for d in HEADDIMS
    ),
    *(
        Part(
            f"bench-bwd-d{d}",
            f"backward against torch's, headdim {d}",
            bench(f"bwd-d{d}", *_of(d), *BACKWARD),
        )
        for d in HEADDIMS
    ),
    Part("bench-gqa", "forward, 64 heads over 8, headdim 128", bench("gqa", *GQA)),
    Part("bench-bwd-gqa", "backward of the same", bench("bwd-gqa", *GQA, *BACKWARD)),
    *(
        Part(
            f"decode-t{t}",
            f"decoding, {t} tokens, GB/s beside copy",
            bench(f"decode-t{t}", "decode", "--tokens", str(t), plot=False),
        )
        for t in (1, 8, 16)
    ),
    Part(
        "decode-chunk",
        "512 queries of 8 heads over 131k keys",
        bench("decode-chunk", "decode", "--tokens", "512", *CHUNK, plot=False),
    ),
    Part("bench-linear", "flat_linear against cuBLAS", bench("linear", "linear", plot=False)),
    Part(
        "bench-linear-q",
        "the same with fp8 and int4 weights",
        bench("linear-q", *QUANTIZED, plot=False),
    ),
    Part("variants", "Hopper's tiles beside others", variants),
    Part("tune", "where flat_linear's implementations cross", tune),
    Part("numerics", "deviations from float64 beside eager's", numerics),
    Part("train", "loss curves of eager, SDPA and limelight", train),
    Part("serve", "continuous batching, every token checked", serve),
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
