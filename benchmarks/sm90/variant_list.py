# SPDX-License-Identifier: BSD-3-Clause
"""What a visit of half an hour tries: rows of the tile tables with other cells, most wanted first.

The first variant of a group is the row as it is, which the others are compared with. Left out is
what nvcc 13.0 serialises (C7511): with three consumers 144 keys at headdim 64, 128 at 96, 96 at
128; and what does not fit: 96 keys at 256.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from variant_build import Row, Variant

SEQLENS = (1024, 4096, 16384)


@dataclass(frozen=True)
class Group:
    """Variants of one row, and the masks that its calls may have."""

    row: Row
    variants: tuple[Variant, ...]
    causal: tuple[bool, ...]

    @property
    def name(self) -> str:
        """The row's."""
        return self.row.name


def group(row: Row, causal: tuple[bool, ...], *changes: str) -> Group:
    """Variants from texts such as "block_kv=112 ping_pong=false kStages=3"."""
    return Group(row, tuple(parse(row, text) for text in ("", *changes)), causal)


def parse(row: Row, text: str) -> Variant:
    """Names with a capital after a k are constants, edit names an edit, others are cells."""
    pairs = [tuple(word.split("=", 1)) for word in text.split()]
    bad = [pair for pair in pairs if len(pair) != 2]
    if bad:
        raise ValueError(f"{bad[0][0]!r} in {text!r}: a change is NAME=VALUE")
    edits = tuple(value for name, value in pairs if name == "edit")
    others = [(name, value) for name, value in pairs if name != "edit"]
    constants = tuple(pair for pair in others if pair[0][0] == "k" and pair[0][1:2].isupper())
    return Variant(row, tuple(p for p in others if p not in constants), constants, edits)


def each(name: str, values: Iterable[object], more: str = "") -> list[str]:
    """One text for each value."""
    return [f"{name}={value} {more}".strip() for value in values]


SOME, BOTH, FULL = (True,), (True, False), (False,)

GROUPS = (
    group(
        Row(64, 64),
        BOTH,
        "sum_column=false",
        "ping_pong=false",
        *each("block_kv", (96, 112)),
        "sum_column=false block_kv=112",
        "sum_column=false edit=row_sum_mma",
        "block_kv=176 consumers=2",
        "kStages=3",
    ),
    group(
        Row(128, 128),
        SOME,
        *each("block_kv", (96, 112, 144, 160, 176)),
        "ping_pong=false",
        *each("block_kv", (64, 80), "consumers=3"),
        "block_kv=80 kStages=3",
        "sum_column=true",
        "edit=row_sum_mma",
        "block_kv=176 edit=row_sum_mma",
        *each("kSectionBytes", ("8<<20", "64<<20")),
    ),
    group(
        Row(128, 128, full=True),
        FULL,
        *each("block_kv", (128, 144, 176)),
        "ping_pong=false",
        "block_kv=176 ping_pong=false",
        *each("block_kv", (128, 144), "sum_column=true"),
        "edit=row_sum_mma",
        "block_kv=176 edit=row_sum_mma",
    ),
    group(
        Row(256, 256),
        BOTH,
        "block_kv=64",
        "ping_pong=true",
        "block_kv=64 ping_pong=true",
        "edit=row_sum_mma",
    ),
    group(
        Row(96, 96),
        BOTH,
        "block_kv=96",
        "ping_pong=false",
        *each("block_kv", (128, 160, 192), "consumers=2"),
        "edit=row_sum_mma",
    ),
    group(
        Row(192, 128),
        BOTH,
        *each("block_kv", (96, 128)),
        "ping_pong=true",
        "edit=row_sum_mma",
    ),
    group(
        Row(192, 192),
        BOTH,
        *each("block_kv", (80, 96)),
        "ping_pong=true",
        "edit=row_sum_mma",
    ),
)
