# SPDX-License-Identifier: BSD-3-Clause
"""Pages that the Hopper forward kernels gather row by row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import emulator_tools
import pytest
import torch

CASES = Path(__file__).with_name("sm90_gather_cases.py")
ON_EMULATOR = not torch.cuda.is_available()
ON_HOPPER = not ON_EMULATOR and torch.cuda.get_device_capability() == (9, 0)


def run_cases(
    report: Path, *arguments: str, schedule: str = "fair", seed: int = 0
) -> list[dict[str, Any]]:
    """The reports of the launches of the cases, all of which must pass."""
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
    return [json.loads(line) for line in report.read_text().splitlines()] if ON_EMULATOR else []


if ON_EMULATOR:

    @pytest.mark.parametrize(
        ("schedule", "seed", "chosen"),
        [
            ("random", 3, ""),
            ("late", 0, "sizes or ends or share"),
            ("early", 0, "sizes or features"),
        ],
    )
    def test_cases_on_the_emulator(schedule: str, seed: int, chosen: str, tmp_path: Path) -> None:
        launches = run_cases(tmp_path / "report", "-k", chosen, schedule=schedule, seed=seed)
        assert launches
        assert all("sm90_attention_fwd" in launch["kernel"] for launch in launches)


if ON_HOPPER:

    def test_cases_on_the_gpu(tmp_path: Path) -> None:
        run_cases(tmp_path / "report")
