# SPDX-License-Identifier: BSD-3-Clause
"""flat_linear beside cuBLAS through torch: the layers of models, verified, then timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limelight import gemm_execute, gemm_torch
from limelight.bench.harness import Measurement, Plan, first_line, time_rounds
from limelight.bench.timers import Call, Timer
from limelight.gemm import flat_linear
from limelight.gemm_checks import check_linear
from limelight.gemm_dispatch import IMPLEMENTATIONS, KERNELS
from limelight.gemm_model import weight_bytes
from limelight.quantize import QuantizedWeight, quantize

# Model -> layer -> (rows of weight, K); q, k, v and gate, up as one weight each. The 70B model is
# one of eight tensor-parallel ranks.
MODELS: dict[str, dict[str, tuple[int, int]]] = {
    "llama-3-8b": {
        "qkv": (6144, 4096),
        "o": (4096, 4096),
        "gate_up": (28672, 4096),
        "down": (4096, 14336),
        "lm_head": (128256, 4096),
    },
    "llama-3-70b-tp8": {
        "qkv": (1280, 8192),
        "o": (8192, 1024),
        "gate_up": (7168, 8192),
        "down": (8192, 3584),
        "lm_head": (16032, 8192),
    },
    "qwen3-8b": {
        "qkv": (6144, 4096),
        "o": (4096, 4096),
        "gate_up": (24576, 4096),
        "down": (4096, 12288),
        "lm_head": (151936, 4096),
    },
}
ROWS = (1, 2, 4, 8, 16, 32, 64)
# --format -> (mode of quantize, format of Layout).
FORMATS = {
    "16bit": (None, "16bit"),
    "fp8": ("fp8", "fp8_channel"),
    "fp8_block": ("fp8_block", "fp8_block"),
    "int4": ("int4", "int4_g128"),
    "int4_g64": ("int4_g64", "int4_g64"),
}
OURS = "limelight"
STATIC = "limelight-static"  # static_weight=True: on sm_90 kernels overlap, as in FlatLinear
PEERS = (OURS, STATIC, gemm_execute.PORTABLE, *IMPLEMENTATIONS)
MOST_ROWS = {name: kernel.max_m for name, kernel in KERNELS.items()}
MOST_ROWS[gemm_execute.PORTABLE] = MOST_ROWS["flat"]
_VERIFIED_ROWS = 256  # of weight, at either end


@dataclass(frozen=True)
class LinearCase:
    """x (m, k) times a weight (n, k)."""

    m: int
    n: int
    k: int
    weight_format: str = "16bit"  # a key of FORMATS
    dtype: str = "bfloat16"
    layer: str = ""

    @property
    def name(self) -> str:
        """For example linear-bfloat16-16bit-m4-n4096-k4096."""
        return f"linear-{self.dtype}-{self.weight_format}-m{self.m}-n{self.n}-k{self.k}"

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.n * self.k

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight and its scales."""
        return weight_bytes(self.n, self.k, FORMATS[self.weight_format][1])

    @property
    def moved_bytes(self) -> int:
        """Bytes of weight, x and out."""
        return self.weight_bytes + 2 * self.m * (self.k + self.n)

    def as_dict(self) -> dict[str, Any]:
        """The fields, with the name."""
        return {"name": self.name} | asdict(self)


class Inputs(NamedTuple):
    """What a call takes."""

    x: Tensor
    weight: Tensor
    scale: Tensor | None
    zero: Tensor | None


def model_cases(
    models: Sequence[str],
    rows: Sequence[int] = ROWS,
    weight_format: str = "16bit",
    dtype: str = "bfloat16",
) -> list[LinearCase]:
    """Every layer shape of the models once, for every M."""
    shapes: dict[tuple[int, int], list[str]] = {}
    for model in models:
        for layer, shape in MODELS[model].items():
            shapes.setdefault(shape, []).append(f"{model}.{layer}")
    return [
        LinearCase(m, n, k, weight_format, dtype, ", ".join(names))
        for (n, k), names in shapes.items()
        for m in rows
    ]


