# SPDX-License-Identifier: BSD-3-Clause
"""Random whole calls of flash_attn_with_kvcache: the kernels against the torch path."""

from __future__ import annotations

from typing import Any

import limelight
import torch
from case_tensors import random_trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limelight import runtime
from torch import Tensor

FP8 = torch.float8_e4m3fn


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Extents and features of a call; tensors follow from them and the seed."""
    heads_kv = draw(st.sampled_from([1, 2, 3]))
    call = {
        "batch": draw(st.integers(1, 4)),
        "heads": (heads_kv * draw(st.sampled_from([1, 2, 5, 8])), heads_kv),
        "headdim": draw(st.sampled_from([8, 24, 64, 80, 128, 200])),
        "headdim_v": draw(st.sampled_from([None, 16, 64])),
        "tokens": draw(st.integers(1, 17)),
        "longest": draw(st.sampled_from([0, 3, 70, 300])),
        "page_size": draw(st.sampled_from([None, 1, 7, 16, 64])),
        "dtype": draw(st.sampled_from([torch.float16, torch.bfloat16])),
        "fp8": draw(st.booleans()),
        "appends": draw(st.booleans()),
        "mask": draw(st.sampled_from(["full", "causal", "window", "tree"])),
        "leftpad": draw(st.booleans()),
        "softcap": draw(st.sampled_from([0.0, 20.0])),
        "sink": draw(st.booleans()),
        "alibi": draw(st.booleans()),
        "num_splits": draw(st.sampled_from([0, 1, 4])),
        "batch_invariant": draw(st.booleans()),
        "unified_max": draw(st.sampled_from([None, 3.0, 60.0])),
        "seed": draw(st.integers(0, 1000)),
    }
    call["rotary"] = draw(st.sampled_from([0, 4, 8])) if call["appends"] else 0
    call["interleaved"] = draw(st.booleans())
    return call


def tensors(call: dict[str, Any], device: torch.device) -> tuple[list[Tensor], dict[str, Any]]:
    """q, the caches, k and v; keyword arguments."""
    generator = torch.Generator().manual_seed(call["seed"])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch, tokens, dtype = call["batch"], call["tokens"], call["dtype"]
    (heads, heads_kv), dim = call["heads"], call["headdim"]
    dims = (dim, call["headdim_v"] or dim)
    lengths = torch.randint(
        0, call["longest"] + 1, (batch,), generator=generator, dtype=torch.int32
    )
    arguments: dict[str, Any] = {"cache_seqlens": lengths, "softcap": call["softcap"]}
    rows, size = batch, call["longest"] + tokens
    if call["page_size"]:
        pages, size = -(-size // call["page_size"]), call["page_size"]
        rows = batch * pages + 2
        order = torch.randperm(rows, generator=generator)[:-2]
        arguments["block_table"] = order.view(batch, pages).int()
    cache_dtype = FP8 if call["fp8"] else dtype
    caches = [normal(rows, size, heads_kv, d).to(cache_dtype) for d in dims]
    q = normal(batch, tokens, heads, dim).to(dtype)
    new = [normal(batch, tokens, heads_kv, d).to(dtype) for d in dims] if call["appends"] else []
    if not call["appends"]:
        lengths += tokens  # the new tokens are in the cache already
    if call["fp8"]:
        for name in ("k_descale", "v_descale"):
            arguments[name] = 0.5 + torch.rand(batch, heads_kv, generator=generator)
    if call["rotary"]:
        angles = normal(call["longest"] + tokens + 64, call["rotary"] // 2)
        arguments |= {"rotary_cos": angles.cos(), "rotary_sin": angles.sin()}
        arguments["rotary_interleaved"] = call["interleaved"]
    if call["leftpad"]:
        arguments["cache_leftpad"] = (lengths // 3).int()
    if call["mask"] == "tree":
        arguments["tree_mask"] = random_trees(batch, tokens, generator)
    arguments["causal"] = call["mask"] == "causal"
    arguments["window_size"] = (9, 2) if call["mask"] == "window" else (-1, -1)
    arguments["sink"] = normal(heads) if call["sink"] else None
    arguments["alibi_slopes"] = torch.rand(heads, generator=generator) if call["alibi"] else None
    for name in ("num_splits", "batch_invariant", "unified_max"):
        arguments[name] = call[name]
    placed = {n: x.to(device) if isinstance(x, Tensor) else x for n, x in arguments.items()}
    return [x.to(device) for x in (q, *caches, *new)], placed


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(call=calls())
def test_random_calls(call: dict[str, Any], kernels: torch.device) -> None:
    found = []
    for backend in (runtime.settings.backend, "torch"):
        inputs, arguments = tensors(call, kernels)
        with runtime.override(backend=backend):
            out, lse = limelight.flash_attn_with_kvcache(*inputs, return_lse=True, **arguments)
        found.append((out.float(), lse, inputs[1], inputs[2]))
    (out, lse, *caches), (want, want_lse, *want_caches) = found
    for a, b in zip(caches, want_caches, strict=True):
        width = torch.uint8 if call["fp8"] else torch.int16
        assert torch.equal(a.view(width), b.view(width))
    # P is rounded to q's dtype and both results are: three roundings of values below max |V|.
    largest = 1.5 * float(want_caches[1].float().nan_to_num().abs().max())
    unit = 2.0**-8 if call["dtype"] == torch.bfloat16 else 2.0**-11
    assert float((out - want).abs().max()) <= 3 * unit * largest + 1e-5
    dead = want_lse == float("-inf")
    assert torch.equal(lse == float("-inf"), dead)
    # Softcap's tanh is the hardware's, 2**-11 of the cap; the rest is fp32 sums.
    slack = 1e-4 + 2.0**-10 * call["softcap"]
    assert float((lse - want_lse).masked_fill(dead, 0).abs().max()) <= slack
