# SPDX-License-Identifier: BSD-3-Clause
"""Calls of the GEMM kernels themselves, without flat_linear and its choice of implementation."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from limelight import runtime
from limelight.gemm_checks import ACTIVATIONS
from linear_cases import LinearInputs
from torch import Tensor

GEMV, FLAT = 0, 1
FORMAT = {"dense": 0, "fp8": 1, "fp8_block": 1}  # others are INT4


@cache
def tickets(device: torch.device) -> Tensor:
    """The counters that all calls share: every call leaves them zero."""
    return torch.zeros(runtime.core().flat_gemm_tickets(), dtype=torch.int32, device=device)


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> Tensor:
    """NaN in every element."""
    return torch.full(shape, float("nan"), device=device).to(dtype)


def workspace_bytes(inputs: LinearInputs, kernel: int, splits: int = 0) -> int:
    """What flat_gemm_workspace says of the call."""
    case = inputs.case
    return int(
        runtime.core().flat_gemm_workspace(
            inputs.x.shape[0],
            case.n,
            case.k,
            FORMAT.get(case.weight_format, 2),
            kernel,
            splits,
            ACTIVATIONS[case.activation],
        )
    )


def multiply(
    inputs: LinearInputs,
    kernel: int,
    splits: int = 0,
    *,
    out_scale: Tensor | None = None,
    batch_invariant: bool = False,
    programmatic: bool = False,
    **changes: Tensor | None,
) -> Tensor:
    """out of one launch; workspace and out hold NaN before it."""
    case, x = inputs.case, inputs.x
    quantized = case.weight_format != "dense"
    dtype = case.dtype if out_scale is None else torch.float8_e4m3fn
    size = workspace_bytes(inputs, kernel, splits)
    workspace = None
    if size > 0:
        workspace = torch.full((size,), 255, dtype=torch.uint8, device=x.device)
    tensors: dict[str, Tensor | None] = {
        "x": x,
        "weight": inputs.stored.weight,
        "out": poisoned((x.shape[0], case.n), dtype, x.device),
        "bias": inputs.bias,
        "residual": inputs.residual,
        "weight_scale": inputs.stored.scale if quantized else None,
        "weight_zero": inputs.stored.zero,
        "out_scale": out_scale,
        "workspace": workspace,
        "tickets": tickets(x.device),
    } | changes

    def launch(*arguments: Any) -> None:
        runtime.core().flat_gemm(*arguments, programmatic)

    runtime.launch(
        launch,
        tuple(tensors.values()),
        (kernel, splits, ACTIVATIONS[case.activation], batch_invariant),
    )
    assert not bool(tickets(x.device).any())
    out = tensors["out"]
    assert out is not None
    return out
