# SPDX-License-Identifier: BSD-3-Clause
"""The tables of csrc/sm90/README.md: instructions of a step and registers, from the machine code.

    python benchmarks/sm90/tables.py                 compile csrc/sm90 and print the tables
    python benchmarks/sm90/tables.py --write         ... and put them into csrc/sm90/README.md
    python benchmarks/sm90/tables.py --cubin FILE .. count the main loops of other kernels

Needs nvcc (CUDACXX, PATH) and nvdisasm (--nvdisasm, PATH, beside nvcc; on PyPI it is the package
nvidia-cuda-nvdisasm). A step's path is the shortest through the main loop: see sass.py.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sass
from tile_facts import CSRC, TileFacts, tile_facts

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from ptxas_report import HOPPER, REGISTERS, SPILLS, serialised

README = CSRC / "sm90" / "README.md"
COUNTED = (
    "GEMM",
    "UTMALDG",
    "MUFU",
    "FFMA",
    "FADD",
    "FMUL",
    "FMNMX",
    "PRMT, IMAD, LOP3",
    "F2FP",
    "all",
)
KERNEL = re.compile(
    r"sm90_attention_fwd\w*?INS0_9(?P<config>Fwd|Fp8)ConfigI(?P<element>\d+\w+?)??"
    r"Li(?P<headdim>\d+)ELi(?P<headdim_v>\d+)ELNS0_6ScoresE(?P<change>[01])E"
    r"(?:LNS0_7VisibleE(?P<some>[01])E)?"
)
MMA_RATE, MUFU_RATE, WARP_RATE = 2048, 16, 4  # of one SM and cycle; e4m3 has twice the first


@dataclass(frozen=True)
class Step:
    """One step of one warp."""

    counts: dict[str, int]
    mask: int  # instructions more where a block is at an edge
    rescale: int  # and where O is rescaled
    registers: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the tables of the README")
    parser.add_argument("--nvdisasm", help="the disassembler")
    parser.add_argument("--cubin", type=Path, nargs="+", help="count these and print one row each")
    options = parser.parse_args(arguments)
    disassembler = options.nvdisasm or tool("nvdisasm")
    if options.cubin:
        print("\n".join(table_of_cubins(options.cubin, disassembler)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        logs = compile_family(Path(folder), CSRC)
        kernels = [
            function
            for cubin in sorted(Path(folder).glob("*.cubin"))
            for function in sass.parse(disassemble(cubin, disassembler))
        ]
    tables = make_tables(tile_facts(), kernels, logs)
    for lines in tables:
        print("\n".join(lines) + "\n")
    slow = serialised(logs)
    print(f"serialised wgmma (C7511): {', '.join(slow) or 'none'}")
    if options.write:
        README.write_text(replace_tables(README.read_text(), tables))
    return 1 if slow else 0


def tool(name: str) -> str:
    """A program on PATH or beside nvcc."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    beside = Path(nvcc).resolve().parent / name
    found = nvcc if name == "nvcc" else shutil.which(name) or str(beside)
    if not Path(found).exists():
        sys.exit(f"tables: {name} is neither on PATH nor beside {nvcc}")
    return found


def compile_family(folder: Path, csrc: Path) -> str:
    """Cubins of all forward kernels into a folder; what ptxas said."""
    logs = []
    for source in sorted((csrc / "sm90").glob("fwd_*.cu")):
        command = [tool("nvcc"), "-cubin", "-arch=sm_90a", "-std=c++20", "-O3", "-lineinfo"]
        command += ["-Xptxas", "--warn-on-spills,-v", "-I", str(csrc), "-I", str(csrc / "include")]
        command += [str(source), "-o", str(folder / f"{source.stem}.cubin")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"tables: {source} does not compile:\n{done.stdout}")
        logs.append(done.stdout)
    return "".join(logs)


