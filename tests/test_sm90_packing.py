# SPDX-License-Identifier: BSD-3-Clause
"""Query heads that share a tile of the Hopper kernels, on the emulator under hostile schedules."""

from __future__ import annotations

from pathlib import Path

import pytest
from sm90_runs import ON_EMULATOR, ON_HOPPER, kernels_of, run_cases

CASES = "sm90_packing_cases.py"

if ON_EMULATOR:

    @pytest.mark.parametrize(
        ("schedule", "seed", "sms", "chosen"),
        [
            ("late", 0, 200, "test"),
            ("random", 3, 3, "sequences or (fp8 and 64)"),
            ("early", 0, 3, "packed_sequences"),
        ],
    )
    def test_cases_on_the_emulator(
        schedule: str, seed: int, sms: int, chosen: str, tmp_path: Path
    ) -> None:
        how = {"schedule": schedule, "seed": seed, "sms": sms}
        names = kernels_of(run_cases(CASES, tmp_path, chosen, **how))
        assert all("sm90_attention_fwd" in name for name in names), names


if ON_HOPPER:

    def test_cases_on_the_gpu(tmp_path: Path) -> None:
        run_cases(CASES, tmp_path)
