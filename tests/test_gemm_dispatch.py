# SPDX-License-Identifier: BSD-3-Clause
"""The choice among gemv, flat and torch: table, nearest shape, model, refusals, explain_linear."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import limelight
import pytest
import torch
from limelight import gemm_execute, gemm_model, gemm_tables, runtime
from limelight.gemm_dispatch import (
    MAX_ROWS,
    Crossing,
    LinearQuery,
    choose,
    modelled,
    nearest,
)

H200 = gemm_model.device_facts("NVIDIA H200", (9, 0), 132)
QUERY = LinearQuery((9, 0), "bfloat16", "16bit", 1, 4096, 4096)
TABLE = {("16bit", 4096, 4096): Crossing(4, 96), ("fp8", 4096, 4096): Crossing(1, 129)}


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An empty cache folder, and no table read before."""
    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path))
    gemm_execute.forget()
    yield tmp_path
    gemm_execute.forget()


def test_crossing_points_decide() -> None:
    chosen = {m: choose(QUERY._replace(m=m), TABLE, H200).implementation for m in (1, 3, 4, 95, 96)}
    assert chosen == {1: "gemv", 3: "gemv", 4: "flat", 95: "flat", 96: "torch"}
    choice = choose(QUERY._replace(m=5), TABLE, H200)
    assert (choice.source, choice.m1, choice.m2) == ("measured", 4, 96)
    assert dict(choice.refusals)["gemv"] == "M is 5; it is fastest below M1 = 4 (measured)"
    other = QUERY._replace(weight_format="fp8_block", m=128)
    assert choose(other, TABLE, H200).implementation == "flat"


def test_gemv_is_left_where_it_cannot_run() -> None:
    table = {("16bit", 4096, 4096): Crossing(100, 110)}
    assert choose(QUERY._replace(m=9), table, H200).implementation == "flat"
    only_gemv = choose(QUERY._replace(m=9), table, H200, frozenset({"gemv_16bit"}))
    assert only_gemv.implementation == "torch"
    assert (
        choose(QUERY._replace(m=2), table, H200, frozenset({"flat_16bit"})).implementation == "flat"
    )


def test_nearest_shape_within_a_factor_of_four() -> None:
    assert nearest(TABLE, "16bit", 8192, 4096) == ("16bit", 4096, 4096)
    assert nearest(TABLE, "16bit", 8192, 8192) == ("16bit", 4096, 4096)
    assert nearest(TABLE, "16bit", 8192, 8200) is None
    assert nearest(TABLE, "int4", 4096, 4096) is None
    two = {("16bit", 2048, 4096): Crossing(1, 2), ("16bit", 4096, 8192): Crossing(1, 3)}
    assert nearest(two, "16bit", 4096, 4096) == ("16bit", 2048, 4096)  # a tie: the smaller
    assert choose(QUERY._replace(rows=6000, m=4), TABLE, H200).source == "nearest"
    assert choose(QUERY._replace(rows=60000, m=4), TABLE, H200).source == "model"


def test_model_reads_memory_first_and_computes_later() -> None:
    crossing = modelled(QUERY, H200)
    assert 1 < crossing.m1 <= 9
    wide = modelled(QUERY._replace(rows=28672), H200)
    assert wide.m1 < crossing.m1  # the GEMV kernel reads x more often
    b200 = gemm_model.device_facts("NVIDIA B200", (10, 0), 148)
    assert 32 < modelled(QUERY._replace(rows=28672), b200).m2 <= MAX_ROWS  # mma.sync is slow there
    few = gemm_model.estimate("flat", 1, 4096, 4096, "16bit", H200)
    many = gemm_model.estimate("flat", 128, 28672, 4096, "fp8_channel", H200)
    assert (few.bound, many.bound) == ("memory", "compute")
    assert few.bytes == 2 * 4096 * 4096 + 2 * (4096 + 4096)
    # 33.6 MB at 0.9 * 4.8 TB/s; x 32 times and 2 tiles a thread block, twice, at three times that.
    cached = 32 * 2 * 4096 + 2 * 2 * 4 * 132 * 128 * 8
    seconds = (few.bytes + cached / 3) / (0.9 * 4.8e12)
    assert few.microseconds == pytest.approx(2 + 1 + seconds * 1e6)
    four = gemm_model.estimate("flat", 1, 4096, 4096, "int4_g128", H200)
    assert four.bytes == 4096 * 4096 // 2 + 2 * 4096 * 32 + 2 * (4096 + 4096)
    assert gemm_model.weight_bytes(300, 256, "fp8_block") == 300 * 256 + 4 * 3 * 2
    assert gemm_model.weight_bytes(300, 256, "fp8_channel") == 300 * 256 + 4 * 300


