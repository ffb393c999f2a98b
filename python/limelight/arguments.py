# SPDX-License-Identifier: BSD-3-Clause
"""From the arguments of the public functions, with their aliases, to one AttentionProblem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from limelight.inputs import autocast
from limelight.messages import (
    as_number,
    as_whole,
    bad,
    check_index,
    check_tensor,
    contiguous_rows,
    short,
)
from limelight.problem import AttentionProblem

if TYPE_CHECKING:
    WindowSize = Sequence[int | None] | None


class Later(TypedDict, total=False):
    """The keyword-only arguments that the packed functions pass on to their unpacked forms."""

    sink: Tensor | None
    s_aux: Tensor | None
    learnable_sink: Tensor | None
    bias: Tensor | None
    qv: Tensor | None
    attention_chunk: int
    seqused_q: Tensor | None
    seqused_k: Tensor | None
    q_descale: Tensor | None
    k_descale: Tensor | None
    v_descale: Tensor | None
    num_splits: int
    batch_invariant: bool
    generator: torch.Generator | None
    out: Tensor | None
    return_lse: bool
    return_softmax_lse: bool


# Arguments of other attention packages that are accepted only where they ask for nothing:
# name -> (values that ask for nothing, what to do instead).
FOREIGN: dict[str, tuple[tuple[Any, ...], str]] = {
    "aux_scalars": ((None,), "score and mask functions do not exist here; use bias"),
    "aux_tensors": ((None,), "score and mask functions do not exist here; use bias"),
    "aux_tensor_leading_dims": ((None,), "score and mask functions do not exist here; use bias"),
    "block_sparse_tensors": ((None,), "use window_size, or bias with -inf"),
    "block_sparse_tensors_bwd": ((None,), "use window_size, or bias with -inf"),
    "cp_rank": ((None, 0), "return_lse=True and merge_attn_states join the ranks' results"),
    "cp_tot_seqused_k": ((None,), "return_lse=True and merge_attn_states join the ranks' results"),
    "cp_world_size": ((None, 1), "return_lse=True and merge_attn_states join the ranks' results"),
    "dynamic_causal": ((None,), "split the batch into a causal and a full call"),
    "gather_kv_indices": ((None,), "use block_table with page size 1"),
    "gather_kv_valid_length": ((None,), "use block_table with page size 1"),
    "mask_mod": ((None,), "use causal, window_size, or bias with -inf"),
    "min_seqlen_k": ((None,), "leave it out: no kernel needs a lower bound"),
    "output_scale": ((None,), "scale the output after the call"),
    "pack_gqa": ((None, True, False), ""),  # a scheduling hint of FA3: results do not depend on it
    "score_mod": ((None,), "use softcap, alibi_slopes or bias"),
    "score_mod_bwd": ((None,), "use softcap, alibi_slopes or bias"),
    "seqlen_k_per_split": ((None,), "use batch_invariant=True"),
    "disable_scheduler_metadata": ((None, True, False), ""),
    "sm_margin": ((None, 0), "no kernel leaves processors free"),
    "virtual_batch_idx": ((None,), "partial results in the order of the batch"),
}


def refuse_foreign(function: str, others: dict[str, Any]) -> None:
    """Accept arguments of other packages that ask for nothing.

    Raise TypeError for every other one.
    """
    for name, value in others.items():
        if name not in FOREIGN:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
        neutral, instead = FOREIGN[name]
        if isinstance(value, Tensor) or value not in neutral:
            raise TypeError(
                f"{function}(): {name} is {short(value)}; allowed: "
                f"{' or '.join(map(repr, neutral))}. Nearest supported call: {instead}"
            )


def one_of(meaning: str, **aliases: Tensor | None) -> Tensor | None:
    """The value of the one alias that is given; a TypeError where two are."""
    given = {name: value for name, value in aliases.items() if value is not None}
    if len(given) > 1:
        raise TypeError(
            f"{' and '.join(given)} are the same argument ({meaning}); give one of them"
        )
    return next(iter(given.values())) if given else None


_LEFT, _RIGHT = "window_size[0]", "window_size[1]"


def window_bounds(window_size: WindowSize, causal: bool) -> tuple[int, int]:
    """(left, right) with -1 for unbounded; right is 0 where causal."""
    if causal is not True and causal is not False:
        if isinstance(causal, Tensor):
            raise TypeError("causal is a tensor; allowed: True or False for the whole batch")
        causal = bool(causal)
    if window_size is None:
        return -1, 0 if causal else -1
    try:
        left, right = window_size
    except (TypeError, ValueError):
        raise TypeError(
            f"window_size is {window_size!r}; allowed: (left, right) or None. "
            "Nearest supported call: window_size=(left, -1)"
        ) from None
    left = -1 if left is None else left if type(left) is int else as_whole(_LEFT, left, -1)
    right = -1 if right is None else right if type(right) is int else as_whole(_RIGHT, right, -1)
    if left < -1 or right < -1:
        raise ValueError(
            f"window_size is ({left}, {right}); allowed: integers >= 0, or -1 (unbounded). "
            "Nearest supported call: window_size=(-1, -1)"
        )
    # Wider than any sequence is unbounded; kernels count in 32 bits.
    left = -1 if left >= 2**30 else left
    right = -1 if right >= 2**30 else right
    return left, 0 if causal else right


def chunk_length(attention_chunk: int | None) -> int:
    """The tokens of a chunk, 0 for none."""
    if attention_chunk is None or attention_chunk == 0:
        return 0
    chunk = as_whole("attention_chunk", attention_chunk, 0)
    if chunk < 0:
        allowed = "0 (off) or the tokens of a chunk"
        raise bad("attention_chunk", chunk, allowed, "attention_chunk=0")
    return min(chunk, 2**30)  # longer than any sequence; kernels count in 32 bits


def host_int(name: str, value: Any) -> int:
    """An int from an int or a one-element tensor (which synchronises)."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            was, nearest = short(value), f"{name}=int(cu_seqlens.diff().max())"
            raise bad(name, was, "an int or a tensor of one", nearest, TypeError)
        value = value.item()
    if value is None:
        raise TypeError(
            f"{name} is missing; allowed: an int, at least the longest sequence of the batch. "
            f"Nearest supported call: {name}=int(cu_seqlens.diff().max())"
        )
    return as_whole(name, value, "int(cu_seqlens.diff().max())")


