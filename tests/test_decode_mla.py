# SPDX-License-Identifier: BSD-3-Clause
"""The MLA decode kernel, on a GPU or on the emulator, against the float64 definition.

V is a view of K's rows; rows of the cache that no query may read are NaN.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import limelight
import pytest
import torch
from cases import Case, Inputs, vary
from decode_calls import decode, make_schedule
from limelight import runtime
from test_decode_contracts import emulated, equal, launches
from test_decode_kernel import draw
from tolerance import assert_forward
from torch import Tensor

BASE = Case(
    "mla",
    seqlen_q=1,
    seqlen_k=200,
    heads_q=16,
    heads_kv=1,
    headdim=576,
    headdim_v=512,
    layout_k="paged",
    page_size=64,
    seqused_k=True,
    causal=True,
    scale=192**-0.5,
)


def share(x: Inputs, headdim_v: int = 512) -> Inputs:
    return replace(x, v=x.k[..., :headdim_v])


def check(case: Case, device: torch.device, **options: object) -> None:
    x = share(draw(case, device), case.headdim_v or case.headdim)
    out, lse = decode(x, **options)  # type: ignore[arg-type]
    assert_forward(x, out, lse)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("seqlen_q", [1, 2, 5])
@pytest.mark.parametrize("heads_q", [16, 128])
def test_tokens_and_heads(heads_q: int, seqlen_q: int, dtype: str, kernels: torch.device) -> None:
    case = vary(BASE, "heads", heads_q=heads_q, seqlen_q=seqlen_q, dtype=dtype, seqlen_k=130)
    check(case, kernels)


@pytest.mark.parametrize(
    "case",
    [
        vary(BASE, "page1", page_size=1, seqlen_k=70),
        vary(BASE, "empty", batch=3, seqlen_q=3),
        vary(BASE, "one_key", seqlen_k=1),
        vary(BASE, "page_edges", seqlen_k=128, seqused_k=False),
        vary(BASE, "dense", layout_k="dense", strides="sliced", seqlen_k=129),
        vary(BASE, "ragged", batch=3, layout_q="packed", layout_k="packed", seqlen_q=4, heads_q=20),
        vary(BASE, "rows", layout_k="rows", leftpad=True, seqlen_q=2),
        vary(BASE, "window", window=(40, -1), seqlen_q=5),
        vary(BASE, "scores", softcap=20.0, alibi="heads", sink=True, seqlen_q=5),
        vary(BASE, "tree", tree=True, causal=False, seqlen_q=6),
        vary(BASE, "narrow", headdim=320, headdim_v=256, seqlen_q=2),
        vary(BASE, "two_kv_heads", heads_q=8, heads_kv=2, seqlen_q=5),
        vary(BASE, "seqused_q", seqused_q=True, layout_q="packed", seqlen_q=6),
    ],
    ids=str,
)
def test_layouts_and_masks(case: Case, kernels: torch.device) -> None:
    check(case, kernels)


@pytest.mark.every_arch
@pytest.mark.parametrize("heads_q", [16, 40])
@pytest.mark.parametrize("num_splits", [1, 3])
def test_splits(heads_q: int, num_splits: int, kernels: torch.device) -> None:
    check(vary(BASE, "splits", seqlen_k=500, heads_q=heads_q), kernels, num_splits=num_splits)


def test_unified_max_changes_nothing(kernels: torch.device) -> None:
    x = share(draw(vary(BASE, "unified", seqlen_q=2), kernels))
    assert equal(decode(x, unified_max=3.0), decode(x))


def test_schedule_made_ahead(kernels: torch.device) -> None:
    x = share(draw(vary(BASE, "schedule", batch=4, seqlen_k=300, seqlen_q=3), kernels))
    schedule = make_schedule(x)
    want = decode(x)
    for _ in range(2):
        out, lse = decode(x, schedule=schedule)
        assert torch.equal(out, want[0])
        assert torch.equal(lse, want[1])


def test_batch_invariant_tokens_have_equal_bits(kernels: torch.device) -> None:
    """A token alone and among others of its sequence."""
    case = vary(BASE, "together", batch=1, seqlen_q=5, seqlen_k=140, seqused_k=False)
    together = share(draw(case, kernels))
    out, lse = decode(together, batch_invariant=True)
    assert_forward(together, out, lse)
    last = replace(together, q=together.q[:, -1:])
    last = replace(last, problem=replace(last.problem, max_seqlen_q=1))
    one, one_lse = decode(last, batch_invariant=True)
    assert torch.equal(one, out[:, -1:])
    assert torch.equal(one_lse, lse[..., -1:])


def test_values_of_their_own_are_refused(kernels: torch.device) -> None:
    x = draw(BASE, kernels)
    with pytest.raises(RuntimeError, match=r"v must be the first headdim_v columns of k"):
        decode(x)
    with pytest.raises(RuntimeError, match=r"headdim_v is 520, allowed: .* up to 512"):
        decode(share(x, 520))


@pytest.mark.parametrize("schedule", ["early", "late", "random"])
@pytest.mark.parametrize("heads_q", [16, 40])
def test_equal_bits_from_run_to_run(heads_q: int, schedule: str, kernels: torch.device) -> None:
    x = share(draw(vary(BASE, "runs", batch=3, heads_q=heads_q, seqlen_k=300), kernels))
    want = decode(x)
    for seed in range(3 if schedule == "random" else 1):
        with emulated(schedule=schedule, seed=str(seed)):
            assert equal(decode(x), want), seed


@pytest.mark.every_arch
@pytest.mark.parametrize("options", [{}, {"batch_invariant": True}], ids=["plain", "invariant"])
def test_several_tiles_a_thread_block(options: dict[str, bool], kernels: torch.device) -> None:
    case = vary(BASE, "tiles", batch=5, layout_q="packed", seqlen_q=6, heads_q=20, seqlen_k=260)
    check(case, kernels, **options)


def test_public_call(kernels: torch.device) -> None:
    """The cache as servers hold it: one tensor, v a view of it."""
    x = share(draw(vary(BASE, "call", seqlen_q=2), kernels))
    p = x.problem
    options = {"causal": True, "softmax_scale": p.softmax_scale, "block_table": p.block_table}

    def call(v_cache: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = limelight.flash_attn_with_kvcache(
            x.q, x.k, v_cache, cache_seqlens=p.seqused_k, return_softmax_lse=True, **options
        )
        return result

    out, lse = call(x.v)
    assert_forward(x, out, lse)
    told = limelight.explain(x.q, x.k, x.v, device=(9, 0), paged=True, seqused=True, causal=True)
    assert told.backend == "sm80_decode_mla"
    with pytest.raises(RuntimeError, match=r"sm80_decode_mla: v does not lie in k's rows"):
        call(x.v.contiguous())
    with runtime.override(fallback="silent"):
        assert_forward(x, *call(x.v.contiguous()))


def test_public_varlen_and_dense_calls(kernels: torch.device) -> None:
    case = vary(BASE, "prefill", seqused_k=False, seqlen_q=5, heads_q=20)
    x = share(draw(vary(case, "dense", layout_k="dense"), kernels))
    p = x.problem
    options = {"causal": True, "softmax_scale": p.softmax_scale}
    assert_forward(x, *limelight.flash_attn_func(x.q, x.k, x.v, return_lse=True, **options))
    x = share(draw(vary(case, "packed", layout_q="packed", layout_k="packed", batch=3), kernels))
    p = x.problem
    extents = (p.cu_seqlens_q, p.cu_seqlens_k, p.max_seqlen_q, p.max_seqlen_k)
    result = limelight.flash_attn_varlen_func(
        x.q, x.k, x.v, *extents, return_attn_probs=True, **options
    )
    assert_forward(x, *result[:2])


def test_scheduler_metadata(kernels: torch.device) -> None:
    x = share(draw(vary(BASE, "metadata", batch=3, heads_q=40, seqlen_k=300), kernels))
    p = x.problem
    assert p.block_table is not None
    metadata = limelight.get_scheduler_metadata(
        batch_size=3,
        max_seqlen_q=1,
        max_seqlen_k=p.block_table.shape[1] * BASE.page_size,
        num_heads_q=40,
        num_heads_kv=1,
        headdim=576,
        headdim_v=512,
        cache_seqlens=p.seqused_k,
        causal=True,
    )
    assert metadata.numel() > 0
    result = [
        limelight.flash_attn_with_kvcache(
            x.q,
            x.k,
            x.v,
            cache_seqlens=p.seqused_k,
            block_table=p.block_table,
            softmax_scale=p.softmax_scale,
            causal=True,
            return_softmax_lse=True,
            scheduler_metadata=given,
        )
        for given in (metadata, None)
    ]
    assert equal(*result)
    assert_forward(x, *result[0])


if not torch.cuda.is_available():

    @pytest.mark.parametrize("seqlen_q", [1, 2])
    def test_a_key_is_read_once_for_both_gemms(
        seqlen_q: int, kernels: torch.device, tmp_path: Path
    ) -> None:
        x = share(draw(vary(BASE, "io", seqlen_q=seqlen_q, seqlen_k=330), kernels))
        assert x.problem.seqused_k is not None
        report = launches(x, tmp_path)[-1]
        keys = int(x.problem.seqused_k.sum())
        assert report["async_load_bytes"] == keys * 576 * x.k.element_size()

    def test_small_tiles_and_few_multiprocessors() -> None:
        """One process emulates one device."""
        command = [sys.executable, "-m", "pytest", "-q", "-m", "every_arch"]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", str(Path(__file__))],
            env={**os.environ, "LIMELIGHT_EMULATOR_ARCH": "sm_86", "LIMELIGHT_EMULATOR_SMS": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