def disassemble(cubin: Path, disassembler: str) -> str:
    """The text of nvdisasm."""
    command = [disassembler, "-c", str(cubin)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def step_of(function: sass.Function) -> Step | None:
    """What the main loop of a kernel runs; None for a kernel without one."""
    path = sass.path_of_step(function)
    if not path:
        return None
    found = sass.count(function, path)
    ways = [sass.count(function, way) for way in sass.detours(function, path)]
    counts = {name: found[name] for name in COUNTED}
    counts["GEMM"] = sum(found[name] for name in ("HGMMA", "QGMMA"))
    counts["PRMT, IMAD, LOP3"] = found["PRMT"] + found["IMAD"] + found["LOP3"]
    counts["UTMALDG"] = sass.most_on_a_cycle(function, "UTMALDG")
    counts["all"] = len(path)
    return Step(
        counts,
        longest(ways, lambda way: way["FSEL"] >= 16 and way["MUFU"] == 0),
        longest(ways, lambda way: 2 * way["FMUL"] > way.total()),
        function.registers,
    )


def longest(ways: list[Counter[str]], wanted: Callable[[Counter[str]], bool]) -> int:
    """Instructions of the longest way that is wanted; 0 if there is none."""
    return max((way.total() for way in ways if wanted(way)), default=0)


def make_tables(
    facts: list[TileFacts], kernels: list[sass.Function], log: str
) -> tuple[list[str], list[str]]:
    """Instructions of the plain bfloat16 and FP8 kernels; registers of all."""
    steps: dict[tuple[bool, int, int, bool, bool], Step] = {}
    for function in kernels:
        found = KERNEL.search(function.name)
        step = step_of(function)
        if found is None or step is None or "half" in (found["element"] or ""):
            continue
        steps[key_of(found)] = step
    entry = ptxas_facts(log)
    heads = (*COUNTED, "a key", "mask", "rescale", "MMA cycles", "MUFU cycles", "issue cycles")
    instructions = header("headdim", "tile", *heads)
    registers = header(
        "headdim",
        "warpgroups",
        "registers at entry",
        "of a consumer, plain",
        "score change",
        "shared memory",
        "O in",
        "spilled bytes",
    )
    for tile in facts:
        key = (tile.fp8, tile.headdim, tile.headdim_v, tile.change, tile.everything)
        if tile.change or key not in steps:
            continue
        step = steps[key]
        name = f"{tile.headdim}/{tile.headdim_v}{', FP8' if tile.fp8 else ''}"
        values: list[object] = [step.counts[column] for column in COUNTED]
        values += [f"{step.counts['all'] / tile.block_kv:.2f}"]
        block = f"{64 * tile.consumers} x {tile.block_kv}"
        values += [step.mask, step.rescale, *cycles(tile, step)]
        instructions.append(row(name, block, *values))
        change = (*key[:3], True, False)
        other = None if tile.everything else steps.get(change)
        registers.append(
            row(
                name + (", full attention" if tile.everything else ""),
                f"1 + {tile.consumers}",
                entry[key][0],
                step.registers,
                other.registers if other else "-",
                f"{tile.smem_bytes / 1024:.0f} KB",
                "its own" if tile.own_output else "the place of Q",
                entry[key][1] + (entry[change][1] if other else 0),
            )
        )
    return instructions, registers


def key_of(found: re.Match[str]) -> tuple[bool, int, int, bool, bool]:
    """fp8, headdim, headdim_v, score change, full attention."""
    headdims = int(found["headdim"]), int(found["headdim_v"])
    return found["config"] == "Fp8", *headdims, found["change"] == "1", found["some"] == "0"


def ptxas_facts(log: str) -> dict[tuple[bool, int, int, bool, bool], tuple[int, int]]:
    """Registers at entry and spilled bytes, of both element types together."""
    facts: dict[tuple[bool, int, int, bool, bool], tuple[int, int]] = {}
    key, spilled = None, 0
    for line in log.splitlines():
        if entry := HOPPER.search(line):
            key, spilled = key_of(entry), 0
        elif spills := SPILLS.search(line):
            spilled = int(spills["stores"]) + int(spills["loads"])
        elif (used := REGISTERS.search(line)) and key is not None:
            before = facts.get(key, (0, 0))
            facts[key] = max(before[0], int(used["registers"])), before[1] + spilled
            key = None
    return facts


def cycles(tile: TileFacts, step: Step) -> tuple[int, int, int]:
    """Of one SM, for a step of all consumers: GEMMs, exponentials, warp instructions."""
    scores = 64 * tile.consumers * tile.block_kv
    columns = tile.headdim + tile.headdim_v + 8 * tile.sum_column
    rate = 2 * MMA_RATE if tile.fp8 else MMA_RATE
    warps = 4 * tile.consumers
    return (
        round(scores * columns / rate),
        round(scores / MUFU_RATE),
        round(warps * step.counts["all"] / WARP_RATE),
    )


def table_of_cubins(cubins: list[Path], disassembler: str) -> list[str]:
    """Counts of any kernels; the name is the file's, with the integers of the kernel's name."""
    lines = header("kernel", *COUNTED, "mask", "rescale", "registers")
    for cubin in cubins:
        for function in sass.parse(disassemble(cubin, disassembler)):
            step = step_of(function)
            if step is not None:
                numbers = "x".join(re.findall(r"Li(\d+)E", function.name)[:12])
                values = [step.counts[column] for column in COUNTED]
                name = f"{cubin.stem} {numbers}"
                lines.append(row(name, *values, step.mask, step.rescale, step.registers))
    return lines


def header(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*names), "|" + "---|" * len(names)]


def row(*values: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(map(str, values)) + " |"


def replace_tables(text: str, tables: Sequence[Sequence[str]]) -> str:
    """A text whose tables with the same first lines are replaced."""
    lines = text.splitlines()
    for table in tables:
        if table[0] not in lines:
            sys.exit(f"tables: {README} has no table that begins with\n{table[0]}")
        begin = end = lines.index(table[0])
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        lines[begin:end] = table
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
