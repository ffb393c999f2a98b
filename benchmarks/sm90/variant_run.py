# SPDX-License-Identifier: BSD-3-Clause
"""Call, check and time the libraries of variants, on a GPU or on the emulator's CPU tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from limelight import runtime
from limelight.bench import harness
from limelight.bench.cases import Case
from limelight.bench.peers import PEERS, Attention
from limelight.bench.timers import Timer
from torch import Tensor

DTYPES = {torch.float16: 0, torch.bfloat16: 1}
POISON = float("nan")


class Call(ctypes.Structure):
    """VariantCall of variant_entry.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "lse", "cu_q", "cu_k")),
        *((name, ctypes.c_int64) for name in ("total_q", "total_k")),
        ("stream", ctypes.c_void_p),
        *(
            (name, ctypes.c_int32)
            for name in ("dtype", "batch", "seqlen_q", "seqlen_k", "heads_q", "heads_kv")
        ),
        *(
            (name, ctypes.c_int32)
            for name in ("headdim", "headdim_v", "causal", "left", "right", "sm_count")
        ),
        ("scale", ctypes.c_float),
    )


@dataclass(frozen=True)
class Check:
    """A call whose result is compared with float64; window: keys seen to the left and right."""

    name: str
    seqlen_q: int
    seqlen_k: int
    batch: int = 1
    heads_q: int = 2
    heads_kv: int = 1
    window: tuple[int, int] = (-1, -1)
    lengths: tuple[tuple[int, int], ...] = ()  # packed: (rows of q, keys) of each sequence
    dtype: torch.dtype = torch.bfloat16

    @property
    def full(self) -> bool:
        """Whether every row sees every key, which has tiles of its own in some rows."""
        return self.window == (-1, -1)


# Ends of blocks, masks, packed tails, more tiles than thread blocks, several rounds of the rings.
CHECKS = (
    Check("full", 333, 390, heads_q=4, heads_kv=2, batch=2),
    Check("full, float16", 129, 345, dtype=torch.float16),
    Check("causal", 333, 390, heads_q=4, heads_kv=2, batch=2, window=(-1, 0)),
    Check("causal, few keys", 300, 90, window=(-1, 0)),
    Check("heads that share a tile", 40, 500, heads_q=8, batch=2, window=(-1, 0)),
    Check("window", 500, 500, window=(100, 30)),
    Check("packed", 400, 400, window=(-1, 0), lengths=((1, 70), (192, 193), (0, 5), (400, 400))),
    Check("packed, full", 260, 300, lengths=((67, 300), (260, 31), (5, 160))),
    Check("long", 1025, 3001, batch=3, heads_q=16, heads_kv=4, window=(-1, 0)),
    Check("long, full", 1025, 3001, batch=3, heads_q=16, heads_kv=4),
)
SMALL = (
    Check("causal", 70, 200, window=(-1, 0)),
    Check("packed, full", 67, 140, lengths=((67, 140), (5, 31))),
)


