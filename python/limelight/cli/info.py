# SPDX-License-Identifier: BSD-3-Clause
"""What this installation can do: versions, devices, kernels, and the reason for each missing
backend."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from typing import Any

import torch

import limelight
from limelight import gemm_tables, runtime

PACKAGES = ("torch", "transformers", "numpy", "matplotlib", "nvidia-cuda-runtime")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print what ``collect`` finds."""
    facts = collect()
    print(json.dumps(facts, indent=2) if arguments.json else as_text(facts))
    return 0


def collect() -> dict[str, Any]:
    """Everything that the command prints; the values are JSON types."""
    extension = runtime.core()
    backends = limelight.backends()
    kernels = backends["kernels"]["kernels"]
    return {
        "limelight": limelight.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "torch_cuda": torch.version.cuda,
        "extension": {
            "present": extension is not None,
            "reason": runtime.core_error(),
            **({} if extension is None else extension.build_info()),
        },
        "devices": [_device(index) for index in range(torch.cuda.device_count())],
        "backends": {
            name: {"available": entry["available"], "reason": entry["reason"]}
            for name, entry in backends.items()
        },
        "kernels": [dict(kernel) for kernel in kernels],
        "linear_tables": _linear_tables(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("LIMELIGHT_")},
    }


def as_text(facts: dict[str, Any]) -> str:
    """The facts for people."""
    packages = ", ".join(f"{name} {v}" for name, v in facts["packages"].items() if v)
    lines = [
        f"limelight {facts['limelight']}, Python {facts['python']}, {packages}",
        f"torch was built for CUDA {facts['torch_cuda'] or 'none (CPU only)'}",
        "",
        "backends",
    ]
    for name, entry in facts["backends"].items():
        state = "available" if entry["available"] else f"missing: {entry['reason']}"
        lines.append(f"  {name:10} {state}")
    lines += ["", "devices"]
    lines += [f"  {_device_text(device)}" for device in facts["devices"]] or ["  no CUDA device"]
    extension = facts["extension"]
    lines += ["", "compiled extension"]
    if extension["present"]:
        cuda = extension["cuda"]
        toolkit = f"{cuda // 1000}.{cuda % 1000 // 10}"
        lines.append(f"  for architectures {extension['architectures']}, CUDA {toolkit}")
        lines += [f"  {line}" for line in _kernel_table(facts["kernels"])]
    else:
        lines.append(f"  missing: {extension['reason']}")
    lines += ["", "flat_linear chooses by"]
    lines += [f"  {line}" for line in _table_lines(facts["linear_tables"])]
    if facts["environment"]:
        lines += ["", "environment"]
        lines += [f"  {name}={value}" for name, value in facts["environment"].items()]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    facts = {
        "index": index,
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "sm_count": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
    }
    extension = runtime.core()
    if extension is not None:
        try:
            seen = extension.device(index)
        except RuntimeError as error:
            seen = {"has_image": False, "problem": str(error)}
        facts |= {name: seen.get(name) for name in ("driver", "runtime", "has_image", "problem")}
    return facts


def _linear_tables() -> dict[str, Any]:
    """Per kind of GPU here: its table in the cache, and how many shapes are measured."""
    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return {
        name: {
            "cache": str(gemm_tables.cached_path(name)),
            "shapes": len(gemm_tables.table(name)),
        }
        for name in sorted(names)
    }


def _table_lines(tables: dict[str, Any]) -> list[str]:
    model = "a model of bytes and waves, not measured"
    if not tables:
        return [f"{model} (no CUDA device)"]
    return [
        f"{name}: {found['shapes']} measured shapes, else {model}"
        if found["shapes"]
        else f"{name}: {model}; `python -m limelight tune` writes {found['cache']}"
        for name, found in tables.items()
    ]


def _device_text(device: dict[str, Any]) -> str:
    capability = ".".join(map(str, device["capability"]))
    size = f"{device['memory_bytes'] / 2**30:.0f} GiB"
    sms = f"{device['sm_count']} SMs"
    text = f"cuda:{device['index']} {device['name']} (sm {capability}, {sms}, {size})"
    if "has_image" not in device:
        return f"{text}: no compiled extension"
    return f"{text}: " + (
        "kernels load" if device["has_image"] else f"no kernels: {device['problem']}"
    )


def _kernel_table(kernels: list[dict[str, Any]]) -> list[str]:
    """One line per kernel, aligned; columns are the extension's own keys."""
    columns = ("name", "op", "tiles", "block_q", "block_kv", "warps", "stages", "smem_bytes")
    rows = [columns, *(tuple(str(kernel.get(c, "")) for c in columns) for kernel in kernels)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
