# SPDX-License-Identifier: BSD-3-Clause
"""Measure the three implementations of flat_linear on this GPU and keep where they cross.

Per weight shape (N, K) the GEMV kernel, the flat GEMM and torch (cuBLAS) are verified and timed
over M as CUDA graphs; calls read the table from then on. Exit code 0; 1 if an implementation was
wrong; 2 without a GPU or without kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from limelight import gemm_execute, gemm_explain, gemm_tables, gemm_tune
from limelight.bench import linear
from limelight.bench.device import NoGpuError, clocks, describe, require_gpu
from limelight.bench.harness import Plan
from limelight.bench.timers import GraphTimer, copy_gbps
from limelight.cli.terminal import positive, progress
from limelight.gemm_dispatch import IMPLEMENTATIONS, KERNELS, MAX_ROWS
from limelight.quantize import QuantizedWeight


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--model",
        choices=tuple(linear.MODELS),
        nargs="+",
        help="layer shapes of these models (default: all, unless --shapes is given)",
    )
    parser.add_argument("--shapes", type=shape, nargs="+", default=[], metavar="N,K")
    parser.add_argument("--rows", type=_rows, nargs="+", default=list(gemm_tune.ROWS), metavar="M")
    parser.add_argument("--format", choices=tuple(linear.FORMATS), nargs="+", default=["16bit"])
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument(
        "--out", type=Path, help="the table's file (default: this GPU's in the cache folder)"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def shape(text: str) -> tuple[int, int]:
    """N,K."""
    try:
        n, k = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}; allowed: N,K as in 4096,14336") from None
    if n < 1 or k < 8 or k % 8:
        raise argparse.ArgumentTypeError(f"{text}; allowed: N >= 1, K a multiple of 8")
    return n, k


def _rows(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_ROWS:
        raise argparse.ArgumentTypeError(f"{number}; allowed: 1 to {MAX_ROWS}")
    return number


def shapes_of(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """The asked shapes, each once."""
    models = arguments.model or ([] if arguments.shapes else list(linear.MODELS))
    named = [s for model in models for s in linear.MODELS[model].values()]
    return list(dict.fromkeys([*named, *arguments.shapes]))


def run(arguments: argparse.Namespace) -> int:
    """Measure on this machine's GPU and write the table."""
    try:
        device = require_gpu()
    except NoGpuError as error:
        print(f"tune: {error}", file=sys.stderr)
        return 2
    kinds = {name: linear.FORMATS[name][1].split("_")[0] for name in arguments.format}
    problem = gemm_explain.backend_problem(kinds.values())
    if problem:
        print(f"tune: {problem}", file=sys.stderr)
        return 2
    facts = table_facts(device)
    gpu = Gpu(device, facts, Plan(rounds=arguments.rounds, round_us=10e3), arguments.dtype)
    path = arguments.out or gemm_tables.cached_path(facts["gpu"])
    shapes, table = shapes_of(arguments), {}
    for weight_format in arguments.format:
        for number, (n, k) in enumerate(shapes):
            gpu.start(weight_format, f"[{weight_format} {number + 1}/{len(shapes)}] ")
            kind, rows = kinds[weight_format], arguments.rows
            entries = gemm_tune.tune_shapes([(n, k)], kind, rows, gpu.times)
            table = gemm_tune.merge(path, facts, entries)
            gemm_tune.write(path, table)
    gemm_execute.forget()
    progress("")("")
    print(json.dumps(table, indent=1) if arguments.json else f"{as_text(table)}\n\nwrote {path}")
    for failure in gpu.failures:
        print(f"tune: {failure}", file=sys.stderr)
    return 1 if gpu.failures else 0


def table_facts(device: torch.device) -> dict[str, Any]:
    """Where and when a table is measured."""
    known = describe(device)
    return {
        "gpu": known["name"],
        "sm_count": known["sm_count"],
        "l2_bytes": known["l2_bytes"],
        "driver": known["driver"],
        "versions": known["versions"],
        "clocks": clocks(),
        "copy_gbps": round(copy_gbps(device), 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }


class Gpu:
    """Measures shapes on a device; failures are implementations that were wrong."""

    def __init__(self, device: torch.device, facts: dict[str, Any], plan: Plan, dtype: str) -> None:
        self.device = device
        self.facts = facts
        self.plan = plan
        self.dtype = dtype
        self.weight_format = "16bit"
        self.prefix = ""
        self.failures: list[str] = []
        self.weights: list[QuantizedWeight] = []
        self.weights_of: tuple[int, int, str] | None = None

    def start(self, weight_format: str, prefix: str) -> None:
        """The weights' format of what follows, and what progress begins with."""
        self.weight_format, self.prefix = weight_format, prefix

    def times(self, n: int, k: int, m: int) -> dict[str, float | None]:
        """Medians of the implementations that take M; a gemm_tune.Measure."""
        case = linear.LinearCase(m, n, k, self.weight_format, self.dtype)
        if self.weights_of != (n, k, self.weight_format):
            self.weights.clear()
            torch.cuda.empty_cache()
            l2_bytes = self.facts["l2_bytes"]
            self.weights = linear.weight_sets(case, self.device, l2_bytes, self.plan)
            self.weights_of = (n, k, self.weight_format)
        sets = linear.input_sets(case, self.weights)
        peers = [p for p in IMPLEMENTATIONS if p == "torch" or m <= KERNELS[p].max_m]
        show = progress(self.prefix)
        found = linear.measure(case, sets, peers, GraphTimer(), self.plan, show)
        self.failures += [f"{case.name} {f.peer}: {f.error}" for f in found if f.error]
        return {f.peer: f.median_us for f in found}


def as_text(table: dict[str, Any]) -> str:
    """One line a shape: its crossing points, and the gain over torch where M is measured."""
    lines = [f"{table['gpu']}, {table['date']}, copy {table['copy_gbps']} GB/s"]
    lines.append(
        f"{'format':8} {'N':>7} {'K':>6} {'M1':>4} {'M2':>4}  torch's time over ours, by M"
    )
    for entry in table["entries"]:
        gains = []
        for m, us in entry["us"].items():
            name = gemm_tune.policy(int(m), entry["m1"], entry["m2"], us)
            if us.get("torch") and us.get(name):
                gains.append(f"{m}: {us['torch'] / us[name]:.2f}")
        head = f"{entry['format']:8} {entry['n']:7} {entry['k']:6} {entry['m1']:4} {entry['m2']:4}"
        lines.append(f"{head}  {', '.join(gains)}")
    return "\n".join(lines)
