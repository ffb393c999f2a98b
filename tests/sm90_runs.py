# SPDX-License-Identifier: BSD-3-Clause
"""Runs cases for Hopper in a process of their own: emulated under a schedule, or on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import emulator_tools
import torch

ON_EMULATOR = not torch.cuda.is_available()
ON_HOPPER = not ON_EMULATOR and torch.cuda.get_device_capability() == (9, 0)


def run_cases(
    cases: str,
    folder: Path,
    chosen: str = "",
    *,
    schedule: str = "fair",
    seed: int = 0,
    sms: int = 3,
) -> list[dict[str, Any]]:
    """The emulator's reports of the launches of tests/`cases`, all of which must pass.

    `chosen`: pytest's -k. On a GPU no launch is reported and schedules are its own.
    """
    report = folder / "report"
    how = {"schedule": schedule, "seed": seed, "sms": sms, "report": report}
    settings = emulator_tools.settings("sm_90a", **how) if ON_EMULATOR else {}
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", chosen]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(Path(__file__).with_name(cases))],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    lines = report.read_text().splitlines() if report.exists() else []
    return [json.loads(line) for line in lines]


def kernels_of(launches: list[dict[str, Any]]) -> set[str]:
    """The names of the kernels that were launched."""
    return {launch["kernel"] for launch in launches}
