# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of a choice: fallbacks with their warnings, explain, backends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import limelight
import pytest
import torch
from limelight import dispatch, execute, runtime
from limelight.dispatch import Query
from limelight.problem import AttentionProblem


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
    everything = frozenset(
        (kernel.name, tile)
        for kernel in dispatch.KERNELS
        if kernel.name == "sm80_fwd"
        for tile in kernel.headdim_tiles
    )
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


def test_explain_looks_at_pages() -> None:
    q, table = torch.zeros(1, 200, 4, 64), torch.zeros(1, 9, dtype=torch.int32)
    for page_size in (16, 8, 12, 1):
        pages = torch.zeros(5, page_size, 2, 64)
        odd = page_size % 8 != 0
        for dtype, backend in (
            (torch.float16, "sm90_fwd"),
            (torch.float8_e4m3fn, "sm80_decode" if odd else "sm90_fwd_fp8"),
        ):
            typed = (x.to(dtype) for x in (q, pages, pages))
            told = limelight.explain(*typed, device="sm_90", block_table=table)
            assert told.backend == backend
            assert ("odd_pages" in told.query.features) == odd
    assert "nearest: a page size that is a multiple of 8" in str(told)
    for described in ({"paged": True}, {"paged": True, "odd_pages": True}):
        told = limelight.explain(device="sm_90", max_seqlen_q=200, **described)
        assert told.backend == "sm90_fwd"


def test_backends_tell_why(on_device: pytest.MonkeyPatch) -> None:
    found = limelight.backends()
    assert found["torch"] == {"available": True, "reason": ""}
    assert not found["kernels"]["available"]
    assert "it was not built" in found["kernels"]["reason"]
    assert not found["emulator"]["available"]
    assert found["emulator"]["reason"]