class Library:
    """The forward pass of one variant."""

    def __init__(self, path: Path, sm_count: int) -> None:
        if runtime.settings.backend == "emulator":
            runtime.emulator()  # first, or the library binds to another runtime
        self.sm_count = sm_count
        self.function = ctypes.CDLL(str(path)).variant_forward
        self.function.restype = ctypes.c_char_p
        self.function.argtypes = [ctypes.POINTER(Call)]

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: tuple[int, int],
        cu_seqlens: tuple[Tensor, Tensor] | None = None,
        longest: tuple[int, int] = (0, 0),
        fill: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Dense (batch, seqlen, heads, headdim) or packed (total, heads, headdim) contiguous
        tensors; out, and lse in float32, filled before if asked. RuntimeError if the launch
        refuses."""
        packed = cu_seqlens is not None
        batch = cu_seqlens[0].numel() - 1 if cu_seqlens is not None else q.shape[0]
        rows_q, rows_k = q.shape[-3], k.shape[-3]
        heads_q, headdim = q.shape[-2:]
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        lse_shape = (heads_q, rows_q) if packed else (batch, heads_q, rows_q)
        lse = q.new_empty(lse_shape, dtype=torch.float32)
        if fill is not None:
            out.fill_(fill)
            lse.fill_(fill)
        causal = window == (-1, 0)

        def entry(*values: Tensor | int | None) -> None:
            *tensors, stream = values
            pointers = [x.data_ptr() if isinstance(x, Tensor) else None for x in tensors]
            seqlen_q, seqlen_k = longest if packed else (rows_q, rows_k)
            call = Call(
                *pointers,
                *((rows_q, rows_k) if packed else (0, 0)),
                stream,
                *(DTYPES[q.dtype], batch, seqlen_q, seqlen_k, heads_q, k.shape[-2]),
                *(headdim, v.shape[-1], causal, *window, self.sm_count),
                headdim**-0.5,
            )
            error = self.function(ctypes.byref(call))
            if error:
                raise RuntimeError(error.decode())

        runtime.launch(entry, (q, k, v, out, lse, *(cu_seqlens or (None, None))), ())
        return out, lse


def attention_of(library: Library) -> Attention:
    """A library as the harness calls it."""

    def attention(q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
        return library(q, k, v, (-1, 0) if case.causal else (-1, -1))[0]

    return attention


def check(
    library: Library, checks: Sequence[Check], headdim: int, headdim_v: int, device: torch.device
) -> tuple[str, float]:
    """(what is wrong first, empty if nothing is; the largest error over what is allowed)."""
    worst = 0.0
    for case in checks:
        share = _share(library, case, headdim, headdim_v, device)
        if not share <= 1:
            return f"wrong: {case.name}: {share:.3g} times the allowed error", share
        worst = max(worst, share)
    return "", worst


def _share(
    library: Library, case: Check, headdim: int, headdim_v: int, device: torch.device
) -> float:
    """The error over what is allowed; inf where a value is not finite."""
    generator = torch.Generator(device).manual_seed(7)
    rows = [sum(lengths) for lengths in zip(*case.lengths, strict=True)]
    rows_q, rows_k = rows or (case.seqlen_q, case.seqlen_k)
    batch = 1 if case.lengths else case.batch

    def draw(length: int, heads: int, columns: int) -> Tensor:
        shape = (batch, length, heads, columns)
        x = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        return x.to(case.dtype)

    q = draw(rows_q, case.heads_q, headdim)
    k, v = (draw(rows_k, case.heads_kv, columns) for columns in (headdim, headdim_v))
    if not case.lengths:
        out, lse = library(q, k, v, case.window, fill=POISON)
        return max(_compare(q[b], k[b], v[b], case, out[b], lse[b]) for b in range(batch))
    ends = [torch.tensor([0, *lengths]).cumsum(0) for lengths in zip(*case.lengths, strict=True)]
    tables = ends[0].int().to(device), ends[1].int().to(device)
    longest = case.seqlen_q, case.seqlen_k
    out, lse = library(q[0], k[0], v[0], case.window, tables, longest, POISON)
    shares = [0.0]
    for (q0, q1), (k0, k1) in zip(*map(_spans, ends), strict=True):
        if q1 > q0:
            part = q[0, q0:q1], k[0, k0:k1], v[0, k0:k1]
            shares.append(_compare(*part, case, out[q0:q1], lse[:, q0:q1]))
    return max(shares)


def _spans(ends: Tensor) -> list[tuple[int, int]]:
    """Where each sequence begins and ends."""
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def _compare(q: Tensor, k: Tensor, v: Tensor, case: Check, out: Tensor, lse: Tensor) -> float:
    """One sequence: error of out over twice the error of the plain formula in the inputs' dtype
    plus the rounding of an output; of lse over the rounding of fp32 sums of headdim products."""
    hidden = _hidden(q.shape[0], k.shape[0], case.window, q.device)
    exact, exact_lse, largest = _plain(q.double(), k.double(), v.double(), hidden)
    low = _plain(q, k, v, hidden)[0].double()
    empty = hidden.all(1)
    none = torch.isneginf(lse[:, empty]).all() and (out[empty] == 0).all()
    if not (none and out.isfinite().all() and lse[:, ~empty].isfinite().all()):
        return float("inf")
    allowed = 2 * (low - exact).abs().max() + torch.finfo(out.dtype).eps * exact.abs().max()
    share = ((out.double() - exact).abs().max() / allowed).item()
    bound = 2.0**-23 * (q.shape[-1] * largest + 16)
    difference = (lse[:, ~empty].double() - exact_lse[:, ~empty]).abs()
    return max(share, difference.max().item() / bound if difference.numel() else 0.0)


def _hidden(rows: int, keys: int, window: tuple[int, int], device: torch.device) -> Tensor:
    """[rows, keys]: which keys a row does not see; aligned at the bottom right."""
    distance = torch.arange(keys, device=device) - torch.arange(rows, device=device)[:, None]
    distance -= keys - rows
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    left, right = window
    hidden |= (distance < -left) if left >= 0 else hidden
    return hidden | ((distance > right) if right >= 0 else hidden)


def _plain(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, float]:
    """out and lse by the formula, and the largest sum of |q k| times the scale."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 0) for x in (k, v))
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(hidden, float("-inf"))
    statistics = torch.promote_types(q.dtype, torch.float32)
    p = torch.softmax(scores, -1, dtype=statistics).nan_to_num(0.0)  # rows that see no key
    lse = torch.logsumexp(scores.to(statistics), -1)
    largest = (
        [x.abs().amax((0, 1)) for x in (q, k)] if q.numel() and k.numel() else [q.new_zeros(1)]
    )
    products = torch.stack(largest).prod(0).sum().item() * q.shape[-1] ** -0.5
    return (p.to(q.dtype) @ v).transpose(0, 1), lse, products


def measure(
    libraries: dict[str, Library],
    peers: Sequence[str],
    case: Case,
    headdim_v: int,
    device: torch.device,
    l2_bytes: int,
    timer: Timer,
    plan: harness.Plan,
    progress: Callable[[str], None] = lambda text: None,
) -> list[harness.Measurement]:
    """Variants and torch's backends on one case, verified again and side by side."""
    sets = [
        (q, k, v[..., :headdim_v].contiguous())
        for q, k, v in harness.input_sets(case, device, l2_bytes, plan)
    ]
    runs = {name: attention_of(library) for name, library in libraries.items()}
    runs |= {name: PEERS[name] for name in peers}
    with torch.no_grad():
        return harness.measure(case, sets, runs, timer, plan, progress)
