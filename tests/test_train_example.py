# SPDX-License-Identifier: BSD-3-Clause
"""The training example: the same curve through limelight as through eager attention."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_char_gpt.py"


def losses(folder: Path, attention: str, window: int) -> list[float]:
    target = folder / f"{attention}.json"
    sizes = ["--steps", "8", "--batch", "2", "--seqlen", "48", "--width", "64"]
    command = [sys.executable, str(EXAMPLE), "--attention", attention, *sizes]
    done = subprocess.run(
        [*command, "--window", str(window), "--json", str(target)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(target.read_text())["loss"])


@pytest.mark.parametrize("window", [-1, 10])
def test_limelight_and_eager_learn_alike(tmp_path: Path, window: int) -> None:
    eager, ours = (losses(tmp_path, a, window) for a in ("eager", "limelight"))
    assert eager[-1] < eager[0]
    # fp32 on the CPU: 2**-24 a sum, times a loss of 5 and eight steps, stays far below 2**-13.
    assert max(abs(a - b) for a, b in zip(eager, ours, strict=True)) < 2.0**-13
