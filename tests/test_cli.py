# SPDX-License-Identifier: BSD-3-Clause
"""python -m limelight: info, demo, and what the commands say where something is missing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import limelight
import pytest
import torch
from limelight import runtime
from limelight.__main__ import main
from limelight.cli import demo, info
from limelight.cli.observe import backends_used

needs_model = pytest.mark.skipif(
    importlib.util.find_spec(demo.MODEL_PACKAGE) is None, reason=f"{demo.MODEL_PACKAGE} is missing"
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A small model only waits for the threads of a pool, longest on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "core", lambda: None)
    monkeypatch.setattr(runtime, "core_error", lambda: "No module named 'limelight._core'")


def test_info_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"limelight {limelight.__version__}, Python 3.")
    for heading in ("backends", "devices", "compiled extension", "flat_linear chooses by"):
        assert f"\n{heading}\n" in text


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["backends"]["torch"] == {"available": True, "reason": ""}
    assert len(facts["devices"]) == torch.cuda.device_count()


@pytest.mark.usefixtures("without_extension")
def test_info_says_why_a_backend_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["extension"] == {"present": False, "reason": "No module named 'limelight._core'"}
    assert not facts["backends"]["kernels"]["available"]
    assert "No module named 'limelight._core'" in facts["backends"]["kernels"]["reason"]
    assert main(["info"]) == 0
    assert "missing: No module named 'limelight._core'" in capsys.readouterr().out


def test_info_names_the_tables_of_flat_linear(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tables = {"NVIDIA H200": {"cache": "h.json", "shapes": 0}, "L4": {"cache": "l", "shapes": 3}}
    measured, modelled = sorted(info._table_lines(tables))
    assert measured.startswith("L4: 3 measured shapes")
    assert modelled.endswith("`python -m limelight tune` writes h.json")
    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    path = str(tmp_path / "tables" / "some-gpu.json")
    assert info._linear_tables() == {"Some GPU": {"cache": path, "shapes": 0}}


def test_version_help_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == limelight.__version__
    assert main([]) == 2
    assert "{info,demo,bench,tune,numerics}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["fly"])


def test_cmake_dir(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limelight, "__file__", str(tmp_path / "__init__.py"))
    assert main(["--cmake-dir"]) == 2
    assert "no compiled library" in capsys.readouterr().err
    (tmp_path / "cmake").mkdir()
    (tmp_path / "cmake" / "limelight-config.cmake").touch()
    assert main(["--cmake-dir"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "cmake")


@needs_model
def test_demo_finds_and_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["agrees"]
    assert result["error"] <= result["allowed"] < 1e-5
    assert 0.05 < result["padding"] < 0.9
    assert sum(result["ran_on"].values()) == 12
    best = {hit["question"]: hit["found"][0][1] for hit in result["hits"]}
    assert "Photosynthesis" in best["How do plants make their food?"]
    assert "Restart the router" in best["My internet connection does not work."]
    assert "marathon" in best["Who won the race?"]


@needs_model
def test_demo_text_names_the_backend(capsys: pytest.CaptureFixture[str]) -> None:
    with runtime.override(backend="torch"):
        assert main(["demo", "--sentences", "4", "--top", "1", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "attention ran on: the torch path (12 calls)" in text
    assert text.rstrip().endswith("agrees")


@needs_model
def test_demo_fails_where_attention_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = limelight.flash_attn_func

    def off_by_a_little(*arguments, **options):
        return real(*arguments, **options) * (1 + 1e-4)

    monkeypatch.setattr(limelight, "flash_attn_func", off_by_a_little)
    assert main(["demo", "--sentences", "4", "--device", "cpu"]) == 1
    assert "DOES NOT AGREE" in capsys.readouterr().out


def test_demo_names_a_missing_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MODEL_PACKAGE", "no_such_model_package")
    assert main(["demo"]) == 2
    assert "demo needs no_such_model_package: pip install" in capsys.readouterr().err


def test_backends_used_counts_calls() -> None:
    x = torch.randn(1, 5, 2, 8)
    with backends_used() as used, runtime.override(backend="torch"):
        limelight.flash_attn_func(x, x, x)
        limelight.flash_attn_func(x, x, x, causal=True)
    assert used == {"torch": 2}
    with backends_used() as used:
        pass
    assert not used
