# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch: the table, every refusal, the installed kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from limelight import dispatch
from limelight.dispatch import Query, choose
from limelight.problem import AttentionProblem

_BY_NAME = {kernel.name: kernel for kernel in dispatch.KERNELS}
SM90, SM80, SM80_BWD, DECODE, MLA = (
    _BY_NAME[n] for n in ("sm90_fwd", "sm80_fwd", "sm80_bwd", "sm80_decode", "sm80_decode_mla")
)
GOOD = {
    "op": "forward",
    "capability": (8, 0),
    "dtype": "bfloat16",
    "headdim": 128,
    "headdim_v": 128,
}


def query(*features: str, **changes: Any) -> Query:
    return Query(**{**GOOD, "features": frozenset(features), **changes})


@pytest.mark.parametrize(
    ("headdim", "headdim_v", "tile"),
    [
        (1, 1, 32),
        (32, 32, 32),
        (33, 8, 64),
        (64, 96, 96),
        (128, 64, 128),
        (192, 128, 192),
        (8, 256, 256),
    ],
)
def test_the_smallest_tile_that_holds_both_headdims(
    headdim: int, headdim_v: int, tile: int
) -> None:
    choice = choose(query(headdim=headdim, headdim_v=headdim_v))
    assert choice.kernel is SM80
    assert choice.tile == tile


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_served_everywhere_from_ampere(capability: tuple[int, int], dtype: str) -> None:
    first = SM90 if capability == (9, 0) else SM80
    everything = query(*first.features & SM80.features, capability=capability, dtype=dtype)
    choice = choose(everything)
    assert choice.kernel is first
    why = dict(choice.refusals)
    if first is SM90:
        assert why["sm80_fwd"] == "sm90_fwd comes first"
    else:
        assert "needed: 9.0" in why["sm90_fwd"] or "needed: at least 9.0" in why["sm90_fwd"]
    decode = query(*DECODE.features, capability=capability, dtype=dtype)
    assert choose(decode).kernel is DECODE


def test_features_that_the_hopper_kernel_lacks_run_in_sm80s() -> None:
    for name in SM80.features:
        chosen = choose(query(name, capability=(9, 0), rows=4096)).kernel
        if name != "batch_invariant":
            assert chosen is (SM90 if name in SM90.features else SM80), name


REFUSALS = [
    (query(capability=None), "the tensors are on the CPU; nearest: CUDA tensors"),
    (query(capability=(7, 5)), "compute capability 7.5; needed: at least 8.0"),
    (query(dtype="float32"), "dtype is float32; nearest: float16 or bfloat16"),
    (query(headdim=264), "headdim is 264; nearest: at most 256"),
    (
        query("fp8", "bias", dtype="float8_e4m3fn"),
        "float8 tensors; nearest: float16 or bfloat16 tensors",
    ),
    (query("fp8", "bias", "paged"), "cu_seqlens keys and values; it does not do float8 tensors"),
    (query("fp8_kv", "bias"), "float8 keys and values with a 16-bit q; nearest: k and v of q's"),
]
CACHE_REFUSALS = [
    ("paged", "a paged key/value cache (block_table); nearest: dense or cu_seqlens"),
    ("leftpad", "left-padded keys (cache_leftpad); nearest: cache_leftpad=None"),
    ("cache_batch_idx", "cache_batch_idx; nearest: k_cache[cache_batch_idx]"),
    ("tree", "a tree mask over the new tokens (tree_mask); nearest: tree_mask=None"),
    ("fp8_kv", "float8 keys and values with a 16-bit q; nearest: k and v of q's dtype"),
    ("fp8", "float8 tensors; nearest: float16 or bfloat16 tensors"),
]


