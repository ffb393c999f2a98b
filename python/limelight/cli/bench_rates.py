# SPDX-License-Identifier: BSD-3-Clause
"""``python -m limelight bench linear`` and ``bench decode``: kernels that wait for memory.

GB/s of what must be moved once, beside the copy bandwidth measured in the same run. Calls are timed
as CUDA graphs, so that Python's share does not hide the kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from limelight import gemm_execute, runtime
from limelight.bench import decode, linear, report
from limelight.bench.device import NoGpuError, clocks, describe, require_gpu
from limelight.bench.harness import Measurement, Plan
from limelight.bench.timers import CudaTimer, GraphTimer, Timer, copy_gbps
from limelight.cli.observe import backends_used
from limelight.cli.terminal import positive, progress
from limelight.gemm_explain import explain_linear
from limelight.quantize import QuantizedWeight

REFERENCES = {"linear": ("torch",), "decode": ("torch-flash", "torch-cudnn")}
TIMERS: dict[str, type[Timer]] = {"graph": GraphTimer, "events": CudaTimer}


def add_linear_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``bench linear``."""
    models = tuple(linear.MODELS)
    parser.add_argument("--model", choices=models, nargs="+", default=list(models))
    parser.add_argument("--rows", type=positive, nargs="+", default=list(linear.ROWS), metavar="M")
    parser.add_argument("--format", choices=tuple(linear.FORMATS), nargs="+", default=["16bit"])
    parser.add_argument("--peers", choices=linear.PEERS, nargs="+", default=list(linear.PEERS))
    _add_common(parser)


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``bench decode``."""
    parser.add_argument("--batch", type=positive, nargs="+", default=list(decode.BATCHES))
    parser.add_argument("--seqlen", type=_pages, nargs="+", default=list(decode.SEQLENS))
    parser.add_argument("--tokens", type=positive, nargs="+", default=list(decode.TOKENS))
    parser.add_argument("--heads", type=positive, default=32)
    parser.add_argument("--heads-kv", type=positive, default=8)
    parser.add_argument("--headdim", type=positive, default=128)
    parser.add_argument(
        "--peers", choices=tuple(decode.PEERS), nargs="+", default=list(decode.PEERS)
    )
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--rounds", type=positive, default=Plan.rounds)
    parser.add_argument("--timer", choices=tuple(TIMERS), default="graph")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON report here, case by case")


def _pages(text: str) -> int:
    number = int(text)
    if number < decode.PAGE or number % decode.PAGE:
        raise argparse.ArgumentTypeError(f"{number}; allowed: multiples of {decode.PAGE}")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Time every case of the suite; print a table or JSON."""
    try:
        device = require_gpu()
    except NoGpuError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    gpu = describe(device) | {"copy_gbps": round(copy_gbps(device), 1)}
    # Half of the memory for inputs: verifying a case and torch's backends need some too.
    plan = Plan(rounds=arguments.rounds, memory_bytes=gpu["memory_bytes"] // 2)
    timer = TIMERS[arguments.timer]()
    suite = run_linear if arguments.suite == "linear" else run_decode
    l2_bytes = gpu["l2_bytes"]
    result = report.new_report(gpu, clocks()) | {"suite": arguments.suite}
    result["timer"] = arguments.timer
    # A call that no kernel serves must fail here, not be timed on the torch path.
    with runtime.override(fallback="error"):
        for case, measured, facts in suite(arguments, device, l2_bytes, plan, timer):
            report.add_result(result, case, measured, facts)
            result["clocks_after"] = clocks()
            if arguments.out is not None:
                report.write_json(result, arguments.out)
    progress("")("")
    print(json.dumps(result, indent=1) if arguments.json else report.rate_table(result))
    for other in REFERENCES[arguments.suite] if not arguments.json else ():
        print(report.summary(result, linear.OURS, other))
    failures = report.wrong(result, linear.OURS)
    for failure in failures:
        print(f"bench: limelight failed on {failure}", file=sys.stderr)
    return 1 if failures else 0


Outcome = tuple[Any, list[Measurement], dict[str, Any]]


def run_linear(
    arguments: argparse.Namespace, device: torch.device, l2_bytes: int, plan: Plan, timer: Timer
) -> Iterable[Outcome]:
    """Cases of one weight shape after the other, M by M."""
    cases = [
        case
        for weight_format in arguments.format
        for case in linear.model_cases(
            arguments.model, arguments.rows, weight_format, arguments.dtype
        )
    ]
    # Elsewhere than on Hopper it is the flat kernel.
    hopper = runtime.capability(device) == (9, 0)
    asked = [p for p in arguments.peers if p != gemm_execute.PORTABLE or hopper]
    weights: list[QuantizedWeight] = []
    drawn: tuple[Any, ...] = ()
    for number, case in enumerate(cases):
        shape = (case.n, case.k, case.weight_format)
        if shape != drawn:
            weights.clear()
            _release(device)
            weights, drawn = linear.weight_sets(case, device, l2_bytes, plan), shape
        sets = linear.input_sets(case, weights)
        peers = [p for p in asked if case.m <= linear.MOST_ROWS.get(p, case.m)]
        show = progress(f"[{number + 1}/{len(cases)}] ")
        measured = linear.measure(case, sets, peers, timer, plan, show)
        yield case, measured, linear_facts(case, sets[0])


def linear_facts(case: linear.LinearCase, inputs: linear.Inputs) -> dict[str, Any]:
    """Which implementation limelight chose, from where, and its crossing points."""
    x, weight, scale, zero = inputs
    explained = explain_linear(x, weight, weight_scale=scale, weight_zero=zero)
    choice = explained.choice
    return {
        "implementation": choice.implementation,
        "source": choice.source,
        "m1": choice.m1,
        "m2": choice.m2,
    }


def run_decode(
    arguments: argparse.Namespace, device: torch.device, l2_bytes: int, plan: Plan, timer: Timer
) -> Iterable[Outcome]:
    """Cases that fit into the memory; the others are reported as skipped."""
    cases = decode.standard_cases(
        arguments.batch,
        arguments.seqlen,
        arguments.tokens,
        arguments.heads,
        arguments.heads_kv,
        arguments.headdim,
        arguments.dtype,
    )
    peers: dict[str, decode.Attention] = {name: decode.PEERS[name] for name in arguments.peers}
    for number, case in enumerate(cases):
        show = progress(f"[{number + 1}/{len(cases)}] ")
        if case.cache_bytes > plan.memory_bytes:
            size = f"{case.cache_bytes / 2**30:.0f} GiB"
            yield case, [], {"skipped": f"its cache needs {size}"}
            continue
        sets = decode.input_sets(case, device, l2_bytes, plan)
        facts = {"kernel": decode_kernel(sets[0], case)}
        yield case, decode.measure(case, sets, peers, timer, plan, show), facts
        del sets
        _release(device)


def decode_kernel(inputs: decode.Inputs, case: decode.DecodeCase) -> str:
    """What a call on the dense cache runs on; empty where it is refused."""
    with backends_used() as used, torch.no_grad(), suppress(Exception):
        decode.dense(inputs, case)
    return ", ".join(used)


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
