# SPDX-License-Identifier: BSD-3-Clause
"""Verify, then time side by side: rotating inputs past the L2 cache, CUDA events, one round of
every peer after the other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from limelight.bench.cases import Case
from limelight.bench.peers import OURS, Attention, plain
from limelight.bench.timers import Call, Timer

Inputs = tuple[Tensor, Tensor, Tensor]


class Work(Protocol):
    """What is timed, for rates."""

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        ...

    @property
    def moved_bytes(self) -> int:
        """Bytes that must be read and written at least once."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 10  # one round times every peer once, so that drifting clocks hit all alike
    round_us: float = 30e3  # a round repeats the call until it lasts about this long
    max_iterations: int = 1000
    memory_bytes: int = 8 << 30  # of all input sets together
    max_score_bytes: int = 24 << 30  # the plain formula is left out above this


@dataclass
class Measurement:
    """One peer on one case; times are per call."""

    peer: str
    rounds_us: list[float] = field(default_factory=list)
    error: str = ""  # why it was not timed
    deviation: float | None = None  # max |out - exact|
    allowed: float | None = None

    @property
    def median_us(self) -> float | None:
        """The median over rounds."""
        return statistics.median(self.rounds_us) if self.rounds_us else None

    def as_dict(
        self, case: Work, peak_tflops: float | None, copy_gbps: float | None = None
    ) -> dict[str, Any]:
        """JSON values; tflops, gbps and the fractions follow from the median."""
        median = self.median_us
        tflops = case.flops / median / 1e6 if median else None
        gbps = case.moved_bytes / median / 1e3 if median else None
        return {
            "peer": self.peer,
            "median_us": median,
            "min_us": min(self.rounds_us, default=None),
            "max_us": max(self.rounds_us, default=None),
            "tflops": tflops,
            "fraction_of_peak": tflops / peak_tflops if tflops and peak_tflops else None,
            "gbps": gbps,
            "fraction_of_copy": gbps / copy_gbps if gbps and copy_gbps else None,
            "deviation": self.deviation,
            "allowed": self.allowed,
            "error": self.error,
        }


def input_sets(case: Case, device: torch.device, l2_bytes: int, plan: Plan) -> list[Inputs]:
    """Random inputs, enough sets that cycling through them leaves none in L2: twice its size
    together."""
    count = 2 + 2 * l2_bytes // case.input_bytes
    count = max(1, min(count, plan.memory_bytes // case.input_bytes))
    generator = torch.Generator(device).manual_seed(1)
    dtype = getattr(torch, case.dtype)

    def draw(heads: int) -> Tensor:
        shape = (case.batch, case.seqlen, heads, case.headdim)
        x = torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)
        return x.requires_grad_(case.direction == "backward")

    return [(draw(case.heads), draw(case.heads_kv), draw(case.heads_kv)) for _ in range(count)]


def verify(attention: Attention, case: Case, inputs: Inputs) -> tuple[float, float]:
    """(max |out - exact|, allowed) on the first and last head of the first and last batch row.

    allowed is twice the error of the plain formula in the inputs' dtype plus the rounding of an
    output to that dtype; exact is the plain formula in float64.
    """
    q, k, v = (x.detach() for x in inputs)
    out = attention(q, k, v, case)
    if out.shape != (*q.shape[:-1], v.shape[-1]) or not torch.isfinite(out).all():
        return float("inf"), 0.0
    group = case.heads // case.heads_kv
    one = Case(1, case.seqlen, 1, 1, case.headdim, case.causal, case.dtype)
    deviation = allowed = 0.0
    for row, head in {(0, 0), (case.batch - 1, case.heads - 1)}:
        queries = q[row, :, head][None, :, None]
        keys, values = (x[row, :, head // group][None, :, None] for x in (k, v))
        exact = plain(queries.double(), keys.double(), values.double(), one)
        low = plain(queries, keys, values, one)
        eps = torch.finfo(out.dtype).eps
        bound = 2 * (low.double() - exact).abs().max() + eps * exact.abs().max()
        error = (out[row, :, head].double() - exact[0, :, 0]).abs().max()
        deviation, allowed = max(deviation, error.item()), max(allowed, bound.item())
    return deviation, allowed


def measure(
    case: Case,
    sets: Sequence[Inputs],
    peers: dict[str, Attention],
    timer: Timer,
    plan: Plan,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Verify every peer, then time those that passed, round by round."""
    results = {name: Measurement(name) for name in peers}
    calls: dict[str, Call] = {}
    for name, attention in peers.items():
        progress(f"{case.name}: checking {name}")
        result = results[name]
        if name == "plain" and case.score_bytes > plan.max_score_bytes:
            result.error = f"its score matrix needs {case.score_bytes / 2**30:.0f} GiB"
            continue
        try:
            result.deviation, result.allowed = verify(attention, case, sets[0])
            if not result.deviation <= result.allowed:
                result.error = f"wrong: off by {result.deviation:.3g}, allowed {result.allowed:.3g}"
                continue
            call = _call(attention, case, sets)
            call(0)
            calls[name] = call
        except Exception as error:  # a peer that cannot run this case must not end the run
            result.error = first_line(error)
    time_rounds(case.name, calls, results, timer, plan, progress)
    return list(results.values())


def time_rounds(
    name: str,
    calls: dict[str, Call],
    results: dict[str, Measurement],
    timer: Timer,
    plan: Plan,
    progress: Callable[[str], None],
) -> None:
    """Time calls of verified peers; one that cannot be timed gets its error."""
    iterations: dict[str, int] = {}
    for peer, call in calls.items():
        try:
            iterations[peer] = _iterations(call, timer, plan)
        except Exception as error:  # for example a library call that a graph cannot capture
            results[peer].error = first_line(error)
    for number in range(plan.rounds):
        progress(f"{name}: round {number + 1} of {plan.rounds}")
        for peer, count in iterations.items():
            us = timer.microseconds(calls[peer], number * count, count)
            results[peer].rounds_us.append(us)


def first_line(error: Exception) -> str:
    """An exception in one line of at most 200 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def ratios(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Time of each peer over limelight's: above 1 limelight is faster."""
    medians = {m.peer: m.median_us for m in measurements}
    own = medians.get(OURS)
    if not own:
        return {}
    return {name: time / own for name, time in medians.items() if time and name != OURS}


def _call(attention: Attention, case: Case, sets: Sequence[Inputs]) -> Call:
    if case.direction == "forward":

        def forward(index: int) -> Any:
            with torch.no_grad():
                return attention(*sets[index % len(sets)], case)

        return forward
    outs = [attention(*inputs, case) for inputs in sets]
    gradients = [torch.randn_like(out) for out in outs]

    def backward(index: int) -> Any:
        i = index % len(sets)
        return torch.autograd.grad(outs[i], sets[i], gradients[i], retain_graph=True)

    return backward


def _iterations(call: Call, timer: Timer, plan: Plan) -> int:
    """Calls per round, after about a round's worth of warm-up."""

    def fitting(microseconds: float) -> int:
        return max(1, min(plan.max_iterations, int(plan.round_us / microseconds) + 1))

    warm_up = max(3, fitting(timer.microseconds(call, 0, 3)))
    return fitting(timer.microseconds(call, 0, warm_up))
