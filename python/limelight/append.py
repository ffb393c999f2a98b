# SPDX-License-Identifier: BSD-3-Clause
"""Storing new keys and values at slots of a cache that a server chose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limelight.autograd import is_eager
from limelight.cache_append import append_slots
from limelight.check_values import wanted
from limelight.messages import as_number, bad, check_last_stride, check_tensor, check_written
from limelight.ops import append_slots_op

_CACHE_DTYPES = ("auto", "fp8", "fp8_e4m3")


def append_kv(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str = "auto",
    k_scale: Tensor | float | None = None,
    v_scale: Tensor | float | None = None,
) -> None:
    """Store token t of key and value in slot slot_mapping[t] of the caches, in place.

    It is vLLM's ``reshape_and_cache_flash``, argument for argument.

    key, value: (tokens, heads_kv, headdim), float16 or bfloat16 on kernels.
    key_cache, value_cache: (num_pages, page_size, heads_kv, headdim), of any page size and strides
        with a contiguous last dimension, also views of one tensor. Of key's dtype: values keep
        their bits. Of float8_e4m3fn (or uint8 where kv_cache_dtype is "fp8"): key / k_scale and
        value / v_scale, rounded to nearest even, saturated to +-448.
    slot_mapping: (at most tokens,) int64, page * page_size + place in the page; negative: the token
        is not stored. Later tokens of key and value are padding. With two tokens for one slot
        either stays.
    kv_cache_dtype: "auto", "fp8" or "fp8_e4m3".
    k_scale, v_scale: float32 of one element or (heads_kv,), or a number; None: 1. They are the
        k_descale and v_descale of the attention.

    Raises ValueError or TypeError naming a bad argument before anything is written. A slot past the
    cache raises where values are checked (CPU, LIMELIGHT_CHECK=1), elsewhere it is not stored. No
    host synchronisation; capturable in a CUDA graph.
    """
    tensors = (
        ("key", key),
        ("value", value),
        ("key_cache", key_cache),
        ("value_cache", value_cache),
        ("slot_mapping", slot_mapping),
    )
    for name, x in tensors:
        check_tensor(name, x)
        if x.device != key.device:
            raise bad(f"{name}.device", x.device, f"{key.device}, as key has", f"{name} there")
    check_written("key_cache", key_cache)
    check_written("value_cache", value_cache)
    if kv_cache_dtype not in _CACHE_DTYPES:
        raise bad("kv_cache_dtype", repr(kv_cache_dtype), ", ".join(_CACHE_DTYPES), "'auto'")
    if kv_cache_dtype != "auto":
        key_cache, value_cache = (
            x.view(torch.float8_e4m3fn) if x.dtype == torch.uint8 else x
            for x in (key_cache, value_cache)
        )
    _check(key, value, key_cache, value_cache, slot_mapping)
    eager = is_eager(key)
    if eager and wanted(key.device):
        _check_slots(slot_mapping, key_cache)
    heads = key.shape[-2]
    append = append_slots if eager else append_slots_op
    append(
        key_cache,
        value_cache,
        key,
        value,
        slot_mapping,
        _scale("k_scale", k_scale, key_cache, heads),
        _scale("v_scale", v_scale, value_cache, heads),
    )


def _check(key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    for name, x, cache in (("key", key, k_cache), ("value", value, v_cache)):
        if cache.dim() != 4:
            allowed = "(num_pages, page_size, heads_kv, headdim)"
            raise bad(f"{name}_cache.shape", cache.shape, allowed, "a cache of that layout")
        if x.dim() != 3 or x.shape[1:] != cache.shape[2:] or x.shape[0] != key.shape[0]:
            allowed = f"({key.shape[0]}, {cache.shape[2]}, {cache.shape[3]}), as the cache"
            raise bad(f"{name}.shape", x.shape, allowed, "(tokens, heads_kv, headdim)")
        quantises = cache.dtype == torch.float8_e4m3fn and x.is_floating_point()
        if x.dtype != cache.dtype and not quantises:
            allowed = f"{cache.dtype}, as the cache"
            raise bad(f"{name}.dtype", x.dtype, allowed, f"{name}.to({cache.dtype})", TypeError)
        check_last_stride(name, x)
        check_last_stride(f"{name}_cache", cache)
    if v_cache.shape[:2] != k_cache.shape[:2] or v_cache.dtype != k_cache.dtype:
        was = f"{v_cache.dtype} {tuple(v_cache.shape)}"
        raise bad("value_cache", was, "key_cache's dtype and pages", "caches made alike")
    if slots.dtype != torch.int64:
        nearest = "slot_mapping.long()"
        raise bad("slot_mapping.dtype", slots.dtype, "torch.int64", nearest, TypeError)
    if slots.dim() != 1 or slots.shape[0] > key.shape[0]:
        allowed = f"(at most {key.shape[0]},), one slot for each token"
        raise bad("slot_mapping.shape", slots.shape, allowed, "slot_mapping.flatten()")
    check_last_stride("slot_mapping", slots)


def _check_slots(slot_mapping: Tensor, cache: Tensor) -> None:
    slots = cache.shape[0] * cache.shape[1]
    for token, slot in enumerate(slot_mapping.tolist()):
        if slot >= slots:
            allowed = f"below {slots}, the slots of the cache, or negative"
            raise bad(f"slot_mapping[{token}]", slot, allowed, "-1 for a token not to store")


def _scale(name: str, scale: Any, cache: Tensor, heads: int) -> Tensor | None:
    """(1, heads_kv) float32; None where the cache is not float8, as servers pass scales always."""
    if scale is None or cache.element_size() != 1:
        return None
    if not isinstance(scale, Tensor):
        number = as_number(name, scale, 1.0)
        made = torch.full((1, 1), number, dtype=torch.float32, device=cache.device)
        return made.expand(1, heads)
    if scale.dtype != torch.float32 or scale.numel() not in (1, heads):
        was = f"{scale.dtype} {tuple(scale.shape)}"
        raise bad(name, was, f"float32 of 1 or {heads} elements", f"{name}.float()")
    return scale.reshape(1, -1).expand(1, heads)
