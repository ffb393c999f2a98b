# SPDX-License-Identifier: BSD-3-Clause
"""The attention functions of flash-attn 2 that take q, k and v, or k and v, in one tensor.

Their gradient comes in one tensor, too: the backward pass writes dq, dk and dv into its views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from limelight.inputs import autocast
from limelight.interface import flash_attn_func, flash_attn_varlen_func
from limelight.messages import bad, check_tensor, contiguous_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from limelight.arguments import Later, WindowSize


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    num_heads_q: int | None = None,
    **later: Unpack[Later],
) -> Any:
    """flash_attn_func of q, k, v stacked as qkv (batch, seqlen, 3, heads, headdim).

    num_heads_q: qkv is (batch, seqlen, num_heads_q + 2 * heads_kv, headdim), as in flash-attn 3.
    """
    stack: Tensor | None = None
    if num_heads_q is None:
        stack, (q, k, v) = _unstack("qkv", qkv, 5, 3)
    else:
        q, k, v = _split_heads(qkv, num_heads_q)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
        **later,
        _stack=stack,
    )


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    **later: Unpack[Later],
) -> Any:
    """flash_attn_func of k, v stacked as kv (batch, seqlen_k, 2, heads_kv, headdim)."""
    kv, (k, v) = _unstack("kv", kv, 5, 2)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
        **later,
        _stack=kv,
    )


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    **later: Unpack[Later],
) -> Any:
    """flash_attn_varlen_func of q, k, v stacked as qkv (total, 3, heads, headdim)."""
    qkv, (q, k, v) = _unstack("qkv", qkv, 4, 3)
    lengths = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        *lengths,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
        **later,
        _stack=qkv,
    )


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: WindowSize = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    **later: Unpack[Later],
) -> Any:
    """flash_attn_varlen_func of k, v stacked as kv (total_k, 2, heads_kv, headdim)."""
    kv, (k, v) = _unstack("kv", kv, 4, 2)
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        *lengths,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
        **later,
        _stack=kv,
    )


def _split_heads(qkv: Tensor, num_heads_q: int) -> tuple[Tensor, ...]:
    """q, k, v of heads that lie one after the other."""
    check_tensor("qkv", qkv)
    heads_kv, odd = divmod(qkv.shape[-2] - num_heads_q, 2) if qkv.dim() == 4 else (0, 0)
    if heads_kv < 1 or num_heads_q < 1 or odd:
        was = f"{tuple(qkv.shape)} with num_heads_q {num_heads_q}"
        allowed = "(batch, seqlen, num_heads_q + 2 * heads_kv, headdim)"
        raise bad("qkv.shape", was, allowed, "flash_attn_func of q, k and v")
    kv = num_heads_q + heads_kv
    return qkv[..., :num_heads_q, :], qkv[..., num_heads_q:kv, :], qkv[..., kv:, :]


def _unstack(name: str, x: Tensor, dims: int, parts: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x as autocast wants it, with contiguous rows, and its parts."""
    check_tensor(name, x)
    if x.dim() != dims or x.shape[-3] != parts:
        layout = ("batch, seqlen, " if dims == 5 else "total, ") + f"{parts}, heads, headdim"
        raise bad(
            f"{name}.shape",
            x.shape,
            f"({layout})",
            f"torch.stack of the {parts} tensors in dimension -3",
        )
    x = contiguous_rows(autocast(x))
    return x, x.unbind(-3)
