# SPDX-License-Identifier: BSD-3-Clause
"""The kernels, what they need and what they compute: what dispatch chooses from."""

from __future__ import annotations

from dataclasses import dataclass

# Feature -> (what the call asks for, the nearest call without it), in the support matrix's order.
FEATURES: dict[str, tuple[str, str]] = {
    "causal": ("causal masking", "causal=False"),
    "window": ("a sliding window", "window_size=(-1, -1)"),
    "attention_chunk": ("attention inside of chunks (attention_chunk)", "attention_chunk=0"),
    "varlen": ("packed sequences (cu_seqlens)", "dense q, k and v"),
    "seqused": ("per-sequence lengths (seqused, cache_seqlens)", "full-length sequences"),
    "gqa": ("fewer key/value heads than query heads", "as many key/value heads as query heads"),
    "softcap": ("softcap", "softcap=0.0"),
    "alibi": ("ALiBi slopes", "alibi_slopes=None"),
    "sink": ("a learnable sink", "sink=None"),
    "bias": ("an additive bias", "bias=None"),
    "dbias": ("the gradient of a bias", "a bias that requires no gradient"),
    "dropout": ("dropout", "dropout_p=0.0"),
    "paged": ("a paged key/value cache (block_table)", "dense or cu_seqlens keys and values"),
    "odd_pages": (
        "pages that no tensor map cuts into boxes",
        "a page size that is a multiple of 8",
    ),
    "leftpad": ("left-padded keys (cache_leftpad)", "cache_leftpad=None"),
    "cache_batch_idx": ("cache_batch_idx", "k_cache[cache_batch_idx]"),
    "split": ("num_splits > 1 (a hint; only rounding may differ)", "num_splits=0 or 1"),
    "tree": ("a tree mask over the new tokens (tree_mask)", "tree_mask=None"),
    "fp8_kv": ("float8 keys and values with a 16-bit q", "k and v of q's dtype"),
    "fp8": ("float8 tensors", "float16 or bfloat16 tensors"),
    "qv": ("qv with keys and values apart", "k and v as columns of the same rows, v first"),
    "deterministic": ("deterministic=True", "deterministic=False"),
    "batch_invariant": ("batch_invariant=True", "batch_invariant=False"),
}
FEW_ROWS = 64  # a tile of the decode kernels


@dataclass(frozen=True)
class Kernel:
    """One row of the kernel table: a kernel family's implementation of one op."""

    name: str
    op: str
    family: str
    min_capability: tuple[int, int]
    dtypes: tuple[str, ...]
    headdim_tiles: tuple[
        int, ...
    ]  # a call runs in the smallest tile that holds headdim and headdim_v
    features: frozenset[str]
    few_rows: bool = False  # the first choice for up to FEW_ROWS rows of q for each key, else last
    splits: bool = False  # divides the keys of a tile where it has many rows, too
    max_capability: tuple[int, int] | None = None  # the last that has the kernel's instructions
    shared_kv: bool = False  # v is the first columns of k, for what the other tiles do not hold
    max_headdim_v: int | None = None  # None: the last tile
    apart: tuple[tuple[str, str], ...] = ()  # features that it computes, but not together

    def tile(self, headdim: int, headdim_v: int) -> int | None:
        """The headdim tile that the call runs in, or None where it fits no tile."""
        need = max(headdim, headdim_v)
        if self.max_headdim_v is not None and headdim_v > self.max_headdim_v:
            return None
        return next((tile for tile in self.headdim_tiles if tile >= need), None)


# What every forward kernel computes.
_FEATURES = frozenset(
    (
        "causal",
        "window",
        "varlen",
        "seqused",
        "gqa",
        "softcap",
        "alibi",
        "sink",
        "split",
        "deterministic",
        "batch_invariant",
    )
)
_CACHE_FEATURES = _FEATURES | {"paged", "leftpad", "cache_batch_idx"}
_SM80_FEATURES = _FEATURES | {"attention_chunk", "bias", "dropout"}
_SM90_FEATURES = _CACHE_FEATURES | {"bias"}
_DECODE_FEATURES = _CACHE_FEATURES | {"attention_chunk", "odd_pages", "tree", "fp8_kv"}
KERNELS: tuple[Kernel, ...] = (
    Kernel(
        name="sm90_fwd",
        op="forward",
        family="sm90",
        min_capability=(9, 0),
        max_capability=(9, 0),
        dtypes=("float16", "bfloat16"),
        headdim_tiles=(64, 96, 128, 192, 256),
        features=_SM90_FEATURES | {"odd_pages"},
        apart=(
            ("paged", "leftpad"),
            ("bias", "leftpad"),
            ("odd_pages", "leftpad"),
            ("odd_pages", "cache_batch_idx"),
        ),
        splits=True,
    ),
    Kernel(
        name="sm90_fwd_fp8",
        op="forward",
        family="sm90",
        min_capability=(9, 0),
        max_capability=(9, 0),
        dtypes=("float8_e4m3fn",),
        headdim_tiles=(64, 128, 192, 256),
        features=_SM90_FEATURES - {"bias", "leftpad"} | {"fp8"},
        splits=True,
    ),
    Kernel(
        name="sm80_fwd",
        op="forward",
        family="sm80",
        min_capability=(8, 0),
        dtypes=("float16", "bfloat16"),
        headdim_tiles=(32, 64, 96, 128, 192, 256),
        features=_SM80_FEATURES,
    ),
    Kernel(
        name="sm80_bwd",
        op="backward",
        family="sm80",
        min_capability=(8, 0),
        dtypes=("float16", "bfloat16"),
        headdim_tiles=(32, 64, 96, 128, 192, 256),
        features=_SM80_FEATURES | {"dbias"},
    ),
    Kernel(
        name="sm80_decode",
        op="forward",
        family="sm80",
        min_capability=(8, 0),
        dtypes=("float16", "bfloat16", "float8_e4m3fn"),
        headdim_tiles=(64, 128, 192, 256),
        features=_DECODE_FEATURES | {"fp8"},
        few_rows=True,
    ),
    Kernel(
        name="sm80_decode_mla",
        op="forward",
        family="sm80",
        min_capability=(8, 0),
        dtypes=("float16", "bfloat16"),
        headdim_tiles=(576,),
        features=_DECODE_FEATURES - {"fp8_kv"},
        few_rows=True,
        shared_kv=True,
        max_headdim_v=512,
    ),
)
SHARED_KV_FROM = 257  # headdim of the kernels that read keys and values from the same rows
