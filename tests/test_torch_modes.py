# SPDX-License-Identifier: BSD-3-Clause
"""Calls where torch is in another state: autocast, fake tensors, another default dtype, dynamic
shapes."""

from __future__ import annotations

import limelight
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

FP8 = torch.float8_e4m3fn


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_autocast_casts_what_goes_with_a_cache(where: torch.device) -> None:
    q, new = torch.randn(2, 1, 4, 16, device=where), torch.randn(2, 1, 2, 16, device=where)
    caches = [torch.zeros(2, 8, 2, 16, dtype=torch.bfloat16, device=where) for _ in range(4)]
    lengths = ints(0, 3).to(where)
    want = limelight.flash_attn_with_kvcache(
        q.bfloat16(), *caches[:2], new.bfloat16(), new.bfloat16(), cache_seqlens=lengths
    )
    with torch.autocast(where.type, torch.bfloat16):
        out = limelight.flash_attn_with_kvcache(q, *caches[2:], new, new, cache_seqlens=lengths)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, want)
    assert torch.equal(caches[0], caches[2])


def test_fake_tensors_in_an_eager_call() -> None:
    with FakeTensorMode():
        cache = torch.empty(2, 8, 2, 16, dtype=torch.float16)
        q, new = cache.new_empty(2, 1, 4, 16), cache.new_empty(2, 1, 2, 16)
        table = torch.empty(8, 8)
        lengths = torch.empty(2, dtype=torch.int32)
        step = {"cache_seqlens": lengths, "rotary_cos": table, "rotary_sin": table}
        out = limelight.flash_attn_with_kvcache(q, cache, cache.clone(), new, new, **step)
        assert out.shape == q.shape
        packed, starts = q[:, 0], torch.empty(3, dtype=torch.int32)
        out = limelight.flash_attn_varlen_func(packed, packed, packed, starts, starts, 1, 1)
        assert out.shape == packed.shape


def test_another_default_dtype(where: torch.device) -> None:
    new = torch.ones(3, 2, 16, dtype=torch.float16, device=where)
    caches = [torch.zeros(2, 4, 2, 16, device=where).to(FP8) for _ in range(4)]
    slots = torch.tensor([1, 7, 0], device=where)
    limelight.append_kv(new, new, *caches[:2], slots, "fp8", 0.5, 2.0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        limelight.append_kv(new, new, *caches[2:], slots, "fp8", 0.5, 2.0)
    finally:
        torch.set_default_dtype(before)
    for a, b in zip(caches[:2], caches[2:], strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("quantization", ["fp8", "fp8_block", "int4", "int4_g64_zero"])
def test_a_quantised_layer_with_every_extent_dynamic(quantization: str) -> None:
    layer = limelight.FlatLinear(128, 64, quantization=quantization, dtype=torch.float16)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 7):
        x = torch.randn(rows, 128).half()
        torch.testing.assert_close(compiled(x), layer(x))
