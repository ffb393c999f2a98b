# SPDX-License-Identifier: BSD-3-Clause
"""The GPU that is timed: what it is, what it can do at best, and how it is clocked."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from typing import Any

import torch

# Dense 16-bit tensor-core TFLOP/s with fp32 accumulation, from NVIDIA's data sheets; first match.
PEAK_TFLOPS = (
    ("B300", 2250.0),
    ("B200", 2250.0),
    ("GB200", 2500.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H20", 148.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("A30", 165.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
)
CLOCK_FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")
PACKAGES = ("torch", "triton", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "limelight")


class NoGpuError(RuntimeError):
    """The benchmark cannot run on this machine; the message says why."""


def require_gpu() -> torch.device:
    """The device to time; NoGpuError where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    built = torch.version.cuda
    reason = "this torch is built without CUDA" if built is None else "torch sees no CUDA device"
    raise NoGpuError(
        f"benchmarks need an NVIDIA GPU, and {reason} (torch {torch.__version__}). Timing on a CPU "
        "says nothing about the kernels; run this command on a machine with a GPU."
    )


def peak_tflops(name: str) -> float | None:
    """The data-sheet peak of a device by its name, None if it is not listed."""
    return next((peak for part, peak in PEAK_TFLOPS if part in name), None)


def describe(device: torch.device) -> dict[str, Any]:
    """Name, capability, memory, cache, driver and versions."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "sm_count": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "peak_tflops": peak_tflops(properties.name),
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda} | versions(),
        "driver": nvidia_smi(("driver_version",)).get("driver_version"),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that are timed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def clocks() -> dict[str, str]:
    """Clocks (MHz), power (W) and temperature (C) now."""
    return nvidia_smi(CLOCK_FIELDS)


def nvidia_smi(fields: tuple[str, ...]) -> dict[str, str]:
    """Values that nvidia-smi reports for the first GPU; empty where the tool is missing or
    fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = (
        [value.strip() for value in out.strip().splitlines()[0].split(",")] if out.strip() else []
    )
    return dict(zip(fields, values, strict=False))
