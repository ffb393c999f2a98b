# SPDX-License-Identifier: BSD-3-Clause
"""qv over latent caches as servers hold them: one row for k and v, read in place by the kernel."""

from __future__ import annotations

import limelight
import pytest
import torch
from kvcache_tools import draw, ints, turn
from limelight import absorbed, execute, runtime
from limelight.problem import AttentionProblem
from test_qv import by_definition, causal
from torch import Tensor

ROPE, LATENT, HEADS = 64, 512, 16
HALF = torch.bfloat16
# bfloat16: P and out are rounded, 2**-9 of values up to 4 each; logits are sums in fp32.
COARSE: dict[str, float] = {"rtol": 2.0**-7, "atol": 2.0**-7}


def cache_views(
    pages: int, page_size: int, where: torch.device, how: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, k, v): the views of one cache row that vLLM (unsqueeze) and SGLang (view) make."""
    rows = torch.full((pages * page_size, 1, LATENT + ROPE), float("nan"), dtype=HALF).to(where)
    if how == "vllm":
        both = rows.view(pages, page_size, LATENT + ROPE)
        k, v = both[..., LATENT:].unsqueeze(-2), both[..., :LATENT].unsqueeze(-2)
    else:
        k = rows[:, :, LATENT:].view(pages, page_size, 1, ROPE)
        v = rows[:, :, :LATENT].view(pages, page_size, 1, LATENT)
    return rows, k, v


@pytest.mark.parametrize("how", ["vllm", "sglang"])
def test_views_of_a_latent_cache(how: str, where: torch.device) -> None:
    """The kernel reads the rows in place: no cache is copied, and no call falls back."""
    rows, k, v = cache_views(7, 16, where, how)
    table, used = ints(3, 0, 5, 6).view(2, 2).to(where), ints(19, 32).to(where)
    cu_seqlens_q = ints(0, 1, 4).to(where)
    for b, n in enumerate(used.tolist()):
        for t in range(n):
            at = int(table[b, t // 16]) * 16 + t % 16
            rows[at] = draw(1, LATENT + ROPE, seed=100 * b + t).to(HALF)
    both = draw(4, HEADS, LATENT + ROPE).to(HALF).to(where)
    qv, q = both.split((LATENT, ROPE), -1)
    whole = absorbed.whole_rows(k, v)
    assert whole is not None
    assert whole.data_ptr() == rows.data_ptr()
    scale = 192**-0.5
    if how == "vllm":
        out, lse = limelight.flash_attn_varlen_func(
            q=q,
            k=k,
            v=v,
            q_v=qv,
            max_seqlen_q=3,
            cu_seqlens_q=cu_seqlens_q,
            max_seqlen_k=32,
            seqused_k=used,
            block_table=table,
            softmax_scale=scale,
            causal=True,
            return_softmax_lse=True,
            fa_version=3,
            num_splits=0,
            cp_world_size=1,
            cp_rank=0,
            cp_tot_seqused_k=None,
        )
    else:
        out, lse = limelight.flash_attn_with_kvcache(
            q=q,
            k_cache=k,
            v_cache=v,
            qv=qv,
            page_table=table,
            cache_seqlens=used,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k_new=ints(0, 19, 51).to(where),  # SGLang passes it without k: no effect
            max_seqlen_q=3,
            softmax_scale=scale,
            causal=True,
            softcap=0.0,
            k_descale=None,
            v_descale=None,
            return_softmax_lse=True,
        )
    for b, (first, last) in enumerate(((0, 1), (1, 4))):
        n = int(used[b])
        keys, values = (x[table[b].long()].flatten(0, 1)[:n].cpu() for x in (k, v))
        rows_q = (x[first:last].cpu() for x in (q, qv))
        want, want_lse = by_definition(*rows_q, keys, values, scale, causal(last - first, n))
        torch.testing.assert_close(out[first:last].double().cpu(), want, **COARSE)
        torch.testing.assert_close(lse[:, first:last].double().cpu(), want_lse, **COARSE)


def test_append_and_rotary(where: torch.device) -> None:
    """New tokens go through the views into the rows; q turns, qv does not."""
    rows, k, v = cache_views(3, 16, where, "vllm")
    rows[:20] = draw(20, 1, LATENT + ROPE).to(HALF)
    table, n = ints(0, 1)[None].to(where), 20
    q, qv = draw(1, 2, HEADS, ROPE).to(HALF), draw(1, 2, HEADS, LATENT, seed=1).to(HALF)
    new_k, new_v = draw(1, 2, 1, ROPE, seed=2).to(HALF), draw(1, 2, 1, LATENT, seed=3).to(HALF)
    angles = draw(40, ROPE // 2)
    tables = (angles.cos().to(HALF), angles.sin().to(HALF))
    out = limelight.flash_attn_with_kvcache(
        *(x.to(where) for x in (q,)),
        k,
        v,
        *(x.to(where) for x in (new_k, new_v, *tables)),
        cache_seqlens=ints(n).to(where),
        block_table=table,
        causal=True,
        qv=qv.to(where),
    )
    turned = turn(q[0], [n, n + 1], *tables, True).to(HALF)
    assert torch.equal(rows[n : n + 2, :, :LATENT].cpu(), new_v[0])
    own = turn(new_k[0], [n, n + 1], *tables, True)
    stored = rows[n : n + 2, :, LATENT:].cpu()
    torch.testing.assert_close(stored.double(), own, rtol=2.0**-8, atol=1e-6)
    keys, values = rows[: n + 2, :, LATENT:].cpu(), rows[: n + 2, :, :LATENT].cpu()
    scale = (LATENT + ROPE) ** -0.5
    want = by_definition(turned, qv[0], keys, values, scale, causal(2, n + 2))[0]
    torch.testing.assert_close(out[0].double().cpu(), want, **COARSE)


def test_kernels_run_what_is_joined(kernels: torch.device) -> None:
    """Keys apart: copied where they are the call's own, refused where they are a cache."""
    q, qv = draw(1, 2, HEADS, ROPE).to(HALF), draw(1, 2, HEADS, LATENT, seed=1).to(HALF)
    k, v = draw(1, 70, 1, ROPE, seed=2).to(HALF), draw(1, 70, 1, LATENT, seed=3).to(HALF)
    q, qv, k, v = (x.to(kernels) for x in (q, qv, k, v))
    want = by_definition(*(x[0].cpu() for x in (q, qv, k, v)), 576**-0.5)[0]
    out = limelight.flash_attn_func(q, k, v, qv=qv)
    torch.testing.assert_close(out[0].double().cpu(), want, **COARSE)
    plan = execute.validate(*absorbed.joined(q, k, v, _problem(qv, 70)))
    assert plan.kernel is not None
    assert plan.kernel.name == "sm80_decode_mla"
    used = ints(70).to(kernels)
    with pytest.raises(RuntimeError, match="qv with keys and values apart; nearest: k and v as"):
        limelight.flash_attn_with_kvcache(q, k, v, cache_seqlens=used, qv=qv)
    with runtime.override(fallback="silent"):
        out = limelight.flash_attn_with_kvcache(q, k, v, cache_seqlens=used, qv=qv)
    torch.testing.assert_close(out[0].double().cpu(), want, **COARSE)
    # 24 + 40 columns fit a tile of the other kernels, forward and backward.
    thin = [x.detach()[..., :n].requires_grad_() for x, n in ((q, 24), (k, 24), (v, 40), (qv, 40))]
    out = limelight.flash_attn_func(*thin[:3], qv=thin[3])
    grads = torch.autograd.grad(out.float().square().sum(), thin)
    assert all(torch.isfinite(g).all() for g in grads)


