# SPDX-License-Identifier: BSD-3-Clause
"""Time attention on this machine's GPU beside torch's flash, cuDNN and efficient backends,
FlexAttention and a plain formula; ``bench linear`` flat_linear beside cuBLAS, ``bench decode``
attention over a cache.

Every implementation is verified before it is timed. Exit code 0; 1 if limelight was wrong or did
not run on a case; 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import limelight
from limelight import runtime
from limelight.bench import cases, report
from limelight.bench.device import NoGpuError, clocks, describe, require_gpu
from limelight.bench.harness import Plan, input_sets, measure
from limelight.bench.peers import OURS, PEERS
from limelight.bench.timers import CudaTimer
from limelight.cli import bench_rates
from limelight.cli.terminal import positive, progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--headdim", type=_headdim, nargs="+", default=list(cases.HEADDIMS))
    parser.add_argument("--seqlen", type=positive, nargs="+", default=list(cases.SEQLENS))
    parser.add_argument("--mask", choices=("full", "causal"), nargs="+", default=["full", "causal"])
    parser.add_argument("--direction", choices=cases.DIRECTIONS, default="forward")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--tokens", type=positive, default=cases.TOKENS, help="batch * seqlen")
    parser.add_argument("--peers", choices=tuple(PEERS), nargs="+", default=list(PEERS))
    parser.add_argument("--rounds", type=positive, default=Plan.rounds)
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON, not as a table"
    )
    parser.add_argument(
        "--out", type=Path, help="also write the JSON report to this file, case by case"
    )
    parser.add_argument("--plot", type=Path, help="also draw TFLOP/s over seqlen into this image")
    parser.add_argument(
        "--gqa",
        action="store_true",
        help="batch 2, hidden size 8192, 8 query heads to a key head, instead of --tokens",
    )
    suites = parser.add_subparsers(dest="suite", metavar="{linear,decode}")
    text = "flat_linear beside cuBLAS, GB/s of copy bandwidth"
    bench_rates.add_linear_arguments(suites.add_parser("linear", help=text, description=text))
    text = "a few query tokens over a cache, GB/s of copy bandwidth"
    bench_rates.add_decode_arguments(suites.add_parser("decode", help=text, description=text))


def _headdim(text: str) -> int:
    number = int(text)
    if number % 8 or not 8 <= number <= 256:
        raise argparse.ArgumentTypeError(f"{number}; allowed: multiples of 8 from 8 to 256")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Time every case; print a table or JSON."""
    if arguments.suite is not None:
        return bench_rates.run(arguments)
    try:
        device = require_gpu()
    except NoGpuError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    shapes = (
        tuple(arguments.headdim),
        tuple(arguments.seqlen),
        tuple(mask == "causal" for mask in dict.fromkeys(arguments.mask)),
        arguments.direction,
        arguments.dtype,
    )
    if arguments.gqa:
        selected = cases.gqa_cases(*shapes)
    else:
        selected = cases.standard_cases(*shapes, arguments.tokens)
    plan = Plan(rounds=arguments.rounds)
    # A call that no kernel serves must fail here, not be timed on the torch path.
    with runtime.override(fallback="error"):
        result = benchmark(device, selected, arguments.peers, plan, arguments.out)
    print(json.dumps(result, indent=1) if arguments.json else report.table(result))
    if arguments.plot:
        report.plot(result, arguments.plot)
    failures = report.wrong(result, OURS)
    for failure in failures:
        print(f"bench: limelight failed on {failure}", file=sys.stderr)
    return 1 if failures else 0


def benchmark(
    device: torch.device,
    selected: list[cases.Case],
    peers: list[str],
    plan: Plan,
    out: Path | None,
) -> dict[str, Any]:
    """The report of a run; ``out`` is rewritten after every case, so that a stopped run keeps what
    it measured."""
    gpu = describe(device)
    chosen = {name: PEERS[name] for name in peers}
    result = report.new_report(gpu, clocks())
    for number, case in enumerate(selected):
        show = progress(f"[{number + 1}/{len(selected)}] ")
        sets = input_sets(case, device, gpu["l2_bytes"], plan)
        measured = measure(case, sets, chosen, CudaTimer(), plan, show)
        del sets
        torch.cuda.empty_cache()
        report.add_result(result, case, measured, {"kernel": kernel_of(case)})
        result["clocks_after"] = clocks()
        if out is not None:
            report.write_json(result, out)
    progress("")("")
    return result


def kernel_of(case: cases.Case) -> str:
    """The kernel that serves a case here, "torch" where none does."""
    return limelight.explain(
        op=case.direction,
        dtype=getattr(torch, case.dtype),
        headdim=case.headdim,
        heads_q=case.heads,
        heads_kv=case.heads_kv,
        causal=case.causal,
    ).backend
