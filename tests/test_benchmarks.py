# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark harness on the CPU with a fake timer, and its refusal to run without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from limelight.__main__ import main
from limelight.bench import harness, report
from limelight.bench.cases import Case, standard_cases
from limelight.bench.device import NoGpuError, peak_tflops, require_gpu
from limelight.bench.peers import PEERS, ours, plain

ROOT = Path(__file__).resolve().parent.parent
SMALL = Case(2, 33, 4, 4, 16, True, "float32")
CPU = torch.device("cpu")
PLAN = harness.Plan(rounds=3, round_us=100.0, max_iterations=50)


class FakeTimer:
    """Runs every call and reports a time per call that depends on who is called."""

    def __init__(self, times: dict[str, float]) -> None:
        self.times = times
        self.running: list[str] = []
        self.log: list[tuple[str, int, int]] = []

    def microseconds(self, call, first: int, iterations: int) -> float:
        self.running.clear()
        for index in range(first, first + iterations):
            call(index)
        name = self.running[-1]
        self.log.append((name, first, iterations))
        return self.times[name]

    def watch(self, name: str, attention):
        def watched(*arguments):
            self.running.append(name)
            return attention(*arguments)

        return watched


def test_standard_cases_are_flash_attentions() -> None:
    cases = standard_cases()
    assert len(cases) == 3 * 2 * 6
    assert all(c.batch * c.seqlen == 16384 and c.heads * c.headdim == 2048 for c in cases)
    assert {c.headdim for c in cases} == {64, 128, 256}
    assert len({c.name for c in cases}) == len(cases)


def test_flops_count_multiplications_and_additions() -> None:
    """By hand: 2 * 3 * 5 * 5 * 8 products and as many sums, twice (q k^T and p v)."""
    case = Case(2, 5, 3, 3, 8, False)
    assert case.flops == 2 * 2 * (2 * 3 * 5 * 5 * 8)
    assert replace(case, causal=True).flops == case.flops / 2
    assert replace(case, direction="backward").flops == 2.5 * case.flops


def test_input_sets_exceed_the_cache_twice_and_stay_in_memory() -> None:
    l2 = 10 * SMALL.input_bytes
    sets = harness.input_sets(SMALL, CPU, l2, PLAN)
    assert len(sets) * SMALL.input_bytes >= 2 * l2
    assert not torch.equal(sets[0][0], sets[1][0])
    assert sets[0][0].shape == (2, 33, 4, 16)
    limited = replace(PLAN, memory_bytes=3 * SMALL.input_bytes)
    assert len(harness.input_sets(SMALL, CPU, l2, limited)) == 3
    assert len(harness.input_sets(SMALL, CPU, l2, replace(PLAN, memory_bytes=1))) == 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads_kv", [4, 2])
def test_verify_accepts_what_is_right(heads_kv: int, causal: bool) -> None:
    case = replace(SMALL, heads_kv=heads_kv, causal=causal)
    inputs = harness.input_sets(case, CPU, 0, PLAN)[0]
    deviation, allowed = harness.verify(ours, case, inputs)
    assert 0 < deviation <= allowed < 1e-4


def spoil(kind: str):
    """plain with one defect."""

    def attention(q, k, v, case):
        if kind == "scale":
            return plain(1.001 * q, k, v, case)
        if kind == "mask":
            return plain(q, k, v, replace(case, causal=not case.causal))
        out = plain(q, k, v, case).clone()
        if kind == "nan":
            out[1, 7, 2, 3] = float("nan")
        elif kind == "last row":
            out[-1, -1, -1] += 1e-3
        return out[:, :-1] if kind == "shape" else out

    return attention


@pytest.mark.parametrize("kind", ["scale", "mask", "nan", "last row", "shape"])
def test_verify_rejects_what_is_wrong(kind: str) -> None:
    inputs = harness.input_sets(SMALL, CPU, 0, PLAN)[0]
    deviation, allowed = harness.verify(spoil(kind), SMALL, inputs)
    assert not deviation <= allowed


def test_measure_times_only_what_is_right_and_side_by_side() -> None:
    timer = FakeTimer({"limelight": 10.0, "slow": 40.0})
    sets = harness.input_sets(SMALL, CPU, 4 * SMALL.input_bytes, PLAN)

    def broken(*arguments):
        raise RuntimeError("no such backend\nsecond line")

    peers = {
        "limelight": timer.watch("limelight", ours),
        "slow": timer.watch("slow", plain),
        "wrong": spoil("mask"),
        "broken": broken,
    }
    results = {m.peer: m for m in harness.measure(SMALL, sets, peers, timer, PLAN)}
    assert results["wrong"].rounds_us == []
    assert results["wrong"].error.startswith("wrong: off by ")
    assert results["broken"].error == "RuntimeError: no such backend"
    assert results["limelight"].rounds_us == [10.0] * 3
    assert harness.ratios(list(results.values())) == {"slow": 4.0}
    # 100 us a round: 11 calls of 10 us or 3 of 40 us; each round goes on where the last stopped.
    rounds = timer.log[-6:]
    assert rounds[0::2] == [("limelight", 0, 11), ("limelight", 11, 11), ("limelight", 22, 11)]
    assert rounds[1::2] == [("slow", 0, 3), ("slow", 3, 3), ("slow", 6, 3)]


