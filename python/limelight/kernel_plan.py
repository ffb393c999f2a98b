# SPDX-License-Identifier: BSD-3-Clause
"""What the metadata of an attention call decides, once for all calls that share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from limelight import dispatch


class Plan(NamedTuple):
    """What the metadata of a call decides."""

    kernel: dispatch.Kernel | None
    fallback: str  # why there is no kernel; empty where that is normal (CPU tensors, empty tensors)
    out_shape: tuple[int, ...]
    out_dtype: torch.dtype
    lse_shape: tuple[int, ...]
    lse_dtype: torch.dtype
    pad: tuple[int, int]  # columns to add to q and k, and to v, so that rows are whole 16 bytes
    out_like_q: bool  # out is what empty_like(q) makes: same shape and dtype, contiguous
    copy: tuple[bool, bool, bool]  # q, k, v whose strides are not multiples of 16 bytes
    pack: bool  # sink or alibi_slopes is not contiguous
    read_values: bool
    workspace: int  # bytes that the kernel needs
    fits_schedule: bool
