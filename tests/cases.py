# SPDX-License-Identifier: BSD-3-Clause
"""Attention cases that the torch path, the emulator, a GPU and the benchmarks share.

A Case is a plain description; ``build`` draws its tensors. Slots that no row may read (beyond a
sequence, below leftpad, unused pages) are NaN, so that reading them shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from case_tensors import offsets, poison_packed, random_trees
from limelight.problem import AttentionProblem
from torch import Tensor

# Ragged on purpose: 1, primes, one off a power of two, seqlen_q < = > seqlen_k.
SHAPES = [(1, 1), (1, 239), (113, 203), (108, 256), (128, 128), (127, 65), (65, 127), (239, 1)]
LONG_SHAPES = [(799, 1023), (1025, 1025), (3, 1024)]
BIAS_SHAPES = ["bhqk", "1hqk", "b1qk", "11qk", "bh1k", "1h1k", "bhq1", "11q1", "b11k", "1111"]


@dataclass(frozen=True)
class Case:
    """One attention call. Extents are maxima for ragged layouts."""

    name: str
    batch: int = 2
    seqlen_q: int = 65
    seqlen_k: int = 65
    heads_q: int = 4
    heads_kv: int = 2
    headdim: int = 32
    headdim_v: int | None = None  # None = headdim
    dtype: str = "bfloat16"  # of q; and of k and v unless kv_dtype is given
    kv_dtype: str | None = None
    layout_q: str = "dense"  # dense | packed
    layout_k: str = "dense"  # dense | packed | paged | rows (cache_batch_idx)
    page_size: int = 16
    seqused_q: bool = False
    seqused_k: bool = False
    leftpad: bool = False
    strides: str = "contiguous"  # contiguous | heads_first | sliced
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    chunk: int = 0
    softcap: float = 0.0
    alibi: str = ""  # "" | heads | batch
    sink: bool = False
    bias: str = ""  # "" | one of BIAS_SHAPES: each letter full, each 1 broadcast
    bias_dtype: str = "float32"
    tree: bool = False
    dropout_p: float = 0.0
    descale: bool = False
    scale: float | None = None
    magnitude: float = 1.0  # of q
    deterministic: bool = False
    batch_invariant: bool = False
    num_splits: int = 0
    seed: int = 0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Inputs:
    """The tensors of a case. dout and dlse have the shapes of out and lse."""

    q: Tensor
    k: Tensor
    v: Tensor
    problem: AttentionProblem
    dout: Tensor
    dlse: Tensor


def vary(case: Case, name: str, **changes: object) -> Case:
    """Return case with changes, named ``case-name``."""
    return replace(case, name=f"{case.name}-{name}", **changes)  # type: ignore[arg-type]


def build(case: Case, device: str = "cpu") -> Inputs:
    """Draw the tensors of a case: equal for equal cases, on every device."""
    return _Builder(case).build(device)


class _Builder:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.generator = torch.Generator().manual_seed(1000 + case.seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float32)

    def integers(self, low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=self.generator, dtype=torch.int32)

    def lengths(self, longest: int) -> Tensor:
        """Ragged: one sequence has full length and, of three or more, one is empty."""
        lengths = self.integers(min(1, longest), longest, self.case.batch)
        if self.case.batch > 0:
            lengths[0] = longest
        if self.case.batch > 2:
            lengths[self.case.seed % 2 + 1] = 0
        return lengths

    def operand(self, *shape: int, dtype: str, scale: float = 1.0) -> Tensor:
        """Tokens x heads x headdim with the strides that the case asks for."""
        target = getattr(torch, dtype)
        kind = self.case.strides
        if kind == "heads_first" and len(shape) == 4:
            x = self.normal(shape[0], shape[2], shape[1], shape[3]).mul_(scale).to(target)
            return x.transpose(1, 2)
        if kind == "sliced":
            # 8 extra features keep 16-byte alignment; the neighbours are NaN.
            wide = torch.full((*shape[:-1], shape[-1] + 8), float("nan")).to(target)
            wide[..., : shape[-1]] = self.normal(*shape).mul_(scale).to(target)
            return wide[..., : shape[-1]]
        return self.normal(*shape).mul_(scale).to(target)

    def build(self, device: str) -> Inputs:
        case = self.case
        headdim_v = case.headdim if case.headdim_v is None else case.headdim_v
        given: dict[str, Tensor] = {}
        q = self.queries(given)
        k, v = self.keys(given, headdim_v)
        if case.alibi:
            shape = (case.heads_q,) if case.alibi == "heads" else (case.batch, case.heads_q)
            given["alibi_slopes"] = 0.3 * torch.rand(*shape, generator=self.generator)
        if case.sink:
            given["sink"] = self.normal(case.heads_q)
        if case.tree:
            given["tree_mask"] = random_trees(case.batch, case.seqlen_q, self.generator)
        if case.bias:
            full = (case.batch, case.heads_q, case.seqlen_q, case.seqlen_k)
            extents = [1 if letter == "1" else n for letter, n in zip(case.bias, full, strict=True)]
            given["bias"] = self.normal(*extents).to(getattr(torch, case.bias_dtype))
        if case.dropout_p > 0:
            given["rng_state"] = torch.tensor([case.seed - 5, (case.seed + 3) << 33 | 77])
        if case.descale:
            for name in ("q_descale", "k_descale", "v_descale"):
                shape = (case.batch, case.heads_kv)
                given[name] = 0.5 + torch.rand(*shape, generator=self.generator)
        problem = AttentionProblem(
            softmax_scale=case.headdim**-0.5 if case.scale is None else case.scale,
            max_seqlen_q=case.seqlen_q,
            max_seqlen_k=case.seqlen_k,
            causal=case.causal,
            window_left=case.window[0],
            window_right=0 if case.causal else case.window[1],
            attention_chunk=case.chunk,
            softcap=case.softcap,
            dropout_p=case.dropout_p,
            deterministic=case.deterministic,
            batch_invariant=case.batch_invariant,
            num_splits=case.num_splits,
            **{name: x.to(device) for name, x in given.items()},
        )
        dlse = self.normal(*q.shape[:-1])
        dlse = dlse.t() if case.layout_q == "packed" else dlse.transpose(1, 2)
        fp8 = case.dtype.startswith("float8")
        dout = self.normal(*q.shape[:-1], headdim_v).to(torch.bfloat16 if fp8 else q.dtype)
        if q.dtype == torch.float64:
            dlse = dlse.double()
        q, k, v, dout, dlse = (x.to(device) for x in (q, k, v, dout, dlse))
        return Inputs(q, k, v, problem, dout, dlse)

    def queries(self, given: dict[str, Tensor]) -> Tensor:
        case = self.case
        extent = (case.heads_q, case.headdim)
        if case.seqused_q:
            given["seqused_q"] = self.lengths(case.seqlen_q)
        if case.layout_q == "dense":
            q = self.operand(
                case.batch, case.seqlen_q, *extent, dtype=case.dtype, scale=case.magnitude
            )
            if case.seqused_q:
                for b, n in enumerate(given["seqused_q"].tolist()):
                    q[b, n:] = float("nan")
            return q
        given["cu_seqlens_q"] = offsets(self.lengths(case.seqlen_q))
        total = int(given["cu_seqlens_q"][-1])
        q = self.operand(total, *extent, dtype=case.dtype, scale=case.magnitude)
        poison_packed(q, given["cu_seqlens_q"], given.get("seqused_q"))
        return q

    def keys(self, given: dict[str, Tensor], headdim_v: int) -> tuple[Tensor, Tensor]:
        case = self.case
        dtype = case.kv_dtype or case.dtype
        if case.seqused_k:
            given["seqused_k"] = self.lengths(case.seqlen_k)
        if case.leftpad:
            given["leftpad_k"] = self.integers(0, case.seqlen_k // 2, case.batch)
        if case.layout_k == "packed":
            given["cu_seqlens_k"] = offsets(self.lengths(case.seqlen_k))
            tokens: tuple[int, ...] = (int(given["cu_seqlens_k"][-1]),)
        elif case.layout_k == "paged":
            pages = -(-case.seqlen_k // case.page_size)
            order = torch.randperm(case.batch * pages + 3, generator=self.generator)
            given["block_table"] = order[: case.batch * pages].int().view(case.batch, pages)
            if not case.seqused_k:
                given["seqused_k"] = self.lengths(case.seqlen_k)
            tokens = (case.batch * pages + 3, case.page_size)
        elif case.layout_k == "rows":
            rows = torch.randperm(case.batch + 2, generator=self.generator)[: case.batch]
            given["cache_batch_idx"] = rows.int()
            tokens = (case.batch + 2, case.seqlen_k)
        else:
            tokens = (case.batch, case.seqlen_k)
        k = self.operand(*tokens, case.heads_kv, case.headdim, dtype=dtype)
        v = self.operand(*tokens, case.heads_kv, headdim_v, dtype=dtype)
        for x in (k, v):
            self.poison_keys(x, given)
        return k, v

    def poison_keys(self, x: Tensor, given: dict[str, Tensor]) -> None:
        """Overwrite with NaN what no sequence may read."""
        case = self.case
        if case.layout_k == "packed" and not case.leftpad:
            poison_packed(x, given["cu_seqlens_k"], given.get("seqused_k"))
        elif case.layout_k != "packed":
            used = torch.zeros(x.shape[:2], dtype=torch.bool)
            for b in range(case.batch):
                end = int(given["seqused_k"][b]) if "seqused_k" in given else case.seqlen_k
                begin = int(given["leftpad_k"][b]) if case.leftpad else 0
                token = torch.arange(begin, max(begin, end))
                if case.layout_k == "paged":
                    page = given["block_table"][b].long()[token // case.page_size]
                    used[page, token % case.page_size] = True
                else:
                    row = int(given["cache_batch_idx"][b]) if case.layout_k == "rows" else b
                    used[row, token] = True
            if x.dtype.itemsize == 1:
                x.view(torch.uint8)[~used] = 0x7F  # NaN in e4m3fn, which has no indexed assignment
            else:
                x[~used] = float("nan")


_BASE = Case("base")

# Each feature alone, on a ragged shape with shared key heads.
FEATURES = [
    _BASE,
    vary(_BASE, "causal", causal=True),
    vary(_BASE, "causal-wide", causal=True, seqlen_q=37, seqlen_k=101),
    vary(_BASE, "causal-tall", causal=True, seqlen_q=101, seqlen_k=37),
    vary(_BASE, "window", window=(9, 4)),
    vary(_BASE, "window-left", window=(7, -1), seqlen_q=41),
    vary(_BASE, "window-right", window=(-1, 5), seqlen_q=90),
    vary(_BASE, "window-zero", window=(0, 0)),
    vary(_BASE, "causal-window", causal=True, window=(20, 0), seqlen_k=99),
    vary(_BASE, "softcap", softcap=15.0, magnitude=5.0),
    vary(_BASE, "alibi", alibi="heads", causal=True),
    vary(_BASE, "alibi-batch", alibi="batch", seqlen_k=99),
    vary(_BASE, "sink", sink=True),
    vary(_BASE, "sink-causal-tall", sink=True, causal=True, seqlen_q=101, seqlen_k=37),
    vary(_BASE, "bias", bias="1hqk"),
    vary(_BASE, "bias-own-dtype", bias="bhqk", bias_dtype="bfloat16"),
    vary(_BASE, "mqa", heads_q=5, heads_kv=1),
    vary(_BASE, "gqa7", heads_q=7, heads_kv=1, causal=True),
    vary(_BASE, "mha", heads_q=3, heads_kv=3),
    vary(_BASE, "headdim-v", headdim=40, headdim_v=24),
    vary(_BASE, "headdim-v-larger", headdim=24, headdim_v=64),
    vary(_BASE, "heads-first", strides="heads_first", causal=True),
    vary(_BASE, "sliced", strides="sliced", window=(11, 3)),
]

LAYOUTS = [
    vary(_BASE, "varlen", batch=4, layout_q="packed", layout_k="packed"),
    vary(_BASE, "varlen-causal", batch=4, layout_q="packed", layout_k="packed", causal=True),
    vary(_BASE, "varlen-seqused", batch=4, layout_q="packed", layout_k="packed", seqused_k=True),
    vary(_BASE, "varlen-q", batch=3, layout_q="packed", seqused_k=True, causal=True),
    vary(_BASE, "seqused-k", batch=3, seqused_k=True),
    vary(_BASE, "seqused-both", batch=4, seqused_q=True, seqused_k=True, causal=True),
]

DROPOUT = [
    vary(_BASE, "dropout", dropout_p=0.17),
    vary(_BASE, "dropout-causal", dropout_p=0.5, causal=True, seqlen_k=99, heads_kv=1),
    vary(_BASE, "dropout-varlen", dropout_p=0.3, batch=4, layout_q="packed", layout_k="packed"),
]

# Only forward and decode read these.
CACHES = [
    vary(_BASE, "leftpad", batch=3, leftpad=True, seqlen_q=5),
    vary(_BASE, "leftpad-seqused", batch=3, leftpad=True, seqused_k=True, causal=True),
    vary(_BASE, "cache-rows", batch=3, layout_k="rows", seqused_k=True, seqlen_q=1),
    vary(_BASE, "paged", batch=3, layout_k="paged", seqlen_q=3, causal=True),
    vary(_BASE, "paged-1", layout_k="paged", page_size=1, seqlen_q=1),
    vary(_BASE, "paged-leftpad", batch=3, layout_k="paged", leftpad=True, seqlen_q=4, page_size=5),
    vary(_BASE, "tree", layout_k="paged", tree=True, seqlen_q=40, seqused_k=True),
    vary(_BASE, "tree-leftpad", batch=3, tree=True, seqlen_q=5, leftpad=True),
    vary(_BASE, "tree-varlen", batch=4, tree=True, layout_q="packed", layout_k="paged", seqlen_q=9),
    vary(_BASE, "paged-varlen", batch=4, layout_q="packed", layout_k="paged", causal=True),
]