def test_calls_rotate_through_the_input_sets() -> None:
    sets = harness.input_sets(SMALL, CPU, 2 * SMALL.input_bytes, PLAN)
    seen = []
    call = harness._call(lambda q, k, v, case: seen.append(q.data_ptr()), SMALL, sets)
    for index in range(2 * len(sets)):
        call(index)
    assert seen == [s[0].data_ptr() for s in sets] * 2
    assert len(set(seen)) == len(sets) > 2


def test_backward_times_gradients() -> None:
    case = replace(SMALL, direction="backward")
    sets = harness.input_sets(case, CPU, 0, PLAN)
    gradients = harness._call(ours, case, sets)(0)
    expected = harness._call(plain, case, sets)(0)
    assert [g.shape for g in gradients] == [x.shape for x in sets[0]]
    assert len(expected) == 3


def test_plain_formula_is_left_out_where_its_scores_do_not_fit() -> None:
    plan = replace(PLAN, max_score_bytes=SMALL.score_bytes - 1)
    sets = harness.input_sets(SMALL, CPU, 0, plan)
    (result,) = harness.measure(SMALL, sets, {"plain": plain}, FakeTimer({}), plan)
    assert result.error.startswith("its score matrix needs")


def fake_report() -> dict:
    gpu = {"name": "NVIDIA H200", "peak_tflops": 989.0, "l2_bytes": 1}
    result = report.new_report(gpu, {"clocks.sm": "1980"})
    for seqlen in (512, 1024):
        case = Case(1, seqlen, 16, 16, 128, True)
        own = harness.Measurement("limelight", [100.0, 120.0, 110.0], deviation=1e-3, allowed=2e-3)
        peer = harness.Measurement("torch-flash", [220.0])
        missing = harness.Measurement("torch-cudnn", error="RuntimeError: no cuDNN")
        report.add_result(result, case, [own, peer, missing])
    return result


def test_report_derives_rates_from_the_median(tmp_path: Path) -> None:
    result = fake_report()
    case = Case(1, 512, 16, 16, 128, True)
    own, _, missing = result["results"][0]["peers"]
    assert own["median_us"] == 110.0
    assert own["tflops"] == pytest.approx(case.flops / 110e-6 / 1e12)
    assert own["fraction_of_peak"] == pytest.approx(own["tflops"] / 989)
    assert missing["tflops"] is None
    assert result["results"][0]["ratio_to_limelight"] == {"torch-flash": 2.0}
    text = report.table(result)
    assert "2.00x" in text
    assert "RuntimeError: no cuDNN" in text
    assert report.wrong(result, "torch-cudnn")[0].endswith("RuntimeError: no cuDNN")
    assert report.wrong(result, "limelight") == []
    report.write_json(result, tmp_path / "deep" / "r.json")
    assert json.loads((tmp_path / "deep" / "r.json").read_text()) == result
    assert {"date", "command", "gpu", "clocks_before"} <= result.keys()


def test_plot_is_an_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(fake_report(), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_peaks_by_name() -> None:
    assert peak_tflops("NVIDIA H200") == 989.0
    assert peak_tflops("NVIDIA H100 PCIe") == 756.0
    assert peak_tflops("NVIDIA L40S") == 362.0
    assert peak_tflops("NVIDIA L4") == 121.0
    assert peak_tflops("Some new GPU") is None


def test_peers_name_every_backend_of_torch() -> None:
    expected = {"limelight", "torch-flash", "torch-cudnn", "torch-efficient", "flex", "plain"}
    assert set(PEERS) == expected


def test_refuses_without_a_gpu(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoGpuError, match=r"benchmarks need an NVIDIA GPU, and .* run this command"):
        require_gpu()
    assert main(["bench", "--seqlen", "512"]) == 2
    output = capsys.readouterr()
    assert "bench: benchmarks need an NVIDIA GPU" in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--headdim", "100"], "100; allowed: multiples of 8 from 8 to 256"),
        (["--headdim", "512"], "512; allowed: multiples of 8"),
        (["--seqlen", "0"], "0; allowed: 1 or more"),
        (["--peers", "triton"], "invalid choice: 'triton'"),
    ],
)
def test_bad_options_are_named(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *options])
    assert message in capsys.readouterr().err


def test_the_script_refuses_without_a_gpu() -> None:
    script = ROOT / "benchmarks" / "python" / "bench_attention.py"
    hidden = {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT / "python"),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run([sys.executable, script], env=hidden, capture_output=True, text=True)
    assert done.returncode == 2
    assert "benchmarks need an NVIDIA GPU" in done.stderr
