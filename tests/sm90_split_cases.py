# SPDX-License-Identifier: BSD-3-Clause
"""Split keys in the Hopper kernels; tests/test_sm90_splits.py runs this file.

The workspace is poisoned: a split without keys writes no partial output, and none may be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import Case, Inputs, build, vary
from fp8_tolerance import assert_fp8_forward
from launch_report import EMULATED, observed
from limelight import execute, runtime
from limelight.problem import AttentionProblem
from test_forward_kernel import cut, poisoned_memory, run
from tolerance import assert_forward

BASE = Case("split", batch=1, heads_q=2, heads_kv=2, headdim=64, seqlen_q=100, seqlen_k=700)
MULTIPROCESSORS = int(os.environ.get("LIMELIGHT_EMULATOR_SMS", "0"))
PACKED = {"layout_q": "packed", "layout_k": "packed"}
FP8 = {"dtype": "float8_e4m3fn", "descale": True}
Result = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def only_forward_kernels(monkeypatch: pytest.MonkeyPatch, kernels: torch.device) -> Iterator[None]:
    """Calls with few rows of q would go to the decode kernels first."""
    forward = frozenset(pair for pair in runtime.installed() if "decode" not in pair[0])
    monkeypatch.setattr(runtime, "installed", lambda: forward)
    with runtime.override(check=False):  # forgets the plans of other tests
        yield


def grids(launches: list[dict[str, object]]) -> list[tuple[str, int]]:
    """(forward or combine, thread blocks) of each launch."""
    return [
        ("combine" if "combine" in str(x["kernel"]) else "forward", x["grid"][0])  # type: ignore[index]
        for x in launches
    ]


def check(case: Case, device: torch.device, tiles: int | None = None) -> Result:
    """tiles: how many the call has, if the test counts them."""
    x = cut(build(case, str(device)))
    p = x.problem
    if p.cu_seqlens_q is not None and p.seqused_q is not None:
        used = torch.minimum(p.seqused_q, p.cu_seqlens_q.diff())
        x = replace(x, problem=replace(p, seqused_q=used))
    result, launches = observed(lambda: run(x))
    if EMULATED:
        assert [name for name, _ in grids(launches)] == ["forward", "combine"]
        if tiles is not None:
            assert grids(launches)[0][1] == min(tiles * case.num_splits, MULTIPROCESSORS)
    (assert_fp8_forward if case.dtype.startswith("float8") else assert_forward)(x, *result)
    return result


@pytest.mark.parametrize("splits", [2, 3, 5, 6])
def test_numbers_of_splits(splits: int, kernels: torch.device) -> None:
    check(vary(BASE, "plain", num_splits=splits, heads_kv=1), kernels, tiles=2)
    causal = vary(BASE, "causal", num_splits=splits, causal=True, heads_q=6)
    check(vary(causal, "tall", seqlen_q=210), kernels)


def test_equal_calls_give_equal_bits(kernels: torch.device) -> None:
    x = build(vary(BASE, "bits", num_splits=3, causal=True, deterministic=True), str(kernels))
    assert all(map(torch.equal, run(x), run(x)))


def test_more_splits_than_blocks(kernels: torch.device) -> None:
    """Of six blocks at most six splits are made."""
    x = build(vary(BASE, "many", num_splits=50), str(kernels))
    result, launches = observed(lambda: run(x))
    if EMULATED:
        assert grids(launches)[0] == ("forward", min(2 * 6, MULTIPROCESSORS))
    assert_forward(x, *result)


def test_one_block_is_not_split(kernels: torch.device) -> None:
    x = build(vary(BASE, "short", num_splits=8, seqlen_k=120), str(kernels))
    result, launches = observed(lambda: run(x))
    if EMULATED:
        assert len(launches) == 1
    assert_forward(x, *result)


@pytest.mark.parametrize("headdims", [(96, 96), (128, 128), (192, 128), (192, 192), (256, 256)])
def test_tiles(headdims: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "tile", headdim=headdims[0], headdim_v=headdims[1], dtype="float16")
    case = vary(case, "2", num_splits=2, seqlen_k=330, seqlen_q=66)
    check(vary(case, "full", sink=True), kernels)
    check(vary(case, "causal", causal=True, headdim_v=headdims[1] - 8), kernels)


def test_tiles_that_see_fewer_blocks_than_splits(kernels: torch.device) -> None:
    """Under a causal edge the first rows see one block, and no key at all where q is longer."""
    case = vary(BASE, "edge", causal=True, num_splits=3, sink=True)
    check(vary(case, "square", seqlen_q=390, seqlen_k=390), kernels)
    check(vary(case, "tall", seqlen_q=390, seqlen_k=200, num_splits=2), kernels)


@pytest.mark.parametrize("window", [(150, 0), (70, 30), (-1, 5)], ids=str)
def test_windows(window: tuple[int, int], kernels: torch.device) -> None:
    check(vary(BASE, "window", window=window, num_splits=3, sink=True), kernels)


def test_lengths_inside_dense_tensors(kernels: torch.device) -> None:
    """Keys of a sequence may fill all splits, a few of them, or none."""
    case = vary(BASE, "used", batch=4, seqused_q=True, seqused_k=True, num_splits=4, sink=True)
    check(vary(case, "causal", causal=True), kernels)
    x = build(vary(case, "short", batch=5), str(kernels))
    lengths = torch.tensor([700, 0, 1, 128, 129], dtype=torch.int32, device=kernels)
    y = replace(x, problem=replace(x.problem, seqused_k=lengths, seqused_q=None))
    y = replace(y, q=torch.nan_to_num(y.q), k=torch.nan_to_num(y.k), v=torch.nan_to_num(y.v))
    assert_forward(y, *run(y))


@pytest.mark.parametrize("headdim", [64, 128])
def test_packed_sequences(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "packed", batch=5, headdim=headdim, num_splits=3, seqlen_q=70, **PACKED)
    check(vary(case, "causal", causal=True, heads_q=8, sink=True), kernels)
    check(vary(case, "used", seqused_q=True, seqused_k=True, seed=1), kernels)


@pytest.mark.parametrize("page_size", [16, 256])
def test_pages(page_size: int, kernels: torch.device) -> None:
    """Chunked prefill from a cache, heads that share tiles too."""
    case = vary(BASE, "pages", batch=3, layout_q="packed", layout_k="paged", page_size=page_size)
    case = vary(case, "causal", causal=True, num_splits=3, sink=True, seqlen_k=500)
    check(case, kernels)
    check(vary(case, "heads", headdim=128, heads_q=8, seqlen_q=30), kernels)
    check(vary(case, "fp8", seqlen_q=30, **FP8), kernels)


def test_rows_of_no_sequence_are_left_alone(kernels: torch.device) -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(90, 2, 64, generator=generator).bfloat16().to(kernels)
    k, v = torch.randn(2, 3, 600, 2, 64, generator=generator).bfloat16().to(kernels)
    problem = AttentionProblem(
        softmax_scale=0.125,
        max_seqlen_q=50,
        max_seqlen_k=600,
        cu_seqlens_q=torch.tensor([0, 30, 30, 80], dtype=torch.int32, device=kernels),
        seqused_k=torch.tensor([600, 5, 300], dtype=torch.int32, device=kernels),
        num_splits=3,
    )
    out = torch.full_like(q, 7.0)
    with torch.no_grad(), poisoned_memory():
        execute.forward(q, k, v, problem, out)
    assert torch.isfinite(out[:80]).all()
    assert (out[:80] != 7.0).all(-1).any()
    assert (out[80:] == 7.0).all()


def test_heads_that_share_tiles(kernels: torch.device) -> None:
    case = vary(BASE, "heads", heads_q=16, seqlen_q=20, num_splits=3, causal=True, sink=True)
    check(case, kernels, tiles=2 * 1)
    check(vary(case, "128", headdim=128, softcap=9.0, window=(300, 0)), kernels)


def test_scores_that_differ_by_head(kernels: torch.device) -> None:
    for changes in ({"alibi": "heads"}, {"bias": "1hqk"}, {"softcap": 12.0}):
        check(vary(BASE, "scores", num_splits=2, seqlen_k=300, **changes), kernels)


def test_a_sink_counts_once(kernels: torch.device) -> None:
    """A sink far above all scores leaves little of the values, however many splits there are."""
    x = build(vary(BASE, "sink", sink=True, num_splits=5), str(kernels))
    sink = torch.tensor([3.0, 9.0], device=kernels)
    x = replace(x, problem=replace(x.problem, sink=sink))
    assert_forward(x, *run(x))


@pytest.mark.parametrize("strides", ["heads_first", "sliced"])
def test_strides(strides: str, kernels: torch.device) -> None:
    case = vary(BASE, "strides", strides=strides, batch=2, num_splits=2, seqlen_k=300)
    check(case, kernels)
    x = build(case, str(kernels))
    wide = torch.full((2, 2, 100, 72), float("nan"), dtype=torch.bfloat16, device=kernels)
    out = wide[..., :64].transpose(1, 2)
    assert torch.equal(run(x, out)[0], run(x)[0])
    assert torch.isnan(wide[..., 64:]).all()


@pytest.mark.parametrize("headdim", [64, 128, 256])
def test_fp8(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "fp8", headdim=headdim, seqlen_k=400, num_splits=3, sink=True, **FP8)
    check(vary(case, "causal", causal=True, heads_q=8, seqlen_q=30), kernels)
    check(vary(case, "used", batch=3, seqused_k=True, softcap=15.0, seqlen_q=30), kernels)
    check(vary(case, "packed", batch=4, seqlen_q=40, **PACKED), kernels)


def with_workspace(x: Inputs, size: int) -> tuple[Result, list[dict[str, object]]]:
    plan = execute.validate(x.q, x.k, x.v, x.problem)._replace(workspace=size)
    with torch.no_grad(), poisoned_memory():
        return observed(lambda: execute.run(plan, x.q, x.k, x.v, x.problem))


def test_workspaces(kernels: torch.device) -> None:
    """As many splits as it holds, unsplit without one."""
    x = build(vary(BASE, "memory", num_splits=5), str(kernels))
    plan = execute.validate(x.q, x.k, x.v, x.problem)
    one = 4 * 100 * 2 * (64 + 1)  # fp32 out and lse of every row
    assert plan.workspace == 5 * one
    for size, splits in ((0, 1), (2 * one - 1, 1), (2 * one, 2), (4 * one + 7, 4)):
        result, launches = with_workspace(x, size)
        if EMULATED:
            assert grids(launches)[0] == ("forward", min(2 * splits, MULTIPROCESSORS))
            assert len(launches) == (1 if splits == 1 else 2)
        assert_forward(x, *result)


def test_bits_that_depend_on_no_split(kernels: torch.device) -> None:
    """batch_invariant splits nothing here, whatever is asked for; num_splits=1 neither."""
    x = build(vary(BASE, "invariant", num_splits=4, batch_invariant=True), str(kernels))
    want, launches = observed(lambda: run(x))
    whole = replace(x, problem=replace(x.problem, num_splits=1, batch_invariant=False))
    assert all(map(torch.equal, want, run(whole)))
    if EMULATED:
        assert len(launches) == 1


# (batch, heads_q, heads_kv, seqlen_q, seqlen_k, causal) of headdim 128 on 132 multiprocessors.
CHOICES = [
    ((1, 8, 8, 512, 131072, False), 4),  # 32 tiles; 128 items fill one round
    ((1, 64, 8, 512, 131072, True), 1),  # 256 tiles leave nothing to gain in their second round
    ((2, 64, 8, 8192, 8192, True), 1),
    ((1, 8, 8, 512, 512, False), 1),  # four blocks of keys
    ((1, 32, 8, 40, 32768, True), 8),  # heads share tiles: 2 of each kv head, 16 in all
    ((1, 8, 8, 128, 131072, False), 16),
    ((1, 8, 8, 130, 131072, False), 8),
]


@pytest.mark.parametrize(("extents", "splits"), CHOICES, ids=str)
def test_choice(extents: tuple[int, ...], splits: int, kernels: torch.device) -> None:
    """What num_splits=0 becomes."""
    if MULTIPROCESSORS != 132:
        return
    batch, heads_q, heads_kv, seqlen_q, seqlen_k, causal = extents
    found = runtime.core().attention_forward_workspace(
        False, batch, heads_q, heads_kv, 128, 128, 0, seqlen_q, seqlen_k,
        False, 0.1, bool(causal), -1, -1, 0.0, 0.0, 0, False,
    )  # fmt: skip
    one = 4 * batch * seqlen_q * heads_q * 129
    assert found == (0 if splits == 1 else splits * one), found / one
