# SPDX-License-Identifier: BSD-3-Clause
"""Build, check and measure two variants on the emulator; for tests/test_sm90_variants.py.

Usage: python tests/sm90_variants_probe.py FOLDER, in the emulator's environment. The timer is a
stub: what is measured is that calls are made side by side.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import emulator_tools
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks" / "sm90"))

from limelight.bench.cases import Case
from limelight.bench.harness import Plan
from variant_build import Compiler, Row, build
from variant_list import parse
from variant_run import SMALL, Library, check, measure


class StubTimer:
    """Calls once and reports ten microseconds."""

    def microseconds(self, call, first: int, iterations: int) -> float:
        call(first)
        return 10.0


def main() -> None:
    row, cpu = Row(64, 64), torch.device("cpu")
    kit = emulator_tools.toolkit()
    compiler = Compiler(kit.nvcc, kit.library, emulated=True)
    variants = [parse(row, text) for text in ("", "sum_column=false block_kv=64")]
    libraries = {}
    checks = {}
    for built in build(variants, Path(sys.argv[1]), compiler, jobs=2):
        assert built.library is not None, built.rejected
        library = Library(built.library, sm_count=3)
        checks[built.variant.name] = check(library, SMALL, 64, 64, cpu)
        libraries[built.variant.name] = library
    case = Case(1, 130, 2, 1, 64, True)
    plan = Plan(rounds=1, round_us=10.0)
    measured = measure(libraries, (), case, 64, cpu, 0, StubTimer(), plan)
    rounds = {m.peer: m.rounds_us for m in measured}
    print(json.dumps({"checks": checks, "rounds": rounds, "errors": [m.error for m in measured]}))


if __name__ == "__main__":
    main()
