# SPDX-License-Identifier: BSD-3-Clause
"""Traffic and tensor work of the Hopper forward kernels, counted by the emulator.

Every copy of Q, K, V and O is asynchronous: Q and O once, K and V once a tile of q, and of those
only the blocks that a row of the tile sees. What threads themselves store and load in shared memory
(O on its way out, FP8's turned V) has no bank conflict.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import emulator_tools
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks" / "sm90"))

from tile_facts import TileFacts, tile_facts


class Call(NamedTuple):
    dtype: str
    headdim: int
    seqlen: int
    causal: int = 0
    softcap: int = 0

    @property
    def fp8(self) -> bool:
        return self.dtype == "float8_e4m3fn"

    @property
    def element(self) -> int:
        return 1 if self.fp8 else 2


E4M3 = "float8_e4m3fn"
CALLS = [
    *(Call("bfloat16", headdim, 400, causal) for headdim in (64, 128, 256) for causal in (0, 1)),
    Call("float16", 96, 230),
    Call("bfloat16", 192, 230, 1),
    Call("bfloat16", 128, 330, 1, 30),
    *(Call(E4M3, headdim, 300, causal) for headdim in (64, 128) for causal in (0, 1)),
    Call(E4M3, 256, 200),
]


def tile_of(call: Call) -> TileFacts:
    """The row of the tile table that serves a call; full attention has its own where there is
    one."""
    rows = [
        t
        for t in tile_facts()
        if (t.fp8, t.headdim, t.headdim_v) == (call.fp8, call.headdim, call.headdim)
        and t.change == (call.softcap > 0)
        and not (t.everything and call.causal)
    ]
    return max(rows, key=lambda t: t.everything)


def blocks_of_tiles(call: Call, tile: TileFacts) -> list[int]:
    """Blocks of keys that each tile of q visits."""
    block_q = 64 * tile.consumers
    ends = [min(begin + block_q, call.seqlen) for begin in range(0, call.seqlen, block_q)]
    return [-(-(end if call.causal else call.seqlen) // tile.block_kv) for end in ends]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[Call, dict[str, Any]]:
    """The report of one emulated launch a call."""
    settings = emulator_tools.settings(
        "sm_90a", checks="none", sms=2, report=tmp_path_factory.mktemp("io") / "report"
    )
    settings |= {"LIMELIGHT_BACKEND": "emulator", "LIMELIGHT_FALLBACK": "error"}
    settings["LIMELIGHT_EMULATOR_LIBRARY"] = str(emulator_tools.emulator())
    probe = Path(__file__).with_name("sm90_io_probe.py")
    command = [sys.executable, str(probe), *(",".join(map(str, call)) for call in CALLS)]
    environment = {**os.environ, **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line]
    return dict(zip(CALLS, lines, strict=True))


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_global_traffic(call: Call, reports: dict[Call, dict[str, Any]]) -> None:
    report = reports[call]
    assert "sm90_attention_fwd" in report["kernel"]
    tile = tile_of(call)
    keys = sum(min(n * tile.block_kv, call.seqlen) for n in blocks_of_tiles(call, tile))
    row = call.headdim * call.element
    assert report["async_load_bytes"] == row * (call.seqlen + 2 * keys)
    assert report["async_store_bytes"] == 2 * call.headdim * call.seqlen
    assert report["global_store_bytes"] == 4 * call.seqlen  # lse


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_tensor_work(call: Call, reports: dict[Call, dict[str, Any]]) -> None:
    """Whole tiles: two GEMMs a block, and the columns of ones that add up the rounded P."""
    tile = tile_of(call)
    blocks = sum(blocks_of_tiles(call, tile))
    columns = 2 * call.headdim + 8 * tile.sum_column
    assert (
        reports[call]["tensor_flops"] == 2 * 64 * tile.consumers * tile.block_kv * columns * blocks
    )


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_shared_memory_has_no_conflicts(call: Call, reports: dict[Call, dict[str, Any]]) -> None:
    report = reports[call]
    conflicts = {
        line: site for line, site in report["shared_by_ptx_line"].items() if site["conflicts"]
    }
    assert report["shared_requests"] > 0
    assert conflicts == {}
