# SPDX-License-Identifier: BSD-3-Clause
"""The Hopper forward kernels on caches: pages, rows of a cache, left padding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import emulator_tools
import pytest
import torch

CASES = Path(__file__).with_name("sm90_paged_cases.py")
ON_EMULATOR = not torch.cuda.is_available()
ON_HOPPER = not ON_EMULATOR and torch.cuda.get_device_capability() == (9, 0)


def run_cases(report: Path, *arguments: str, schedule: str = "fair", seed: int = 0) -> set[str]:
    """The names of the kernels that the cases launched; all cases must pass."""
    settings = emulator_tools.settings("sm_90a", schedule=schedule, seed=seed, sms=3, report=report)
    options = ["-q", "-x", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(CASES)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    lines = report.read_text().splitlines() if report.exists() else []
    return {json.loads(line)["kernel"] for line in lines}


if ON_EMULATOR:

    @pytest.mark.parametrize(
        ("schedule", "seed", "chosen"),
        [
            ("random", 3, ""),
            ("late", 0, "sizes or ends or fp8_tiles"),
            ("early", 0, "sizes or features or rows"),
        ],
    )
    def test_cases_on_the_emulator(schedule: str, seed: int, chosen: str, tmp_path: Path) -> None:
        names = run_cases(tmp_path / "report", "-k", chosen, schedule=schedule, seed=seed)
        assert names
        assert all("sm90_attention_fwd" in name for name in names), names


if ON_HOPPER:

    def test_cases_on_the_gpu(tmp_path: Path) -> None:
        run_cases(tmp_path / "report")
