# SPDX-License-Identifier: BSD-3-Clause
"""The Hopper FP8 forward kernels: on the emulator under hostile schedules, on a GPU that is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from sm90_runs import ON_EMULATOR, ON_HOPPER, kernels_of, run_cases

CASES = "sm90_fp8_cases.py"

if ON_EMULATOR:

    @pytest.mark.parametrize(("schedule", "seed"), [("late", 0), ("random", 5)])
    def test_cases_on_the_emulator(schedule: str, seed: int, tmp_path: Path) -> None:
        names = kernels_of(run_cases(CASES, tmp_path, schedule=schedule, seed=seed))
        assert names
        assert all("sm90_attention_fwd_fp8" in name for name in names), names


if ON_HOPPER:

    def test_cases_on_the_gpu(tmp_path: Path) -> None:
        run_cases(CASES, tmp_path)