def test_device_facts_by_name_or_generation() -> None:
    assert H200.bandwidth == 4.8e12
    unknown = gemm_model.device_facts("Some new GPU", (12, 0), 100)
    assert (unknown.sm_count, unknown.source) == (100, "B200's data sheet, a stand-in")
    assert gemm_model.device_facts("", (7, 5)).source == "A100's data sheet, a stand-in"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"capability": None}, "the tensors are on the CPU; nearest: CUDA tensors"),
        ({"capability": (7, 5)}, "the device has compute capability 7.5; needed: at least 8.0"),
        ({"dtype": "float32"}, "x is float32; nearest: float16 or bfloat16"),
        ({"weight_format": "float64"}, "the weight is float64; nearest: 16bit, fp8_channel"),
        ({"k": 4100}, "K is 4100; nearest: a multiple of 8"),
        ({"m": 129}, "M is 129; nearest: at most 128"),
        ({"strides": "weight.stride(0) is 9; nearest"}, "weight.stride(0) is 9; nearest"),
    ],
)
def test_refusals(change: dict[str, Any], reason: str) -> None:
    choice = choose(QUERY._replace(**change), TABLE, H200)
    assert choice.implementation == "torch"
    assert dict(choice.refusals)["flat"].startswith(reason)
    missing = choose(QUERY, TABLE, H200, frozenset())
    assert dict(missing.refusals)["flat"].startswith(
        "this build has no flat kernel for 16bit weights"
    )


def test_batch_invariance_never_depends_on_m() -> None:
    chosen = {
        choose(QUERY._replace(m=m, batch_invariant=True), TABLE, H200).implementation
        for m in (1, 4, 96, 128, 1000)
    }
    assert chosen == {"flat"}


def entry(n: int, k: int, m1: int, m2: int) -> dict[str, Any]:
    us = {"1": {"gemv": 1.0, "flat": 2.0, "torch": 3.0}, "64": {"flat": 2.5, "torch": 3.5}}
    return {"format": "16bit", "n": n, "k": k, "m1": m1, "m2": m2, "us": us}


def write(path: Path, *entries: dict[str, Any], schema: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": schema, "entries": entries}))


def test_the_users_table_goes_over_the_wheels(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = cache / "wheel"
    monkeypatch.setattr(gemm_tables, "SHIPPED", shipped)
    write(shipped / "nvidia-h200.json", entry(8, 8, 1, 2), entry(8, 16, 3, 4))
    write(gemm_tables.cached_path("NVIDIA H200"), entry(8, 16, 5, 6))
    found = gemm_tables.table("NVIDIA H200")
    assert {key: (c.m1, c.m2) for key, c in found.items()} == {
        ("16bit", 8, 8): (1, 2),
        ("16bit", 8, 16): (5, 6),
    }
    assert found["16bit", 8, 8].times == ((1, (1.0, 2.0, 3.0)), (64, (None, 2.5, 3.5)))
    assert gemm_tables.table("another GPU") == {}


def test_a_broken_table_is_named_and_not_used(cache: Path) -> None:
    path = gemm_tables.cached_path("NVIDIA H200")
    for spoil in (lambda: path.write_text("{"), lambda: write(path, schema=9)):
        write(path)
        spoil()
        gemm_tables.table.cache_clear()
        with pytest.warns(UserWarning, match=f"{path.name} is no table of flat_linear"):
            assert gemm_tables.table("NVIDIA H200") == {}


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path))
    assert gemm_tables.cached_path("NVIDIA H200") == tmp_path / "tables" / "nvidia-h200.json"
    monkeypatch.delenv("LIMELIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setattr("sys.platform", "linux")
    assert gemm_tables.cache_folder() == tmp_path / "x" / "limelight"


def test_shipped_tables_are_tables() -> None:
    """What the wheel ships was measured: GPU, versions and date are in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in gemm_tables.SHIPPED.glob("*.json"):
            assert gemm_tables.read_file(path)
            data = json.loads(path.read_text())
            assert {"gpu", "driver", "versions", "date", "command", "copy_gbps"} <= data.keys()
            assert gemm_tables.gpu_stem(data["gpu"]) == path.stem


def test_explain_linear_of_a_description() -> None:
    found = limelight.explain_linear(m=4, n=14336, k=4096, device="sm_90")
    text = str(found)
    assert found.choice.source == "model"
    assert "a model of bytes and waves, not measured" in text
    assert "H200's data sheet, a stand-in" in text
    assert f"M1 = {found.choice.m1}" in text
    assert all(f"  {name:5} model " in text for name in ("gemv", "flat", "torch"))
    invariant = limelight.explain_linear(m=1, device=(8, 0), batch_invariant=True)
    assert invariant.implementation == "flat"
    with pytest.raises(ValueError, match=r"weight_format is 'int3'; allowed: 16bit, float32"):
        limelight.explain_linear(weight_format="int3")


def test_explain_linear_of_a_call_on_the_cpu() -> None:
    found = limelight.explain_linear(torch.zeros(2, 8), torch.zeros(4, 8))
    assert found.implementation == "torch"
    assert found.query.rows == 4
    assert "the tensors are on the CPU" in str(found)


def test_explain_linear_shows_measured_times(cache: Path) -> None:
    """On the emulator's device, whose table is written here."""
    write(gemm_tables.cached_path("emulator"), entry(64, 128, 5, 96))
    with runtime.override(backend="emulator"):
        found = limelight.explain_linear(m=60, n=64, k=128, device="cpu")
    assert found.measured == {"flat": 2.5, "torch": 3.5}
    assert "measured 2.5 us at M = 64" in str(found)
    assert (found.choice.m1, found.choice.m2) == (5, 96)