def _problem(qv: Tensor, seqlen_k: int) -> AttentionProblem:
    extents = {"max_seqlen_q": qv.shape[1], "max_seqlen_k": seqlen_k}
    return AttentionProblem(softmax_scale=1.0, qv=qv, **extents)


def test_metadata_of_servers(kernels: torch.device) -> None:
    """vLLM asks with the head dimensions of q and v; the schedule serves the joined call."""
    rows, k, v = cache_views(6, 64, kernels, "vllm")
    rows[:] = draw(*rows.shape).to(HALF)
    table, used = ints(0, 1, 2, 3, 4, 5).view(2, 3).to(kernels), ints(150, 64).to(kernels)
    q, qv = draw(2, 1, HEADS, ROPE).to(HALF), draw(2, 1, HEADS, LATENT, seed=1).to(HALF)
    metadata = limelight.get_scheduler_metadata(
        batch_size=2,
        max_seqlen_q=1,
        max_seqlen_k=192,
        num_heads_q=HEADS,
        num_heads_kv=1,
        headdim=ROPE,
        cache_seqlens=used,
        qkv_dtype=HALF,
        headdim_v=LATENT,
        page_size=64,
        causal=True,
    )
    assert metadata.numel() > 0
    pair = [
        limelight.flash_attn_with_kvcache(
            q.to(kernels),
            k,
            v,
            cache_seqlens=used,
            block_table=table,
            causal=True,
            qv=qv.to(kernels),
            scheduler_metadata=plan,
        )
        for plan in (metadata, None)
    ]
    assert torch.equal(*pair)


def test_explain() -> None:
    described = {"headdim": ROPE, "headdim_v": LATENT, "qv": True, "paged": True, "seqused": True}
    told = limelight.explain(**described, shared_kv=True, device="sm_90")
    assert told.backend == "sm80_decode_mla"
    assert told.query.headdim == ROPE + LATENT
    told = limelight.explain(**described, device="sm_90")
    assert told.backend == "torch"
    assert "qv with keys and values apart" in str(told)
    _, k, v = cache_views(2, 16, torch.device("cpu"), "sglang")
    q, qv, table = draw(1, 1, HEADS, ROPE).to(HALF), draw(1, 1, HEADS, LATENT).to(HALF), ints(1, 0)
    of_call = {"qv": qv, "block_table": table[None], "cache_seqlens": ints(20), "device": "sm_80"}
    assert limelight.explain(q, k, v, **of_call).backend == "sm80_decode_mla"
    assert limelight.explain(q, k.contiguous(), v, **of_call).backend == "torch"
