# SPDX-License-Identifier: BSD-3-Clause
"""The Hopper flat GEMM: test_gemm_kernel.py on the emulated sm_90a under hostile schedules.

Expanded rows run on the portable kernel, also there.
On a Hopper GPU test_gemm_kernel.py itself runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import emulator_tools
import pytest
import torch

CASES = Path(__file__).with_name("test_gemm_kernel.py")


def run_cases(report: Path, schedule: str, seed: int, chosen: str) -> set[str]:
    """The names of the kernels that the cases launched; all cases must pass."""
    settings = emulator_tools.settings("sm_90a", schedule=schedule, seed=seed, sms=3, report=report)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", chosen]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(CASES)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return {json.loads(line)["kernel"] for line in report.read_text().splitlines()}


if not torch.cuda.is_available():

    @pytest.mark.parametrize(
        ("schedule", "seed", "chosen"),
        [
            ("late", 0, "not expanded"),
            ("random", 5, "ragged or bits or swiglu"),
            ("early", 0, "bits or order"),
        ],
    )
    def test_cases_on_the_emulator(schedule: str, seed: int, chosen: str, tmp_path: Path) -> None:
        names = run_cases(tmp_path / "report", schedule, seed, chosen)
        assert any("sm90_flat_gemm" in name for name in names), names
        assert not any("sm80_flat_gemm" in name for name in names), names
