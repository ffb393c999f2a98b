# SPDX-License-Identifier: BSD-3-Clause
"""Every argument of flash-attn 3 and 4, vLLM, SGLang and transformers is served or refused by name.

Nothing is ignored: what asks for nothing changes no bit, everything else raises.
"""

from __future__ import annotations

from typing import Any

import limelight
import pytest
import torch
from foreign_signatures import PACKAGES
from kvcache_tools import draw, ints
from limelight.arguments import FOREIGN
from torch import Tensor

Q, K, V = draw(1, 5, 4, 8), draw(1, 9, 2, 8, seed=1), draw(1, 9, 2, 8, seed=2)
LENGTHS = {
    "cu_seqlens_q": ints(0, 5),
    "cu_seqlens_k": ints(0, 9),
    "max_seqlen_q": 5,
    "max_seqlen_k": 9,
}
PARTS, LSES = draw(3, 1, 5, 4, 8), draw(3, 1, 5, 4, seed=1)
CALLS = [(package, name) for package, functions in PACKAGES.items() for name in functions]


def call(name: str, **options: Any) -> Any:
    """The function on fixed tensors."""
    function = getattr(limelight, name)
    if name == "flash_attn_varlen_func":
        return function(Q[0], K[0], V[0], **LENGTHS, **options)
    if name == "flash_attn_qkvpacked_func":
        return function(torch.stack((K, V, K), 2), **options)
    if name == "flash_attn_combine":
        return function(PARTS, LSES, **options)[0]
    return function(Q, K, V, **options)


@pytest.mark.parametrize(("package", "name"), CALLS, ids=lambda x: x.replace(" ", "-"))
def test_every_argument_is_known(package: str, name: str) -> None:
    """One by one and all together at their defaults: the bits of a plain call."""
    arguments = PACKAGES[package][name]
    plain = call(name, causal=arguments["causal"]) if "causal" in arguments else call(name)
    assert torch.equal(call(name, **arguments), plain)
    for argument, default in arguments.items():
        call(name, **{argument: default})


# What asks for something else than an argument does here: a value for each.
ASKING: dict[str, Any] = {
    "aux_scalars": (1,),
    "aux_tensors": [torch.zeros(1)],
    "aux_tensor_leading_dims": (1,),
    "block_sparse_tensors": (torch.zeros(1),),
    "block_sparse_tensors_bwd": (torch.zeros(1),),
    "cp_rank": 1,
    "cp_tot_seqused_k": ints(9),
    "cp_world_size": 2,
    "dynamic_causal": ints(1),
    "gather_kv_indices": ints(1),
    "gather_kv_valid_length": ints(1),
    "mask_mod": max,
    "min_seqlen_k": 3,
    "output_scale": torch.ones(1),
    "score_mod": max,
    "score_mod_bwd": max,
    "seqlen_k_per_split": 128,
    "sm_margin": 4,
    "virtual_batch_idx": ints(0),
}


@pytest.mark.parametrize("name", sorted(ASKING))
def test_what_is_not_computed_is_refused(name: str) -> None:
    functions = ["flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"]
    functions += ["flash_attn_qkvpacked_func", "flash_attn_combine"]
    for function in functions:
        with pytest.raises(TypeError, match=rf"\(\): {name} is .*; allowed: .*Nearest"):
            call(function, **{name: ASKING[name]})
    with pytest.raises(TypeError, match=rf"explain\(\): {name} is"):
        limelight.explain(**{name: ASKING[name]})


def test_all_of_them_are_tried() -> None:
    hints = {"pack_gqa", "disable_scheduler_metadata"}  # any value: no result depends on them
    assert set(ASKING) | hints == set(FOREIGN)


def test_an_unknown_argument() -> None:
    for name in ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_combine"):
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            call(name, colour="red")


def test_the_order_of_flash_attn_3_and_4_is_noticed() -> None:
    """FA3 has softmax_scale and causal behind v, FA4 qv and gather_kv_indices."""
    with pytest.raises(TypeError, match=r"softmax_scale is True; .*their order is flash-attn 2's"):
        limelight.flash_attn_func(Q, K, V, 0.3, True)
    with pytest.raises(TypeError, match=r"dropout_p is a .* tensor .*by name"):
        limelight.flash_attn_func(Q, K, V, Q)
    with pytest.raises(TypeError, match=r"max_seqlen_q is a .* tensor"):
        limelight.flash_attn_varlen_func(Q[0], K[0], V[0], Q[0], ints(0, 5), ints(0, 9), 5, 9)
    with pytest.raises(TypeError, match=r"max_seqlen_k is a .* tensor"):  # vLLM's order
        limelight.flash_attn_varlen_func(Q[0], K[0], V[0], 5, ints(0, 5), 9, ints(0, 9))


def test_heads_of_flash_attn_3s_packed_tensors(where: torch.device) -> None:
    """(batch, seqlen, heads_q + 2 heads_kv, headdim) with num_heads_q; gradients in one tensor."""
    q, k, v = (x.bfloat16() for x in (draw(2, 9, 4, 32), *draw(2, 2, 9, 2, 32, seed=1)))
    qkv = torch.cat((q, k, v), 2).to(where).requires_grad_()
    out = limelight.flash_attn_qkvpacked_func(qkv, causal=True, num_heads_q=4)
    leaves = [x.to(where).requires_grad_() for x in (q, k, v)]
    want = limelight.flash_attn_func(*leaves, causal=True)
    assert torch.equal(out, want)
    seed = torch.ones_like(out)
    found = torch.autograd.grad(out, qkv, seed)[0]
    assert torch.equal(found, torch.cat(torch.autograd.grad(want, leaves, seed), 2))
    for heads, given in ((3, qkv), (8, qkv), (4, qkv[0])):
        with pytest.raises(ValueError, match=rf"qkv.shape is .* with num_heads_q {heads}"):
            limelight.flash_attn_qkvpacked_func(given, num_heads_q=heads)


def test_lengths_of_packed_partial_results() -> None:
    """FA4's cu_seqlens and seqused tell a kernel where rows are; each row is joined alone."""
    parts, lses = PARTS.flatten(1, 2), LSES.flatten(1, 2)
    want = limelight.flash_attn_combine(parts, lses)[0]
    found = limelight.flash_attn_combine(parts, lses, cu_seqlens=ints(0, 3, 5), seqused=ints(3, 2))
    assert torch.equal(found[0], want)
    with pytest.raises(TypeError, match=r"cu_seqlens\.dtype"):
        limelight.flash_attn_combine(parts, lses, cu_seqlens=ints(0, 5).long())


def test_metadata_that_is_no_tensor() -> None:
    """FA4's is a tuple of tensors."""
    for name in ("flash_attn_varlen_func", "flash_attn_with_kvcache"):
        with pytest.raises(TypeError, match="scheduler_metadata is a tuple; allowed: a torch"):
            call(name, scheduler_metadata=(ints(1),))


def test_hints_of_any_value() -> None:
    plain: Tensor = call("flash_attn_func")
    for value in (True, False, None):
        assert torch.equal(call("flash_attn_func", pack_gqa=value), plain)
        assert torch.equal(call("flash_attn_func", disable_scheduler_metadata=value), plain)


def test_explain_takes_the_arguments_of_calls() -> None:
    """It is asked with what a server passes, hints and neutral values included."""
    for functions in PACKAGES.values():
        for name, arguments in functions.items():
            given = {n: x for n, x in arguments.items() if n not in ("k", "v", "out_dtype")}
            if name in ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"):
                assert limelight.explain(Q, K, V, **given).backend == "torch"
