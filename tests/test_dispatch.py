# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch: the table, every refusal, the installed kernels, fallbacks and explain."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import limelight
import pytest
import torch
from limelight import dispatch, execute, runtime
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
    everything = query(*first.features, capability=capability, dtype=dtype)
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
        if name not in DECODE.features or name not in ("split", "batch_invariant"):
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
def test_few_rows_choose_the_decode_kernel(
    features: tuple[str, ...], rows: int | None, first: dispatch.Kernel
) -> None:
    assert choose(query(*features, rows=rows)).kernel is first
    without = frozenset((SM80.name, tile) for tile in SM80.headdim_tiles)
    expected = SM80 if set(features) <= SM80.features else None
    assert choose(query(*features, rows=rows), without).kernel is expected


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
        "varlen": {"cu_seqlens_q": lengths},
        "seqused": {"seqused_k": lengths},
        "softcap": {"softcap": 1.0},
        "alibi": {"alibi_slopes": torch.zeros(4)},
        "sink": {"sink": torch.zeros(4)},
        "bias": {"bias": torch.zeros(1, 1, 1, 1)},
        "dropout": {"dropout_p": 0.5},
        "paged": {"block_table": lengths[None]},
        "leftpad": {"leftpad_k": lengths},
        "cache_batch_idx": {"cache_batch_idx": lengths},
        "split": {"num_splits": 2},
        "tree": {"tree_mask": lengths[None, None]},
        "deterministic": {"deterministic": True},
        "batch_invariant": {"batch_invariant": True},
    }
    for name, fields in asks.items():
        found = dispatch.call_features(q, k, k, AttentionProblem(**extent, **fields))
        assert found == {name, "gqa"}, name
    # "dbias" depends on what is differentiated: execute.make_query adds it.
    assert set(asks) | {"gqa", "fp8", "fp8_kv", "dbias"} == set(dispatch.FEATURES)
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


class Stub:
    """An extension with no kernels that fit the device."""

    def device(self, index: int) -> dict[str, Any]:
        return {"has_image": False, "name": "Device X", "problem": "no image"}


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """CPU tensors look like those of a device of capability 8.0 without an extension."""
    monkeypatch.setattr(runtime, "capability", lambda device: (8, 0))
    monkeypatch.setattr(runtime, "core", lambda: None)
    monkeypatch.setattr(runtime, "core_error", lambda: "it was not built")
    monkeypatch.setattr(runtime, "_reported", set())
    with runtime.override():
        yield monkeypatch
    monkeypatch.undo()
    with runtime.override():
        pass


def attend() -> torch.Tensor:
    x = torch.ones(1, 3, 2, 8)
    out: torch.Tensor = limelight.flash_attn_func(x, x, x)
    return out


def test_fallback_warns_once_for_each_reason(on_device: pytest.MonkeyPatch) -> None:
    with pytest.warns(limelight.FallbackWarning, match="extension is missing: it was not built"):
        attend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attend()
    on_device.setattr(runtime, "core", lambda: Stub())
    with runtime.override(), pytest.warns(limelight.FallbackWarning, match="Device X: no image"):
        attend()


def test_fallback_error_and_silent(on_device: pytest.MonkeyPatch) -> None:
    with (
        runtime.override(fallback="error"),
        pytest.raises(limelight.FallbackError, match="LIMELIGHT_FALLBACK=error forbids"),
    ):
        attend()
    with runtime.override(fallback="silent"), warnings.catch_warnings():
        warnings.simplefilter("error")
        attend()


def test_torch_backend_and_cpu_are_no_fallback(on_device: pytest.MonkeyPatch) -> None:
    with runtime.override(backend="torch", fallback="error"):
        attend()
    on_device.setattr(runtime, "capability", lambda device: None)
    with runtime.override(fallback="error"):
        attend()


def test_calls_ask_the_same_function_as_explain(on_device: pytest.MonkeyPatch) -> None:
    on_device.setattr(runtime, "device_problem", lambda device: "")
    everything = frozenset((SM80.name, tile) for tile in SM80.headdim_tiles)
    on_device.setattr(runtime, "installed", lambda: everything)
    x = torch.zeros(1, 3, 2, 8, dtype=torch.float16)
    problem = AttentionProblem(
        softmax_scale=1.0, max_seqlen_q=3, max_seqlen_k=3, causal=True, window_right=0
    )
    choice, fallback = execute.choose("forward", x, x, x, problem)
    told = limelight.explain(device=(8, 0), dtype=torch.float16, headdim=8, causal=True)
    assert fallback == ""
    assert choice.kernel is not None
    assert (choice.kernel.name, choice.tile) == (told.backend, told.tile) == ("sm80_fwd", 32)


def test_explain_text() -> None:
    shape = {"headdim": 72, "heads_q": 6, "heads_kv": 2}
    told = limelight.explain(op="backward", device="sm_90", **shape, leftpad=True)
    assert told.backend == "torch"
    assert str(told).splitlines() == [
        "backward on sm_90, bfloat16, headdim 72, features: gqa, leftpad",
        "  runs on: the torch path",
        "  not on sm80_bwd: it does not do left-padded keys (cache_leftpad); "
        "nearest: cache_leftpad=None",
    ]
    assert "runs on: sm80_fwd (headdim tile 96)" in str(
        limelight.explain(device=(8, 6), headdim=72)
    )
    with pytest.raises(ValueError, match="op is 'sideways'; allowed: forward, backward"):
        limelight.explain(op="sideways")


def test_explain_takes_a_calls_arguments() -> None:
    q, k = torch.zeros(2, 5, 6, 40).half(), torch.zeros(2, 5, 2, 40).half()
    lengths = torch.zeros(2, dtype=torch.int32)
    told = limelight.explain(
        q,
        k,
        k,
        device="sm_90",
        causal=True,
        window_size=(-1, None),
        dropout_p=0.0,
        seqused_k=lengths,
        s_aux=torch.zeros(6),
        num_splits=1,
        softmax_scale=1.0,
    )
    assert told.query == Query(
        "forward", (9, 0), "float16", 40, 40, frozenset({"causal", "gqa", "seqused", "sink"}), 15
    )
    assert told.backend == "sm80_decode"
    many = limelight.explain(q, k, k, device="sm_80", max_seqlen_q=22)  # 66 rows for each key
    assert many.backend == "sm80_fwd"
    told = limelight.explain(q, k, k, window_size=(3, 0), dropout_p=0.1, block_table=lengths[None])
    assert {"window", "dropout", "paged"} <= told.query.features
    assert told.query.capability is None or q.is_cuda
    fp8 = k.to(torch.float8_e4m3fn)
    assert "fp8_kv" in limelight.explain(q, fp8, fp8).query.features


def test_backends_tell_why(on_device: pytest.MonkeyPatch) -> None:
    found = limelight.backends()
    assert found["torch"] == {"available": True, "reason": ""}
    assert not found["kernels"]["available"]
    assert "it was not built" in found["kernels"]["reason"]
    assert not found["emulator"]["available"]
    assert found["emulator"]["reason"]
