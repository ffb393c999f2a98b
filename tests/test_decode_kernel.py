# SPDX-License-Identifier: BSD-3-Clause
"""The decode kernels, on a GPU or on the emulator, against the float64 definition.

Outputs and workspace are poisoned before each call; keys and values that no row may read are NaN.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import CACHES, FEATURES, LAYOUTS, Case, Inputs, build, vary
from decode_calls import decode, make_schedule
from tolerance import assert_forward

BASE = Case(
    "base",
    seqlen_q=1,
    seqlen_k=200,
    headdim=128,
    layout_k="paged",
    causal=True,
)
FP8 = vary(BASE, "fp8", kv_dtype="float8_e4m3fn", descale=True)


def draw(case: Case, device: torch.device) -> Inputs:
    """The tensors of a case, with lengths inside the packed sequences and q as it is."""
    x = build(case, str(device))
    p = replace(x.problem, q_descale=None)
    if p.cu_seqlens_k is not None and p.seqused_k is not None:
        p = replace(p, seqused_k=torch.minimum(p.seqused_k, p.cu_seqlens_k.diff()))
    return replace(x, problem=p)


def check(case: Case, device: torch.device, **options: object) -> None:
    x = draw(case, device)
    out, lse = decode(x, **options)  # type: ignore[arg-type]
    assert_forward(x, out, lse)


COMPUTED = [case for case in FEATURES + LAYOUTS + CACHES if not case.bias]


@pytest.mark.parametrize("case", COMPUTED, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_features_and_layouts(case: Case, dtype: str, kernels: torch.device) -> None:
    check(vary(case, dtype, dtype=dtype), kernels)


@pytest.mark.parametrize("headdim", [64, 72, 128, 160, 192, 200, 256])
@pytest.mark.parametrize("seqlen_q", [1, 5, 40])
def test_headdims(headdim: int, seqlen_q: int, kernels: torch.device) -> None:
    check(vary(BASE, "headdim", headdim=headdim, seqlen_q=seqlen_q), kernels)


@pytest.mark.parametrize("headdim", [64, 128, 176, 192, 256])
@pytest.mark.parametrize("seqlen_q", [1, 40])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float8_cache(headdim: int, seqlen_q: int, dtype: str, kernels: torch.device) -> None:
    check(vary(FP8, "tile", headdim=headdim, seqlen_q=seqlen_q, dtype=dtype), kernels)


@pytest.mark.parametrize("num_splits", [1, 2, 5])
def test_splits(num_splits: int, kernels: torch.device) -> None:
    check(vary(BASE, "splits", seqlen_k=700, seqlen_q=3), kernels, num_splits=num_splits)


def test_schedule_made_ahead_serves_many_calls(kernels: torch.device) -> None:
    x = draw(vary(BASE, "schedule", batch=4, seqlen_k=700, seqlen_q=3), kernels)
    schedule = make_schedule(x)
    want = decode(x)
    for _ in range(3):
        out, lse = decode(x, schedule=schedule)
        assert torch.equal(out, want[0])
        assert torch.equal(lse, want[1])
