# SPDX-License-Identifier: BSD-3-Clause
"""Runs flat_linear on the implementation that dispatch chose; the choice is cached by metadata.

Capturable in a CUDA graph like attention: nothing is read from the device, and memory (out unless
given, the workspace, copies of misaligned inputs) comes from torch's caching allocator.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limelight import gemm_dispatch, gemm_tables, gemm_torch, gemm_workspace, runtime
from limelight.gemm_checks import ACTIVATIONS, FP8, Layout, check_linear, check_linear_out
from limelight.gemm_dispatch import MAX_ROWS, LinearChoice, LinearQuery
from limelight.gemm_model import Device, device_facts

FORMATS = ("16bit", "fp8", "int4")  # limelight::WeightFormat
# The flat kernel without those of single architectures: never chosen, for comparisons (``only``).
PORTABLE = "flat_portable"
_IDS = {name: kernel.id for name, kernel in gemm_dispatch.KERNELS.items()} | {PORTABLE: 2}
_PLANS: dict[tuple[object, ...], Plan] = {}
_MAX_PLANS = 4096
runtime.on_change(_PLANS.clear)


class Plan(NamedTuple):
    """What the metadata of a call decides."""

    layout: Layout
    implementation: str
    fallback: str  # why there is no kernel; empty where torch is the choice, or normal
    kernel: int  # limelight::GemmKernel
    activation: int
    workspace: int  # bytes
    shape: tuple[int, ...]  # of out
    dtype: torch.dtype  # of out
    copy_x: bool  # x's rows are no multiple of 8 elements apart
    chunk: int  # rows of x in one launch


@cache
def facts(device: torch.device) -> Device:
    """What the model knows of a device with kernels."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = (properties.major, properties.minor)
        return device_facts(properties.name, capability, properties.multi_processor_count)
    return device_facts("emulator", runtime.arch_capability(runtime.settings.arch))


@cache
def installed() -> frozenset[str]:
    """The kernels that the extension holds, by implementation and kind of weight: flat_16bit."""
    extension = runtime.core()
    names = (
        [] if extension is None else [e["name"] for e in extension.kernels() if e["op"] == "gemm"]
    )
    found = [re.search(r"(gemv|flat)(?:_gemm)?_(16bit|fp8|int4)", name) for name in names]
    return frozenset(f"{match[1]}_{match[2]}" for match in found if match)


def forget() -> None:
    """Read the tables again: after ``tune`` wrote one."""
    gemm_tables.table.cache_clear()
    _PLANS.clear()


def _odd_rows(x: Tensor) -> bool:
    """Whether the rows of a matrix do not begin at multiples of 16 bytes from its first."""
    return x.shape[0] > 1 and x.stride(0) * x.element_size() % 16 != 0


def make_query(x: Tensor, weight: Tensor, layout: Layout, *, batch_invariant: bool) -> LinearQuery:
    """The dispatch query of a call."""
    strides = ""
    if _odd_rows(weight):
        step = 16 // weight.element_size()
        strides = f"weight.stride(0) is {weight.stride(0)}; nearest: a multiple of {step}"
    return LinearQuery(
        runtime.capability(x.device),
        str(x.dtype).removeprefix("torch."),
        layout.format,
        layout.m,
        layout.rows,
        layout.k,
        batch_invariant,
        strides,
    )


def choose(x: Tensor, query: LinearQuery) -> tuple[LinearChoice, str]:
    """The choice for a call, and why it falls back: empty where it does not or should."""
    normal = query.capability is None or runtime.settings.backend == "torch"
    if normal or 0 in (query.m, query.rows, query.k):
        return gemm_dispatch.choose(query._replace(capability=None), {}, None), ""
    unusable = runtime.device_problem(x.device)
    if unusable:
        return gemm_dispatch.choose(query, {}, None), unusable
    device = facts(x.device)
    table = gemm_tables.table(device.name)
    choice = gemm_dispatch.choose(query, table, device, installed())
    # Above 128 rows, and where the table says so, torch is the choice and no fallback.
    chosen = choice.source != "refused" or query.m > MAX_ROWS
    return choice, "" if chosen else "; ".join(f"{name}: {why}" for name, why in choice.refusals)


def _make_plan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
    out_scale: Tensor | None,
    activation: str | None,
    batch_invariant: bool,
    only: str | None,
) -> Plan:
    layout = check_linear(x, weight, bias, residual, scale, zero, out_scale, activation)
    query = make_query(x, weight, layout, batch_invariant=batch_invariant)
    choice, fallback = choose(x, query)
    implementation = choice.implementation if only is None else only
    number, chunk, workspace = 0, layout.m, 0
    if implementation != "torch":
        number = _IDS[implementation]
        chunk = min(layout.m, MAX_ROWS)
        workspace = _workspace_bytes(x.device, layout, chunk, number, ACTIVATIONS[activation])
    return Plan(
        layout,
        implementation,
        "" if only is not None else fallback,
        number,
        ACTIVATIONS[activation],
        workspace,
        (*x.shape[:-1], layout.n),
        x.dtype if out_scale is None else FP8,
        x.dim() == 2 and _odd_rows(x),
        chunk,
    )


