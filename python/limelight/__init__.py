# SPDX-License-Identifier: BSD-3-Clause
"""Exact attention in hand-written CUDA kernels, with a torch path everywhere else.

Flash-attn's functions and more.
"""

from limelight._version import __version__
from limelight.append import append_kv
from limelight.explain import Explanation, backends, explain
from limelight.gemm import flat_linear
from limelight.gemm_explain import LinearExplanation, explain_linear
from limelight.interface import flash_attn_func, flash_attn_varlen_func
from limelight.kvcache import flash_attn_with_kvcache
from limelight.linear import FlatLinear
from limelight.linear_replace import replace_linears
from limelight.merge import flash_attn_combine, merge_attn_states
from limelight.packed import (
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from limelight.runtime import FallbackError, FallbackWarning
from limelight.schedule import get_scheduler_metadata
from limelight.tree import pack_tree_mask
from limelight.unified_max import calibrate_unified_max

__all__ = [
    "Explanation",
    "FallbackError",
    "FallbackWarning",
    "FlatLinear",
    "LinearExplanation",
    "__version__",
    "append_kv",
    "backends",
    "calibrate_unified_max",
    "explain",
    "explain_linear",
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "flat_linear",
    "get_scheduler_metadata",
    "merge_attn_states",
    "pack_tree_mask",
    "replace_linears",
]
