# SPDX-License-Identifier: BSD-3-Clause
"""The code of docs/serving.md runs, in order, and its own assertions hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import limelight

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_code_runs() -> None:
    assert len(BLOCKS) == 5
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/serving.md, block {number}", "exec"), names)


def test_the_functions_of_the_table_exist() -> None:
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    called = set(re.findall(r"`([a-z]+_[a-z_]+|explain)`", table))
    arguments = {"attention_chunk", "block_table", "tree_mask", "cu_seqlens_q"}
    assert {"append_kv", "flash_attn_with_kvcache", "merge_attn_states"} <= called
    assert called - arguments <= set(limelight.__all__)
