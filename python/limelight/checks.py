# SPDX-License-Identifier: BSD-3-Clause
"""Validation of an attention call; ``limelight.messages`` has the form of the messages.

``check_shapes`` reads metadata only, so it also serves meta tensors and tracing; ``check_values``
reads lengths and tables (on the CPU always, on a GPU only with LIMELIGHT_CHECK=1, because it
synchronises).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limelight.absorbed import check_qv
from limelight.messages import as_text, bad, check_index, check_last_stride, check_tensor

if TYPE_CHECKING:
    from limelight.problem import AttentionProblem

MAX_HEADDIM = {"q": 576, "k": 576, "v": 512}
MAX_SPLITS = 256
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn)
_INDEX_FIELDS = (
    "cu_seqlens_q",
    "cu_seqlens_k",
    "seqused_q",
    "seqused_k",
    "leftpad_k",
    "cache_batch_idx",
    "block_table",
)
_TENSOR_FIELDS = (
    *_INDEX_FIELDS,
    "alibi_slopes",
    "sink",
    "bias",
    "q_descale",
    "k_descale",
    "v_descale",
    "rng_state",
    "tree_mask",
    "schedule",
)


def _check_dtypes(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dtype not in DTYPES:
            raise bad(
                f"{name}.dtype",
                x.dtype,
                "float16, bfloat16, float32, float64 or float8_e4m3fn",
                f"{name}.to(torch.bfloat16)",
                TypeError,
            )
    if v.dtype != k.dtype:
        raise bad("v.dtype", v.dtype, f"{k.dtype}, as k has", f"v.to({k.dtype})", TypeError)
    if k.dtype != q.dtype and not (k.element_size() == 1 and q.element_size() == 2):
        raise bad(
            "k.dtype",
            k.dtype,
            f"{q.dtype}, as q has, or float8_e4m3fn beside a 16-bit q",
            f"k.to({q.dtype})",
            TypeError,
        )
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.requires_grad and (q.element_size() == 1 or k.element_size() == 1):
            raise bad(
                f"{name}.requires_grad",
                "True with float8 tensors",
                "False: float8 attention has no backward pass",
                "bfloat16 q, k and v, or torch.no_grad() and detached tensors",
            )


def _check_dims(name: str, x: Tensor, dims: int, layout: str) -> None:
    if x.dim() != dims:
        raise bad(
            f"{name}.shape", x.shape, f"{dims} dimensions {layout}", f"{name}.reshape to {layout}"
        )


def _check_layouts(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> int:
    """Check dimensions, heads and head dimensions; return the batch size."""
    dense = "(batch, seqlen, heads, headdim)"
    packed = "(total, heads, headdim)"
    paged = "(num_pages, page_size, heads_kv, headdim)"
    varlen_q, varlen_k = p.cu_seqlens_q is not None, p.cu_seqlens_k is not None
    _check_dims("q", q, 3 if varlen_q else 4, packed if varlen_q else dense)
    layout_k = packed if varlen_k else (paged if p.block_table is not None else dense)
    _check_dims("k", k, 3 if varlen_k else 4, layout_k)
    _check_dims("v", v, 3 if varlen_k else 4, layout_k)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_last_stride(name, x)
        if x.shape[-2] == 0:
            raise bad(f"{name} heads", 0, "at least 1 head", f"{name} of shape {layout_k}")
        most = MAX_HEADDIM[name]
        if not 1 <= x.shape[-1] <= most:
            raise bad(f"{name} headdim", x.shape[-1], f"1 to {most}", f"headdim {most} or less")
    if k.shape[-1] != q.shape[-1]:
        raise bad("k headdim", k.shape[-1], f"{q.shape[-1]}, as q has", f"k[..., :{q.shape[-1]}]")
    if v.shape[:-1] != k.shape[:-1]:
        raise bad(
            "v.shape",
            v.shape,
            f"{as_text(k.shape[:-1])[:-1]}, headdim_v), as k has",
            "v cut to k's",
        )
    if q.shape[-2] % k.shape[-2] != 0:
        raise bad(
            "q heads",
            q.shape[-2],
            f"a multiple of the {k.shape[-2]} key/value heads",
            f"k and v repeated to {q.shape[-2]} heads",
        )
    return _check_batch(q, k, p)


def _check_batch(q: Tensor, k: Tensor, p: AttentionProblem) -> int:
    """Return the batch size, the same from every argument that tells it."""
    tells: dict[str, int] = {}
    for name, cu_seqlens in (("cu_seqlens_q", p.cu_seqlens_q), ("cu_seqlens_k", p.cu_seqlens_k)):
        if cu_seqlens is not None:
            check_index(name, cu_seqlens, 1)
            if cu_seqlens.shape[0] < 1:
                raise bad(
                    f"{name}.shape", cu_seqlens.shape, "(batch + 1,)", f"{name}=[0] for batch 0"
                )
            tells[name] = cu_seqlens.shape[0] - 1
    if p.cu_seqlens_q is None:
        tells["q"] = q.shape[0]
    if p.block_table is not None:
        check_index("block_table", p.block_table, 2)
        tells["block_table"] = p.block_table.shape[0]
        if p.cache_batch_idx is not None:
            raise bad(
                "cache_batch_idx",
                "given with block_table",
                "one of them",
                "block_table[cache_batch_idx]",
            )
    elif p.cu_seqlens_k is None and p.cache_batch_idx is None:
        tells["k"] = k.shape[0]
    if p.cu_seqlens_k is not None and (p.leftpad_k is not None or p.cache_batch_idx is not None):
        raise bad(
            "cu_seqlens_k",
            "given with leftpad_k or cache_batch_idx",
            "a dense cache",
            "dense k and v",
        )
    for name in ("cache_batch_idx", "seqused_q", "seqused_k", "leftpad_k"):
        x = getattr(p, name)
        if x is not None:
            check_index(name, x, 1)
            tells[name] = x.shape[0]
    (first, batch), *rest = tells.items()
    for name, size in rest:
        if size != batch:
            raise bad(
                f"the batch of {name}",
                size,
                f"{batch}, as {first} has",
                f"{name} for {batch} sequences",
            )
    return batch


def _check_scalars(p: AttentionProblem) -> None:
    if not 0.0 <= p.dropout_p < 1.0:
        raise bad("dropout_p", p.dropout_p, "0 <= dropout_p < 1", "dropout_p=0.0")
    if not (p.softcap >= 0.0 and math.isfinite(p.softcap)):
        raise bad("softcap", p.softcap, "0.0 (off) or a positive number", "softcap=0.0")
    if not math.isfinite(p.softmax_scale):
        raise bad("softmax_scale", p.softmax_scale, "a finite number", "softmax_scale=None")
    if p.unified_max is not None and not math.isfinite(p.unified_max):
        raise bad("unified_max", p.unified_max, "a finite number or None", "unified_max=None")
    if not isinstance(p.num_splits, int) or not 0 <= p.num_splits <= MAX_SPLITS:
        raise bad("num_splits", p.num_splits, f"0 (heuristic) to {MAX_SPLITS}", "num_splits=0")
    if p.attention_chunk < 0:
        raise bad("attention_chunk", p.attention_chunk, "0 (off) or more", "attention_chunk=0")
    for name in ("max_seqlen_q", "max_seqlen_k"):
        if getattr(p, name) < 0:
            raise bad(name, getattr(p, name), "0 or more", f"{name}=int(cu_seqlens.diff().max())")


def _check_extras(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem, batch: int) -> None:
    heads, heads_kv = q.shape[-2], k.shape[-2]
    if p.alibi_slopes is not None:
        if p.alibi_slopes.dtype != torch.float32:
            dtype = p.alibi_slopes.dtype
            raise bad(
                "alibi_slopes.dtype", dtype, "torch.float32", "alibi_slopes.float()", TypeError
            )
        if tuple(p.alibi_slopes.shape) not in ((heads,), (batch, heads)):
            allowed = f"({heads},) or ({batch}, {heads})"
            raise bad(
                "alibi_slopes.shape", p.alibi_slopes.shape, allowed, "one slope per query head"
            )
    if p.sink is not None and (tuple(p.sink.shape) != (heads,) or not p.sink.is_floating_point()):
        was = f"{p.sink.dtype} {as_text(p.sink.shape)}"
        raise bad("sink", was, f"floating point ({heads},)", "one logit per query head")
    if p.bias is not None:
        full = (batch, heads, p.max_seqlen_q, p.max_seqlen_k)
        if not p.bias.is_floating_point():
            raise bad(
                "bias.dtype", p.bias.dtype, f"torch.float32 or {q.dtype}", "bias.float()", TypeError
            )
        if p.bias.dim() != 4 or any(
            b not in (1, f) for b, f in zip(p.bias.shape, full, strict=True)
        ):
            allowed = (
                f"4-D, each extent 1 or that of {as_text(full)} (batch, heads, seqlen_q, seqlen_k)"
            )
            raise bad("bias.shape", p.bias.shape, allowed, f"bias expanded to {as_text(full)}")
    if p.qv is not None:
        check_qv(q, v, p.qv)
    if p.tree_mask is not None:
        _check_tree(p, p.tree_mask, batch)
    for name in ("q_descale", "k_descale", "v_descale"):
        x = getattr(p, name)
        if x is not None and (x.dtype != torch.float32 or tuple(x.shape) != (batch, heads_kv)):
            was = f"{x.dtype} {as_text(x.shape)}"
            nearest = f"{name}.expand({batch}, {heads_kv})"
            raise bad(name, was, f"float32 ({batch}, {heads_kv}) (batch, heads_kv)", nearest)


def _check_tree(p: AttentionProblem, tree_mask: Tensor, batch: int) -> None:
    shape = (batch, p.max_seqlen_q, -(-p.max_seqlen_q // 32))
    if tree_mask.dtype != torch.int32 or tuple(tree_mask.shape) != shape:
        was = f"{tree_mask.dtype} {as_text(tree_mask.shape)}"
        allowed = f"int32 {as_text(shape)} (batch, seqlen_q, words)"
        raise bad("tree_mask", was, allowed, "limelight.pack_tree_mask of a bool mask")
    check_last_stride("tree_mask", tree_mask)
    if p.causal or p.window_left >= 0 or p.window_right >= 0 or p.attention_chunk > 0:
        was = "given with causal, window_size or attention_chunk"
        raise bad("tree_mask", was, "without them: it says what each token sees", "causal=False")


def check_shapes(q: Tensor, k: Tensor, v: Tensor, p: AttentionProblem) -> int:
    """Check everything that needs no tensor's contents; return the batch size."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, x)
        if x.device != q.device:
            raise bad(
                f"{name}.device", x.device, f"{q.device}, as q has", f"{name}.to({str(q.device)!r})"
            )
    for name in _TENSOR_FIELDS:
        x = getattr(p, name)
        if x is not None:
            check_tensor(name, x)
            if x.device != q.device:
                raise bad(
                    f"{name}.device",
                    x.device,
                    f"{q.device}, as q has",
                    f"{name}.to({str(q.device)!r})",
                )
    _check_dtypes(q, k, v)
    batch = _check_layouts(q, k, v, p)
    _check_scalars(p)
    _check_extras(q, k, v, p, batch)
    return batch
