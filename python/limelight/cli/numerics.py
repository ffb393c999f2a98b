# SPDX-License-Identifier: BSD-3-Clause
"""How far attention and its gradients are from float64, beside the softmax formula in the same
precision, against sequence length and tile size (after 'Is Flash Attention Stable?').

Exit code 0; 1 if a deviation is more than twice that of the formula, or not finite.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

import limelight
from limelight import execute, runtime
from limelight.autograd import attention
from limelight.problem import AttentionProblem
from limelight.torch_path.deviation import Deviation, deviations

LIMIT = 2.0  # the factor of the rule by which the tests judge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--headdim", type=_count, default=64, help="1 to 256")
    parser.add_argument("--heads", type=_count, default=4)
    parser.add_argument("--seqlen", type=_count, nargs="+", help="default: 128 512 2048")
    parser.add_argument(
        "--tile", type=_count, nargs="+", help="keys of a tile on the torch path: 16 64 256"
    )
    parser.add_argument("--mask", choices=("full", "causal"), default="causal")
    parser.add_argument("--direction", choices=("forward", "both"), default="both")
    parser.add_argument("--device", help="a torch device; default: cuda if there is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; allowed: 1 or more")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Measure, print as a table or as JSON."""
    result = collect(arguments)
    print(json.dumps(result, indent=2) if arguments.json else as_text(result))
    return 0 if result["agrees"] else 1


def collect(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command prints; the values are JSON types."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    kernels = runtime.capability(torch.device(device)) is not None
    emulated = kernels and torch.device(device).type == "cpu"
    # The emulator executes a few million instructions a second.
    seqlens = arguments.seqlen or ([64, 200] if emulated else [128, 512, 2048])
    rows: list[dict[str, Any]] = []
    for backend, tile, found in _measure(arguments, device, seqlens, kernels):
        if sys.stderr.isatty():
            print(f"\r{backend} seqlen {found.seqlen} {found.tensor}   ", end="", file=sys.stderr)
        rows.append({"backend": backend, **asdict(found), "tile_keys": tile, "ratio": found.ratio})
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    rows.sort(key=lambda row: row["seqlen"])
    ratios = [row["ratio"] for row in rows]
    return {
        "limelight": limelight.__version__,
        "torch": torch.__version__,
        "device": _device_name(device, emulated),
        "dtype": arguments.dtype,
        "headdim": arguments.headdim,
        "heads": arguments.heads,
        "causal": arguments.mask == "causal",
        "rows": rows,
        "worst_ratio": max(ratios),
        "limit": LIMIT,
        "agrees": all(math.isfinite(ratio) and ratio <= LIMIT for ratio in ratios),
    }


def _measure(
    arguments: argparse.Namespace, device: str, seqlens: list[int], kernels: bool
) -> Iterator[tuple[str, int | None, Deviation]]:
    """(backend, keys of a tile, deviation) of the kernels, if any, and of the torch path."""
    options: dict[str, Any] = {
        "dtype": getattr(torch, arguments.dtype),
        "seqlens": seqlens,
        "headdim": arguments.headdim,
        "heads": arguments.heads,
        "causal": arguments.mask == "causal",
        "gradients": arguments.direction == "both",
        "device": device,
        "seed": arguments.seed,
    }
    if kernels:
        for found in deviations(**options, attention=_call):
            op = "forward" if found.tensor == "out" else "backward"
            name, tile = _kernel(op, arguments, device, found.seqlen)
            yield name, tile, found
    tiles = [None, *(arguments.tile or (16, 64, 256))]
    for found in deviations(**options, tile_keys=tiles):
        yield "torch", found.tile_keys, found


def _call(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem) -> Tensor:
    return attention(q, k, v, problem)[0]


def _kernel(
    op: str, arguments: argparse.Namespace, device: str, seqlen: int
) -> tuple[str, int | None]:
    """The kernel that serves a pass, "torch" where none does, and the keys of its tile if known."""
    x = torch.empty(1, dtype=getattr(torch, arguments.dtype)).to(device)
    x = x.expand(1, seqlen, arguments.heads, arguments.headdim)
    problem = AttentionProblem(1.0, seqlen, seqlen, causal=arguments.mask == "causal")
    choice, _ = execute.choose(op, x, x, x, problem)
    extension = runtime.core()
    if choice.kernel is None or extension is None:
        return "torch", None
    tiles = {
        int(entry["block_kv"])
        for entry in extension.kernels()
        if runtime.kernel_name(entry) == choice.kernel.name and int(entry["headdim"]) == choice.tile
    }
    return choice.kernel.name, tiles.pop() if len(tiles) == 1 else None


def _device_name(device: str, emulated: bool) -> str:
    if emulated:
        return f"cpu, emulating {runtime.settings.arch}"
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


Line = dict[str, tuple[float, float, float]]  # tensor -> max, rms, ratio


def as_text(result: dict[str, Any]) -> str:
    """The result for people: one line per length, backend and tile, three columns per tensor."""
    mask = "causal" if result["causal"] else "full"
    tensors = list(dict.fromkeys(row["tensor"] for row in result["rows"]))
    lines = [
        f"limelight {result['limelight']} numerics, torch {result['torch']}, {result['device']}",
        f"absolute deviation from float64: {result['dtype']}, {mask} attention, headdim "
        f"{result['headdim']}, {result['heads']} heads; q, k, v, dO standard normal",
        "eager: softmax(q k^T) v in the same dtype; ratio: rms / eager rms; tile: keys a step",
        "",
        f"{'':27}" + "".join(f"  {name:^21}" for name in tensors),
        f"{'seqlen':>6}  {'backend':11}  {'tile':>6}"
        + f"  {'max':>7} {'rms':>7} ratio" * len(tensors),
    ]
    for seqlen in dict.fromkeys(row["seqlen"] for row in result["rows"]):
        for (backend, tile), line in _lines(result["rows"], seqlen).items():
            cells = "".join(_cells(line.get(name)) for name in tensors)
            lines.append(f"{seqlen:6}  {backend:11}  {tile:>6}{cells}".rstrip())
        lines.append("")
    verdict = "agrees" if result["agrees"] else "DOES NOT AGREE"
    lines.append(f"worst ratio {result['worst_ratio']:.2f}, allowed {LIMIT:.0f}: {verdict}")
    return "\n".join(lines)


def _lines(rows: list[dict[str, Any]], seqlen: int) -> dict[tuple[str, str], Line]:
    """The lines of one length by backend and tile, the eager formula first."""
    lines: dict[tuple[str, str], Line] = {("eager", "-"): {}}
    for row in rows:
        if row["seqlen"] != seqlen:
            continue
        eager = (row["eager_max_error"], row["eager_rms_error"], 1.0)
        lines["eager", "-"][row["tensor"]] = eager
        tile = "auto" if row["tile_keys"] is None else str(row["tile_keys"])
        line = lines.setdefault((row["backend"], tile), {})
        line[row["tensor"]] = (row["max_error"], row["rms_error"], row["ratio"])
    return lines


def _cells(errors: tuple[float, float, float] | None) -> str:
    if errors is None:
        return " " * 23
    return f"  {errors[0]:7.1e} {errors[1]:7.1e} {errors[2]:5.2f}"
