# SPDX-License-Identifier: BSD-3-Clause
"""Variants of Hopper's tiles: changed headers, verdicts, checks; two on the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import emulator_tools
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "sm90"))

import variant_build  # noqa: E402
import variant_list  # noqa: E402
import variant_run  # noqa: E402
import variants  # noqa: E402
from limelight.bench import device  # noqa: E402
from tile_facts import tile_facts  # noqa: E402
from variant_build import Built, Row, Variant  # noqa: E402

CPU = torch.device("cpu")


def test_a_row_changes_and_nothing_else(tmp_path: Path) -> None:
    variant = variant_list.parse(Row(128, 128), "block_kv=96 ping_pong=false kStages=3")
    headers = variant_build.changed_headers(variant)
    assert set(headers) == {"sm90/fwd_tiles.h"}
    (tmp_path / "sm90").mkdir()
    (tmp_path / "sm90" / "fwd_tiles.h").write_text(headers["sm90/fwd_tiles.h"])
    fp8 = ROOT / "csrc" / "sm90" / "fwd_fp8_tiles.h"
    (tmp_path / "sm90" / "fwd_fp8_tiles.h").write_text(fp8.read_text())
    before, after = tile_facts(), tile_facts(tmp_path)
    changed = [b for a, b in zip(before, after, strict=True) if a.block_kv != b.block_kv]
    assert [(b.headdim, b.block_kv, b.everything, b.change) for b in changed] == [
        (128, 96, False, False)
    ]


def test_every_listed_variant_changes_the_sources() -> None:
    """Names of rows, columns and constants are those of the tree."""
    for group in variant_list.GROUPS:
        assert group.variants[0].name == "limelight"
        assert group.row.source.exists()
        assert variant_build.changed_headers(group.variants[0]) == {}
        texts = [str(variant_build.changed_headers(v)) for v in group.variants]
        assert len(set(texts)) == len(texts), group.name
        originals = {
            path: (ROOT / "csrc" / path).read_text()
            for v in group.variants
            for path in variant_build.changed_headers(v)
        }
        for variant in group.variants[1:]:
            headers = variant_build.changed_headers(variant)
            assert any(originals[path] != text for path, text in headers.items()), variant.name
    fp8 = Variant(Row(128, 128, fp8=True), (("block_kv", "160"),))
    assert list(variant_build.changed_headers(fp8)) == ["sm90/fwd_fp8_tiles.h"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block_k=96", "block_k: the table has headdim, headdim_v"),
        ("kStage=3", "constant kStage: in 0 headers"),
        ("edit=faster", "edit 'faster'; there are row_sum_mma"),
        ("block_kv", "'block_kv' in 'block_kv': a change is NAME=VALUE"),
    ],
)
def test_unknown_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant_build.changed_headers(variant_list.parse(Row(64, 64), text))


def test_a_row_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="the table has no row"):
        variant_build.changed_headers(variant_list.parse(Row(72, 64), "block_kv=96"))


def test_verdicts() -> None:
    clean = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    assert variant_build.verdict(clean) == ""
    assert variant_build.verdict(clean + clean.replace("0 bytes spill", "8 bytes spill")) == (
        "8 bytes are spilled"
    )
    slow = "(C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to"
    assert variant_build.verdict(clean + slow) == "wgmma is serialised (C7511)"
    error = "a.h(10): error: static assertion failed\n      static_assert(kBlockKV <= 256);\n"
    assert variant_build.first_error("note\n" + error) == (
        "static assertion failed: static_assert(kBlockKV <= 256);"
    )


class Formula:
    """A library that is right but for one defect."""

    def __init__(self, defect: str) -> None:
        self.defect = defect

    def __call__(self, q, k, v, window, cu_seqlens=None, longest=(0, 0), fill=None):
        if cu_seqlens is None:
            pieces = [(q[b], k[b], v[b]) for b in range(q.shape[0])]
        else:
            ends = [list(zip(e.tolist(), e.tolist()[1:], strict=False)) for e in cu_seqlens]
            cuts = zip(*ends, strict=True)
            pieces = [(q[a:b], k[c:d], v[c:d]) for (a, b), (c, d) in cuts]
        outs, lses = zip(*(self.one(*piece, window) for piece in pieces), strict=True)
        if cu_seqlens is None:
            return torch.stack(outs), torch.stack(lses)
        return torch.cat(outs), torch.cat(lses, 1)

    def one(self, q, k, v, window):
        if self.defect == "window" and window[0] >= 0:
            window = (window[0] + 1, window[1])
        hidden = variant_run._hidden(q.shape[0], k.shape[0], window, CPU)
        scale = 1.01 if self.defect == "scale" else 1.0
        out, lse, _ = variant_run._plain(scale * q.double(), k.double(), v.double(), hidden)
        out, lse = out.to(q.dtype), lse.float()
        if self.defect == "last row" and out.numel():
            out[-1] = float("nan")
        if self.defect == "lse":
            lse = lse + 1e-3
        if self.defect == "empty rows":
            lse = lse.nan_to_num(neginf=0.0)
        return out, lse


def test_checks_accept_what_is_right() -> None:
    few = [c for c in variant_run.CHECKS if not c.name.startswith("long")]
    wrong, share = variant_run.check(Formula(""), few, 64, 32, CPU)
    assert (wrong, share < 1) == ("", True)


@pytest.mark.parametrize("defect", ["scale", "window", "last row", "lse", "empty rows"])
def test_checks_reject_what_is_wrong(defect: str) -> None:
    few = [c for c in variant_run.CHECKS if not c.name.startswith("long")]
    wrong, share = variant_run.check(Formula(defect), few, 64, 64, CPU)
    assert wrong.startswith("wrong: ")
    assert not share <= 1


def test_what_is_wrong_is_never_timed(monkeypatch, tmp_path: Path) -> None:
    group = variant_list.group(Row(64, 64), (True,), "block_kv=96", "block_kv=112", "block_kv=240")
    built = [Built(v, tmp_path / f"{n}.so") for n, v in enumerate(group.variants)]
    built[3] = Built(group.variants[3], None, "8 bytes are spilled")
    jobs = []

    def worker(action: str, job: dict, seconds: float) -> dict:
        jobs.append((action, job))
        if action == "check":
            return {"wrong": "wrong: full: 7 times" if job["library"].endswith("1.so") else ""}
        case = {"name": "a case"}
        return {"results": [{"case": case, "peers": []}], "failed": "longer than 3 s"}

    monkeypatch.setattr(variants, "run_worker", worker)
    result: dict = {"results": [], "rejected": []}
    variants.run_group(group, built, {"peers": []}, {}, result, end=1e18)
    timed = [job["libraries"] for action, job in jobs if action == "time"]
    assert [set(libraries) for libraries in timed] == [{"limelight", "block_kv=112"}]
    assert len([action for action, _ in jobs if action == "check"]) == 3
    assert {(r["variant"], r["reason"]) for r in result["rejected"]} == {
        ("block_kv=96", "wrong: full: 7 times"),
        ("block_kv=240", "8 bytes are spilled"),
        ("(timing)", "longer than 3 s"),
    }
    assert result["results"] == [{"case": {"name": "a case"}, "peers": [], "row": "64/64"}]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", {"done": 1}),
        ("sys.exit(3)", {"done": 1, "failed": "exit code 3: said"}),
        ("time.sleep(60)", {"done": 1, "failed": "longer than 2 s"}),
    ],
)
def test_a_worker_that_ends_badly_keeps_what_it_wrote(
    code: str, expected: dict, monkeypatch, tmp_path: Path
) -> None:
    script = tmp_path / "worker.py"
    write = "open(sys.argv[3], 'w').write('{\"done\": 1}'); print('said', flush=True)"
    script.write_text(f"import sys, time\n{write}\n{code}\n")
    monkeypatch.setattr(variants, "WORKER", script)
    assert variants.run_worker("time", {}, 2.0) == expected


def test_list_and_refusals(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert variants.main(["--list", "--row", "64/64"]) == 0
    assert "64/64          sum_column=false" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert variants.main([]) == 2
    assert "need an NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        variants.main(["--try", "block_kv=96"])
    assert "--try goes with one --row" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [540, 1])
def test_a_run_writes_its_report(seconds: int, monkeypatch, tmp_path: Path, capsys) -> None:
    gpu = {"name": "NVIDIA H200", "capability": [9, 0], "l2_bytes": 1, "peak_tflops": 989.0}
    monkeypatch.setattr(device, "require_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(device, "describe", lambda place: gpu)
    monkeypatch.setattr(variant_build.Compiler, "find", lambda: None)
    library = tmp_path / "variant.so"
    monkeypatch.setattr(variants, "build", lambda vs, *rest: [Built(v, library) for v in vs])

    def worker(action: str, job: dict, seconds: float) -> dict:
        assert json.loads(json.dumps(job)) == job
        if action == "check":
            return {"wrong": "", "share_of_allowed_error": 0.5}
        assert {"tokens", "hidden", "seqlen", "rounds", "causal", "headdim_v"} <= set(job)
        return {"results": [{"case": {"name": "a case"}, "peers": []}]}

    monkeypatch.setattr(variants, "run_worker", worker)
    out = tmp_path / "deep" / "variants.json"
    options = ["--row", "64/64", "128/128 full", "--limit", str(seconds), "--out", str(out)]
    assert variants.main(options) == 0
    result = json.loads(out.read_text())
    assert {"date", "command", "gpu", "clocks_before"} <= set(result)
    rows = ["64/64", "128/128 full"]
    assert [entry["row"] for entry in result["results"]] == (rows if seconds > 30 else [])
    assert result["left"] == ([] if seconds > 30 else rows)


def test_tables_show_the_fastest_first() -> None:
    times = {"limelight": 20.0, "block_kv=96": 16.0, "torch-cudnn": None}
    peers = [
        {"peer": name, "median_us": us, "tflops": 500.0, "error": "" if us else "no cuDNN"}
        for name, us in times.items()
    ]
    result = {"results": [{"row": "64/64", "case": {"name": "c"}, "peers": peers}]}
    lines = variants.table(result, "64/64").splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["block_kv=96", "limelight"]
    assert "1.250x" in lines[1]
    assert lines[3].endswith("torch-cudnn: no cuDNN")
    assert variants.table(result, "96/96") == ""


if not torch.cuda.is_available():

    def test_two_variants_on_the_emulator(tmp_path: Path) -> None:
        report = tmp_path / "report"
        settings = emulator_tools.settings("sm_90a", checks="none", sms=3, report=report)
        settings |= {"LIMELIGHT_BACKEND": "emulator", "LIMELIGHT_FALLBACK": "error"}
        settings["LIMELIGHT_EMULATOR_LIBRARY"] = str(emulator_tools.emulator())
        probe = Path(__file__).with_name("sm90_variants_probe.py")
        done = subprocess.run(
            [sys.executable, str(probe), str(tmp_path / "build")],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        name = "sum_column=false block_kv=64 edit=row_sum_mma"
        assert [result["case"]["causal"] for result in found["results"]] == [True, False]
        for result in found["results"]:
            times = {peer["peer"]: (peer["median_us"], peer["error"]) for peer in result["peers"]}
            assert times == {"limelight": (10.0, ""), name: (10.0, "")}
        assert set(found["checks"]) == {"limelight", name}
        for answer in found["checks"].values():
            assert answer["wrong"] == ""
            assert 0 < answer["share_of_allowed_error"] <= 1
        # Sums by eight columns more of wgmma, blocks of 128 keys; by n8 of mma.sync, blocks of 64.
        launches = [json.loads(line) for line in report.read_text().splitlines()]
        assert all("sm90_attention_fwd" in launch["kernel"] for launch in launches)
        shared = {launch["dynamic_shared_bytes"]: launch["tensor_flops"] for launch in launches}
        flops = [shared[size] / (2 * 64 * (64 + 64 + 8)) for size in sorted(shared)]
        assert [count % block for count, block in zip(flops, (64, 128), strict=True)] == [0, 0]
