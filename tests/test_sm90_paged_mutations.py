# SPDX-License-Identifier: BSD-3-Clause
"""What keeps foreign memory out of paged results is needed in the real Hopper forward kernels."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import emulator_tools as emulator
import pytest

CSRC = emulator.ROOT / "csrc"
# (file, line, condition in it, what it becomes where it is left out); a number is a place here.
MUTATIONS = [
    # Reads past the end of the table.
    ("producer.cuh", "lane() < params.pieces && key < end_key", "key < end_key", "true"),
    # Reads pages before the window.
    ("producer.cuh", "key + params.piece_rows > first", "key + params.piece_rows > first", "true"),
    # Reads rows of the one page instead of writing zeros.
    ("producer.cuh", "const int row = page < 0 ?", "page < 0", "false"),
    # Writes past the tile.
    ("producer.cuh", "if (lane() < params.pieces)", "lane() < params.pieces", "true"),
    # Leaves V of others behind the sequence.
    ("schedule.cuh", "return params.clear_v_tails &&", "params.clear_v_tails", "false"),
]
KERNELS = ["16-bit", "fp8"]


@cache
def program() -> Path:
    """The driver with a choice in the place of each condition."""
    driver = emulator.EMULATOR / "faults" / "attention_sm90_paged.cuh"
    texts: dict[str, str] = {}
    for number, (name, line, condition, left_out) in enumerate(MUTATIONS):
        text = texts.get(name) or (CSRC / "sm90" / name).read_text()
        assert text.count(line) == 1, (name, line)
        choice = f"(removed() == {number} ? {left_out} : {condition})"
        texts[name] = text.replace(line, line.replace(condition, choice))
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh", ".cpp"})
    parts = [*texts.values(), *(p.read_text() for p in headers)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = emulator.CACHE / "mutations" / digest[:24]
    (folder / "sm90").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / "sm90" / name).write_text(text)
    includes = [folder, CSRC, CSRC / "include", driver.parent]
    return emulator.compile_cuda(
        f"// {digest}\n{driver.read_text()}", "90a", flags=[f"-I{path}" for path in includes]
    )


def run(number: int, kernel: str, schedule: str) -> emulator.Run:
    arguments = (number, KERNELS.index(kernel))
    return emulator.run(
        program(), *arguments, arch="sm_90a", schedule=schedule, seed=number + 1, hang_seconds=1
    )


@pytest.mark.parametrize("schedule", ["late", "early", "random"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_as_it_is_passes(kernel: str, schedule: str) -> None:
    done = run(-1, kernel, schedule)
    assert done.stdout.strip() == "ok", (done.stdout, done.stderr)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_without_one_of_them_it_is_caught(number: int, kernel: str) -> None:
    done = run(number, kernel, "random")
    assert "ok" not in done.stdout, MUTATIONS[number]
    assert "wrong numbers" in done.stdout or "(cudaError" in done.stdout, done
