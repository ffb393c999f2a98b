# SPDX-License-Identifier: BSD-3-Clause
"""The Hopper forward kernels: on the emulator under hostile schedules, on a GPU where it is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from sm90_runs import ON_EMULATOR, ON_HOPPER, kernels_of, run_cases

CASES = "sm90_forward_cases.py"

if ON_EMULATOR:

    @pytest.mark.parametrize(
        ("schedule", "seed", "chosen"),
        [
            ("late", 0, "not expanded_rows"),
            ("random", 7, "not expanded_rows"),
            ("early", 0, "packed or sections or windows"),
        ],
    )
    def test_cases_on_the_emulator(schedule: str, seed: int, chosen: str, tmp_path: Path) -> None:
        names = kernels_of(run_cases(CASES, tmp_path, chosen, schedule=schedule, seed=seed))
        assert names
        assert all("sm90_attention_fwd" in name for name in names), names

    def test_what_tensor_maps_cannot_express_runs_in_sm80s_kernel(tmp_path: Path) -> None:
        (name,) = kernels_of(run_cases(CASES, tmp_path, "expanded_rows"))
        assert "sm80_attention_fwd" in name


if ON_HOPPER:

    def test_cases_on_the_gpu(tmp_path: Path) -> None:
        run_cases(CASES, tmp_path)