def _workspace_bytes(
    device: torch.device, layout: Layout, m: int, kernel: int, activation: int
) -> int:
    """Bytes for the partial sums of the thread blocks that share a tile of weight."""
    kind = FORMATS.index(layout.format.split("_")[0])
    query = runtime.core().flat_gemm_workspace
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return int(query(m, layout.n, layout.k, kind, kernel, 0, activation))


def _metadata(x: Tensor | None) -> object:
    return None if x is None else (x.shape, x.stride(), x.dtype, x.device)


def plan_of(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
    out_scale: Tensor | None,
    activation: str | None,
    batch_invariant: bool,
    only: str | None = None,
) -> Plan:
    """Check a call and return its plan."""
    arguments = (x, weight, bias, residual, scale, zero, out_scale)
    try:
        key = (*map(_metadata, arguments), activation, batch_invariant, only)
        plan = _PLANS.get(key)
    except (AttributeError, TypeError):
        check_linear(*arguments, activation)  # names the argument that is no tensor
        raise
    if plan is None:
        plan = _make_plan(*arguments, activation, batch_invariant, only)
        if len(_PLANS) >= _MAX_PLANS:
            _PLANS.clear()
        _PLANS[key] = plan
    return plan


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    out_scale: Tensor | None = None,
    activation: str | None = None,
    batch_invariant: bool = False,
    static_weight: bool = False,
    out: Tensor | None = None,
    only: str | None = None,
) -> Tensor:
    """Check and compute without autograd. only: this implementation, whatever dispatch says."""
    plan = plan_of(
        x, weight, bias, residual, scale, zero, out_scale, activation, batch_invariant, only
    )
    if out is not None:
        check_linear_out(out, x, plan.layout, fp8=out_scale is not None)
    fallback = plan.fallback
    if plan.implementation != "torch":
        if not weight.data_ptr() % 16:
            flags = batch_invariant, static_weight
            return _run_kernel(plan, x, weight, bias, residual, scale, zero, out_scale, flags, out)
        fallback = "weight is not 16-byte aligned; nearest: weight.clone()"
    if fallback:
        runtime.fall_back(f"flat_linear on {x.device}", fallback, stacklevel=4)
    result = gemm_torch.forward(
        x, weight, bias, residual, scale, zero, out_scale, activation, batch_invariant, plan.layout
    )
    return result if out is None else out.copy_(result)


def _packed(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _programmatic(*arguments: Any) -> None:
    """flat_gemm that may read the weight before the stream's previous kernel has ended."""
    runtime.core().flat_gemm(*arguments, True)


def _run_kernel(
    plan: Plan,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
    out_scale: Tensor | None,
    flags: tuple[bool, bool],
    out: Tensor | None,
) -> Tensor:
    """Launch. flags: batch_invariant, static_weight."""
    layout = plan.layout
    if x.dim() != 2:
        x = x.reshape(layout.m, layout.k)
    if plan.copy_x or _odd_rows(x) or x.data_ptr() % 16:
        x = x.clone(memory_format=torch.contiguous_format)
    if residual is not None and residual.dim() != 2:
        residual = residual.reshape(layout.m, layout.n)
    if out is not None and out.is_contiguous() and not out.data_ptr() % 16:
        written = out
    else:
        written = torch.empty(plan.shape, dtype=plan.dtype, device=x.device)
    flat = written if written.dim() == 2 else written.view(layout.m, layout.n)
    workspace = tickets = None
    if plan.workspace:
        workspace = torch.empty(plan.workspace, dtype=torch.uint8, device=x.device)
        tickets = gemm_workspace.tickets(x.device)
    scale, zero = _packed(scale), _packed(zero)
    batch_invariant, static_weight = flags
    arguments = (plan.kernel, 0, plan.activation, bool(batch_invariant))
    entry = runtime.core().flat_gemm
    if static_weight:
        entry = _programmatic
    for first in range(0, layout.m, plan.chunk):
        whole = plan.chunk == layout.m
        rows: Any = slice(first, first + plan.chunk)
        runtime.launch(
            entry,
            (
                x if whole else x[rows],
                weight,
                flat if whole else flat[rows],
                bias,
                residual if whole or residual is None else residual[rows],
                scale,
                zero,
                out_scale,
                workspace,
                tickets,
            ),
            arguments,
        )
    return written if out is None or written is out else out.copy_(written)
