# SPDX-License-Identifier: BSD-3-Clause
"""The emulator as a CUDA runtime: unmodified programs built by nvcc run on it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import emulator_tools as emu
import pytest

PROGRAMS = emu.EMULATOR / "programs"

# name, capability, SMs, opt-in and per-SM shared memory (KB), threads and blocks per SM, clusters
DEVICES = [
    ("sm_80", "8.0", 108, 163, 164, 2048, 32, 0),
    ("sm_86", "8.6", 72, 99, 100, 1536, 16, 0),
    ("sm_89", "8.9", 142, 99, 100, 1536, 24, 0),
    ("sm_90a", "9.0", 132, 227, 228, 2048, 32, 1),
    ("sm_100a", "10.0", 148, 227, 228, 2048, 32, 1),
    ("sm_103a", "10.3", 148, 227, 228, 2048, 32, 1),
    ("sm_120a", "12.0", 188, 99, 100, 1536, 24, 1),
]

VECTOR_ADD = """
#include <cstdio>
#include <cuda_runtime.h>
__global__ void add(const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
int main() {
    const int n = 1000;
    float *a, *b, *c;
    cudaMallocManaged(&a, n * 4);
    cudaMallocManaged(&b, n * 4);
    cudaMallocManaged(&c, n * 4);
    for (int i = 0; i < n; ++i) { a[i] = i; b[i] = 2 * i; }
    add<<<4, 256>>>(a, b, c, n);
    cudaError_t error = cudaDeviceSynchronize();
    int wrong = 0;
    for (int i = 0; i < n; ++i) wrong += c[i] != 3 * i;
    printf("%s, %d wrong\\n", cudaGetErrorName(error), wrong);
    return error != cudaSuccess;
}
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
@pytest.mark.parametrize(
    "name", ["memory", "streams", "graphs", "compute", "errors", "driver", "library", "wmma"]
)
def test_program(name: str, arch: str) -> None:
    # Compiled once, for sm_80: every later architecture takes that PTX.
    done = emu.run(emu.compile_cuda(PROGRAMS / f"{name}.cu"), arch=arch).check()
    assert done.stdout.splitlines()[-1] == "ok"


@pytest.mark.parametrize("schedule", ["fair", "early", "late", "random"])
def test_copies_outlive_their_thread(schedule: str) -> None:
    emu.compile_and_run(PROGRAMS / "async_copy.cu", schedule=schedule).check()


def test_device_printf() -> None:
    done = emu.compile_and_run(PROGRAMS / "compute.cu").check()
    for block in (0, 1):
        assert f"block {block} says hello 1.50 123456789abc\n" in done.stdout


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d[0])
def test_properties(device: tuple[str, str, int, int, int, int, int, int]) -> None:
    arch, capability, sms, optin, shared, threads, blocks, clusters = device
    program = emu.compile_cuda(PROGRAMS / "properties.cu")
    done = emu.run(program, arch=arch).check()
    assert done.stdout.strip() == (
        f"{capability} sms {sms} shared {optin * 1024} of {shared * 1024} "
        f"threads {threads} blocks {blocks} clusters {clusters}"
    )
    assert " sms 3 " in emu.run(program, arch=arch, sms=3).check().stdout


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d[0])
def test_attributes_and_limits(device: tuple[str, str, int, int, int, int, int, int]) -> None:
    program = emu.compile_cuda(PROGRAMS / "attributes.cu")
    emu.run(program, device[3], device[7], arch=device[0]).check()


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a"])
@pytest.mark.parametrize("schedule", ["fair", "early", "late", "random"])
def test_cluster(arch: str, schedule: str) -> None:
    emu.compile_and_run(PROGRAMS / "cluster.cu", arch, schedule=schedule).check()


@pytest.mark.parametrize("mode", ["default", "none", "speed", "balance", "size"])
def test_fat_binary_compression(mode: str) -> None:
    flags = [] if mode == "default" else [f"--compress-mode={mode}"]
    done = emu.compile_and_run(VECTOR_ADD, flags=flags).check()
    assert done.stdout == "cudaSuccess, 0 wrong\n"


