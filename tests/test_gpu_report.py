# SPDX-License-Identifier: BSD-3-Clause
"""The visit to a GPU machine, rehearsed with stand-in parts: state, resuming, limits, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "gpu_report"))

import parts  # noqa: E402
import report  # noqa: E402


def python(code: str):
    return lambda visit: [[visit.python, "-c", code]]


def skipped(visit):
    raise parts.Skip("ncu is not on this machine")


def unready(visit):
    raise RuntimeError("run the part build first")


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """report.main with stand-in parts, a GPU, and its folder under tmp_path."""
    counter = tmp_path / "runs"
    counted = f"open({str(counter)!r}, 'a').write('x'); print('hello from a part')"
    stand_ins = (
        parts.Part("good", "works", python(counted)),
        parts.Part("bad", "fails", python("import sys; print('reason'); sys.exit(7)")),
        parts.Part("none", "has nothing to do", skipped),
        parts.Part("early", "comes too early", unready),
    )
    monkeypatch.setattr(report, "PARTS", stand_ins)
    monkeypatch.setattr(report, "has_gpu", lambda: True)
    monkeypatch.setattr(report, "fingerprint", lambda root: "sources-1")

    def run(*options: str) -> int:
        return report.main([*options, "--out", str(tmp_path / "out")])

    run.out = tmp_path / "out"
    run.runs = lambda: len(counter.read_text()) if counter.exists() else 0
    run.state = lambda: json.loads((run.out / "state.json").read_text())
    return run


def test_runs_every_part_and_records_it(visit, capsys: pytest.CaptureFixture[str]) -> None:
    assert visit() == 1
    state = visit.state()
    outcome = {name: (entry["status"], entry["reason"]) for name, entry in state.items()}
    assert outcome["good"] == ("ok", "")
    assert outcome["bad"][0] == "failed"
    assert outcome["bad"][1].startswith("exit code 7: ")
    assert outcome["none"] == ("skipped", "ncu is not on this machine")
    assert outcome["early"] == ("failed", "run the part build first")
    log = (visit.out / "good.log").read_text()
    assert log.startswith("$ ")
    assert log.endswith("hello from a part\n")
    assert "hello from a part" in capsys.readouterr().out


def test_resumes_where_it_stopped(visit) -> None:
    visit()
    visit()
    assert visit.runs() == 1
    assert visit("--part", "good") == 0
    assert visit.runs() == 2


def test_other_sources_are_run_again(visit, monkeypatch, capsys) -> None:
    visit()
    monkeypatch.setattr(report, "fingerprint", lambda root: "sources-2")
    capsys.readouterr()
    assert visit("--list") == 0
    assert "ok (older sources)" in capsys.readouterr().out
    visit()
    assert visit.runs() == 2


def test_fresh_forgets(visit) -> None:
    visit()
    visit("--fresh")
    assert visit.runs() == 2


def test_a_part_that_takes_too_long_is_killed_with_its_children(visit, monkeypatch) -> None:
    child = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    parent = python(f"import subprocess, sys; subprocess.run({child})")
    monkeypatch.setattr(report, "PARTS", (parts.Part("slow", "sleeps", parent),))
    start = time.monotonic()
    assert visit("--limit", "1") == 1
    assert time.monotonic() - start < 20
    assert visit.state()["slow"]["status"] == "timed out"


def test_a_missing_program_is_a_failure(visit, monkeypatch) -> None:
    part = parts.Part("gone", "no such program", lambda visit: [["/no/such/program"]])
    monkeypatch.setattr(report, "PARTS", (part,))
    assert visit() == 1
    assert "No such file" in (visit.out / "gone.log").read_text()


def test_refuses_without_a_gpu(visit, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(report, "has_gpu", lambda: False)
    assert visit() == 2
    assert "needs a machine with an NVIDIA GPU" in capsys.readouterr().err
    assert visit("--list") == 0
    assert not visit.out.exists()


def test_unknown_part_is_named(visit) -> None:
    with pytest.raises(SystemExit, match="2"):
        visit("--part", "fly")


def test_fingerprint_follows_the_sources(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    source = tmp_path / "csrc" / "a.cu"
    source.write_text("one")
    before = report.fingerprint(tmp_path)
    assert report.fingerprint(tmp_path) == before
    (tmp_path / "csrc" / "a.log").write_text("not a source")
    assert report.fingerprint(tmp_path) == before
    source.write_text("two")
    assert report.fingerprint(tmp_path) != before


def test_every_test_file_belongs_to_one_part() -> None:
    visit = parts.Visit(ROOT, ROOT / "gpu-report")
    commands = [parts.test_kernels(visit), parts.test_python(visit), parts.test_emulator(visit)]
    named = [word for (command,) in commands for word in command if word.endswith(".py")]
    assert sorted(named) == sorted(str(f) for f in (ROOT / "tests").glob("test_*.py"))
    assert str(ROOT / "tests" / "test_forward_kernel.py") in commands[0][0]


def test_build_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDACXX", "/opt/cuda/bin/nvcc")
    visit = parts.Visit(ROOT, tmp_path)
    install = parts.build(visit)[0]
    assert {"--no-index", "--no-build-isolation", "--no-deps"} <= set(install)
    assert visit.environment()["CUDACXX"] == "/opt/cuda/bin/nvcc"
    assert visit.environment()["PYTHONPATH"].startswith(str(tmp_path / "site"))


@pytest.mark.parametrize("capability", ["9.0", "8.0"])
def test_variants_are_for_hopper(capability: str, monkeypatch, tmp_path: Path) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout=f"{capability}\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer)
    visit = parts.Visit(ROOT, tmp_path)
    if capability == "8.0":
        with pytest.raises(parts.Skip, match=r"capability 8\.0"):
            parts.variants(visit)
        return
    (command,) = parts.variants(visit)
    assert Path(command[1]).exists()
    assert 0 < float(command[command.index("--limit") + 1]) < 480


def test_benchmarks_need_the_build(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="run the part build first"):
        parts.bench_cpp(parts.Visit(ROOT, tmp_path))
