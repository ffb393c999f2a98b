# SPDX-License-Identifier: BSD-3-Clause
"""Pages that the Hopper forward kernels gather row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
from sm90_runs import ON_EMULATOR, ON_HOPPER, kernels_of, run_cases

CASES = "sm90_gather_cases.py"

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
        names = kernels_of(run_cases(CASES, tmp_path, chosen, schedule=schedule, seed=seed))
        assert names
        assert all("sm90_attention_fwd" in name for name in names), names


if ON_HOPPER:

    def test_cases_on_the_gpu(tmp_path: Path) -> None:
        run_cases(CASES, tmp_path)
