# SPDX-License-Identifier: BSD-3-Clause
"""``python -m limelight tune`` with an injected measurement: crossing points, tables, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from limelight import gemm_tables, gemm_tune
from limelight.__main__ import main
from limelight.bench import linear
from limelight.cli import tune
from limelight.gemm_tune import ROWS, crossing_points, policy

FACTS: dict[str, Any] = {
    "gpu": "NVIDIA H200",
    "sm_count": 132,
    "l2_bytes": 0,
    "driver": "580.1",
    "versions": {"limelight": "0.1.0", "torch": "2.13.0"},
    "clocks": {},
    "copy_gbps": 4000.0,
    "date": "2026-11-21T12:00:00+00:00",
    "command": "tune",
}


def smooth(gemv: float, flat: float, torch_: float) -> Any:
    """Times that grow with M at these rates over a common start; gemv up to M = 8."""
    return {
        m: {
            "gemv": 10 + gemv * m if m <= 8 else None,
            "flat": 11 + flat * m,
            "torch": 20 + torch_ * m,
        }
        for m in ROWS
    }


def test_crossing_points_are_where_the_curves_cross() -> None:
    # gemv = flat at 10 + m = 11 + 0.5 m, M = 2; flat = torch at 11 + 0.5 m = 20 + 0.4 m, M = 90.
    assert crossing_points(smooth(1.0, 0.5, 0.4)) == (2, 96)
    assert crossing_points(smooth(0.0, 0.5, 0.4)) == (12, 96)
    assert crossing_points(smooth(9.0, 0.5, 0.5)) == (1, 129)
    assert crossing_points(smooth(9.0, 9.0, 0.0))[1] == 2


def test_one_noisy_time_moves_nothing() -> None:
    measured = smooth(1.0, 0.5, 0.4)
    measured[24]["torch"] = measured[24]["flat"] * 0.9
    measured[8]["gemv"] = measured[8]["flat"] * 0.9
    assert crossing_points(measured) == (2, 96)


def test_small_and_large_times_weigh_alike() -> None:
    """Torch is twice as fast at M = 1 and 1 % slower at M = 128: ratios decide."""
    measured = {
        1: {"gemv": None, "flat": 2.0, "torch": 1.0},
        128: {"gemv": None, "flat": 1000.0, "torch": 1010.0},
    }
    assert crossing_points(measured) == (1, 1)


def test_an_implementation_that_failed_is_not_chosen() -> None:
    measured = smooth(1.0, 0.5, 0.4)
    for times in measured.values():
        times["flat"] = None
    m1, m2 = crossing_points(measured)
    assert policy(64, m1, m2, measured[64]) == "torch"
    assert policy(1, m1, m2, measured[1]) == "gemv"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, int, int]]:
    """A GPU whose times are made up; the calls that were measured."""
    seen: list[tuple[int, int, int]] = []

    def times(self: tune.Gpu, n: int, k: int, m: int) -> Any:
        seen.append((n, k, m))
        if n == 13:
            self.failures.append("linear-n13 flat: wrong: off by 1, allowed 0")
        return smooth(1.0, 0.5, 0.4)[m]

    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(tune, "require_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(tune, "table_facts", lambda device: dict(FACTS))
    monkeypatch.setattr(tune.gemm_explain, "backend_problem", lambda kinds: "")
    monkeypatch.setattr(tune.Gpu, "times", times)
    return seen


def test_tune_writes_the_table_that_dispatch_reads(
    gpu: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--shapes", "4096,4096", "1280,8192"]) == 0
    assert gpu == [(n, k, m) for n, k in ((4096, 4096), (1280, 8192)) for m in ROWS]
    table = gemm_tables.table("NVIDIA H200")
    assert {key: (c.m1, c.m2) for key, c in table.items()} == {
        ("16bit", 1280, 8192): (2, 96),
        ("16bit", 4096, 4096): (2, 96),
    }
    assert table["16bit", 4096, 4096].times[0] == (1, (11.0, 11.5, 20.4))
    data = json.loads(gemm_tables.cached_path("NVIDIA H200").read_text())
    assert {"gpu", "driver", "versions", "date", "command", "copy_gbps", "clocks"} <= data.keys()
    output = capsys.readouterr().out
    assert "16bit       4096   4096    2   96  1: 1.85" in output
    assert "wrote " in output


def test_tune_keeps_other_shapes_and_formats(gpu: list[Any]) -> None:
    assert main(["tune", "--shapes", "64,128"]) == 0
    assert main(["tune", "--shapes", "128,128", "--format", "fp8", "--rows", "1", "64"]) == 0
    keys = set(gemm_tables.table("NVIDIA H200"))
    assert keys == {("16bit", 64, 128), ("fp8", 128, 128)}
    path = gemm_tables.cached_path("NVIDIA H200")
    path.write_text("no table")
    assert main(["tune", "--shapes", "64,128"]) == 0
    assert set(gemm_tables.table("NVIDIA H200")) == {("16bit", 64, 128)}
    other = gemm_tune.merge(path, FACTS | {"gpu": "another"}, [])
    assert other["entries"] == []


def test_tune_measures_the_models_layers(gpu: list[Any], capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "table.json"
    assert (
        main(["tune", "--model", "llama-3-70b-tp8", "--rows", "1", "--out", str(out), "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert set(gpu) == {(n, k, 1) for n, k in linear.MODELS["llama-3-70b-tp8"].values()}
    gpu.clear()
    assert main(["tune", "--rows", "2", "--out", str(out)]) == 0
    every = {shape for layers in linear.MODELS.values() for shape in layers.values()}
    assert set(gpu) == {(*shape, 2) for shape in every}
    assert len(gpu) == len(every)


def test_tune_fails_where_an_implementation_is_wrong(gpu: list[Any], capsys: Any) -> None:
    assert main(["tune", "--shapes", "13,128", "--rows", "1"]) == 1
    assert "tune: linear-n13 flat: wrong: off by 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shapes", "7,9"], "7,9; allowed: N >= 1, K a multiple of 8"),
        (["--shapes", "seven"], "seven; allowed: N,K as in 4096,14336"),
        (["--rows", "129"], "129; allowed: 1 to 128"),
        (["--model", "gpt-5"], "invalid choice: 'gpt-5'"),
    ],
)
def test_bad_options_are_named(options: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tune", *options])
    assert message in capsys.readouterr().err


def test_refuses_without_a_gpu_or_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["tune"]) == 2
    assert "tune: benchmarks need an NVIDIA GPU" in capsys.readouterr().err
    monkeypatch.setattr(tune, "require_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(tune.gemm_explain, "backend_problem", lambda kinds: "the build lacks gemv")
    assert main(["tune"]) == 2
    assert "tune: the build lacks gemv" in capsys.readouterr().err
