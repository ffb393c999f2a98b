# SPDX-License-Identifier: BSD-3-Clause
"""Build, check and time variants of csrc/sm90's tiles on this GPU, beside torch's backends.

    python benchmarks/sm90/variants.py                        everything in variant_list.py
    python benchmarks/sm90/variants.py --list                 ... printed, nothing is run
    python benchmarks/sm90/variants.py --row 128/128 --try "block_kv=112" "consumers=3 block_kv=80"

Needs nvcc and a Hopper GPU (exit code 2 without; 1 if the sources as they are were wrong). A
variant that does not compile, spills, has serialised wgmma or gives a wrong result is listed with
the reason and never timed. Checks and timings of a row run in processes of their own, so that a
kernel that faults or hangs ends only itself. Writes <gpu>-sm90-variants.json into
benchmarks/results/ row by row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from variant_build import Built, Compiler, build
from variant_list import GROUPS, SEQLENS, Group, group

RESULTS = Path(__file__).resolve().parents[1] / "results"
WORKER = Path(__file__).with_name("variant_worker.py")
PEERS = ("torch-cudnn", "torch-flash")
CHECK_SECONDS, ROW_SECONDS = 90.0, 150.0
CHECKS_AT_ONCE = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [g.name for g in GROUPS]
    parser.add_argument("--row", choices=names, nargs="+", default=names, metavar="ROW")
    parser.add_argument("--try", nargs="+", dest="changes", help="instead of the list, one row")
    parser.add_argument("--seqlen", type=int, nargs="+", default=list(SEQLENS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=540, help="seconds; rows beyond are left")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--list", action="store_true", help="print the variants")
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.limit
    chosen = [g for g in GROUPS if g.name in options.row]
    if options.changes:
        if len(chosen) != 1:
            parser.error(f"--try goes with one --row, not with {len(chosen)}")
        chosen = [group(chosen[0].row, chosen[0].causal, *options.changes)]
    if options.list:
        print("\n".join(f"{g.name:14} {v.name}" for g in chosen for v in g.variants))
        return 0

    from limelight.bench import report
    from limelight.bench.cases import HIDDEN, TOKENS
    from limelight.bench.device import NoGpuError, clocks, describe, require_gpu
    from limelight.gemm_tables import gpu_stem

    try:
        gpu = describe(require_gpu())
    except NoGpuError as error:
        print(f"variants: {error}", file=sys.stderr)
        return 2
    if tuple(gpu["capability"]) != (9, 0):
        print(f"variants: {gpu['name']} is not a Hopper GPU", file=sys.stderr)
        return 2
    out = options.out or RESULTS / f"{gpu_stem(gpu['name'])}-sm90-variants.json"
    result = report.new_report(gpu, clocks()) | {"rejected": [], "left": []}
    settings = {"seqlen": options.seqlen, "rounds": options.rounds, "peers": list(PEERS)}
    settings |= {"tokens": TOKENS, "hidden": HIDDEN}
    with tempfile.TemporaryDirectory() as folder:
        print(f"building {sum(len(g.variants) for g in chosen)} variants", flush=True)
        variants = [variant for g in chosen for variant in g.variants]
        built = build(variants, Path(folder), Compiler.find(), options.jobs)
        by_variant = {id(variant): each for variant, each in zip(variants, built, strict=True)}
        for g in chosen:
            if time.monotonic() + 30 > end:
                result["left"].append(g.name)
                continue
            run_group(g, [by_variant[id(v)] for v in g.variants], settings, gpu, result, end)
            result["clocks_after"] = clocks()
            report.write_json(result, out)
            print(table(result, g.name), flush=True)
    report.write_json(result, out)
    if result["left"]:
        print(f"no time was left for {', '.join(result['left'])}")
    ours = [r for r in result["rejected"] if r["variant"] == "limelight"]
    for entry in ours:
        print(f"variants: {entry['row']} as it is: {entry['reason']}", file=sys.stderr)
    return 1 if ours else 0


def run_group(
    g: Group,
    built: Sequence[Built],
    settings: dict[str, Any],
    gpu: dict[str, Any],
    result: dict[str, Any],
    end: float,
) -> None:
    """Check a row's variants, time those that are right, and add both to the result."""
    job = {
        "row": g.name,
        "headdim": g.row.headdim,
        "headdim_v": g.row.headdim_v,
        "causal": list(g.causal),
        "gpu": gpu,
        **settings,
    }

    def checked(each: Built) -> Built:
        if each.library is not None:
            seconds = min(CHECK_SECONDS, end - time.monotonic())
            answer = run_worker("check", job | {"library": str(each.library)}, seconds)
            each.rejected = answer.get("failed") or answer.get("wrong", "")
            each.facts["check"] = answer
        return each

    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        built = list(pool.map(checked, built))
    for each in built:
        if each.rejected:
            entry = {"row": g.name, "variant": each.variant.name, "reason": each.rejected}
            result["rejected"].append(entry)
            print(f"{g.name}: {each.variant.name}: {each.rejected}", flush=True)
    libraries = {each.variant.name: str(each.library) for each in built if not each.rejected}
    if not libraries:
        return
    seconds = min(ROW_SECONDS, end - time.monotonic())
    answer = run_worker("time", job | {"libraries": libraries}, seconds)
    result["results"] += [entry | {"row": g.name} for entry in answer.get("results", [])]
    if "failed" in answer:
        entry = {"row": g.name, "variant": "(timing)", "reason": answer["failed"]}
        result["rejected"].append(entry)
        print(f"{g.name}: timing: {answer['failed']}", flush=True)


def run_worker(action: str, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a process of its own answers; what it wrote before it failed, with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(job))
        command = [sys.executable, str(WORKER), action, str(question), str(answer)]
        reason = ""
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=max(1.0, seconds),
                check=False,
            )
            if done.returncode != 0:
                reason = f"exit code {done.returncode}: {done.stdout.strip()[-300:]}"
        except subprocess.TimeoutExpired:
            reason = f"longer than {seconds:.0f} s"
        found: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
    return found | ({"failed": reason} if reason else {})


def table(result: dict[str, Any], row: str) -> str:
    """One line per variant and case of a row: fastest first."""
    lines = []
    for entry in result["results"]:
        if entry["row"] != row:
            continue
        lines.append(entry["case"]["name"])
        peers = [p for p in entry["peers"] if p["median_us"]]
        base = next((p["median_us"] for p in peers if p["peer"] == "limelight"), None)
        for p in sorted(peers, key=lambda p: p["median_us"]):
            ratio = f"{base / p['median_us']:6.3f}x" if base else ""
            lines.append(f"  {p['median_us']:10.1f} us {p['tflops']:7.1f} {ratio} {p['peer']}")
        lines += [f"  {'-':>10}    {p['peer']}: {p['error']}" for p in entry["peers"] if p["error"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
