# SPDX-License-Identifier: BSD-3-Clause
"""Wrong rows, heads and splits in the Hopper forward kernel show: each of these would be a bug."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import emulator_tools as emulator
import pytest

CSRC = emulator.ROOT / "csrc"
DRIVER = emulator.EMULATOR / "faults" / "attention_sm90_rows.cuh"
# What goes wrong: (file, right, wrong).
WRONG = {
    "masks take a row of the tile for a row of q": (
        "sm90/consumer.cuh",
        "work.token(params, sm80::lane_row(warp_row, r))",
        "sm80::lane_row(warp_row, r)",
    ),
    "all rows have the sink of the first head": (
        "sm90/consumer.cuh",
        "work.head(params, sm80::lane_row(warp_row, r))",
        "work.tile.head",
    ),
    "all rows of splits have the sink of the first head": (
        "decode/combine.cu",
        "params.sink[head]",
        "params.sink[0]",
    ),
    "the sink counts in each split": (
        "sm90/launch.cuh",
        "call.sink = nullptr",
        "(void)0",
    ),
    "no sink": ("decode/combine.cu", "expf(sink - base)", "0.0f"),
    "tiles see the blocks of rows of q of the same number": (
        "sm90/schedule.cuh",
        "first_token(q_begin >> params.pack_shift)",
        "first_token(q_begin)",
    ),
    "lse of all heads goes to the first": (
        "sm90/store.cuh",
        "work.head(params, row) * params.call.lse_head_stride",
        "work.tile.head * params.call.lse_head_stride",
    ),
    "splits overlap": (
        "sm90/schedule.cuh",
        "blocks.begin += tile.split * share",
        "(void)0",
    ),
    "splits end where the keys end": (
        "sm90/schedule.cuh",
        "blocks.end = min(blocks.end, blocks.begin + share)",
        "(void)0",
    ),
    "splits write to one place": (
        "sm90/store.cuh",
        "work.tile.split * params.split_rows",
        "int64_t{0}",
    ),
    "their lse goes to one place": (
        "sm90/store.cuh",
        "work.tile.split * params.lse_split_stride",
        "int64_t{0}",
    ),
    "q is loaded from the rows of the tile": (
        "sm90/producer.cuh",
        "work.q_row() + work.token(params, first)",
        "work.q_row() + first",
    ),
}


@cache
def program() -> Path:
    """The driver with each wrong part behind a condition."""
    texts: dict[str, str] = {}
    for number, (name, right, bad) in enumerate(WRONG.values()):
        text = texts.get(name) or (CSRC / name).read_text()
        assert text.count(right) == 1, (name, right)
        if right.startswith("first_token("):
            both = f"first_token(wrong({number}) ? q_begin : q_begin >> params.pack_shift)"
        elif "= " in right:
            both = f"wrong({number}) ? (void)0 : void({right})"
        else:
            both = f"(wrong({number}) ? {bad} : {right})"
        texts[name] = text.replace(right, both)
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh", ".cpp", ".cu"})
    parts = [*texts.values(), *(p.read_text() for p in headers)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = emulator.CACHE / "wrong" / digest[:24]
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    includes = [folder, CSRC, CSRC / "include", DRIVER.parent]
    return emulator.compile_cuda(
        f"// {digest}\n{DRIVER.read_text()}", "90a", flags=[f"-I{path}" for path in includes]
    )


def run(*arguments: object, schedule: str = "fair") -> emulator.Run:
    return emulator.run(program(), *arguments, arch="sm_90a", schedule=schedule, hang_seconds=1)


@pytest.mark.parametrize("schedule", ["fair", "late", "early", "random"])
def test_the_kernel_as_it_is_is_right(schedule: str) -> None:
    done = run(schedule=schedule)
    assert done.stdout.strip() == "ok", (done.stdout, done.stderr)


@pytest.mark.parametrize("number", range(len(WRONG)), ids=list(WRONG))
def test_each_mistake_shows(number: int) -> None:
    done = run(number)
    assert "wrong numbers" in done.stdout or "(cudaError" in done.stdout, done.stdout
