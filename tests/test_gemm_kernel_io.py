# SPDX-License-Identifier: BSD-3-Clause
"""Traffic of the GEMM kernels: every byte of weight is read once, x once a tile of weight rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import emulator_tools
import pytest
from gemm_kernel_tools import FLAT, GEMV

TILE_ROWS = {FLAT: 128, GEMV: 16}
WEIGHT_BITS = {"dense": 16, "fp8": 8, "int4": 4}
# Rows and K: a ragged last tile; runs of units that cross tiles, and share them.
EXTENT = {FLAT: (290, 512), GEMV: (150, 2048)}
# The flat kernel adds shared tiles up; one piece a tile keeps partial sums out of GEMV's loads.
SPLITS = {FLAT: 0, GEMV: 1}
CASES = [(FLAT, m, name) for m, name in product((8, 64, 128), WEIGHT_BITS)] + [
    (GEMV, m, name) for m, name in product((1, 8), WEIGHT_BITS)
]
Case = tuple[int, int, str]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, dict[str, Any]]:
    """The report of one emulated launch a case."""
    environment = os.environ | {
        "LIMELIGHT_BACKEND": "emulator",
        "LIMELIGHT_EMULATOR_LIBRARY": str(emulator_tools.emulator()),
        "LIMELIGHT_EMULATOR_CHECKS": "none",
        "LIMELIGHT_EMULATOR_REPORT": str(tmp_path_factory.mktemp("io") / "report.json"),
    }
    arguments = [
        ",".join(map(str, (kernel, SPLITS[kernel], m, *EXTENT[kernel], name)))
        for kernel, m, name in CASES
    ]
    command = [sys.executable, str(Path(__file__).with_name("gemm_io_probe.py")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line]
    return dict(zip(CASES, lines, strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weight_is_read_once(case: Case, reports: dict[Case, dict[str, Any]]) -> None:
    kernel, m, name = case
    rows, k = EXTENT[kernel]
    report = reports[case]
    tiles = -(-rows // TILE_ROWS[kernel])
    weight = rows * k * WEIGHT_BITS[name] // 8
    x = tiles * m * k * 2
    if kernel == FLAT:
        assert report["async_load_bytes"] == weight + x
    else:
        # Four lanes share a row: each reads one fp32 scale a k block of 128, or a 16-bit one for
        # each of its two spans of 64.
        scales = {"dense": 0, "fp8": rows * k // 128 * 4 * 4, "int4": rows * k // 64 * 2 * 4}
        assert report["global_load_bytes"] == weight + x + scales[name]
    assert report["shared_conflicts"] == 0
