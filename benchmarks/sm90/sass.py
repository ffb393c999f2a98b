# SPDX-License-Identifier: BSD-3-Clause
"""Instructions of a kernel's main loop, from the text of ``nvdisasm -c``.

The main loop is the shortest way from some instruction back to itself that passes a tensor-core
instruction: waits that succeed at once, no mask, no rescaling, which is what most steps do.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

FUNCTION = re.compile(r"^\.text\.(?P<name>\S+):$")
LABEL = re.compile(r"^(?P<label>\.L\w+):$")
INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][\w.]*)(?P<operands>[^;]*)"
)
TARGET = re.compile(r"`\((?P<label>\.L\w+)\)")
REGISTER = re.compile(r"\bR(?P<number>\d+)\b")
CONDITION = re.compile(r"^\s*!?U?P\d")  # BRA P0, target
ENDS = ("EXIT", "RET", "BRX", "JMX", "KILL")


@dataclass
class Function:
    """One kernel: instructions in order, and where each may go on."""

    name: str
    opcodes: list[str] = field(default_factory=list)
    successors: list[list[int]] = field(default_factory=list)
    registers: int = 0  # one more than the highest that an instruction names


def parse(text: str) -> list[Function]:
    """The functions of a disassembly."""
    functions = []
    name, lines = "", list[str]()
    for line in text.splitlines():
        if found := FUNCTION.match(line):
            functions += [_function(name, lines)] if name else []
            name, lines = found["name"], []
        else:
            lines.append(line)
    return functions + ([_function(name, lines)] if name else [])


def _function(name: str, lines: Iterable[str]) -> Function:
    labels: dict[str, int] = {}
    parsed: list[tuple[str, bool, str]] = []  # opcode, guarded, operands
    registers = 0
    for line in lines:
        if found := LABEL.match(line):
            labels[found["label"]] = len(parsed)
        elif found := INSTRUCTION.match(line):
            named = (int(r["number"]) for r in REGISTER.finditer(found["operands"]))
            registers = max(registers, *(number + 1 for number in named), 0)
            always = found["guard"] is None or found["guard"].split()[0] == "@PT"
            parsed.append((found["opcode"], not always, found["operands"]))
    successors = []
    for index, (opcode, guarded, operands) in enumerate(parsed):
        base, *modifiers = opcode.split(".")
        following = [index + 1] if index + 1 < len(parsed) else []
        target = TARGET.search(operands)
        if base == "BRA" and target is not None:
            # .DIV, .CONV and .U.ANY branch on what the warp's lanes agree on
            conditional = guarded or bool(modifiers) or CONDITION.match(operands) is not None
            goal = [labels[target["label"]]] if target["label"] in labels else []
            successors.append(goal + (following if conditional else []))
        elif base in ENDS and not guarded:
            successors.append([])
        else:
            successors.append(following)
    return Function(name, [opcode for opcode, _, _ in parsed], successors, registers)


def path_of_step(function: Function) -> list[int]:
    """The instructions of one step, in order; empty where no loop has a tensor-core instruction."""
    best: list[int] = []
    for header in _headers(function):
        path = _cycle(function, header)
        is_step = any(is_gemm(function.opcodes[at]) for at in path)
        if is_step and (not best or len(path) < len(best)):
            best = path
    return best


def detours(function: Function, path: list[int]) -> list[list[int]]:
    """What a step runs beside its path: from each branch off it the shortest way back to it."""
    position = {at: index for index, at in enumerate(path)}
    found = []
    for at in path:
        for first in function.successors[at]:
            if first in position:
                continue
            way = _shortest(function, first, position)
            if way is not None:
                found.append(way)
    return found


def count(function: Function, path: Iterable[int]) -> Counter[str]:
    """Instructions by the first part of their opcode."""
    return Counter(function.opcodes[at].split(".")[0] for at in path)


def most_on_a_cycle(function: Function, opcode: str) -> int:
    """How many of an instruction the richest loop runs a round."""
    counts = (count(function, _cycle(function, at))[opcode] for at in _headers(function))
    return max(counts, default=0)


def is_gemm(opcode: str) -> bool:
    """Whether an instruction runs on the tensor cores."""
    return opcode.split(".")[0] in ("HGMMA", "QGMMA", "HMMA", "QMMA")


def _headers(function: Function) -> list[int]:
    """Where branches go back to."""
    ends = enumerate(function.successors)
    return sorted({goal for at, goals in ends for goal in goals if goal <= at})


def _cycle(function: Function, start: int) -> list[int]:
    """The fewest instructions from one back to itself; empty if there is no way."""
    way = _shortest(function, start, {start})
    return [] if way is None else way


def _shortest(function: Function, start: int, ends: Container[int]) -> list[int] | None:
    """The fewest instructions from ``start`` up to the one before any of ``ends``."""
    before: dict[int, int] = {}
    queue = deque([start])
    while queue:
        at = queue.popleft()
        for following in function.successors[at]:
            if following in ends:
                way = [at]
                while way[-1] != start:
                    way.append(before[way[-1]])
                return way[::-1]
            if following not in before and following != start:
                before[following] = at
                queue.append(following)
    return None
