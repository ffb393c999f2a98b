# SPDX-License-Identifier: BSD-3-Clause
"""The Hopper flat GEMM: test_gemm_kernel.py on the emulated sm_90a under hostile schedules.

Expanded rows run on the portable kernel, also there.
On a Hopper GPU test_gemm_kernel.py itself runs it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sm90_runs import ON_EMULATOR, kernels_of, run_cases

CASES = "test_gemm_kernel.py"

if ON_EMULATOR:

    @pytest.mark.parametrize(
        ("schedule", "seed", "chosen"),
        [
            ("late", 0, "not expanded"),
            ("random", 5, "ragged or bits or swiglu"),
            ("early", 0, "bits or order"),
        ],
    )
    def test_cases_on_the_emulator(schedule: str, seed: int, chosen: str, tmp_path: Path) -> None:
        names = kernels_of(run_cases(CASES, tmp_path, chosen, schedule=schedule, seed=seed))
        assert any("sm90_flat_gemm" in name for name in names), names
        assert not any("sm80_flat_gemm" in name for name in names), names