def test_larger_programs_decompress_too() -> None:
    lines = "\n".join(
        f"    x[{i}] = x[{i + 1}] * {i % 7}.25f + x[{i * 7 % 300}];" for i in range(300)
    )
    text = "#include <cstdio>\n__global__ void k(volatile float* x) {\n" + lines + "\n}\n"
    text += """
    int main() {
        float* x;
        cudaMallocManaged(&x, 2048);
        for (int i = 0; i < 512; ++i) x[i] = i;
        k<<<1, 1>>>(x);
        cudaDeviceSynchronize();
        double sum = 0;
        for (int i = 0; i < 512; ++i) sum += x[i];
        printf("%.9g\\n", sum);
    }
    """
    outputs = {
        emu.compile_and_run(text, flags=[f"--compress-mode={mode}"]).check().stdout
        for mode in ("none", "speed", "balance", "size")
    }
    assert len(outputs) == 1
    assert outputs != {"\n"}


def test_best_image_is_chosen() -> None:
    text = """
    #include <cstdio>
    __global__ void which(int* x) {
    #ifdef __CUDA_ARCH_FEAT_SM90_ALL
        *x = __CUDA_ARCH__ + 1;
    #elif defined(__CUDA_ARCH__)
        *x = __CUDA_ARCH__;
    #endif
    }
    int main() {
        int* x;
        cudaMallocManaged(&x, 4);
        which<<<1, 1>>>(x);
        printf("%s ", cudaGetErrorName(cudaGetLastError()));
        cudaDeviceSynchronize();
        printf("%d\\n", *x);
    }
    """
    program = emu.compile_cuda(text, "80", extra_arches=["86", "90", "90a", "100"])
    for arch, version in [("sm_80", 800), ("sm_86", 860), ("sm_89", 860), ("sm_90a", 901)]:
        assert emu.run(program, arch=arch).stdout == f"cudaSuccess {version}\n"
    assert emu.run(program, arch="sm_120a").stdout == "cudaSuccess 1000\n"
    only = emu.compile_cuda(text, "90a")
    done = emu.run(only, arch="sm_80")
    assert done.stdout.startswith("cudaErrorNoKernelImageForDevice ")
    assert "no PTX for sm_80 in this fat binary, which holds compute_90a" in done.stderr


def test_unknown_call_stops_with_its_name() -> None:
    done = emu.run(emu.compile_cuda(PROGRAMS / "errors.cu"), "unknown")
    assert done.returncode == 3
    assert done.stdout == "cudaErrorNotSupported\n"
    assert "cudaMallocArray is not implemented in the emulator" in done.stderr


def test_every_exported_name_exists() -> None:
    def exported(library: Path) -> set[str]:
        out = subprocess.run(
            ["nm", "-D", "--defined-only", library], check=True, capture_output=True
        )
        return set(re.findall(r" [TWi] (\w+)@@libcudart", out.stdout.decode()))

    real = exported(emu.toolkit().library)
    assert len(real) > 400
    assert real - exported(emu.emulator()) == set()


def test_per_thread_default_stream() -> None:
    flags = ["--default-stream", "per-thread"]
    done = emu.compile_and_run(PROGRAMS / "memory.cu", flags=flags).check()
    assert done.stdout == "ok\n"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("arch", "sm_70", "setting arch = 'sm_70': allowed is sm_80, sm_86"),
        ("schedule", "eager", "setting schedule = 'eager': allowed is fair, early, late, random"),
        ("checks", "bounds,speed", "unknown check 'speed'"),
        ("threads", "many", "setting threads = 'many': allowed is 0 (automatic) to 1024"),
    ],
)
def test_bad_settings_are_refused(key: str, value: str, message: str) -> None:
    program = emu.compile_cuda(VECTOR_ADD)
    environment = {f"LIMELIGHT_EMULATOR_{key.upper()}": value}
    done = emu.run(program, env=environment)
    assert done.returncode != 0
    assert message in done.stderr


