# SPDX-License-Identifier: BSD-3-Clause
"""Why each KV block of the Hopper FP8 kernel has fresh accumulators for O.

The emulator sums e4m3 products as Hopper's tensor cores do (tests/emulator/README.md). The kernel
as it is has the error of rounding P; a copy of it that keeps O in the tensor cores over the whole
row has a larger one, by far, and none of that where products are summed in fp32.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import emulator_tools as emulator
import numpy as np
import torch
from cases import Case, Inputs, build
from fp8_tolerance import mean_square_ratio

CSRC = emulator.ROOT / "csrc"
KERNEL = CSRC / "sm90" / "fwd_fp8.cuh"
SEQLEN_Q, SEQLEN_K, HEADDIM = 128, 4096, 64

# O = O * shrink + P V as one sum of the tensor cores, instead of a block's P V added in fp32.
WHOLE_ROW = {
    "Part::issue(registers, p, v);": """\
#pragma unroll
                for (int i = 0; i < Part::kColumns / 2; ++i) {
                    registers[i] = o[0][Part::kFirst / 8 + i / 4][i % 4] * shrink[i % 4 / 2];
                }
                wgmma_hold(registers);
                wgmma_fence();
                Part::issue(registers, p, v);""",
    "step * 32) / 16, step > 0);": "step * 32) / 16, true);",
    "x = x * shrink[i % 4 / 2] + fresh[i];": "x = fresh[i];",
}


@cache
def program(whole_row: bool) -> Path:
    text = KERNEL.read_text()
    for old, new in WHOLE_ROW.items() if whole_row else ():
        assert text.count(old) == 1, f"{old} is no longer in {KERNEL.name}: update this test"
        text = text.replace(old, new)
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cuh", ".cpp"})
    digest = hashlib.sha256("\0".join([text, *(p.read_text() for p in headers)]).encode())
    folder = emulator.CACHE / "fp8_sums" / digest.hexdigest()[:24]
    (folder / "sm90").mkdir(parents=True, exist_ok=True)
    (folder / "sm90" / KERNEL.name).write_text(text)
    source = (emulator.EMULATOR / "faults" / "attention_sm90_fp8_row.cuh").read_text()
    includes = [folder, CSRC, CSRC / "include", emulator.EMULATOR / "faults"]
    return emulator.compile_cuda(
        f"// {digest.hexdigest()}\n{source}", "90a", flags=[f"-I{path}" for path in includes]
    )


@cache
def inputs() -> Inputs:
    """Keys that all rows weigh alike, within a few powers of two, and values from 1/2 up."""
    case = Case(
        "long",
        batch=1,
        heads_q=1,
        heads_kv=1,
        headdim=HEADDIM,
        seqlen_q=SEQLEN_Q,
        seqlen_k=SEQLEN_K,
        dtype="float8_e4m3fn",
    )
    x = build(case)
    return replace(x, v=(x.v.float().abs() + 0.5).to(x.v.dtype))


def ratio(whole_row: bool, folder: Path, sums: str) -> float:
    """The error in units of what rounding P makes."""
    x = inputs()
    file = folder / "tensors"
    file.write_bytes(
        b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in (x.q, x.k, x.v))
    )
    done = emulator.run(program(whole_row), file, SEQLEN_Q, SEQLEN_K, arch="sm_90a", fp8_sums=sums)
    assert done.stdout.strip() == "ok", (done.stdout, done.stderr)
    raw = np.fromfile(file, np.uint8)[(SEQLEN_Q + 2 * SEQLEN_K) * HEADDIM :].copy()
    out = torch.from_numpy(raw).view(torch.bfloat16)
    return mean_square_ratio(x, out.reshape(1, SEQLEN_Q, 1, HEADDIM))


def test_fresh_accumulators_keep_the_error_that_of_rounding_p(tmp_path: Path) -> None:
    assert ratio(False, tmp_path, "hardware") < 1.0


def test_accumulating_o_in_the_tensor_cores_shows(tmp_path: Path) -> None:
    assert ratio(True, tmp_path, "hardware") > 4.0


def test_accumulating_o_is_harmless_where_sums_are_fp32(tmp_path: Path) -> None:
    assert ratio(True, tmp_path, "fp32") < 1.0
