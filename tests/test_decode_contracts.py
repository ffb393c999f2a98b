# SPDX-License-Identifier: BSD-3-Clause
"""What the decode kernels promise beside right numbers: equal bits, each key read once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import Case, Inputs, vary
from decode_calls import decode, make_schedule
from limelight import runtime
from test_decode_kernel import BASE, FP8, check, draw
from torch import Tensor

Result = tuple[Tensor, Tensor]


def equal(a: Result, b: Result) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@contextmanager
def emulated(**settings: str) -> Iterator[None]:
    """Settings of the emulator for a while; without effect on a GPU."""
    if torch.cuda.is_available():
        yield
        return
    usual = {"schedule": "fair", "seed": "0", "report": ""}
    try:
        for key, value in settings.items():
            refused = runtime.emulator().limelight_emulator_configure(key.encode(), value.encode())
            assert not refused, refused
        yield
    finally:
        for key in settings:
            runtime.emulator().limelight_emulator_configure(key.encode(), usual[key].encode())


SPLIT = vary(BASE, "split", batch=3, seqlen_k=520, seqlen_q=2, headdim=64)


@pytest.mark.parametrize("schedule", ["early", "late", "random"])
def test_equal_bits_from_run_to_run(schedule: str, kernels: torch.device) -> None:
    """Without a GPU, copies complete and thread blocks finish in another order in every run."""
    cases = [SPLIT, vary(SPLIT, "many", seqlen_q=20), vary(FP8, "f8", seqlen_k=300)]
    for case in cases:
        x = draw(case, kernels)
        want = decode(x)
        for seed in range(4 if schedule == "random" else 1):
            with emulated(schedule=schedule, seed=str(seed)):
                assert equal(decode(x), want), (case.name, seed)


def rows(x: Inputs, b: int, begin: int, end: int, keys: int) -> Inputs:
    """Tokens begin to end of sequence b, alone, whose keys end with those of the last token."""
    p = x.problem
    assert p.block_table is not None
    length = torch.tensor([keys], dtype=torch.int32, device=x.q.device)
    p = replace(p, block_table=p.block_table[b : b + 1], seqused_k=length)
    if p.alibi_slopes is not None:
        p = replace(p, alibi_slopes=p.alibi_slopes[b : b + 1])
    return replace(x, q=x.q[b : b + 1, begin:end].contiguous(), problem=p)


INVARIANT = vary(BASE, "invariant", batch=2, seqlen_q=80, seqlen_k=1200, page_size=64)


@pytest.mark.parametrize(
    "case",
    [
        INVARIANT,
        vary(INVARIANT, "d64", headdim=64, heads_q=6, sink=True, alibi="batch", seed=1),
        vary(INVARIANT, "d256-window", headdim=256, window=(600, 0), seqlen_q=34),
        vary(INVARIANT, "f8", kv_dtype="float8_e4m3fn", softcap=8.0),
    ],
    ids=str,
)
def test_batch_invariant_bits(case: Case, kernels: torch.device) -> None:
    """Whole prefill, chunks and single tokens; alone or in a batch; any number of splits."""
    x = draw(case, kernels)
    lengths = x.problem.seqused_k
    assert lengths is not None
    assert int(lengths.min()) > 512  # what batch_invariant sums at once
    out, lse = decode(x, batch_invariant=True)
    for splits in (1, 3):
        assert equal(decode(x, batch_invariant=True, num_splits=splits), (out, lse))
    n = x.q.shape[1]
    for b, begin, end in ((1, 0, n), (0, 0, 33), (0, 33, n), (0, n - 1, n), (1, 5, 6), (1, 7, 11)):
        part = rows(x, b, begin, end, int(lengths[b]) - (n - end))
        got, got_lse = decode(part, batch_invariant=True)
        assert torch.equal(got[0], out[b, begin:end]), (b, begin, end)
        assert torch.equal(got_lse[0], lse[b, :, begin:end]), (b, begin, end)


def test_schedule_of_another_call_is_not_used(kernels: torch.device) -> None:
    x = draw(SPLIT, kernels)
    want = decode(x, num_splits=1)
    for other in ({"num_splits": 7}, {"batch_invariant": True}):
        schedule = make_schedule(x, **other)  # type: ignore[arg-type]
        schedule = torch.cat((schedule, schedule.new_zeros(10000)))
        assert equal(decode(x, schedule=schedule), want)
    other = draw(vary(SPLIT, "other", heads_q=2, heads_kv=1), kernels)
    schedule = make_schedule(other)
    schedule = torch.cat((schedule, schedule.new_zeros(10000)))
    assert equal(decode(x, schedule=schedule), want)
    invariant = decode(x, batch_invariant=True)
    assert equal(decode(x, batch_invariant=True, schedule=schedule), invariant)


def launches(x: Inputs, folder: Path) -> list[dict[str, int]]:
    report = folder / "report.jsonl"
    with emulated(report=str(report)):
        decode(x)
    return [json.loads(line) for line in report.read_text().splitlines()]


if not torch.cuda.is_available():

    @pytest.mark.parametrize("headdim", [64, 128, 192, 256])
    @pytest.mark.parametrize("seqlen_q", [1, 32])
    @pytest.mark.parametrize("base", [BASE, FP8], ids=["16bit", "f8"])
    def test_keys_are_read_once_without_bank_conflicts(
        base: Case, seqlen_q: int, headdim: int, kernels: torch.device, tmp_path: Path
    ) -> None:
        """One tile of rows, however many, reads each visible key once, over all splits."""
        case = vary(base, "io", seqlen_q=seqlen_q, headdim=headdim, batch=2, seqlen_k=330)
        x = draw(vary(case, "rows", heads_q=4, heads_kv=2), kernels)
        assert x.problem.seqused_k is not None
        report = launches(x, tmp_path)[-1]
        keys = int(x.problem.seqused_k.sum())
        assert report["async_load_bytes"] == 2 * keys * 2 * headdim * x.k.element_size()
        assert report["shared_conflicts"] == 0

    MULTIPROCESSORS = [
        SPLIT,
        vary(SPLIT, "ragged", batch=7, layout_q="packed", seqlen_q=30, heads_q=6),
        vary(FP8, "f8", batch=5, seqlen_k=400),
        vary(SPLIT, "d256", headdim=256),
        vary(SPLIT, "d256-many", headdim=256, seqlen_q=20),
    ]

    @pytest.mark.parametrize("case", MULTIPROCESSORS, ids=str)
    @pytest.mark.parametrize("options", [{}, {"batch_invariant": True}], ids=["plain", "invariant"])
    @pytest.mark.few_multiprocessors
    def test_several_tiles_a_thread_block(
        case: Case, options: dict[str, bool], kernels: torch.device
    ) -> None:
        check(case, kernels, **options)

    @pytest.mark.parametrize("schedule", ["late", "random"])
    @pytest.mark.few_multiprocessors
    def test_any_order_of_thread_blocks(schedule: str, kernels: torch.device) -> None:
        """Some hold whole tiles and the beginning of one that the next of them reaches first."""
        x = draw(vary(SPLIT, "order", batch=5, seqlen_k=1300), kernels)
        x.k.nan_to_num_()  # of the tokens past the lengths that were drawn
        x.v.nan_to_num_()
        lengths = torch.tensor([394, 1300, 394, 1300, 394], dtype=torch.int32, device=x.q.device)
        x = replace(x, problem=replace(x.problem, seqused_k=lengths))
        want = decode(x, batch_invariant=True, num_splits=1)
        for seed in range(3):
            with emulated(schedule=schedule, seed=str(seed)):
                assert equal(decode(x, batch_invariant=True), want), seed

    @pytest.mark.parametrize("arch", ["sm_90a", "sm_86"])
    def test_few_multiprocessors(arch: str) -> None:
        """Thread blocks with many tiles, whole and shared, large and small; one process each."""
        command = [sys.executable, "-m", "pytest", "-q", "-m", "few_multiprocessors"]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", str(Path(__file__))],
            env={**os.environ, "LIMELIGHT_EMULATOR_SMS": "3", "LIMELIGHT_EMULATOR_ARCH": arch},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
