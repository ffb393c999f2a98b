# SPDX-License-Identifier: BSD-3-Clause
"""Which backend a call would run on, and why not on the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from limelight import dispatch, runtime


@dataclass(frozen=True)
class Explanation:
    """The answer of ``explain``; its text is for people."""

    query: dispatch.Query
    backend: str  # a kernel's name, or "torch"
    tile: int | None  # the headdim tile that the kernel runs in
    refusals: tuple[dispatch.Refusal, ...]

    def __str__(self) -> str:
        q = self.query
        where = "CPU" if q.capability is None else "sm_" + "".join(map(str, q.capability))
        head = f"{q.headdim}" + (f"/{q.headdim_v}" if q.headdim_v != q.headdim else "")
        features = ", ".join(name for name in dispatch.FEATURES if name in q.features) or "none"
        tile = "" if self.tile is None else f" (headdim tile {self.tile})"
        lines = [
            f"{q.op} on {where}, {q.dtype}, headdim {head}, features: {features}",
            f"  runs on: {self.backend}{tile}" if self.tile else "  runs on: the torch path",
        ]
        lines += [f"  not on {kernel}: {reason}" for kernel, reason in self.refusals]
        return "\n".join(lines)


def _capability(device: Any) -> tuple[int, int] | None:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device, tuple):
        major, minor = device
        return int(major), int(minor)
    if isinstance(device, str) and device.startswith("sm_"):
        return runtime.arch_capability(device)
    return runtime.capability(torch.device(device))


def explain(
    *,
    op: str = "forward",
    device: Any = None,
    dtype: torch.dtype = torch.bfloat16,
    headdim: int = 128,
    headdim_v: int | None = None,
    heads_q: int = 1,
    heads_kv: int | None = None,
    **features: Any,
) -> Explanation:
    """Tell which kernel serves a call, and every other kernel's reason, without running it.

    op: forward or backward. device: a torch device, "sm_90", (9, 0), or None for the machine's own.
    features: causal, window, varlen, seqused, softcap, alibi, sink, bias, dropout, paged, leftpad,
    cache_batch_idx, split, fp8, deterministic, batch_invariant; a true value means that the call
    uses it. A device that is not of this machine is answered from the kernel table, otherwise from
    the kernels of this build.
    """
    if op not in dispatch.OPS:
        raise ValueError(f"op is {op!r}; allowed: {', '.join(dispatch.OPS)}")
    for name in features:
        if name not in dispatch.FEATURES:
            raise TypeError(
                f"explain() knows no feature {name!r}; allowed: {', '.join(dispatch.FEATURES)}"
            )
    used = {name for name, value in features.items() if value}
    if heads_kv is not None and heads_kv != heads_q:
        used.add("gqa")
    query = dispatch.Query(
        op,
        _capability(device),
        str(dtype).removeprefix("torch."),
        headdim,
        headdim if headdim_v is None else headdim_v,
        frozenset(used),
    )
    here = device is None or not (isinstance(device, tuple) or str(device).startswith("sm_"))
    choice = dispatch.choose(query, runtime.installed() if here else None)
    name = "torch" if choice.kernel is None else choice.kernel.name
    return Explanation(query, name, choice.tile, choice.refusals)


def backends() -> dict[str, dict[str, Any]]:
    """Every backend by name: whether it can run here, why not, and its kernels.

    Keys: "kernels" (the compiled extension on a GPU), "emulator" (the same on CPU tensors),
    "torch". Values hold "available" (bool), "reason" (text, empty where available) and, for
    kernels, "kernels" (a list of dicts).
    """
    extension = runtime.core()
    compiled = [] if extension is None else list(extension.kernels())
    on_gpu, why = True, ""
    if extension is None:
        on_gpu, why = False, f"the compiled extension is missing: {runtime.core_error()}"
    elif not torch.cuda.is_available():
        on_gpu, why = False, "torch sees no CUDA device"
    emulated = runtime.settings.backend == "emulator" and extension is not None
    path = runtime.emulator_path()
    idle = (
        "LIMELIGHT_BACKEND is not emulator"
        if path.exists()
        else f"{path} does not exist; build it with `make emulator`"
    )
    return {
        "kernels": {"available": on_gpu, "reason": why, "kernels": compiled},
        "emulator": {
            "available": emulated,
            "reason": "" if emulated else idle,
            "kernels": compiled,
        },
        "torch": {"available": True, "reason": ""},
    }
