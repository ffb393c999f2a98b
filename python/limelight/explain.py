# SPDX-License-Identifier: BSD-3-Clause
"""Which backend a call would run on, and why not on the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limelight import dispatch, runtime
from limelight.absorbed import whole_rows
from limelight.arguments import FOREIGN, refuse_foreign
from limelight.decode_kernel import shares_rows


def _present(value: Any) -> bool:
    return value is not None and (isinstance(value, Tensor) or bool(value))


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


def device_capability(device: Any) -> tuple[int, int] | None:
    """The capability of a torch device, "sm_90", (9, 0), or this machine's (None); None: a CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device, tuple):
        major, minor = device
        return int(major), int(minor)
    if isinstance(device, str) and device.startswith("sm_"):
        return runtime.arch_capability(device)
    return runtime.capability(torch.device(device))


# Argument of the attention functions -> the feature it asks for where its value is not neutral.
_ARGUMENTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "alibi_slopes": ("alibi", _present),
    "block_table": ("paged", _present),
    "cache_leftpad": ("leftpad", _present),
    "cache_seqlens": ("seqused", _present),
    "cu_seqlens_k": ("varlen", _present),
    "cu_seqlens_q": ("varlen", _present),
    "dropout_p": ("dropout", bool),
    "leftpad_k": ("leftpad", _present),
    "learnable_sink": ("sink", _present),
    "num_splits": ("split", lambda value: value > 1),
    "page_table": ("paged", _present),
    "q_v": ("qv", _present),
    "s_aux": ("sink", _present),
    "seqused_k": ("seqused", _present),
    "seqused_q": ("seqused", _present),
    "sinks": ("sink", _present),
    "tree_mask": ("tree", _present),
    "window_size": ("window", lambda value: any(w not in (None, -1) for w in value or ())),
}
_NEUTRAL = (
    "softmax_scale",
    "max_seqlen_q",
    "max_seqlen_k",
    "out",
    "return_attn_probs",
    "return_lse",
    "return_softmax_lse",
    "rotary_cos",
    "rotary_sin",
    "rotary_interleaved",
    "rotary_seqlens",
    "cu_seqlens_k_new",
    "q_descale",
    "k_descale",
    "v_descale",
    "generator",
    "scheduler_metadata",
    "unified_max",
    "fa_version",
    "ver",
)


def _used(features: dict[str, Any]) -> set[str]:
    """The features that keyword arguments ask for, by the features' own names or the calls'."""
    used = set()
    for name, value in features.items():
        if name in dispatch.FEATURES:
            used |= {name} if _present(value) else set()
        elif name in _ARGUMENTS:
            feature, asks = _ARGUMENTS[name]
            used |= {feature} if asks(value) else set()
        elif name in FOREIGN:
            refuse_foreign("explain", {name: value})
        elif name not in _NEUTRAL:
            known = ", ".join([*dispatch.FEATURES, *_ARGUMENTS])
            raise TypeError(f"explain() knows no feature {name!r}; allowed: {known}")
    return used


def explain(
    q: Tensor | None = None,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    op: str = "forward",
    device: Any = None,
    dtype: torch.dtype = torch.bfloat16,
    headdim: int = 128,
    headdim_v: int | None = None,
    heads_q: int = 1,
    heads_kv: int | None = None,
    shared_kv: bool = False,
    **features: Any,
) -> Explanation:
    """Tell which kernel serves a call, and every other kernel's reason, without running it.

    Either of a call: q, k, v and the arguments that the attention function would get (dropout_p,
    window_size, block_table, ...). Or of a description: dtype, headdim, headdim_v, heads_q,
    heads_kv, shared_kv (v is k[..., :headdim_v]; with qv: k is the columns behind v) and features
    by name (causal, window, attention_chunk, varlen, seqused, softcap, alibi, sink, bias, dbias,
    dropout, paged, odd_pages, leftpad, cache_batch_idx, split, tree, fp8_kv, fp8, qv,
    deterministic, batch_invariant) with a true value. max_seqlen_q tells how many tokens a sequence
    has where q does not: few rows for each key are the decode kernels'.
    device: a torch device, "sm_90", (9, 0), or None for q's, else this machine's. op: forward or
    backward. A capability is answered from the kernel table, a device from this build.
    """
    if op not in dispatch.OPS:
        raise ValueError(f"op is {op!r}; allowed: {', '.join(dispatch.OPS)}")
    used = _used(features)
    seqlen_q = features.get("max_seqlen_q")
    columns = False
    if q is not None:
        k = q if k is None else k
        v = k if v is None else v
        device = q.device if device is None else device
        dtype, headdim, headdim_v = q.dtype, q.shape[-1], v.shape[-1]
        heads_q, heads_kv = q.shape[-2], k.shape[-2]
        rows = whole_rows(k, v) if "qv" in used else None
        columns = rows is not None
        if rows is not None:
            k, v = rows, rows[..., :headdim_v]
            shared_kv = shares_rows(k, k, v)
        else:
            shared_kv = headdim >= dispatch.SHARED_KV_FROM and shares_rows(q, k, v)
        seqlen_q = q.shape[1] if seqlen_q is None and q.dim() == 4 else seqlen_q
        if k.element_size() == 1:
            used.add("fp8" if q.element_size() == 1 else "fp8_kv")
        cached = used & {"paged", "leftpad", "cache_batch_idx"}
        if cached and dispatch.odd_pages(k, v, paged="paged" in used):
            used.add("odd_pages")
    headdim_v = headdim if headdim_v is None else headdim_v
    if "qv" in used:  # as absorbed.joined does
        own = not used & {"paged", "leftpad", "cache_batch_idx", "seqused"}
        if columns or shared_kv or own:
            used.remove("qv")
            headdim += headdim_v
            shared_kv = shared_kv or (own and headdim % 8 == headdim_v % 8 == 0)
    if heads_kv is not None and heads_kv != heads_q:
        used.add("gqa")
    query = dispatch.Query(
        op,
        device_capability(device),
        str(dtype).removeprefix("torch."),
        headdim,
        headdim_v,
        frozenset(used),
        None if seqlen_q is None else int(seqlen_q) * heads_q // (heads_kv or heads_q),
        shared_kv,
    )
    here = not (isinstance(device, tuple) or str(device).startswith("sm_"))
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
