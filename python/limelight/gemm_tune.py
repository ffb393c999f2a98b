# SPDX-License-Identifier: BSD-3-Clause
"""Finds the crossing points of gemv, flat and torch from measured times, and keeps the tables.

FlashDecoding++ (arXiv 2311.01282, section 5) takes the first M at which the next implementation is
faster; here the pair (M1, M2) with the least total time, each M weighed by ratios, so that one
noisy M decides nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limelight.gemm_dispatch import MAX_ROWS
from limelight.gemm_tables import SCHEMA, read_entries

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128)
Times = Mapping[str, float | None]  # us by implementation
# (rows of weight, K, M) -> times; None or absent where an implementation does not compute it.
Measure = Callable[[int, int, int], Times]


def policy(m: int, m1: int, m2: int, times: Times) -> str:
    """What dispatch runs at M for crossing points, given what can run."""
    wanted = ("gemv", "flat", "torch") if m < m1 else ("flat", "torch") if m < m2 else ("torch",)
    return next((name for name in wanted if times.get(name) is not None), "torch")


def crossing_points(measured: Mapping[int, Times]) -> tuple[int, int]:
    """(M1, M2) of measured[M][implementation]: the least sum of log(time of what runs).

    Candidates are the measured M and MAX_ROWS + 1. Ties go to the smallest M1, then to the largest
    M2: the flat GEMM is the one that fits every M.
    """
    candidates = [*sorted(measured), MAX_ROWS + 1]

    def cost(m1: int, m2: int) -> float:
        total = 0.0
        for m, times in measured.items():
            time = times.get(policy(m, m1, m2, times))
            if time is None:
                return math.inf
            total += math.log(time)
        return total

    pairs = [(m1, m2) for m1 in candidates for m2 in candidates if m1 <= m2]
    return min(pairs, key=lambda pair: (round(cost(*pair), 9), pair[0], -pair[1]))


def tune_shapes(
    shapes: Sequence[tuple[int, int]], kind: str, rows: Sequence[int], measure: Measure
) -> list[dict[str, Any]]:
    """A table's entries, one a shape (rows of weight, K)."""
    entries = []
    for n, k in shapes:
        measured = {m: measure(n, k, m) for m in rows}
        m1, m2 = crossing_points(measured)
        us = {
            str(m): {name: round(t, 3) for name, t in times.items() if t is not None}
            for m, times in measured.items()
        }
        entries.append({"format": kind, "n": n, "k": k, "m1": m1, "m2": m2, "us": us})
    return entries


def merge(path: Path, facts: dict[str, Any], entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table of a file with new entries over its old ones; facts say where and when.

    An old file that is no table, or is of another GPU, is replaced.
    """
    kept: dict[tuple[str, int, int], dict[str, Any]] = {}
    if path.exists():
        try:
            old = json.loads(path.read_text())
            read_entries(old)
            if old["gpu"] == facts["gpu"]:
                kept = {(e["format"], e["n"], e["k"]): e for e in old["entries"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            kept = {}
    stamp = {"date": facts["date"], "limelight": facts["versions"].get("limelight", "")}
    for entry in entries:
        kept[entry["format"], entry["n"], entry["k"]] = dict(entry) | {"measured": stamp}
    return {"schema": SCHEMA, **facts, "entries": [kept[key] for key in sorted(kept)]}


def write(path: Path, table: dict[str, Any]) -> None:
    """Write a table; an interrupted run leaves the previous file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(table, indent=1) + "\n")
    partial.replace(path)
