# SPDX-License-Identifier: BSD-3-Clause
"""Registers and spills of every kernel as a markdown table, from a build log (``-Xptxas -v``).

Usage: python benchmarks/python/ptxas_report.py build/wheel.log
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ENTRY = re.compile(
    r"Compiling entry function '\S*sm80_attention_\w+?INS0_9(?:Fwd|Bwd)ConfigI\d+\w*?"
    r"Li(?P<headdim>\d+)ELNS0_6ScoresE(?P<change>[01])ELNS0_5TilesE(?P<tiles>[01])E"
    r"(?:LNS0_8GradientE(?P<gradient>[0-4]))?"
    r"\S*' for 'sm_(?P<arch>\w+)'"
)
DECODE = re.compile(
    r"Compiling entry function '\S*sm80_attention_decodeINS0_12DecodeConfigI\d+\w*?"
    r"LNS0_9KvElementE(?P<fp8>[01])ELi(?P<headdim>\d+)ELi(?P<rows>\d+)ELNS0_5TilesE(?P<tiles>[01])E"
    r"\S*' for 'sm_(?P<arch>\w+)'"
)
HOPPER = re.compile(
    r"Compiling entry function '\S*sm90_attention_fwd\w*?INS0_9(?P<config>Fwd|Fp8)ConfigI\w*?"
    r"Li(?P<headdim>\d+)ELi(?P<headdim_v>\d+)ELNS0_6ScoresE(?P<change>[01])E"
    r"(?:LNS0_7VisibleE(?P<some>[01])E)?\S*' for 'sm_(?P<arch>\w+)'"
)
SERIALISED = re.compile(r"wgmma\.mma_async instructions are serialized.*?'(?P<function>\w+)'")
PASSES = {None: "forward", "0": "dQ", "1": "dK and dV", "2": "dK", "3": "dV", "4": "dbias"}
SPILLS = re.compile(r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (?P<registers>\d+) registers")


def parse(log: str) -> dict[tuple[str, int, str], dict[str, tuple[int, int]]]:
    """(tiles, headdim, kernel) -> architecture -> (most registers of a dtype, spilled bytes)."""
    rows: dict[tuple[str, int, str], dict[str, tuple[int, int]]] = defaultdict(dict)
    key: tuple[str, int, str] | None = None
    arch, spilled = "", 0
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            tiles = "small" if entry["tiles"] == "1" else "large"
            change = "score change" if entry["change"] == "1" else "plain"
            kernel = f"{PASSES[entry['gradient']]}, {change}"
            key, arch, spilled = (tiles, int(entry["headdim"]), kernel), entry["arch"], 0
        elif entry := DECODE.search(line):
            tiles = "small" if entry["tiles"] == "1" else "large"
            cache = ", FP8 cache" if entry["fp8"] == "1" else ""
            kernel = f"decode, {entry['rows']} rows{cache}"
            key, arch, spilled = (tiles, int(entry["headdim"]), kernel), entry["arch"], 0
        elif entry := HOPPER.search(line):
            words = ["forward", "FP8"] if entry["config"] == "Fp8" else ["forward"]
            words += ["headdim_v " + entry["headdim_v"]] * (entry["headdim_v"] != entry["headdim"])
            words += ["score change" if entry["change"] == "1" else "plain"]
            words += ["full attention"] * (entry["some"] == "0")
            key, arch, spilled = (
                ("Hopper", int(entry["headdim"]), ", ".join(words)),
                entry["arch"],
                0,
            )
        elif spills := SPILLS.search(line):
            spilled = int(spills["stores"]) + int(spills["loads"])
        elif (used := REGISTERS.search(line)) and key is not None:
            before = rows[key].get(arch, (0, 0))
            rows[key][arch] = (max(before[0], int(used["registers"])), max(before[1], spilled))
            key = None
    return rows


def serialised(log: str) -> list[str]:
    """Functions whose wgmma instructions ptxas made wait for each other."""
    return sorted({found["function"] for found in SERIALISED.finditer(log)})


def table(rows: dict[tuple[str, int, str], dict[str, tuple[int, int]]]) -> str:
    """One markdown row per (tiles, headdim, kernel): registers by architecture, all spills."""
    lines = []
    for tiles in ("large", "small", "Hopper"):
        chosen = {key: value for key, value in rows.items() if key[0] == tiles}
        if not chosen:
            continue
        names = {arch for value in chosen.values() for arch in value}
        arches = sorted(names, key=lambda name: int(name.rstrip("af")))
        lines += [
            f"| {tiles} tiles: headdim | kernel | "
            + " | ".join(f"sm_{a}" for a in arches)
            + " | spilled bytes |",
            "|---|---|" + "---|" * (len(arches) + 1),
        ]
        for (_, headdim, kernel), value in sorted(chosen.items()):
            registers = " | ".join(str(value[a][0]) if a in value else "-" for a in arches)
            lines.append(
                f"| {headdim} | {kernel} | {registers} | {sum(v[1] for v in value.values())} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    log = Path(sys.argv[1]).read_text()
    print(table(parse(log)))
    for function in serialised(log):
        print(f"serialised wgmma (C7511): {function}")
