# SPDX-License-Identifier: BSD-3-Clause
"""The public functions take what flash-attn 2.8 takes: names, positional order, defaults."""

from __future__ import annotations

import inspect
from typing import Any

import limelight
import pytest

REQUIRED = inspect.Parameter.empty
TAIL = [
    ("dropout_p", 0.0),
    ("softmax_scale", None),
    ("causal", False),
    ("window_size", (-1, -1)),
    ("softcap", 0.0),
    ("alibi_slopes", None),
    ("deterministic", False),
    ("return_attn_probs", False),
]
VARLEN = ["cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"]


def required(*names: str) -> list[tuple[str, Any]]:
    return [(name, REQUIRED) for name in names]


# flash_attn/flash_attn_interface.py of flash-attn 2.8.
FLASH_ATTN_2: dict[str, list[tuple[str, Any]]] = {
    "flash_attn_func": [*required("q", "k", "v"), *TAIL],
    "flash_attn_kvpacked_func": [*required("q", "kv"), *TAIL],
    "flash_attn_qkvpacked_func": [*required("qkv"), *TAIL],
    "flash_attn_varlen_func": [*required("q", "k", "v", *VARLEN), *TAIL, ("block_table", None)],
    "flash_attn_varlen_kvpacked_func": [*required("q", "kv", *VARLEN), *TAIL],
    "flash_attn_varlen_qkvpacked_func": [*required("qkv", "cu_seqlens", "max_seqlen"), *TAIL],
    "flash_attn_with_kvcache": [
        *required("q", "k_cache", "v_cache"),
        ("k", None),
        ("v", None),
        ("rotary_cos", None),
        ("rotary_sin", None),
        ("cache_seqlens", None),
        ("cache_batch_idx", None),
        ("cache_leftpad", None),
        ("block_table", None),
        ("softmax_scale", None),
        ("causal", False),
        ("window_size", (-1, -1)),
        ("softcap", 0.0),
        ("rotary_interleaved", True),
        ("alibi_slopes", None),
        ("num_splits", 0),
        ("return_softmax_lse", False),
    ],
}

# flash-attn 2 requires these, FA4 and vLLM leave some out: None here, refused where needed.
RELAXED = {"flash_attn_varlen_func": set(VARLEN)}

# hopper/flash_attn_interface.py: the metadata function that vLLM calls.
FLASH_ATTN_3_METADATA: list[tuple[str, Any]] = [
    *required("batch_size", "max_seqlen_q", "max_seqlen_k", "num_heads_q", "num_heads_kv"),
    *required("headdim", "cache_seqlens"),
    ("qkv_dtype", "torch.bfloat16"),
    ("headdim_v", None),
    ("cu_seqlens_q", None),
    ("cu_seqlens_k_new", None),
    ("cache_leftpad", None),
    ("page_size", None),
    ("max_seqlen_k_new", 0),
    ("causal", False),
    ("window_size", (-1, -1)),
    ("attention_chunk", 0),
    ("has_softcap", False),
    ("num_splits", 0),
    ("pack_gqa", None),
    ("sm_margin", 0),
]

# Keywords that transformers finds with inspect.signature, and those of vLLM's and SGLang's calls.
DISCOVERED = {
    "flash_attn_func": {"s_aux", "learnable_sink", "softcap", "deterministic", "window_size"},
    "flash_attn_varlen_func": {
        "out",
        "seqused_k",
        "block_table",
        "page_table",
        "scheduler_metadata",
        "fa_version",
        "q_descale",
        "k_descale",
        "v_descale",
        "num_splits",
        "s_aux",
        "learnable_sink",
        "sinks",
        "ver",
        "return_softmax_lse",
    },
    "flash_attn_with_kvcache": {
        "page_table",
        "cu_seqlens_q",
        "cu_seqlens_k_new",
        "max_seqlen_q",
        "rotary_seqlens",
        "sinks",
        "q_descale",
        "k_descale",
        "v_descale",
        "out",
        "ver",
    },
}


def positional(function: Any) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]


@pytest.mark.parametrize("name", sorted(FLASH_ATTN_2))
def test_positional_arguments_are_flash_attn_2s(name: str) -> None:
    ours = positional(getattr(limelight, name))
    table = FLASH_ATTN_2[name]
    assert [p.name for p in ours] == [argument for argument, _ in table]
    for parameter, (argument, default) in zip(ours, table, strict=True):
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if argument in RELAXED.get(name, ()):
            assert parameter.default is None, argument
        else:
            assert parameter.default == default, argument


@pytest.mark.parametrize("name", sorted(FLASH_ATTN_2))
def test_later_arguments_are_keyword_only(name: str) -> None:
    known = {argument for argument, _ in FLASH_ATTN_2[name]}
    for parameter in inspect.signature(getattr(limelight, name)).parameters.values():
        if parameter.name not in known:
            keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
            assert parameter.kind in keyword, parameter


def test_scheduler_metadata_is_flash_attn_3s() -> None:
    ours = positional(limelight.get_scheduler_metadata)
    assert [p.name for p in ours] == [argument for argument, _ in FLASH_ATTN_3_METADATA]
    for parameter, (argument, default) in zip(ours, FLASH_ATTN_3_METADATA, strict=True):
        value = parameter.default
        assert (str(value) if argument == "qkv_dtype" else value) == default, argument


@pytest.mark.parametrize("name", sorted(DISCOVERED))
def test_keywords_are_discoverable(name: str) -> None:
    assert DISCOVERED[name] <= set(inspect.signature(getattr(limelight, name)).parameters)


def test_every_public_name_exists_and_is_documented() -> None:
    for name in limelight.__all__:
        value = getattr(limelight, name)
        assert isinstance(value, str) or value.__doc__, name
