# SPDX-License-Identifier: BSD-3-Clause
"""Which kernel serves a call, and why the others do not.

Pure functions over one table, shared by calls and explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from limelight.kernel_table import FEATURES, FEW_ROWS, KERNELS, SHARED_KV_FROM, Kernel

if TYPE_CHECKING:
    from torch import Tensor

    from limelight.problem import AttentionProblem

__all__ = [
    "FEATURES",
    "FEW_ROWS",
    "KERNELS",
    "OPS",
    "SHARED_KV_FROM",
    "Choice",
    "Kernel",
    "Query",
    "Refusal",
    "call_features",
    "choose",
    "odd_pages",
    "support_matrix",
]
OPS = ("forward", "backward")
PAGE_MULTIPLE = 8  # rows of a page that tensor maps cut into whole swizzle patterns


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
    shared_kv: bool = False  # v is k[..., :headdim_v], in rows of whole 16 bytes

    @property
    def wants_few_rows(self) -> bool:
        """Whether decode kernels come first.

        Where there are few rows, or prefill, chunk and decode of a token have to give the same
        bits.
        """
        few = self.rows is not None and self.rows <= FEW_ROWS
        return few or "batch_invariant" in self.features

    def prefers(self, kernel: Kernel) -> bool:
        """Whether kernel comes before those that serve the call less well.

        Where more splits are asked for, kernels that divide keys come before those that do not.
        """
        if self.wants_few_rows:
            return kernel.few_rows
        return kernel.splits or (kernel.few_rows == ("split" in self.features))


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


def odd_pages(k: Tensor, v: Tensor, *, paged: bool) -> bool:
    """Whether a tensor map holds no pages of k and v, or not the rows of a cache without pages."""
    expanded = k.shape[1] > 1 and not (k.stride(1) and v.stride(1))
    return expanded or (paged and k.shape[1] % PAGE_MULTIPLE != 0)


def call_features(q: Tensor, k: Tensor, v: Tensor, problem: AttentionProblem) -> frozenset[str]:
    """The features that a call uses, by name."""
    p = problem
    in_cache = not (p.block_table is None and p.leftpad_k is None and p.cache_batch_idx is None)
    used = {
        "causal": p.causal,
        "window": p.window_left >= 0 or (p.window_right >= 0 and not p.causal),
        "attention_chunk": p.attention_chunk > 0,
        "varlen": p.cu_seqlens_q is not None or p.cu_seqlens_k is not None,
        "seqused": p.seqused_q is not None or p.seqused_k is not None,
        "gqa": q.shape[-2] != k.shape[-2],
        "softcap": p.softcap > 0,
        "alibi": p.alibi_slopes is not None,
        "sink": p.sink is not None,
        "bias": p.bias is not None,
        "dropout": p.dropout_p > 0,
        "paged": p.block_table is not None,
        "odd_pages": in_cache and odd_pages(k, v, paged=p.block_table is not None),
        "leftpad": p.leftpad_k is not None,
        "cache_batch_idx": p.cache_batch_idx is not None,
        "split": p.num_splits > 1,
        "tree": p.tree_mask is not None,
        "fp8_kv": q.element_size() > 1 and k.element_size() == 1,
        "fp8": q.element_size() == 1,
        "qv": p.qv is not None,
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
    for one, other in kernel.apart:
        if {one, other} <= query.features:
            return (
                f"it does not do {FEATURES[one][0]} with {FEATURES[other][0]}; "
                f"nearest: {FEATURES[other][1]}"
            )
    if query.dtype not in kernel.dtypes:
        return f"dtype is {query.dtype}; nearest: {' or '.join(kernel.dtypes)}"
    if kernel.shared_kv and query.headdim < SHARED_KV_FROM:
        return f"headdim is {query.headdim}; nearest: {SHARED_KV_FROM} or more"
    tile = kernel.tile(query.headdim, query.headdim_v)
    if tile is None:
        have = str(max(query.headdim, query.headdim_v))
        most = str(kernel.headdim_tiles[-1])
        if kernel.max_headdim_v is not None:
            have = f"{query.headdim}, headdim_v {query.headdim_v}"
            most = f"{most}, headdim_v {kernel.max_headdim_v}"
        return f"headdim is {have}; nearest: at most {most}"
    if kernel.shared_kv and not query.shared_kv:
        return (
            "v does not lie in k's rows; nearest: v = k[..., :headdim_v] of rows whose address, "
            "length and strides are multiples of 16 bytes"
        )
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
    for kernel in sorted(KERNELS, key=lambda kernel: not query.prefers(kernel)):
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


def _headdims(kernel: Kernel) -> str:
    if kernel.shared_kv:
        most = f"{kernel.headdim_tiles[-1]}, headdim_v {kernel.max_headdim_v}"
        return f"{SHARED_KV_FROM} to {most}, v = k[..., :headdim_v]"
    return f"any up to {kernel.headdim_tiles[-1]}"


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
        ["headdim", *(_headdims(k) for k in KERNELS), "any up to 576, headdim_v 512"],
    ]
    for name, (what, _) in FEATURES.items():
        marks = ["yes" if name in k.features else "-" for k in KERNELS]
        rows.append([what, *marks, "forward only" if name in ("fp8", "fp8_kv") else "yes"])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
