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

from variant_build import Compiler, Row, build
from variant_list import parse
from variant_run import SMALL
from variant_worker import check_one, time_all


class StubTimer:
    """Calls once and reports ten microseconds."""

    def microseconds(self, call, first: int, iterations: int) -> float:
        call(first)
        return 10.0


def main() -> None:
    folder, cpu, sms = Path(sys.argv[1]), torch.device("cpu"), 3
    kit = emulator_tools.toolkit()
    compiler = Compiler(kit.nvcc, kit.library, emulated=True)
    row = Row(64, 64)
    variants = [parse(row, text) for text in ("", "sum_column=false block_kv=64 edit=row_sum_mma")]
    job = {"headdim": 64, "headdim_v": 64, "causal": [True, False], "seqlen": [130]}
    job |= {"tokens": 130, "hidden": 128, "rounds": 1, "peers": [], "gpu": {"l2_bytes": 0}}
    libraries = {}
    checks = {}
    for built in build(variants, folder, compiler, jobs=2):
        assert built.library is not None, built.rejected
        name, library = built.variant.name, str(built.library)
        checks[name] = check_one(job | {"library": library}, cpu, sms, SMALL)
        libraries[name] = library
    answer = folder / "answer.json"
    time_all(job | {"libraries": libraries}, cpu, sms, StubTimer(), answer)
    print(json.dumps({"checks": checks, "results": json.loads(answer.read_text())["results"]}))


if __name__ == "__main__":
    main()
