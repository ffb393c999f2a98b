# SPDX-License-Identifier: BSD-3-Clause
"""``attn_implementation="limelight"`` for transformers models.

    import limelight.integrations.transformers as integration
    integration.register()
    model = AutoModel.from_pretrained(name, attn_implementation="limelight")

Padding and packing are served exactly (``limelight.integrations.routes`` lists how); what cannot be
computed raises.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import limelight
from limelight.integrations import masks, routes
from limelight.integrations.masks import Layout, Padding, Structure
from limelight.integrations.routes import Packing

NAME = "limelight"
NEEDS = "limelight.integrations.transformers needs transformers >= 5 (pip install -U transformers)"
UNSUPPORTED = {
    "cache": "a paged cache of continuous batching (generate() is supported)",
    "block_table": "a paged cache of continuous batching (generate() is supported)",
    "indices": "sparse key indices",
    "block_indices": "sparse block indices",
    "sinks": "per-query attention sinks (s_aux, one logit per head, is supported)",
    "head_mask": "a head mask",
}


def register() -> str:
    """Register the attention and the mask function under "limelight"; return that name. Repeated
    calls change nothing.

    Raises ImportError if transformers is missing or older than 5 (its mask functions take other
    arguments).
    """
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    except ImportError as error:
        raise ImportError(f"{NEEDS}: {error}") from error
    if "q_length" not in inspect.signature(sdpa_mask).parameters:
        raise ImportError(
            f"{NEEDS}; the installed one is {importlib.metadata.version('transformers')}"
        )
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, attention_mask)
    return NAME


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | Tensor | None = None,
    max_length_k: int | Tensor | None = None,
    deterministic: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls.

    query (batch, heads_q, seqlen_q, headdim), key and value (batch, heads_kv, seqlen_k,
    headdim[_v]) -> ((batch, seqlen_q, heads_q, headdim_v), None). A mask made by ``attention_mask``
    decides about causality and window, as it does for eager attention; without one ``is_causal``
    (else ``module.is_causal``) and ``sliding_window`` do. Raises ValueError for what it cannot
    compute.
    """
    _refuse(kwargs)
    q, k, v = _operands(query, key, value)
    options: dict[str, Any] = {
        "dropout_p": dropout,
        "softmax_scale": scaling,
        "softcap": softcap or 0.0,
        "deterministic": bool(deterministic),
    }
    if s_aux is not None:
        options["sink"] = s_aux.reshape(-1).float()
    bias = None if position_bias is None else _bias("position_bias", position_bias, q, k)
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    layout = _layout(attention_mask, causal, sliding_window)
    if layout is None:
        assert attention_mask is not None
        bias = _sum(bias, _bias("attention_mask", attention_mask, q, k))
    if cu_seq_lens_q is not None or cu_seq_lens_k is not None:
        if cu_seq_lens_q is None or cu_seq_lens_k is None:
            raise ValueError("cu_seq_lens_q and cu_seq_lens_k: one is None; pass both or neither")
        if layout is not None and layout.padded:
            raise ValueError(
                "cu_seq_lens_q with a padded attention_mask: pack the real tokens or pass the "
                "mask, not both"
            )
        packing = Packing(cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        if bias is None and layout is not None:
            return routes.packed(q, k, v, packing, layout.structure, options), None
        bias = _sum(bias, packing.bias(q, k))
        layout = layout and Layout(replace(layout.structure, segments=None), layout.padding)
    if layout is None:
        return limelight.flash_attn_func(q, k, v, bias=bias, **options).contiguous(), None
    return routes.structured(q, k, v, layout, bias, options).contiguous(), None


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: masks.MaskFunction | None = None,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """The mask function that transformers calls: a (batch, seqlen_k) boolean mask that carries its
    structure.

    Patterns that are not causal, window, padding or packing, and masks that the model wants to
    extend itself, come as the dense (batch, 1, seqlen_q, seqlen_k) boolean mask of transformers'
    SDPA integration.
    """
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    mask_function = mask_function or causal_mask_function
    tracing = torch.compiler.is_compiling()
    structure = None if tracing else masks.structure_of(mask_function)
    if structure is not None:
        # transformers forbids the skip for packed sequences too, where the structure says it all.
        skippable = allow_is_causal_skip if structure.causal else allow_is_bidirectional_skip
        starts = structure.chunk == 0 or kv_offset % structure.chunk == 0  # chunks at key 0
        if starts and (skippable or structure.segments is not None):
            keys = _visible_keys(structure, q_length, kv_length, int(q_offset) - kv_offset)
            if keys is not None:
                real = _real_keys(attention_mask, batch_size, kv_offset, keys, device)
                padding = Padding.none(real) if attention_mask is None else Padding.of(real)
                return masks.attach(real, Layout(structure, padding))
    # None means "causal iff the module is", which says the same only where both alignments agree.
    sdpa_arguments: dict[str, Any] = {"q_length": q_length, "q_offset": q_offset}
    aligned = tracing and (q_length == 1 or q_length == kv_length)
    mask: Tensor | None = sdpa_mask(
        batch_size=batch_size,
        kv_length=kv_length,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip and aligned,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip and tracing,
        device=device,
        **sdpa_arguments,
        **kwargs,
    )
    return mask


def _visible_keys(structure: Structure, q_length: int, kv_length: int, offset: int) -> int | None:
    """Keys to keep so that the structure is aligned bottom-right, None if no number of keys does
    that.

    offset is the key index of the first query. A causal mask hides the unwritten slots of a static
    cache: they are cut.
    """
    keys = offset + q_length if structure.causal else kv_length
    if 0 < keys <= kv_length and (structure.unmasked or offset == keys - q_length):
        return keys
    return None


def _real_keys(
    mask: Tensor | None, batch: int, first: int, keys: int, device: torch.device | str
) -> Tensor:
    """(batch, keys) bool: entries first .. first + keys of a 2-D padding mask; entries it lacks are
    padding."""
    if mask is None:
        return torch.ones(batch, keys, dtype=torch.bool, device=device)
    missing = first + keys - mask.shape[1]
    if missing > 0:
        mask = torch.nn.functional.pad(mask, (0, missing))
    return mask[:, first : first + keys].expand(batch, keys).bool()


def _refuse(kwargs: dict[str, Any]) -> None:
    for name, what in UNSUPPORTED.items():
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{name}: attn_implementation='limelight' does not compute {what}; "
                "use attn_implementation='eager'"
            )
    if kwargs.get("output_attentions"):
        raise ValueError(
            "output_attentions=True: attn_implementation='limelight' never forms the attention "
            "matrix; use attn_implementation='eager'"
        )


