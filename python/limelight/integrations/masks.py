# SPDX-License-Identifier: BSD-3-Clause
"""Attention masks of transformers models, kept as structure (causal, window, padding, packing)
instead of seqlen^2 entries.

transformers describes a mask by composing small functions (``transformers.masking_utils``).
``structure_of`` takes that composition apart; whatever it does not know stays a dense boolean mask,
so an unknown pattern costs memory, never accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MaskFunction = Callable[..., Any]
MASK_MODULE = "transformers.masking_utils"
PACKED = "packed_sequence_mask_function.<locals>.inner_mask"
REMAPPED = "remap_positions_for_packed_sequence.<locals>.inner_mask"


@dataclass(frozen=True, eq=False)
class Structure:
    """Key j is visible to row i iff i + offset - left <= j <= i + offset + right (-1 = unbounded)
    in the same segment and, where chunk > 0, the same chunk of so many keys."""

    window_left: int = -1
    window_right: int = -1
    chunk: int = 0
    segments: Tensor | None = None  # (batch, seqlen) integers, equal inside one packed sequence

    @property
    def causal(self) -> bool:
        return self.window_right == 0

    @property
    def unmasked(self) -> bool:
        return self.window_left < 0 and self.window_right < 0 and self.chunk == 0

    def intersect(self, other: Structure) -> Structure | None:
        segments = other.segments if self.segments is None else self.segments
        chunk = max(self.chunk, other.chunk)
        if self.segments is not None and other.segments is not None:
            return None
        # Chunks of two lengths, and chunks that run on over the ends of sequences.
        if min(self.chunk, other.chunk) > 0 or (chunk > 0 and segments is not None):
            return None
        return Structure(
            _tighter(self.window_left, other.window_left),
            _tighter(self.window_right, other.window_right),
            chunk,
            segments,
        )


@dataclass(frozen=True, eq=False)
class Padding:
    """Which keys of a (batch, seqlen) mask are real, read from the device once per forward pass."""

    mask: Tensor  # (batch, seqlen) bool
    side: str  # "none", "right" (real tokens first), "left" (real tokens last), "holes" or "unread"
    lengths: Tensor  # (batch,) int32
    max_length: int

    @staticmethod
    def none(mask: Tensor) -> Padding:
        """A mask known to be all True."""
        batch, seqlen = mask.shape
        return Padding(mask, "none", torch.full((batch,), seqlen, dtype=torch.int32), seqlen)

    @staticmethod
    def unread(mask: Tensor) -> Padding:
        """A mask whose values may not be read now (while a graph is traced)."""
        return Padding(mask, "unread", mask.sum(dim=1, dtype=torch.int32), mask.shape[1])

    @staticmethod
    def of(mask: Tensor) -> Padding:
        lengths = mask.sum(dim=1, dtype=torch.int32)
        seqlen = mask.shape[1]
        position = torch.arange(seqlen, device=mask.device)
        right = (mask == (position < lengths[:, None])).all()
        left = (mask == (position >= seqlen - lengths[:, None])).all()
        longest = lengths.max() if lengths.numel() else lengths.new_zeros(())
        full, is_right, is_left, max_length = torch.stack(
            [mask.all().int(), right.int(), left.int(), longest.int()]
        ).tolist()
        side = "none" if full else "right" if is_right else "left" if is_left else "holes"
        return Padding(mask, side, lengths, max_length)

    def cu_seqlens(self) -> Tensor:
        """(batch + 1,) int32 prefix sums of the lengths."""
        return torch.nn.functional.pad(self.lengths.cumsum(0, dtype=torch.int32), (1, 0))


@dataclass(frozen=True, eq=False)
class Layout:
    """A mask as the attention function consumes it: structure, padding, and what is derived from
    them, computed once."""

    structure: Structure
    padding: Padding | None = None
    cache: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def padded(self) -> bool:
        return self.padding is not None and self.padding.side != "none"

    def once(self, key: Any, compute: Callable[[], Tensor]) -> Tensor:
        """A tensor derived from this layout; the layers of one forward pass share it."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]


def structure_of(mask_function: MaskFunction) -> Structure | None:
    """The structure of a transformers mask function, None when some part of it is unknown."""
    known = _KNOWN.get(_name_of(mask_function))
    return known(_variables_of(mask_function)) if known else None


def attach(mask: Tensor, layout: Layout) -> Tensor:
    """Remember the layout on the mask tensor that travels through the model."""
    mask._limelight_layout = layout  # type: ignore[attr-defined]
    return mask


def attached(mask: Tensor) -> Layout | None:
    layout = getattr(mask, "_limelight_layout", None)
    return layout if isinstance(layout, Layout) else None


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask (True = visible) as a bias of 0 and -inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, float("-inf")
    )


def segment_ends(segments: Tensor) -> Tensor:
    """cu_seqlens (number of sequences + 1,) int32 of the flattened (batch * seqlen) tokens; rows
    never share a sequence."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    first = torch.nonzero(starts.flatten()).flatten().to(torch.int32)
    return torch.nn.functional.pad(first, (0, 1), value=segments.numel())


def _tighter(a: int, b: int) -> int:
    return max(a, b) if a < 0 or b < 0 else min(a, b)


def _name_of(function: MaskFunction) -> str:
    if getattr(function, "__module__", None) != MASK_MODULE:
        return ""
    return getattr(function, "__qualname__", "")


def _variables_of(function: MaskFunction) -> dict[str, Any]:
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    names = code.co_freevars if code else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=False)}


def _all_of(variables: dict[str, Any]) -> Structure | None:
    parts: tuple[MaskFunction, ...] = variables.get("mask_functions", ())
    names = {_name_of(part) for part in parts}
    if REMAPPED in names and PACKED not in names:
        return None
    result = Structure() if parts else None
    for part in parts:
        structure = structure_of(part)
        if result is None or structure is None:
            return None
        result = result.intersect(structure)
    return result


def _window(variables: dict[str, Any]) -> Structure | None:
    width = variables.get("sliding_window")
    return Structure(window_left=width - 1) if isinstance(width, int) and width > 0 else None


def _symmetric_window(variables: dict[str, Any]) -> Structure | None:
    width = variables.get("sliding_window")
    return Structure(width, width) if isinstance(width, int) and width >= 0 else None


def _chunked(variables: dict[str, Any]) -> Structure | None:
    """Chunks that begin at the first key; behind left padding they begin elsewhere."""
    length, padding = variables.get("chunk_size"), variables.get("left_padding")
    if not isinstance(length, int) or length < 1 or not isinstance(padding, Tensor):
        return None
    return None if bool(padding.any()) else Structure(chunk=length)


def _packed(variables: dict[str, Any]) -> Structure | None:
    segments = variables.get("packed_sequence_mask")
    return Structure(segments=segments) if isinstance(segments, Tensor) else None


def _remapped(variables: dict[str, Any]) -> Structure | None:
    """Positions inside one packed sequence rise by one, so differences of positions are differences
    of indices."""
    inner = variables.get("mask_function")
    return structure_of(inner) if callable(inner) else None


_KNOWN: dict[str, Callable[[dict[str, Any]], Structure | None]] = {
    "causal_mask_function": lambda _: Structure(window_right=0),
    "bidirectional_mask_function": lambda _: Structure(),
    "and_masks.<locals>.and_mask": _all_of,
    "chunked_overlay.<locals>.inner_mask": _chunked,
    "sliding_window_overlay.<locals>.inner_mask": _window,
    "sliding_window_bidirectional_overlay.<locals>.inner_mask": _symmetric_window,
    PACKED: _packed,
    REMAPPED: _remapped,
}
