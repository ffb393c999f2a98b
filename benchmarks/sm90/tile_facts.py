# SPDX-License-Identifier: BSD-3-Clause
"""The tile tables of csrc/sm90 with what follows from them, told by a C++ program that includes
them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"

PROGRAM = r"""
#include <cstdio>
#include "sm90/fwd_fp8_tiles.h"
using namespace limelight::sm90;
int main() {
    const char* const row =
        "{\"fp8\": %d, \"headdim\": %d, \"headdim_v\": %d, \"change\": %d, \"everything\": %d, "
        "\"consumers\": %d, \"block_kv\": %d, \"sum_column\": %d, \"own_output\": %d, "
        "\"smem_bytes\": %zu}\n";
    for (const FwdTile& t : kFwdTiles)
        std::printf(row, 0, t.headdim, t.headdim_v, t.scores == Scores::kChange,
                    t.visible == Visible::kAll, t.consumers, t.block_kv, t.sum_column,
                    owns_output(t), smem_bytes(t));
    for (const Fp8Tile& t : kFp8Tiles)
        std::printf(row, 1, t.headdim, t.headdim_v, t.scores == Scores::kChange, 0, kFp8Consumers,
                    t.block_kv, 1, 1, fp8_smem_bytes(t));
}
"""


@dataclass(frozen=True)
class TileFacts:
    """One row of kFwdTiles or kFp8Tiles."""

    fp8: bool
    headdim: int
    headdim_v: int
    change: bool  # the score-change kernel
    everything: bool  # the kernel of full attention
    consumers: int
    block_kv: int
    sum_column: bool
    own_output: bool
    smem_bytes: int


def tile_facts(include: Path = CSRC, compiler: str = "c++") -> list[TileFacts]:
    """Every row of both tables below an include path, in their order."""
    with tempfile.TemporaryDirectory() as scratch:
        source, program = Path(scratch) / "facts.cpp", Path(scratch) / "facts"
        source.write_text(PROGRAM)
        command = [compiler, "-std=c++20", "-I", str(include), str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    flags = ("fp8", "change", "everything", "sum_column", "own_output")
    return [TileFacts(**row | {name: bool(row[name]) for name in flags}) for row in rows]
