# SPDX-License-Identifier: BSD-3-Clause
"""The training example: the curve through limelight is the one through eager attention."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from limelight import runtime

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_char_gpt.py"
SIZES = ["--steps", "8", "--batch", "2", "--seqlen", "48", "--width", "64"]


def losses(folder: Path, *options: str, **environment: str) -> dict[tuple[str, int], list[float]]:
    target = folder / "losses.json"
    command = [sys.executable, str(EXAMPLE), *SIZES, "--device", "cpu", "--json", str(target)]
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    runs: list[dict[str, Any]] = json.loads(target.read_text())
    return {(run["attention"], run["seed"]): run["loss"] for run in runs}


def distance(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("window", ["-1", "10"])
def test_three_implementations_learn_alike(tmp_path: Path, window: str) -> None:
    found = losses(tmp_path, "--attention", "eager", "sdpa", "limelight", "--window", window)
    eager = found["eager", 0]
    assert eager[-1] < eager[0]
    for name in ("sdpa", "limelight"):
        # fp32: 2**-24 a sum, times a loss of 5 and eight steps, stays far below 2**-13.
        assert distance(eager, found[name, 0]) < 2.0**-13


def test_kernels_stay_within_the_noise_of_two_seeds(tmp_path: Path, kernels: torch.device) -> None:
    """In bfloat16; far within it, so that a wrong gradient would show."""
    environment = {"LIMELIGHT_FALLBACK": "error"}
    if kernels.type == "cpu":
        environment["LIMELIGHT_BACKEND"] = "emulator"
        environment["LIMELIGHT_EMULATOR_LIBRARY"] = str(runtime.emulator_path())
    options = ["--attention", "eager", "limelight", "--seed", "0", "1", "--dtype", "bfloat16"]
    options += ["--device", kernels.type]
    found = losses(tmp_path, *options, **environment)
    noise = distance(found["eager", 0], found["eager", 1])
    for seed in (0, 1):
        assert distance(found["eager", seed], found["limelight", seed]) < noise / 16


def test_weights_and_plot_are_written(tmp_path: Path) -> None:
    weights, image = tmp_path / "weights.pt", tmp_path / "curve.png"
    losses(tmp_path, "--save", str(weights), "--plot", str(image), "--sample", "The ")
    assert weights.stat().st_size > 0
    assert image.read_bytes().startswith(b"\x89PNG")