def test_counters() -> None:
    done = emu.compile_and_run(VECTOR_ADD, counters=True).check()
    (launch,) = done.launches
    assert launch["kernel"] == "add(float const*, float const*, float*, int)"
    assert (launch["grid"], launch["block"]) == ([4, 1, 1], [256, 1, 1])
    assert launch["arch"] == "sm_80"
    assert launch["error"] == 0
    assert launch["global_load_bytes"] == 8000
    assert launch["global_store_bytes"] == 4000
    assert launch["global_load_unique_bytes"] == 8000
    assert launch["global_store_unique_bytes"] == 4000
    # 31 full warps read 4 sectors per array, the last one only its first 8 elements.
    assert launch["global_load_sectors"] == 2 * (31 * 4 + 1)
    assert launch["thread_instructions_by_class"]["fp32"] == 1000
    assert launch["warp_instructions_by_class"]["fp32"] == 32
    assert launch["shared_requests"] == 0


def test_bank_conflicts_are_counted() -> None:
    text = """
    #include <cstdlib>
    __global__ void strided(float* out, int stride) {
        __shared__ float x[32 * 33];
        for (int i = threadIdx.x; i < 32 * 33; i += 32) x[i] = i;
        __syncthreads();
        out[threadIdx.x] = x[threadIdx.x * stride];
    }
    int main(int, char** argv) {
        float* out;
        cudaMalloc(&out, 128);
        strided<<<1, 32>>>(out, atoi(argv[1]));
        return cudaDeviceSynchronize();
    }
    """
    program = emu.compile_cuda(text)
    for stride, conflicts in [(1, 0), (2, 1), (4, 3), (8, 7), (32, 31), (33, 0), (0, 0), (3, 0)]:
        (launch,) = emu.run(program, stride, counters=True).check().launches
        assert launch["shared_conflicts"] == conflicts, stride
        assert launch["shared_wavefronts"] == 33 + 1 + conflicts


def test_a_fault_is_in_the_report() -> None:
    done = emu.run(emu.compile_cuda(PROGRAMS / "errors.cu"), counters=True)
    faulty, healthy = done.launches
    assert faulty["error"] == 700
    assert "past the end" in faulty["fault"]
    assert "errors.cu:" in faulty["fault"]  # -lineinfo
    assert healthy["error"] == 0


def test_hooks_of_a_loaded_library() -> None:
    """As Python uses it: the emulator with RTLD_GLOBAL, then a library linked to cudart."""
    text = """
    __global__ void twice(float* x, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) x[i] *= 2;
    }
    extern "C" int launch(float* x, int n) {
        twice<<<(n + 127) / 128, 128>>>(x, n);
        return cudaGetLastError();
    }
    extern "C" int clusters() {
        int value;
        cudaDeviceGetAttribute(&value, cudaDevAttrClusterLaunch, 0);
        return value;
    }
    """
    library = emu.compile_cuda(text, shared=True)
    code = f"""
import ctypes
emulator = ctypes.CDLL({str(emu.emulator())!r}, ctypes.RTLD_GLOBAL)
emulator.limelight_emulator_last_report.restype = ctypes.c_char_p
emulator.limelight_emulator_configure.restype = ctypes.c_char_p
library = ctypes.CDLL({str(library)!r})
x = (ctypes.c_float * 100)(*range(100))
assert library.launch(x, 100) == 700
print(emulator.limelight_emulator_last_report().decode())
emulator.limelight_emulator_clear_errors()
assert emulator.limelight_emulator_register_host(x, ctypes.sizeof(x), b"x") == 0
assert library.launch(x, 100) == 0
assert list(x) == [2 * i for i in range(100)]
assert library.launch(x, 101) == 700
assert b"past the end of 'x'" in emulator.limelight_emulator_last_report()
print(emulator.limelight_emulator_last_report().decode())
emulator.limelight_emulator_clear_errors()
assert emulator.limelight_emulator_configure(b"checks", b"none") is None
assert emulator.limelight_emulator_unregister_host(x) == 0
assert library.launch(x, 100) == 0
assert x[99] == 4 * 99
assert library.clusters() == 0
assert emulator.limelight_emulator_configure(b"arch", b"sm_90a") is None
assert library.clusters() == 1
assert library.launch(x, 100) == 0
assert b"is unknown" in emulator.limelight_emulator_configure(b"colour", b"red")
print("ok")
"""
    environment = {**os.environ, **emu.settings("sm_80", quiet=1)}
    command = [emu.sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")
