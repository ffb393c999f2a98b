# SPDX-License-Identifier: BSD-3-Clause
"""Time attention on this machine's GPU beside torch's flash, cuDNN and efficient backends,
FlexAttention and a plain formula.

Every implementation is verified before it is timed. Exit code 0; 1 if limelight was wrong or did
not run on a case; 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from limelight import runtime
from limelight.bench import cases, report
from limelight.bench.device import NoGpuError, clocks, describe, require_gpu
from limelight.bench.harness import CudaTimer, Plan, input_sets, measure
from limelight.bench.peers import OURS, PEERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--headdim", type=_headdim, nargs="+", default=list(cases.HEADDIMS))
    parser.add_argument("--seqlen", type=_positive, nargs="+", default=list(cases.SEQLENS))
    parser.add_argument("--mask", choices=("full", "causal"), nargs="+", default=["full", "causal"])
    parser.add_argument("--direction", choices=cases.DIRECTIONS, default="forward")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--tokens", type=_positive, default=cases.TOKENS, help="batch * seqlen")
    parser.add_argument("--peers", choices=tuple(PEERS), nargs="+", default=list(PEERS))
    parser.add_argument("--rounds", type=_positive, default=Plan.rounds)
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON, not as a table"
    )
    parser.add_argument(
        "--out", type=Path, help="also write the JSON report to this file, case by case"
    )
    parser.add_argument("--plot", type=Path, help="also draw TFLOP/s over seqlen into this image")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; allowed: 1 or more")
    return number


def _headdim(text: str) -> int:
    number = int(text)
    if number % 8 or not 8 <= number <= 256:
        raise argparse.ArgumentTypeError(f"{number}; allowed: multiples of 8 from 8 to 256")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Time every case; print a table or JSON."""
    try:
        device = require_gpu()
    except NoGpuError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    selected = cases.standard_cases(
        tuple(arguments.headdim),
        tuple(arguments.seqlen),
        tuple(mask == "causal" for mask in dict.fromkeys(arguments.mask)),
        arguments.direction,
        arguments.dtype,
        arguments.tokens,
    )
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
        report.add_result(result, case, measured)
        result["clocks_after"] = clocks()
        if out is not None:
            report.write_json(result, out)
    progress("")("")
    return result


def progress(prefix: str) -> Callable[[str], None]:
    """Writes one line on stderr, rewritten in place on a terminal."""
    terminal = sys.stderr.isatty()
    shown: list[str] = []

    def show(text: str) -> None:
        line = (prefix + text)[:118]
        if terminal:
            print(f"\r{line:118}", end="" if line else "\r", file=sys.stderr, flush=True)
        elif text and ": round" not in text and text.split(":")[0] not in shown:
            shown.append(text.split(":")[0])
            print(prefix + shown[-1], file=sys.stderr, flush=True)

    return show