@pytest.mark.parametrize(("asked", "reason"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_every_refusal_has_a_reason(asked: Query, reason: str) -> None:
    choice = choose(asked)
    assert choice.kernel is None
    assert choice.tile is None
    assert reason in choice.reason
    assert "sm80_fwd: " in choice.reason


@pytest.mark.parametrize(("feature", "reason"), CACHE_REFUSALS)
def test_only_the_decode_kernel_reads_caches(feature: str, reason: str) -> None:
    choice = choose(query(feature, rows=4096))
    assert choice.kernel is DECODE
    assert reason in dict(choice.refusals)["sm80_fwd"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_hopper_reads_caches(dtype: str) -> None:
    """Few rows, trees, fp8 keys beside 16-bit queries and FP8 pages of odd sizes are decode's."""
    fp8 = {"fp8"} if dtype.startswith("float8") else set()
    hopper = {"capability": (9, 0), "rows": 512, "dtype": dtype}
    first = _BY_NAME["sm90_fwd_fp8" if fp8 else "sm90_fwd"]
    rows = {"cache_batch_idx"} if fp8 else {"leftpad", "cache_batch_idx"}
    for cache in ({"paged", "varlen", "seqused"}, rows, {"paged", "gqa"}):
        assert choose(query(*cache, *fp8, **hopper)).kernel is first
        assert choose(query(*cache, *fp8, **{**hopper, "rows": 64})).kernel is DECODE
        assert choose(query(*cache, *fp8, **{**hopper, "capability": (8, 0)})).kernel is DECODE
    for others in ({"leftpad"}, {"tree"}, {"batch_invariant"}):
        assert choose(query("paged", *others, *fp8, **hopper)).kernel is DECODE
    assert choose(query("paged", "fp8_kv", **hopper)).kernel is DECODE
    odd = choose(query("paged", "odd_pages", *fp8, **hopper))
    assert odd.kernel is (DECODE if fp8 else first)
    if fp8:
        assert dict(odd.refusals)[first.name] == (
            "it does not do pages that no tensor map cuts into boxes; "
            "nearest: a page size that is a multiple of 8"
        )
    else:
        for other in ("leftpad", "cache_batch_idx"):
            assert choose(query("odd_pages", other, **hopper)).kernel is DECODE
        why = dict(choose(query("paged", "leftpad", **hopper)).refusals)[first.name]
        assert why == (
            "it does not do a paged key/value cache (block_table) with left-padded keys "
            "(cache_leftpad); nearest: cache_leftpad=None"
        )


@pytest.mark.parametrize("kernel", dispatch.KERNELS, ids=lambda kernel: kernel.name)
def test_features_that_a_kernel_lacks_are_all_refused(kernel: dispatch.Kernel) -> None:
    """A feature is served or refused, never ignored."""
    for name in dispatch.FEATURES:
        dims = {"headdim": 576, "headdim_v": 512} if kernel is MLA else {}
        asked = query(
            name,
            op=kernel.op,
            capability=kernel.min_capability,
            dtype=kernel.dtypes[0],
            shared_kv=kernel is MLA,
            **dims,
        )
        assert (dispatch._refusal(kernel, asked, None) is None) == (name in kernel.features), name


@pytest.mark.parametrize(
    ("features", "rows", "first"),
    [
        ((), None, SM80),
        ((), 1, DECODE),
        ((), 64, DECODE),
        ((), 65, SM80),
        (("bias",), 1, SM80),
        (("split",), 512, DECODE),
        (("batch_invariant",), 512, DECODE),
        (("batch_invariant", "bias"), 512, SM80),
        (("paged",), 512, DECODE),
    ],
)
def test_which_rows_choose_the_decode_kernel(
    features: tuple[str, ...], rows: int | None, first: dispatch.Kernel
) -> None:
    assert choose(query(*features, rows=rows)).kernel is first
    without = frozenset((SM80.name, tile) for tile in SM80.headdim_tiles)
    expected = SM80 if set(features) <= SM80.features else None
    assert choose(query(*features, rows=rows), without).kernel is expected


def test_kernels_that_divide_keys_come_first_where_splits_are_asked_for() -> None:
    many = query("split", capability=(9, 0), rows=512)
    assert choose(many).kernel is SM90
    assert dict(choose(many).refusals)["sm80_decode"] == "sm90_fwd comes first"
    without = frozenset((k.name, tile) for k in (SM80, DECODE) for tile in k.headdim_tiles)
    assert choose(many, without).kernel is DECODE
    assert choose(query("split", capability=(9, 0), rows=64)).kernel is DECODE
    both = query("split", "batch_invariant", capability=(9, 0), rows=512)
    assert choose(both).kernel is DECODE


MLA_REFUSALS = [
    ({}, "v does not lie in k's rows; nearest: v = k[..., :headdim_v] of rows whose address"),
    ({"headdim": 584}, "headdim is 584, headdim_v 512; nearest: at most 576, headdim_v 512"),
    ({"headdim_v": 520}, "headdim is 576, headdim_v 520; nearest: at most 576, headdim_v 512"),
    ({"headdim": 256, "headdim_v": 128}, "headdim is 256; nearest: 257 or more"),
]


@pytest.mark.parametrize(("changes", "reason"), MLA_REFUSALS)
def test_values_in_the_rows_of_keys(changes: dict[str, int], reason: str) -> None:
    dims = {"headdim": 576, "headdim_v": 512, "rows": 128}
    assert choose(query("paged", **dims, shared_kv=True)).kernel is MLA
    refused = choose(query("paged", **{**dims, **changes}, shared_kv=bool(changes)))
    assert reason in dict(refused.refusals)["sm80_decode_mla"]
    assert refused.kernel is not MLA


def test_the_backward_kernel() -> None:
    choice = choose(query("causal", "sink", "bias", op="backward"))
    assert choice.kernel is SM80_BWD
    for name in dispatch.FEATURES:
        chosen = choose(query(name, op="backward")).kernel
        assert (chosen is SM80_BWD) == (name in SM80_BWD.features), name
    assert choose(query("bias", "dbias", op="backward")).kernel is SM80_BWD
    refused = choose(query("dropout", "fp8", op="backward"))
    assert refused.kernel is None
    assert refused.reason == (
        "sm80_bwd: it does not do float8 tensors; nearest: float16 or bfloat16 tensors"
    )


def test_installed_kernels() -> None:
    only_64 = frozenset({("sm80_fwd", 64)})
    assert choose(query(headdim=48, headdim_v=48), only_64).kernel is SM80
    assert "this build has no sm80_fwd for headdim 128" in choose(query(), only_64).reason


def test_a_choice_is_cached() -> None:
    assert choose(query("causal")) is choose(query("causal"))


def test_problem_features() -> None:
    q, k = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 2, 8)
    extent = {"softmax_scale": 1.0, "max_seqlen_q": 2, "max_seqlen_k": 2}
    lengths = torch.zeros(1, dtype=torch.int32)
    # Feature -> arguments that ask for it; "gqa" comes from the tensors.
    asks: dict[str, dict[str, Any]] = {
        "causal": {"causal": True, "window_right": 0},
        "window": {"window_left": 0},
        "attention_chunk": {"attention_chunk": 3},
        "varlen": {"cu_seqlens_q": lengths},
        "seqused": {"seqused_k": lengths},
        "softcap": {"softcap": 1.0},
        "alibi": {"alibi_slopes": torch.zeros(4)},
        "sink": {"sink": torch.zeros(4)},
        "bias": {"bias": torch.zeros(1, 1, 1, 1)},
        "dropout": {"dropout_p": 0.5},
        "leftpad": {"leftpad_k": lengths},
        "cache_batch_idx": {"cache_batch_idx": lengths},
        "split": {"num_splits": 2},
        "tree": {"tree_mask": lengths[None, None]},
        "qv": {"qv": q},
        "deterministic": {"deterministic": True},
        "batch_invariant": {"batch_invariant": True},
    }
    for name, fields in asks.items():
        found = dispatch.call_features(q, k, k, AttentionProblem(**extent, **fields))
        assert found == {name, "gqa"}, name
    paged = AttentionProblem(**extent, block_table=lengths[None])
    assert dispatch.call_features(q, k, k, paged) == {"paged", "odd_pages", "gqa"}  # of 2 rows
    page = torch.zeros(1, 16, 2, 8)
    assert dispatch.call_features(q, page, page, paged) == {"paged", "gqa"}
    one = page[:, :1].expand(1, 16, 2, 8)
    assert dispatch.call_features(q, page, one, paged) == {"paged", "odd_pages", "gqa"}
    rows = AttentionProblem(**extent, leftpad_k=lengths)
    assert dispatch.call_features(q, page, one, rows) == {"leftpad", "odd_pages", "gqa"}
    # "dbias" depends on what is differentiated: execute.make_query adds it.
    rest = {"gqa", "paged", "odd_pages", "fp8", "fp8_kv", "dbias"}
    assert set(asks) | rest == set(dispatch.FEATURES)
    fp8, problem = torch.float8_e4m3fn, AttentionProblem(**extent)
    assert dispatch.call_features(q.half(), k.to(fp8), k.to(fp8), problem) == {"fp8_kv", "gqa"}
    assert dispatch.call_features(q.to(fp8), k.to(fp8), k.to(fp8), problem) == {"fp8", "gqa"}


def test_support_matrix_has_every_feature_and_kernel() -> None:
    lines = dispatch.support_matrix().splitlines()
    assert all(len(line.split("|")) == len(lines[0].split("|")) for line in lines)
    for kernel in dispatch.KERNELS:
        assert kernel.name in lines[0]
    row = next(line for line in lines if "dropout" in line)
    marks = ["yes" if "dropout" in kernel.features else "-" for kernel in dispatch.KERNELS]
    assert row == f"| dropout | {' | '.join(marks)} | yes |"
