# SPDX-License-Identifier: BSD-3-Clause
"""Global traffic of the forward kernel follows FlashAttention's I/O bound, Theta(N^2 d^2 / M).

FlashAttention (Dao et al., 2022, arXiv 2205.14135, theorem 2): with M bytes of fast memory a
pass over K and V serves Theta(M / d) rows of q. Here a pass serves block_q rows, so the kernel
reads K and V ceil(N / block_q) times. The small tiles of headdim 128 have two sizes of block_q:
128 in the plain kernel and 64 in the score-change kernel (csrc/sm80/fwd_tiles.h).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import emulator_tools
import pytest

HEADDIM = 128
BLOCK_Q = {"plain": 128, "score change": 64}
BYTES = 2  # of a bfloat16


@cache
def launch(folder: Path, seqlen: int, kernel: str) -> dict[str, Any]:
    """The report of one emulated launch on sm_86, whose tiles are the small ones."""
    environment = os.environ | {
        "LIMELIGHT_BACKEND": "emulator",
        "LIMELIGHT_FALLBACK": "error",
        "LIMELIGHT_EMULATOR_ARCH": "sm_86",
        "LIMELIGHT_EMULATOR_CHECKS": "none",
        "LIMELIGHT_EMULATOR_REPORT": str(folder / f"{seqlen}-{kernel}.json"),
    }
    softcap = "0" if kernel == "plain" else "50"
    probe = Path(__file__).with_name("emulator_io_probe.py")
    command = [sys.executable, str(probe), str(seqlen), str(HEADDIM), softcap]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.split("\n")[:1]
    return dict(json.loads(line))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    emulator_tools.emulator()
    return tmp_path_factory.mktemp("io")


def tensor_bytes(seqlen: int) -> int:
    return seqlen * HEADDIM * BYTES


@pytest.mark.parametrize("kernel", BLOCK_Q)
@pytest.mark.parametrize("seqlen", [256, 512])
def test_every_tile_of_q_reads_k_and_v_once(folder: Path, seqlen: int, kernel: str) -> None:
    passes = -(-seqlen // BLOCK_Q[kernel])
    report = launch(folder, seqlen, kernel)
    assert report["async_load_bytes"] == tensor_bytes(seqlen) * (1 + 2 * passes)
    assert report["shared_conflicts"] == 0


def test_traffic_grows_with_n_squared_and_falls_with_the_tile(folder: Path) -> None:
    def keys_and_values(seqlen: int, kernel: str) -> int:
        return int(launch(folder, seqlen, kernel)["async_load_bytes"]) - tensor_bytes(seqlen)

    for kernel in BLOCK_Q:
        assert keys_and_values(512, kernel) == 4 * keys_and_values(256, kernel)
    assert keys_and_values(512, "score change") == 2 * keys_and_values(512, "plain")


def test_the_constant_before_the_bound_is_small(folder: Path) -> None:
    # Traffic / (N^2 d^2 / M) = 2 M / (a q tile's bytes) + M / (N d); a q tile takes a quarter of M.
    for kernel in BLOCK_Q:
        report = launch(folder, 512, kernel)
        on_chip = report["dynamic_shared_bytes"]
        assert BLOCK_Q[kernel] * HEADDIM * BYTES * 4 >= on_chip
        constant = report["async_load_bytes"] * on_chip / tensor_bytes(512) ** 2
        assert 1 <= constant <= 8 + on_chip / tensor_bytes(512)
