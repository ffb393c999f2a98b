# SPDX-License-Identifier: BSD-3-Clause
"""python -m limelight numerics: on the torch path, on kernels, and where attention is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from limelight.__main__ import main
from limelight.cli import numerics
from torch import Tensor

SMALL = ["numerics", "--heads", "2", "--headdim", "32", "--seqlen", "20", "65"]


def as_json(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> dict[str, Any]:
    assert main([*SMALL, "--json", *options]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize("mask", ["full", "causal"])
def test_torch_path_as_json(mask: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = as_json(capsys, "--device", "cpu", "--tile", "16", "48", "--mask", mask)
    rows = result["rows"]
    seen = {(r["seqlen"], r["backend"], r["tile_keys"], r["tensor"]) for r in rows}
    assert len(seen) == len(rows) == 2 * 3 * 4
    assert {r["tile_keys"] for r in rows} == {None, 16, 48}
    assert result["causal"] == (mask == "causal")
    assert result["worst_ratio"] == max(r["ratio"] for r in rows) < 1
    assert result["agrees"]


def test_forward_alone(capsys: pytest.CaptureFixture[str]) -> None:
    result = as_json(capsys, "--device", "cpu", "--direction", "forward", "--dtype", "float16")
    assert {row["tensor"] for row in result["rows"]} == {"out"}
    assert result["dtype"] == "float16"


def test_kernels_stand_beside_the_torch_path(
    kernels: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    result = as_json(capsys, "--device", str(kernels))
    ran = {(row["backend"], row["tensor"]) for row in result["rows"] if row["backend"] != "torch"}
    assert {tensor for _, tensor in ran} == {"out", "dq", "dk", "dv"}
    forward = ("_fwd", "_decode")  # a few rows are the decode kernels'
    assert all(name.endswith(forward if tensor == "out" else "_bwd") for name, tensor in ran)
    assert result["agrees"]


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--device", "cpu", "--tile", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("limelight ")
    starts = [line.split()[:3] for line in lines if line.strip().startswith(("20 ", "65 "))]
    rows = [["eager", "-"], ["torch", "auto"], ["torch", "16"]]
    assert starts == [[n, *row] for n in ("20", "65") for row in rows]
    assert lines[-1].endswith("allowed 2: agrees")


def test_wrong_attention_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kernels: torch.device
) -> None:
    real = numerics.attention

    def off(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        out, lse = real(q, *rest)
        return out * 1.03, lse

    monkeypatch.setattr(numerics, "attention", off)
    assert main([*SMALL, "--device", str(kernels)]) == 1
    assert capsys.readouterr().out.rstrip().endswith("DOES NOT AGREE")


@pytest.mark.parametrize("bad", [["--seqlen", "0"], ["--tile", "-3"], ["--dtype", "float32"]])
def test_bad_options_are_refused(bad: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["numerics", *bad])