def _operands(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, heads, seqlen, headdim) -> (batch, seqlen, heads, headdim) views; a batch of 1
    broadcasts as in SDPA."""
    batch = max(query.shape[0], key.shape[0])
    result = []
    for tensor in (query, key, value):
        if tensor.shape[0] == 1 < batch:
            tensor = tensor.expand(batch, -1, -1, -1)
        if tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        result.append(tensor.transpose(1, 2))
    return result[0], result[1], result[2]


def _layout(mask: Tensor | None, causal: bool, sliding_window: int | None) -> Layout | None:
    """The layout of a mask that is absent or 2-D, None for a 4-D mask (which says everything by
    itself)."""
    if mask is not None and mask.dim() == 4:
        return None
    layout = None if mask is None else masks.attached(mask)
    if layout is not None:
        return layout
    # transformers counts the token itself into the width of a window, on each side.
    left = -1 if sliding_window is None else sliding_window - 1
    structure = Structure(left, 0 if causal else left)
    if mask is None:
        return Layout(structure, None)
    if mask.dim() != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; "
            "allowed: None, 2-D (batch, seqlen_k) or 4-D"
        )
    real = mask.bool()
    return Layout(
        structure, Padding.unread(real) if torch.compiler.is_compiling() else Padding.of(real)
    )


def _bias(name: str, bias: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """A boolean or additive 4-D mask as a bias in q's dtype or fp32, cut to the keys that exist."""
    if bias.dim() != 4 or not (bias.dtype == torch.bool or bias.is_floating_point()):
        raise ValueError(
            f"{name} has shape {tuple(bias.shape)} and dtype {bias.dtype}; allowed: 4-D boolean "
            "(True = visible) or floating point (added to the scores), broadcastable to (batch, "
            "heads, seqlen_q, seqlen_k)"
        )
    if bias.shape[3] != 1:
        bias = bias[..., : k.shape[1]]
    if bias.dtype == torch.bool:
        return masks.additive(bias, q.dtype)
    return bias if bias.dtype in (torch.float32, q.dtype) else bias.to(q.dtype)


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
