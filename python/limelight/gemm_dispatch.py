# SPDX-License-Identifier: BSD-3-Clause
"""Which implementation computes a flat matrix product: the heuristic dataflow of FlashDecoding++.

Section 5 of arXiv 2311.01282: per weight shape two crossing points of M are kept; below M1 the GEMV
kernel runs, from M1 the flat GEMM, from M2 on torch (cuBLAS). Pure functions, shared by calls,
``explain_linear`` and ``python -m limelight tune``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from limelight import gemm_model
from limelight.gemm_model import Device, Estimate

IMPLEMENTATIONS = ("gemv", "flat", "torch")
MAX_ROWS = 128
# A shape borrows the crossing points of a measured one up to a factor of 4 in N and K together.
NEAREST_LIMIT = 2.0


@dataclass(frozen=True)
class LinearKernel:
    """One row of the kernel table."""

    name: str
    id: int  # limelight::GemmKernel
    max_m: int
    min_capability: tuple[int, int]
    formats: tuple[str, ...]  # of the weight


_FORMATS = ("16bit", "fp8_channel", "fp8_block", "int4_g64", "int4_g128")
KERNELS = {
    "gemv": LinearKernel("gemv", 0, 8, (8, 0), _FORMATS),
    "flat": LinearKernel("flat", 1, MAX_ROWS, (8, 0), _FORMATS),
}


class LinearQuery(NamedTuple):
    """What dispatch looks at; capability None: the tensors are on no device with kernels."""

    capability: tuple[int, int] | None
    dtype: str  # of x
    weight_format: str  # of Layout
    m: int
    rows: int  # of weight
    k: int
    batch_invariant: bool = False
    strides: str = ""  # what a kernel cannot read, in words; empty where it can


class Crossing(NamedTuple):
    """Where the implementations cross: gemv below m1, torch from m2, the flat GEMM between."""

    m1: int
    m2: int
    times: tuple[tuple[int, tuple[float | None, ...]], ...] = ()  # M -> us by implementation


TableKey = tuple[str, int, int]  # kind of weight (16bit, fp8, int4), rows, K
Table = Mapping[TableKey, Crossing]


class LinearChoice(NamedTuple):
    """The implementation of a call, from where the choice is, and why the others do not run."""

    implementation: str
    source: str  # measured, nearest, model, batch_invariant, or refused
    m1: int
    m2: int
    entry: TableKey | None  # the table's entry
    refusals: tuple[tuple[str, str], ...]


def refusal(kernel: LinearKernel, query: LinearQuery, installed: frozenset[str] | None) -> str:
    """Why a kernel cannot compute the call; empty where it can."""
    q = query
    if q.capability is None:
        return "the tensors are on the CPU; nearest: CUDA tensors"
    if q.capability < kernel.min_capability:
        have, need = (".".join(map(str, c)) for c in (q.capability, kernel.min_capability))
        return f"the device has compute capability {have}; needed: at least {need}"
    if q.dtype not in ("float16", "bfloat16"):
        return f"x is {q.dtype}; nearest: float16 or bfloat16"
    if q.weight_format not in kernel.formats:
        return f"the weight is {q.weight_format}; nearest: {', '.join(kernel.formats)}"
    if q.k % 8:
        return f"K is {q.k}; nearest: a multiple of 8"
    if q.strides:
        return q.strides
    if q.m > kernel.max_m and not (q.batch_invariant and kernel.name == "flat"):
        return f"M is {q.m}; nearest: at most {kernel.max_m}"
    kind = q.weight_format.split("_")[0]
    if installed is not None and f"{kernel.name}_{kind}" not in installed:
        return f"this build has no {kernel.name} kernel for {kind} weights; nearest: 16-bit weights"
    return ""


def nearest(table: Table, kind: str, rows: int, k: int) -> TableKey | None:
    """The entry of the same kind with the least |log2(N / N')| + |log2(K / K')|.

    None above NEAREST_LIMIT. Ties go to the smaller shape.
    """

    def distance(key: TableKey) -> float:
        return abs(math.log2(rows / key[1])) + abs(math.log2(k / key[2]))

    found = min(
        (key for key in table if key[0] == kind), key=lambda key: (distance(key), key), default=None
    )
    return found if found is not None and distance(found) <= NEAREST_LIMIT else None


def modelled(query: LinearQuery, device: Device) -> Crossing:
    """The crossing points that the model of bytes and waves gives; see gemm_model."""
    return _modelled(query.rows, query.k, query.weight_format, device)


@lru_cache(maxsize=1024)
def _modelled(rows: int, k: int, weight_format: str, device: Device) -> Crossing:
    def best(m: int) -> str:
        times = {
            name: gemm_model.estimate(name, m, rows, k, weight_format, device).microseconds
            for name in IMPLEMENTATIONS
            if name == "torch" or m <= KERNELS[name].max_m
        }
        return min(times, key=lambda name: times[name])  # ties: the first

    fastest = [best(m) for m in range(1, MAX_ROWS + 1)]
    m1 = next((m for m, name in enumerate(fastest, 1) if name != "gemv"), MAX_ROWS + 1)
    m2 = next((m for m, name in enumerate(fastest, 1) if name == "torch"), MAX_ROWS + 1)
    return Crossing(m1, max(m1, m2))


def look_up(
    query: LinearQuery, table: Table, device: Device
) -> tuple[Crossing, str, TableKey | None]:
    """(crossing points, source, entry) of a shape."""
    kind = query.weight_format.split("_")[0]
    exact = (kind, query.rows, query.k)
    if exact in table:
        return table[exact], "measured", exact
    near = nearest(table, kind, query.rows, query.k) if table else None
    if near is not None:
        return table[near], "nearest", near
    return modelled(query, device), "model", None


def choose(
    query: LinearQuery,
    table: Table,
    device: Device | None,
    installed: frozenset[str] | None = None,
) -> LinearChoice:
    """The implementation of a call. installed: this build's kernels (flat_16bit); None: all."""
    reasons = {name: refusal(kernel, query, installed) for name, kernel in KERNELS.items()}
    if device is None:
        return LinearChoice("torch", "refused", 0, 0, None, tuple(reasons.items()))
    crossing, source, entry = look_up(query, table, device)
    m1, m2 = crossing.m1, crossing.m2
    if all(reasons.values()):
        return LinearChoice("torch", "refused", m1, m2, entry, tuple(reasons.items()))
    if query.batch_invariant:
        # The choice must not depend on M: the flat kernel, with splits that N and K decide.
        if not reasons["flat"]:
            reasons["gemv"] = (
                reasons["gemv"] or "batch_invariant=True runs the flat kernel for every M"
            )
            refused = (("gemv", reasons["gemv"]),)
            return LinearChoice("flat", "batch_invariant", m1, m2, entry, refused)
        return LinearChoice("torch", "refused", m1, m2, entry, tuple(reasons.items()))
    wanted = "gemv" if query.m < m1 else "flat" if query.m < m2 else "torch"
    if wanted == "gemv" and reasons["gemv"]:
        wanted = "flat" if not reasons["flat"] else "torch"
    elif wanted == "flat" and reasons["flat"]:
        wanted = "torch"
    others = {
        "gemv": f"M is {query.m}; it is fastest below M1 = {m1} ({source})",
        "flat": f"M is {query.m}; it is fastest from M1 = {m1} to below M2 = {m2} ({source})",
        "torch": f"M is {query.m}; it is fastest from M2 = {m2} ({source})",
    }
    refusals = tuple(
        (name, reasons.get(name) or others[name]) for name in IMPLEMENTATIONS if name != wanted
    )
    return LinearChoice(wanted, source, m1, m2, entry, refusals)


def estimates(query: LinearQuery, device: Device) -> dict[str, Estimate]:
    """The model's numbers of every implementation."""
    return {
        name: gemm_model.estimate(name, query.m, query.rows, query.k, query.weight_format, device)
        for name in IMPLEMENTATIONS
    }
