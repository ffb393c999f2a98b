# SPDX-License-Identifier: BSD-3-Clause
"""Which implementation flat_linear would run, with the numbers that decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limelight import gemm_dispatch, gemm_execute, gemm_tables, runtime
from limelight.explain import device_capability
from limelight.gemm_checks import ACTIVATIONS, check_linear
from limelight.gemm_dispatch import IMPLEMENTATIONS, Crossing, LinearChoice, LinearQuery
from limelight.gemm_model import Device, Estimate, device_facts
from limelight.messages import bad

FORMATS = ("16bit", "float32", "float64", "fp8_channel", "fp8_block", "int4_g64", "int4_g128")
SOURCES = {
    "measured": "measured on this GPU",
    "nearest": "measured on this GPU for the nearest shape",
    "model": "a model of bytes and waves, not measured",
    "batch_invariant": "batch_invariant=True",
}


@dataclass(frozen=True)
class LinearExplanation:
    """The answer of ``explain_linear``; its text is for people."""

    query: LinearQuery
    choice: LinearChoice
    device: Device | None
    measured: dict[str, float]  # us by implementation, at the measured M nearest to query.m
    measured_m: int | None
    estimates: dict[str, Estimate]  # the model's

    @property
    def implementation(self) -> str:
        """gemv, flat or torch."""
        return self.choice.implementation

    def __str__(self) -> str:
        q, choice = self.query, self.choice
        where = "CPU" if q.capability is None else "sm_" + "".join(map(str, q.capability))
        name = f" ({self.device.name or self.device.source})" if self.device else ""
        lines = [
            f"flat_linear on {where}{name}: x ({q.m}, {q.k}) {q.dtype}, weight ({q.rows}, {q.k}) "
            f"{q.weight_format}"
        ]
        runs = "torch" if self.implementation == "torch" else f"the {self.implementation} kernel"
        source = SOURCES.get(choice.source, "")
        lines.append(f"  runs on: {runs}" + (f" ({source})" if source else ""))
        if choice.source in ("measured", "nearest", "model"):
            of = (
                f" of weight {choice.entry[1:]}"
                if choice.source == "nearest" and choice.entry
                else ""
            )
            lines.append(
                f"  gemv below M1 = {choice.m1}, flat below M2 = {choice.m2}, torch above{of}"
            )
        for implementation in IMPLEMENTATIONS:
            found = []
            if implementation in self.measured:
                us = self.measured[implementation]
                found.append(f"measured {us:.1f} us at M = {self.measured_m}")
            if implementation in self.estimates:
                e = self.estimates[implementation]
                size = f"{e.bytes / 2**20:.1f} MiB, {e.waves:.2f} waves, {e.bound} bound"
                found.append(f"model {e.microseconds:.1f} us: {size}")
            if found:
                lines.append(f"  {implementation:5} {'; '.join(found)}")
        lines += [f"  not on {name}: {reason}" for name, reason in choice.refusals]
        return "\n".join(lines)


def explain_linear(
    x: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    weight_scale: Tensor | None = None,
    weight_zero: Tensor | None = None,
    activation: str | None = None,
    batch_invariant: bool = False,
    m: int = 1,
    n: int = 4096,
    k: int = 4096,
    dtype: torch.dtype = torch.bfloat16,
    weight_format: str = "16bit",
    device: Any = None,
) -> LinearExplanation:
    """Tell which implementation flat_linear runs on a call, and its numbers, without running it.

    Either of a call: x, weight and its scale and zero. Or of a description: m rows of x, n rows of
    weight (2N for swiglu), k, dtype, weight_format (16bit, float32, float64, fp8_channel,
    fp8_block, int4_g64, int4_g128). device: a torch device, "sm_90", (9, 0), or None for x's, else
    this machine's. Times are measured where a table of this GPU has the shape, else its nearest
    (docs/linear.md); the model's are always given for a device.
    """
    if x is not None and weight is not None:
        layout = check_linear(x, weight, None, None, weight_scale, weight_zero, None, activation)
        query = gemm_execute.make_query(x, weight, layout, batch_invariant=batch_invariant)
        device = x.device if device is None else device
    else:
        if activation not in ACTIVATIONS:
            raise bad(
                "activation", repr(activation), ", ".join(map(repr, ACTIVATIONS)), "activation=None"
            )
        if weight_format not in FORMATS:
            raise bad("weight_format", repr(weight_format), ", ".join(FORMATS), "'16bit'")
        for size_name, size in (("m", m), ("n", n), ("k", k)):
            if size < 1:
                raise bad(size_name, size, "1 or more", f"{size_name}=1")
        name = str(dtype).removeprefix("torch.")
        query = LinearQuery(None, name, weight_format, m, n, k, batch_invariant)
    capability = device_capability(device)
    query = query._replace(capability=capability)
    here = not (isinstance(device, tuple) or str(device).startswith("sm_"))
    if capability is None:
        return LinearExplanation(query, gemm_dispatch.choose(query, {}, None), None, {}, None, {})
    if here:
        target = torch.device("cuda" if device is None else device)
        known = gemm_execute.facts(target)
    else:
        known = device_facts("", capability)
    table = gemm_tables.table(known.name) if here else {}
    choice = gemm_dispatch.choose(query, table, known, gemm_execute.installed() if here else None)
    crossing = None if choice.entry is None else table[choice.entry]
    at, times = _times(crossing, query.m)
    return LinearExplanation(query, choice, known, times, at, gemm_dispatch.estimates(query, known))


def _times(crossing: Crossing | None, m: int) -> tuple[int | None, dict[str, float]]:
    if crossing is None or not crossing.times:
        return None, {}
    at, times = min(crossing.times, key=lambda item: (abs(item[0] - m), item[0]))
    named = zip(IMPLEMENTATIONS, times, strict=True)
    return at, {name: us for name, us in named if us is not None}


def backend_problem(kinds: Iterable[str] = ("16bit",)) -> str:
    """Why kernels for these kinds of weight cannot run here; empty where they can."""
    if runtime.core() is None:
        return f"the compiled extension is missing: {runtime.core_error()}"
    wanted = [f"{name}_{kind}" for name in gemm_dispatch.KERNELS for kind in kinds]
    missing = [name for name in wanted if name not in gemm_execute.installed()]
    return f"the build lacks the kernels {', '.join(missing)}" if missing else ""
