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


@pytest.mark.parametrize("page_size", [1, 3, 16, 64, 256])
@pytest.mark.parametrize("seqlen_k", [1, 2, 63, 64, 65, 300])
def test_lengths_and_page_sizes(page_size: int, seqlen_k: int, kernels: torch.device) -> None:
    """Full, shorter and, of the third sequence, no keys at all."""
    case = vary(BASE, "pages", batch=3, headdim=64, seqlen_k=seqlen_k, page_size=page_size)
    check(case, kernels)


@pytest.mark.parametrize("group", [1, 2, 5, 8, 16, 64])
@pytest.mark.parametrize("seqlen_q", [1, 3, 16])
def test_packed_rows(group: int, seqlen_q: int, kernels: torch.device) -> None:
    heads = {"heads_q": 2 * group, "heads_kv": 2, "headdim": 64}
    check(vary(BASE, "rows", seqlen_q=seqlen_q, sink=True, **heads), kernels)


def test_prefill_over_pages(kernels: torch.device) -> None:
    """More rows than a tile holds, every sequence with another length."""
    case = vary(BASE, "prefill", batch=3, seqlen_q=150, headdim=64, layout_q="packed", heads_q=6)
    check(case, kernels)
    check(vary(case, "window", window=(70, 0), softcap=10.0), kernels)


def test_a_thousand_keys_and_skewed_lengths(kernels: torch.device) -> None:
    x = draw(vary(BASE, "long", batch=5, seqlen_k=1025, layout_k="rows"), kernels)
    lengths = torch.tensor([1025, 0, 1, 2, 130], dtype=torch.int32, device=kernels)
    x = replace(x, problem=replace(x.problem, seqused_k=lengths))
    assert_forward(x, *decode(x))


def test_k_and_v_are_views_of_one_cache(kernels: torch.device) -> None:
    x = draw(vary(BASE, "views", seqlen_q=2), kernels)
    pages, size, heads, headdim = x.k.shape
    cache = torch.empty(pages, heads, size, 2 * headdim, dtype=x.k.dtype, device=kernels)
    k, v = cache.transpose(1, 2).split(headdim, -1)
    k.copy_(x.k)
    v.copy_(x.v)
    joint = decode(replace(x, k=k, v=v))
    assert all(torch.equal(a, b) for a, b in zip(joint, decode(x), strict=True))


def test_table_entries_past_the_end_are_never_used(kernels: torch.device) -> None:
    x = draw(vary(BASE, "table", batch=3, seqlen_k=300, window=(100, 0)), kernels)
    p = x.problem
    assert p.block_table is not None
    assert p.seqused_k is not None
    want = decode(x)
    table = p.block_table.clone()
    for b, length in enumerate(p.seqused_k.tolist()):
        table[b, -(-length // 16) :] = 2**31 - 1
        # The window left these pages behind: a server may have given them away.
        table[b, : max(0, length - 101) // 16] = -5
    got = decode(replace(x, problem=replace(p, block_table=table)))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_offsets_beyond_2_to_the_31(dimension: int, kernels: torch.device) -> None:
    case = vary(BASE, "far", batch=1, seqlen_k=3, headdim=64, layout_k="dense")
    x = draw(case, kernels)
    pages = {"block_table": torch.zeros(1, 1, dtype=torch.int32, device=kernels)}
    pages["block_table"][0, 0] = 1
    problem = replace(x.problem, **pages)
    k, v = (torch.cat((torch.full_like(t, float("nan")), t)) for t in (x.k, x.v))
    x = replace(x, k=k, v=v, problem=problem)
    want = decode(x)
    strides = [64 * 2 * 3, 64 * 2, 64, 1]
    strides[dimension] = 2**30 + 8
    extent = sum((n - 1) * s for n, s in zip(k.shape, strides, strict=True)) + 1
    far = [torch.empty(extent, dtype=k.dtype, device=kernels) for _ in range(2)]
    k, v = (t.as_strided(s.shape, strides).copy_(s) for t, s in zip(far, (k, v), strict=True))
    got = decode(replace(x, k=k, v=v))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_every_float8_code(kernels: torch.device) -> None:
    """Each code as a value that alone has weight; NaN is NaN."""
    case = vary(FP8, "codes", batch=1, seqlen_k=256, heads_q=2, heads_kv=1, layout_k="dense")
    x = draw(vary(case, "half", dtype="float16", descale=False), kernels)
    q = torch.zeros_like(x.q)
    q[..., 0] = 30.0
    codes = torch.arange(256, dtype=torch.uint8, device=kernels).view(1, 256, 1, 1)
    v = codes.expand(1, 256, 1, 128).clone()
    v[0, [0x7F, 0xFF]] = 0
    for code in range(0, 256, 5):
        k = torch.zeros(1, 256, 1, 128, dtype=torch.uint8, device=kernels)
        k[0, code, 0, 0] = 0x7E  # 448
        floats = [t.view(torch.float8_e4m3fn) for t in (k, v)]
        out, _ = decode(replace(x, q=q, k=floats[0], v=floats[1]))
        assert bool((out.float() == floats[1][0, code, 0, 0].float()).all()), code
    out, _ = decode(replace(x, q=q, v=codes.expand_as(v).clone().view(torch.float8_e4m3fn)))
    assert bool(out.isnan().all())


@pytest.mark.parametrize("phi", [0.0, 3.0, -40.0, 60.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_unified_max_inside_and_outside_its_range(
    phi: float, dtype: str, kernels: torch.device
) -> None:
    case = vary(BASE, "phi", seqlen_k=300, seqlen_q=3, dtype=dtype, alibi="heads")
    check(case, kernels, unified_max=phi)
    check(vary(case, "grown", magnitude=20.0, heads_q=32), kernels, unified_max=phi)
