# SPDX-License-Identifier: BSD-3-Clause
"""The Hopper forward kernels on caches: pages, rows of a cache, left padding."""

from __future__ import annotations

from pathlib import Path

import pytest
from sm90_runs import ON_EMULATOR, ON_HOPPER, kernels_of, run_cases

CASES = "sm90_paged_cases.py"

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
        names = kernels_of(run_cases(CASES, tmp_path, chosen, schedule=schedule, seed=seed))
        assert names
        assert all("sm90_attention_fwd" in name for name in names), names


if ON_HOPPER:

    def test_cases_on_the_gpu(tmp_path: Path) -> None:
        run_cases(CASES, tmp_path)
