# SPDX-License-Identifier: BSD-3-Clause
"""``bench linear`` and ``bench decode`` on the CPU with a fake timer."""

from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from limelight.__main__ import main
from limelight.bench import decode, harness, linear, report
from limelight.bench.cases import gqa_cases
from limelight.cli import bench_rates
from limelight.cli.bench import kernel_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "gpu_report"))

import parts  # noqa: E402

CPU = torch.device("cpu")
PLAN = harness.Plan(rounds=2, round_us=20.0, max_iterations=4, memory_bytes=1 << 20)
LINEAR = linear.LinearCase(3, 300, 128, dtype="float32")
DECODE = decode.DecodeCase(2, 128, 3, 4, 2, 16, "float32")


class Timer:
    """Calls and says 10 us."""

    def microseconds(self, call: Any, first: int, iterations: int) -> float:
        for index in range(first, first + iterations):
            call(index)
        return 10.0


def test_layers_of_the_models() -> None:
    """By hand: Llama-3-8B's q, k and v are 4096 + 2 * 1024 rows; the 70B's an eighth of 10240."""
    assert linear.MODELS["llama-3-8b"]["qkv"] == (4096 + 2 * 8 * 128, 4096)
    assert linear.MODELS["llama-3-70b-tp8"]["qkv"] == ((64 + 2 * 8) * 128 // 8, 8192)
    assert linear.MODELS["llama-3-70b-tp8"]["down"] == (8192, 28672 // 8)
    assert linear.MODELS["qwen3-8b"]["gate_up"] == (2 * 12288, 4096)
    cases = linear.model_cases(tuple(linear.MODELS))
    assert len({case.name for case in cases}) == len(cases) == 13 * 7
    shared = next(case for case in cases if (case.n, case.k) == (6144, 4096))
    assert shared.layer == "llama-3-8b.qkv, qwen3-8b.qkv"


def test_bytes_and_flops() -> None:
    case = linear.LinearCase(4, 1024, 512)
    assert case.flops == 2 * 4 * 1024 * 512
    assert case.moved_bytes == 2 * (1024 * 512 + 4 * 512 + 4 * 1024)
    assert replace(case, weight_format="int4").weight_bytes == 1024 * 256 + 2 * 1024 * 4
    assert DECODE.cache_bytes == 2 * 2 * 2 * 128 * 2 * 16
    # Token i of 3 sees 128 - 2 + i keys.
    assert DECODE.flops == 4 * 2 * 4 * 16 * (126 + 127 + 128)


@pytest.mark.parametrize("weight_format", linear.FORMATS)
def test_linear_is_verified_then_timed(weight_format: str) -> None:
    case = replace(LINEAR, weight_format=weight_format)
    weights = linear.weight_sets(case, CPU, 2 * case.weight_bytes, PLAN)
    assert len(weights) == 6
    sets = linear.input_sets(case, weights)
    results = linear.measure(case, sets, ["limelight", "torch", "no such"], Timer(), PLAN)
    assert [m.rounds_us for m in results] == [[10.0, 10.0], [10.0, 10.0], []]
    assert results[2].error.startswith("KeyError")
    deviation, allowed = linear.verify(linear.call_of("torch", sets[0]), sets[0])
    assert 0 < deviation <= allowed < 1e-4


@pytest.mark.parametrize("spoil", ["first", "last", "shape", "nan"])
def test_a_wrong_product_is_not_timed(spoil: str) -> None:
    sets = linear.input_sets(LINEAR, linear.weight_sets(LINEAR, CPU, 0, PLAN))
    out = linear.call_of("torch", sets[0])
    if spoil == "shape":
        out = out[:, :-1]
    elif spoil == "nan":
        out[1, 140] = float("nan")
    else:
        out[1, 0 if spoil == "first" else -1] += 1e-2
    deviation, allowed = linear.verify(out, sets[0])
    assert not deviation <= allowed


def test_decode_peers_agree() -> None:
    """torch's fused backends are for GPUs; limelight, dense and by pages, runs here."""
    sets = decode.input_sets(DECODE, CPU, DECODE.cache_bytes, PLAN)
    assert len(sets) == 4
    assert torch.equal(sets[0].k_pages.flatten(), sets[0].k.flatten())
    assert sorted(sets[0].table.flatten().tolist()) == list(range(4))
    peers = {name: decode.PEERS[name] for name in ("limelight", "limelight-paged")}

    def shifted(x: decode.Inputs, case: decode.DecodeCase) -> torch.Tensor:
        return decode.dense(x._replace(lengths=x.lengths - 1), case)

    results = decode.measure(DECODE, sets, {**peers, "wrong": shifted}, Timer(), PLAN)
    assert [m.error[:5] for m in results] == ["", "", "wrong"]
    assert results[0].rounds_us == [10.0, 10.0]


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "NVIDIA H200", "l2_bytes": 0, "memory_bytes": 1 << 21, "peak_tflops": 989.0}
    monkeypatch.setattr(bench_rates, "require_gpu", lambda: CPU)
    monkeypatch.setattr(bench_rates, "describe", lambda device: dict(gpu))
    monkeypatch.setattr(bench_rates, "copy_gbps", lambda device: 4000.0)
    monkeypatch.setattr(bench_rates, "TIMERS", {"graph": Timer})


@pytest.mark.usefixtures("fake_gpu")
def test_bench_linear(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(linear, "MODELS", {"llama-3-8b": {"o": (256, 128)}})
    out = tmp_path / "r.json"
    options = ["--model", "llama-3-8b", "--rows", "1", "130", "--out", str(out), "--rounds", "1"]
    assert main(["bench", "linear", *options, "--peers", "limelight", "torch"]) == 0
    data = json.loads(out.read_text())
    assert {"date", "command", "gpu", "clocks_before", "clocks_after", "suite"} <= data.keys()
    first = data["results"][0]
    assert (first["implementation"], first["source"]) == ("torch", "refused")
    moved = 2 * (256 * 128 + 128 + 256)
    assert first["peers"][0]["gbps"] == pytest.approx(moved / 10e-6 / 1e9)
    assert first["peers"][0]["fraction_of_copy"] == pytest.approx(moved / 10e-6 / 4e12)
    assert first["ratio_to_limelight"] == {"torch": 1.0}
    text = capsys.readouterr().out
    assert "copy bandwidth 4000.0 GB/s" in text
    assert "linear-bfloat16-16bit-m130-n256-k128" in text
    assert "torch's time over limelight's: lowest 1.00, median 1.00 of 2 cases" in text


def test_summary_of_ratios_and_shares() -> None:
    def result(own: float, other: float, share: float, moved: int) -> dict[str, Any]:
        peers = [
            {"peer": "limelight", "median_us": own, "fraction_of_copy": share},
            {"peer": "torch", "median_us": other, "fraction_of_copy": 1.0},
        ]
        return {"peers": peers, "moved_bytes": moved}

    results = [
        result(10, 9, 0.5, 1 << 20),
        result(10, 12, 0.9, 1 << 25),
        result(10, 30, 1, 1 << 26),
    ]
    results.append({"peers": [], "moved_bytes": 0, "skipped": "too large"})
    assert report.summary({"results": results}, "limelight", "torch").splitlines() == [
        "torch's time over limelight's: lowest 0.90, median 1.20 of 3 cases",
        "limelight's share of copy bandwidth over 16 MiB: lowest 90%, median 95% of 2 cases",
    ]
    assert report.summary({"results": []}, "limelight", "torch") == ""


@pytest.mark.usefixtures("fake_gpu")
def test_bench_decode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.json"
    shape = ["--batch", "2", "--tokens", "1", "--heads", "4", "--heads-kv", "2", "--headdim", "16"]
    options = ["--seqlen", "64", "16384", "--peers", "limelight", "--rounds", "1", "--json"]
    assert main(["bench", "decode", *shape, *options, "--out", str(out)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads(out.read_text())
    small, large = data["results"]
    assert small["peers"][0]["error"] == ""
    assert small["kernel"] == "torch"
    assert large["skipped"].startswith("its cache needs")
    assert large["peers"] == []
    assert "skipped: its cache needs" in report.rate_table(data)


@pytest.mark.parametrize("suite", ["linear", "decode"])
def test_refuses_without_a_gpu(suite: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", suite]) == 2
    assert "bench: benchmarks need an NVIDIA GPU" in capsys.readouterr().err


def test_the_script_refuses_without_a_gpu(monkeypatch: Any, capsys: Any) -> None:
    script = ROOT / "benchmarks" / "python" / "bench_rates.py"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [str(script), "decode"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(script), run_name="__main__")
    assert "bench_rates: benchmarks need an NVIDIA GPU" in capsys.readouterr().err


def test_bad_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["decode", "--seqlen", "100"], "100; allowed: multiples of 64"),
        (["linear", "--model", "gpt-5"], "invalid choice: 'gpt-5'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", *options])
        assert message in capsys.readouterr().err


def test_gqa_cases() -> None:
    """Batch 2, 64 query heads over 8, headdim 128."""
    case = gqa_cases((128,), (4096,), (True,))[0]
    assert (case.batch, case.heads, case.heads_kv) == (2, 64, 8)
    assert kernel_of(case) in ("torch", "sm80_fwd") or kernel_of(case).startswith("sm")


def test_a_visit_records_every_suite() -> None:
    visit = parts.Visit(ROOT, ROOT / "gpu-report")
    commands = [
        " ".join(part.commands(visit)[0])
        for part in parts.PARTS
        if re.match("bench-(?!cpp)|decode|tune", part.name)
    ]
    files = [re.search(r"--out (\S+)", command) for command in commands]
    assert all(files)
    assert len({found[1] for found in files if found}) == len(commands)
    text = "\n".join(commands)
    for wanted in ("bench linear", "bench decode --tokens 8", "--direction backward", " tune "):
        assert wanted in text
