# SPDX-License-Identifier: BSD-3-Clause
"""What checks let through, what they leave untouched, and the environment's settings."""

from __future__ import annotations

from typing import Any

import limelight
import pytest
import torch
from checked_calls import HALF, cached, dense, ints
from limelight import runtime
from limelight.check_values import wanted


def test_a_refused_append_writes_nothing() -> None:
    cache = torch.zeros(3, 8, 4, 16, dtype=HALF)
    ones = torch.ones(2, 1, 4, 16, dtype=HALF)
    for wrong in ({"softcap": -1.0}, {"cache_seqlens": ints(3, 8)}, {"out": ones[..., :8]}):
        with pytest.raises(ValueError, match="allowed"):
            cached(k_cache=cache, v_cache=cache, k=ones, v=ones, **wrong)
    assert not cache.any()


def test_empty_batch_gives_the_empty_result() -> None:
    out, lse = limelight.flash_attn_func(dense()[:0], dense()[:0], dense()[:0], return_lse=True)
    assert out.shape == (0, 5, 4, 16)
    assert lse.shape == (0, 4, 5)
    empty = torch.zeros(0, 4, 16, dtype=HALF)
    out, lse = limelight.flash_attn_varlen_func(
        empty, empty, empty, ints(0), ints(0), 0, 0, return_lse=True
    )
    assert out.shape == (0, 4, 16)
    assert lse.shape == (4, 0)


def test_no_keys_give_zero_and_minus_infinity() -> None:
    q, none = torch.randn(2, 5, 4, 16), torch.randn(2, 0, 4, 16)
    out, lse = limelight.flash_attn_func(q, none, none, return_lse=True)
    assert not out.any()
    assert bool((lse == float("-inf")).all())


def test_contents_on_a_device_are_read_only_on_request() -> None:
    cuda = torch.device("cuda")
    assert wanted(torch.device("cpu"))
    assert not wanted(cuda)
    if torch.cuda.is_available():
        with runtime.override(check=True):
            assert wanted(cuda)


@pytest.mark.parametrize("name", ["LIMELIGHT_BACKEND", "LIMELIGHT_FALLBACK", "LIMELIGHT_CHECK"])
def test_bad_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "maybe")
    with pytest.raises(ValueError, match=f"{name} is 'maybe'; allowed: "):
        runtime.Settings.from_environment()


def test_servers_neutral_arguments_are_accepted() -> None:
    q = torch.randn(6, 4, 16)
    pages = torch.randn(6, 4, 2, 32)
    k, v = pages.split(16, -1)
    table = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)
    scale = torch.ones(1).expand(2, 2)
    common: dict[str, Any] = {"q_descale": scale, "k_descale": scale, "v_descale": scale}
    out = torch.empty_like(q)
    limelight.flash_attn_varlen_func(
        q=q,
        k=k,
        v=v,
        out=out,
        cu_seqlens_q=ints(0, 2, 6),
        max_seqlen_q=4,
        seqused_k=ints(5, 8),
        max_seqlen_k=100,
        softmax_scale=0.3,
        causal=True,
        alibi_slopes=None,
        window_size=[-1, -1],
        block_table=table,
        softcap=0.0,
        scheduler_metadata=ints(),
        fa_version=3,
        dynamic_causal=None,
        num_splits=0,
        s_aux=torch.zeros(4, dtype=HALF),
        mask_mod=None,
        aux_tensors=None,
        **common,
    )
    again = limelight.flash_attn_with_kvcache(
        q=q,
        k_cache=k,
        v_cache=v,
        page_table=table,
        cache_seqlens=ints(5, 8),
        cu_seqlens_q=ints(0, 2, 6),
        cu_seqlens_k_new=ints(0, 5, 13),
        max_seqlen_q=4,
        softmax_scale=0.3,
        causal=True,
        window_size=(-1, -1),
        attention_chunk=None,
        softcap=0.0,
        scheduler_metadata=None,
        num_splits=0,
        pack_gqa=None,
        sm_margin=0,
        sinks=torch.zeros(4),
        score_mod=None,
        aux_tensors=None,
        ver=3,
        **common,
    )
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out, again)
