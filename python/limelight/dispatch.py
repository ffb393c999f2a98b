# SPDX-License-Identifier: BSD-3-Clause
"""Which kernel serves a call, and why the others do not.

Pure functions over one table, shared by calls and explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from limelight.problem import AttentionProblem

# Feature -> (what the call asks for, the nearest call without it), in the support matrix's order.
FEATURES: dict[str, tuple[str, str]] = {
    "causal": ("causal masking", "causal=False"),
    "window": ("a sliding window", "window_size=(-1, -1)"),
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
    "leftpad": ("left-padded keys (cache_leftpad)", "cache_leftpad=None"),
    "cache_batch_idx": ("cache_batch_idx", "k_cache[cache_batch_idx]"),
    "split": ("num_splits > 1 (a hint, never a different result)", "num_splits=0 or 1"),
    "tree": ("a tree mask over the new tokens (tree_mask)", "tree_mask=None"),
    "fp8_kv": ("float8 keys and values with a 16-bit q", "k and v of q's dtype"),
    "fp8": ("float8 tensors", "float16 or bfloat16 tensors"),
    "deterministic": ("deterministic=True", "deterministic=False"),
    "batch_invariant": ("batch_invariant=True", "batch_invariant=False"),
}
OPS = ("forward", "backward")
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
    max_capability: tuple[int, int] | None = None  # the last that has the kernel's instructions

    def tile(self, headdim: int, headdim_v: int) -> int | None:
        """The headdim tile that the call runs in, or None where it fits no tile."""
        need = max(headdim, headdim_v)
        return next((tile for tile in self.headdim_tiles if tile >= need), None)


_SM80_FEATURES = frozenset(
    (
        "causal",
        "window",
        "varlen",
        "seqused",
        "gqa",
        "softcap",
        "alibi",
        "sink",
        "bias",
        "dropout",
        "split",
        "deterministic",
        "batch_invariant",
    )
)
_DECODE_FEATURES = frozenset(
    (
        "causal",
        "window",
        "varlen",
        "seqused",
        "gqa",
        "softcap",
        "alibi",
        "sink",
        "paged",
        "leftpad",
        "cache_batch_idx",
        "split",
        "tree",
        "fp8_kv",
        "deterministic",
        "batch_invariant",
    )
)
_SM90_FEATURES = _SM80_FEATURES - {"dropout"}
KERNELS: tuple[Kernel, ...] = (
    Kernel(
        name="sm90_fwd",
        op="forward",
        family="sm90",
        min_capability=(9, 0),
        max_capability=(9, 0),
        dtypes=("float16", "bfloat16"),
        headdim_tiles=(64, 96, 128, 192, 256),
        features=_SM90_FEATURES,
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
        dtypes=("float16", "bfloat16"),
        headdim_tiles=(64, 128, 192, 256),
        features=_DECODE_FEATURES,
        few_rows=True,
    ),
)


@dataclass(frozen=True)
class Query:
    """What dispatch looks at.

    Capability None means that the tensors are on no device with kernels (the CPU).
    """

    op: str
    capability: tuple[int, int] | None
    dtype: str
    headdim: int
    headdim_v: int
    features: frozenset[str] = frozenset()
    rows: int | None = None  # max_seqlen_q * heads_q / heads_kv: rows of q for each key, if known

    @property
    def wants_few_rows(self) -> bool:
        """Whether decode kernels come first.

        Where there are few rows, more splits are asked for, or prefill, chunk and decode of a token
        have to give the same bits.
        """
        few = self.rows is not None and self.rows <= FEW_ROWS
        return few or bool(self.features & {"split", "batch_invariant"})


class Refusal(NamedTuple):
    """Why a kernel does not serve a call."""

    kernel: str
    reason: str


class Choice(NamedTuple):
    """The kernel that serves a call (None: the torch path) and the reasons of those that do not."""

    kernel: Kernel | None
    tile: int | None
    refusals: tuple[Refusal, ...]

    @property
    def reason(self) -> str:
        """The refusals in one line."""
        return "; ".join(f"{kernel}: {reason}" for kernel, reason in self.refusals)


def call_features(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem) -> frozenset[str]:
    """The features that a call uses, by name."""
    p = problem
    used = {
        "causal": p.causal,
        "window": p.window_left >= 0 or (p.window_right >= 0 and not p.causal),
        "varlen": p.cu_seqlens_q is not None or p.cu_seqlens_k is not None,
        "seqused": p.seqused_q is not None or p.seqused_k is not None,
        "gqa": q.shape[-2] != k.shape[-2],
        "softcap": p.softcap > 0,
        "alibi": p.alibi_slopes is not None,
        "sink": p.sink is not None,
        "bias": p.bias is not None,
        "dropout": p.dropout_p > 0,
        "paged": p.block_table is not None,
        "leftpad": p.leftpad_k is not None,
        "cache_batch_idx": p.cache_batch_idx is not None,
        "split": p.num_splits > 1,
        "tree": p.tree_mask is not None,
        "fp8_kv": q.element_size() > 1 and k.element_size() == 1,
        "fp8": q.element_size() == 1,
        "deterministic": p.deterministic,
        "batch_invariant": p.batch_invariant,
    }
    return frozenset(name for name, on in used.items() if on)


def _refusal(
    kernel: Kernel, query: Query, installed: frozenset[tuple[str, int]] | None
) -> str | None:
    """Why kernel does not serve query, or None where it does."""
    if query.capability is None:
        return "the tensors are on the CPU; nearest: CUDA tensors"
    if query.capability < kernel.min_capability:
        need = ".".join(map(str, kernel.min_capability))
        have = ".".join(map(str, query.capability))
        return f"the device has compute capability {have}; needed: at least {need}"
    if kernel.max_capability is not None and query.capability > kernel.max_capability:
        need = ".".join(map(str, kernel.max_capability))
        have = ".".join(map(str, query.capability))
        return f"the device has compute capability {have}; needed: {need} (wgmma)"
    missing = [name for name in FEATURES if name in query.features and name not in kernel.features]
    if missing:
        return "; ".join(
            f"it does not do {FEATURES[name][0]}; nearest: {FEATURES[name][1]}" for name in missing
        )
    if query.dtype not in kernel.dtypes:
        return f"dtype is {query.dtype}; nearest: {' or '.join(kernel.dtypes)}"
    tile = kernel.tile(query.headdim, query.headdim_v)
    if tile is None:
        have = str(max(query.headdim, query.headdim_v))
        return f"headdim is {have}; nearest: at most {kernel.headdim_tiles[-1]}"
    if installed is not None and (kernel.name, tile) not in installed:
        return f"this build has no {kernel.name} for headdim {tile}; nearest: a build with it"
    return None


@lru_cache(maxsize=4096)
def choose(query: Query, installed: frozenset[tuple[str, int]] | None = None) -> Choice:
    """Return the first kernel of the table that serves query, with every other kernel's reason.

    installed: the (kernel name, headdim tile) pairs that the loaded extension holds; None means all
    of the table.
    """
    refusals: list[Refusal] = []
    chosen: Kernel | None = None
    few_first = query.wants_few_rows
    for kernel in sorted(KERNELS, key=lambda kernel: kernel.few_rows != few_first):
        if kernel.op != query.op:
            continue
        reason = _refusal(kernel, query, installed)
        if reason is not None:
            refusals.append(Refusal(kernel.name, reason))
        elif chosen is None:
            chosen = kernel
        else:
            refusals.append(Refusal(kernel.name, f"{chosen.name} comes first"))
    if chosen is None and not refusals:
        refusals.append(
            Refusal(query.op, f"no kernel of this version computes the {query.op} pass")
        )
    tile = None if chosen is None else chosen.tile(query.headdim, query.headdim_v)
    return Choice(chosen, tile, tuple(refusals))


def support_matrix() -> str:
    """The kernel table as Markdown.

    One row per feature, one column per kernel, the torch path last.
    """
    columns = []
    for k in KERNELS:
        newer = "+" if k.max_capability is None else ""
        columns.append(f"{k.name} (sm_{k.min_capability[0]}{k.min_capability[1]}{newer})")
    head = ["", *columns, "torch path"]
    both = "forward, backward"
    rows = [
        ["pass", *(k.op for k in KERNELS), both],
        ["dtypes", *(", ".join(k.dtypes) for k in KERNELS), "all, float32 and float64 too"],
        ["headdim", *(f"any up to {k.headdim_tiles[-1]}" for k in KERNELS), "any up to 256"],
    ]
    for name, (what, _) in FEATURES.items():
        marks = ["yes" if name in k.features else "-" for k in KERNELS]
        rows.append([what, *marks, "forward only" if name in ("fp8", "fp8_kv") else "yes"])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
