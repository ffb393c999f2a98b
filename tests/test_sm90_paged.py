# SPDX-License-Identifier: BSD-3-Clause
"""The Hopper forward kernels on caches: pages by TMA or gathered, rows of a cache, left padding."""

from __future__ import annotations

from pathlib import Path

import pytest
from sm90_runs import ON_EMULATOR, ON_HOPPER, kernels_of, run_cases

PAGED, GATHERED = "sm90_paged_cases.py", "sm90_gather_cases.py"

if ON_EMULATOR:

    @pytest.mark.parametrize(
        ("cases", "schedule", "seed", "chosen"),
        [
            (PAGED, "random", 3, ""),
            (PAGED, "late", 0, "sizes or ends or fp8_tiles"),
            (PAGED, "early", 0, "sizes or features or rows"),
            (GATHERED, "random", 3, ""),
            (GATHERED, "late", 0, "sizes or ends or share"),
            (GATHERED, "early", 0, "sizes or features"),
        ],
    )
    def test_cases_on_the_emulator(
        cases: str, schedule: str, seed: int, chosen: str, tmp_path: Path
    ) -> None:
        names = kernels_of(run_cases(cases, tmp_path, chosen, schedule=schedule, seed=seed))
        assert names
        assert all("sm90_attention_fwd" in name for name in names), names


if ON_HOPPER:

    @pytest.mark.parametrize("cases", [PAGED, GATHERED])
    def test_cases_on_the_gpu(cases: str, tmp_path: Path) -> None:
        run_cases(cases, tmp_path)