def draw_rng_state(device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Philox seed and offset from torch's generator of the device: checkpointing replays them."""
    return torch.randint(0, 2**63 - 1, (2,), dtype=torch.int64, device=device, generator=generator)


def _logits(sink: Any, q: Tensor) -> Any:
    """sink as kernels read it: fp32, or fp64 beside a q of fp64; integers, refused later, as is."""
    check_tensor("sink", sink)
    if not sink.is_floating_point():
        return sink
    return sink if sink.dtype == q.dtype == torch.float64 else sink.float()


def _refuse_order(dropout_p: Any, softmax_scale: Any) -> None:
    """Name what arguments in the order of flash-attn 3 and 4 look like."""
    name, was = "dropout_p", short(dropout_p)
    if not isinstance(dropout_p, Tensor):
        name, was = "softmax_scale", repr(softmax_scale)
    nearest = "arguments behind v by name: their order is flash-attn 2's"
    raise bad(name, was, "a number", nearest, TypeError)


def build_problem(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size: WindowSize,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    max_seqlen_q: int,
    max_seqlen_k: int,
    sink: Tensor | None,
    bias: Tensor | None,
    descales: tuple[Tensor | None, Tensor | None, Tensor | None],
    num_splits: int,
    batch_invariant: bool,
    qv: Tensor | None = None,
    attention_chunk: int | None = 0,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    leftpad_k: Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    block_table: Tensor | None = None,
    generator: torch.Generator | None = None,
    tree_mask: Tensor | None = None,
    unified_max: float | None = None,
    schedule: Tensor | None = None,
) -> AttentionProblem:
    """The problem of one call.

    Descales of tensors that are not float8 are dropped, as FA3 does: servers pass them always.
    """
    if isinstance(dropout_p, Tensor) or isinstance(softmax_scale, bool):
        _refuse_order(dropout_p, softmax_scale)
    left, right = window_bounds(window_size, causal)
    if block_table is not None and cu_seqlens_k is not None:
        # Pages have no packed offsets: cu_seqlens_k only carries lengths.
        check_index("cu_seqlens_k", cu_seqlens_k, 1)
        lengths = cu_seqlens_k.diff()
        if seqused_k is not None:
            check_index("seqused_k", seqused_k, 1)
            if seqused_k.shape != lengths.shape or seqused_k.device != lengths.device:
                was = f"{short(seqused_k)} on {seqused_k.device}"
                allowed = f"({lengths.shape[0]},) on {lengths.device}, as cu_seqlens_k tells"
                raise bad("seqused_k", was, allowed, "cu_seqlens_k=None")
            lengths = torch.minimum(lengths, seqused_k)
        seqused_k, cu_seqlens_k = lengths, None
    if qv is not None:
        check_tensor("qv", qv)
        qv = contiguous_rows(qv if q.dtype is torch.float32 else autocast(qv))
    if softmax_scale is None:
        columns = q.shape[-1] if qv is None else q.shape[-1] + qv.shape[-1]
        scale = (columns or 1) ** -0.5
    else:
        scale = as_number("softmax_scale", softmax_scale, None)
    if type(softcap) is not float:
        softcap = as_number("softcap", softcap, 0.0)
    if type(dropout_p) is not float:
        dropout_p = as_number("dropout_p", dropout_p, 0.0)
    if bias is not None:
        check_tensor("bias", bias)
    fields: dict[str, Any] = {
        "softmax_scale": scale,
        "max_seqlen_q": max_seqlen_q,
        "max_seqlen_k": max_seqlen_k,
        "causal": causal is True or bool(causal),
        "window_left": left,
        "window_right": right,
        "softcap": softcap,
        "dropout_p": dropout_p,
        "deterministic": deterministic,
        "batch_invariant": batch_invariant,
        "num_splits": num_splits,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "seqused_q": seqused_q,
        "seqused_k": seqused_k,
        "leftpad_k": leftpad_k,
        "cache_batch_idx": cache_batch_idx,
        "block_table": block_table,
        "alibi_slopes": alibi_slopes,
        "sink": sink if sink is None else _logits(sink, q),
        "bias": bias,
    }
    if attention_chunk != 0:
        fields["attention_chunk"] = chunk_length(attention_chunk)
    if qv is not None:
        fields["qv"] = qv
    if tree_mask is not None:
        fields["tree_mask"] = tree_mask
    if unified_max is not None:
        fields["unified_max"] = as_number("unified_max", unified_max, None)
    if schedule is not None:
        check_tensor("scheduler_metadata", schedule)
        if schedule.numel() > 0:
            fields["schedule"] = schedule
    if dropout_p > 0:
        fields["rng_state"] = draw_rng_state(q.device, generator)
    if descales != (None, None, None):
        names = ("q_descale", "k_descale", "v_descale")
        for name, descale, x in zip(names, descales, (q, k, v), strict=True):
            fields[name] = descale if x.element_size() == 1 else None
    if torch.compiler.is_compiling():
        return AttentionProblem(**fields)
    # The frozen dataclass's own constructor costs 2 us more: it guards each of its assignments.
    problem = object.__new__(AttentionProblem)
    problem.__dict__.update(fields)
    return problem