def weight_sets(
    case: LinearCase, device: torch.device, l2_bytes: int, plan: Plan
) -> list[QuantizedWeight]:
    """Random weights, so many that cycling through them leaves none in L2."""
    count = 2 + 2 * l2_bytes // case.weight_bytes
    count = max(1, min(count, plan.memory_bytes // case.weight_bytes))
    generator = torch.Generator(device).manual_seed(1)
    dtype, mode = getattr(torch, case.dtype), FORMATS[case.weight_format][0]

    def draw() -> QuantizedWeight:
        shape = (case.n, case.k)
        weight = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        weight *= case.k**-0.5
        return QuantizedWeight(weight, None) if mode is None else quantize(weight, mode)

    return [draw() for _ in range(count)]


def input_sets(case: LinearCase, weights: Sequence[QuantizedWeight]) -> list[Inputs]:
    """A random x of the case's rows for every weight."""
    device = weights[0].weight.device
    generator = torch.Generator(device).manual_seed(2)
    dtype = getattr(torch, case.dtype)
    shape = (case.m, case.k)
    return [
        Inputs(torch.randn(shape, generator=generator, device=device, dtype=dtype), *stored)
        for stored in weights
    ]


def call_of(peer: str, inputs: Inputs) -> Tensor:
    """One implementation on one set."""
    x, weight, scale, zero = inputs
    if peer in (OURS, STATIC):
        static = peer == STATIC
        return flat_linear(x, weight, weight_scale=scale, weight_zero=zero, static_weight=static)
    return gemm_execute.run(x, weight, scale=scale, zero=zero, only=peer)


def verify(out: Tensor, inputs: Inputs) -> tuple[float, float]:
    """(max |out - exact|, allowed) on the first and last rows of weight.

    allowed is twice the error of torch's product in x's dtype on the expanded weight plus the
    rounding of an output; exact is in float64.
    """
    x, weight, scale, zero = inputs
    if out.shape != (x.shape[0], weight.shape[0]) or not torch.isfinite(out).all():
        return float("inf"), 0.0
    layout = check_linear(x, weight, None, None, scale, zero, None, None)
    deviation = allowed = 0.0
    near_end = max(0, layout.rows - _VERIFIED_ROWS) // 128 * 128
    for first, last in {(0, _VERIFIED_ROWS), (near_end, layout.rows)}:
        rows = slice(first, last)
        part = weight[rows]
        scales = scale
        if scale is not None:
            blocks = slice(first // 128, -(-last // 128))
            scales = scale[blocks if layout.format == "fp8_block" else rows]
        zeros = None if zero is None else zero[rows]
        full = gemm_torch.dequantize(part, scales, zeros, layout, torch.float64)
        exact = x.double() @ full.T
        low = (x @ full.to(x.dtype).T).double()
        eps = torch.finfo(x.dtype).eps
        bound = 2 * (low - exact).abs().max() + eps * exact.abs().max()
        error = (out[:, rows].double() - exact).abs().max()
        deviation, allowed = max(deviation, error.item()), max(allowed, bound.item())
    return deviation, allowed


def measure(
    case: LinearCase,
    sets: Sequence[Inputs],
    peers: Sequence[str],
    timer: Timer,
    plan: Plan,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Verify every peer, then time those that passed, round by round."""
    results = {name: Measurement(name) for name in peers}
    calls: dict[str, Call] = {}
    with torch.no_grad():
        for name in peers:
            progress(f"{case.name}: checking {name}")
            result = results[name]
            try:
                result.deviation, result.allowed = verify(call_of(name, sets[0]), sets[0])
            except Exception as error:  # a kernel that refuses this M must not end the run
                result.error = first_line(error)
                continue
            if not result.deviation <= result.allowed:
                off = f"off by {result.deviation:.3g}, allowed {result.allowed:.3g}"
                result.error = f"wrong: {off}"
                continue
            calls[name] = _rotating(name, sets)
        time_rounds(case.name, calls, results, timer, plan, progress)
    return list(results.values())


def _rotating(peer: str, sets: Sequence[Inputs]) -> Call:
    return lambda index: call_of(peer, sets[index % len(sets)])
