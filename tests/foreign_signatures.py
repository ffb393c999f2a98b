# SPDX-License-Identifier: BSD-3-Clause
"""Arguments, with their defaults, of the packages whose calls limelight's functions take.

Names are limelight's functions. Required arguments and those that limelight has in flash-attn 2's
order are left out where their defaults are equal (see test_signatures).
"""

from __future__ import annotations

from typing import Any

Defaults = dict[str, Any]

# hopper/flash_attn_interface.py.
_FA3_COMMON: Defaults = {
    "softmax_scale": None,
    "causal": False,
    "qv": None,
    "q_descale": None,
    "k_descale": None,
    "v_descale": None,
    "window_size": (-1, -1),
    "attention_chunk": 0,
    "softcap": 0.0,
    "num_splits": 1,
    "pack_gqa": None,
    "deterministic": False,
    "sm_margin": 0,
    "return_attn_probs": False,
}
FLASH_ATTN_3: dict[str, Defaults] = {
    "flash_attn_func": _FA3_COMMON,
    "flash_attn_varlen_func": {**_FA3_COMMON, "seqused_q": None, "seqused_k": None},
    "flash_attn_qkvpacked_func": {
        name: default
        for name, default in {**_FA3_COMMON, "num_heads_q": None}.items()
        if name not in ("qv", "num_splits", "pack_gqa")
    },
    "flash_attn_with_kvcache": {
        "k": None,
        "v": None,
        "qv": None,
        "rotary_cos": None,
        "rotary_sin": None,
        "cache_seqlens": None,
        "cache_batch_idx": None,
        "cache_leftpad": None,
        "page_table": None,
        "cu_seqlens_q": None,
        "cu_seqlens_k_new": None,
        "max_seqlen_q": None,
        "rotary_seqlens": None,
        "q_descale": None,
        "k_descale": None,
        "v_descale": None,
        "softmax_scale": None,
        "causal": False,
        "window_size": (-1, -1),
        "attention_chunk": 0,
        "softcap": 0.0,
        "rotary_interleaved": True,
        "scheduler_metadata": None,
        "num_splits": 0,
        "pack_gqa": None,
        "sm_margin": 0,
        "return_softmax_lse": False,
    },
    "flash_attn_combine": {"out": None, "out_dtype": None},
}

# flash_attn/cute/interface.py.
_FA4_COMMON: Defaults = {
    "qv": None,
    "gather_kv_indices": None,
    "softmax_scale": None,
    "causal": False,
    "window_size": (None, None),
    "learnable_sink": None,
    "softcap": 0.0,
    "num_splits": 1,
    "pack_gqa": None,
    "deterministic": False,
    "score_mod": None,
    "score_mod_bwd": None,
    "mask_mod": None,
    "aux_tensors": None,
    "aux_scalars": None,
    "block_sparse_tensors": None,
    "return_lse": False,
}
FLASH_ATTN_4: dict[str, Defaults] = {
    "flash_attn_func": {**_FA4_COMMON, "block_sparse_tensors_bwd": None},
    "flash_attn_varlen_func": {
        **_FA4_COMMON,
        "min_seqlen_k": None,
        "seqused_q": None,
        "seqused_k": None,
        "page_table": None,
        "scheduler_metadata": None,
        "seqlen_k_per_split": None,
        "disable_scheduler_metadata": False,
    },
    "flash_attn_combine": {
        "out": None,
        "out_dtype": None,
        "cu_seqlens": None,
        "seqused": None,
        "virtual_batch_idx": None,
        "return_lse": True,
    },
}

# vllm/vllm_flash_attn/flash_attn_interface.py.
VLLM: dict[str, Defaults] = {
    "flash_attn_varlen_func": {
        "seqused_k": None,
        "q_v": None,
        "dropout_p": 0.0,
        "softmax_scale": None,
        "causal": False,
        "window_size": None,
        "softcap": 0.0,
        "alibi_slopes": None,
        "deterministic": False,
        "return_attn_probs": False,
        "block_table": None,
        "return_softmax_lse": False,
        "out": None,
        "scheduler_metadata": None,
        "q_descale": None,
        "k_descale": None,
        "v_descale": None,
        "num_splits": 0,
        "output_scale": None,
        "fa_version": 2,
        "s_aux": None,
        "cp_world_size": 1,
        "cp_rank": 0,
        "cp_tot_seqused_k": None,
        "mask_mod": None,
        "block_sparse_tensors": None,
        "aux_tensors": None,
        "aux_tensor_leading_dims": None,
        "dynamic_causal": None,
        "gather_kv_indices": None,
        "gather_kv_valid_length": None,
    },
}

# python/sglang: flash_attn_with_kvcache and flash_attn_varlen_func of its kernels, beside FA3's.
SGLANG: dict[str, Defaults] = {
    "flash_attn_with_kvcache": {
        **{
            name: default
            for name, default in FLASH_ATTN_3["flash_attn_with_kvcache"].items()
            if name != "attention_chunk"
        },
        "sinks": None,
        "ver": 3,
        "out": None,
    },
    "flash_attn_varlen_func": {
        "seqused_q": None,
        "seqused_k": None,
        "page_table": None,
        "softmax_scale": None,
        "causal": False,
        "qv": None,
        "q_descale": None,
        "k_descale": None,
        "v_descale": None,
        "window_size": (-1, -1),
        "attention_chunk": 0,
        "softcap": 0.0,
        "num_splits": 1,
        "pack_gqa": None,
        "sm_margin": 0,
        "return_softmax_lse": False,
        "sinks": None,
        "score_mod": None,
        "aux_tensors": None,
        "ver": 3,
        "out": None,
    },
}

# transformers' _process_flash_attention_kwargs, and what it calls flash_attn_with_kvcache with.
TRANSFORMERS: dict[str, Defaults] = {
    "flash_attn_func": {
        "causal": True,
        "softmax_scale": None,
        "dropout_p": 0.0,
        "window_size": (-1, -1),
        "deterministic": False,
        "softcap": 0.0,
        "s_aux": None,
    },
    "flash_attn_varlen_func": {
        "causal": True,
        "softmax_scale": None,
        "dropout_p": 0.0,
        "window_size": (-1, -1),
        "deterministic": False,
        "softcap": 0.0,
        "s_aux": None,
        "block_table": None,
    },
    "flash_attn_with_kvcache": {
        "causal": True,
        "softmax_scale": None,
        "window_size": (-1, -1),
        "softcap": 0.0,
        "s_aux": None,
        "block_table": None,
        "cache_seqlens": None,
        "max_seqlen_q": 5,
    },
}
PACKAGES: dict[str, dict[str, Defaults]] = {
    "flash-attn 3": FLASH_ATTN_3,
    "flash-attn 4": FLASH_ATTN_4,
    "vllm": VLLM,
    "sglang": SGLANG,
    "transformers": TRANSFORMERS,
}
