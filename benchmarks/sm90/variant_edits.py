# SPDX-License-Identifier: BSD-3-Clause
"""Changes of the code that a variant may try before they are worth an option in csrc.

Each is a list of replacements in headers; a text that is not there exactly once is an error, so an
edit that the sources have outgrown is noticed by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """One replacement in a header below csrc."""

    path: str
    old: str
    new: str


SOFTMAX = "attention/softmax.cuh"

# The sum of the rounded P by mma.sync with a B of ones, whose A fragments P's registers are: a step
# has 121 instructions less at headdim 128, 93 less at 96 (nvcc 13.0, no spill).
# Costs tensor-core time, 3 % of the GEMMs at headdim 128 where mma.sync has wgmma's rate.
ROW_SUM_MMA = (
    Edit(
        SOFTMAX, '#include "arch/math.cuh"\n', '#include "arch/math.cuh"\n#include "arch/mma.cuh"\n'
    ),
    Edit(
        SOFTMAX,
        "    float exact_sum[kRows];\n",
        "    float exact_sum[kRows];\n    float sums[kTilesM][4] = {};\n",
    ),
    Edit(
        SOFTMAX,
        " - base(largest, scale)) : 1.0f;\n",
        " - base(largest, scale)) : 1.0f;\n            sums[r / 2][r % 2 * 2] *= shrink[r];\n",
    ),
    Edit(
        SOFTMAX,
        """                if constexpr (kAddUp) {
                    const float2 rounded = unpack2(pair, Element{});
                    rounded_sum[r] += rounded.x + rounded.y;
                }
                p[r / 2][n / 2][2 * (n % 2) + r % 2] = pair;
            }
        }
""",
        """                p[r / 2][n / 2][2 * (n % 2) + r % 2] = pair;
            }
        }
        if constexpr (kAddUp) {
            const uint32_t one = pack2(1.0f, 1.0f, Element{});
#pragma unroll
            for (int k = 0; k < kTilesM * kTilesN / 2; ++k) {
                const int m = k / (kTilesN / 2);
                mma_m16n8k16(sums[m], p[m][k % (kTilesN / 2)], one, one, Element{});
            }
        }
""",
    ),
    Edit(
        SOFTMAX,
        "            const float rounded = quad_sum(rounded_sum[r]);\n",
        "            const float rounded = quad_sum(rounded_sum[r]) + sums[r / 2][r % 2 * 2];\n",
    ),
)

EDITS: dict[str, tuple[Edit, ...]] = {"row_sum_mma": ROW_SUM_MMA}


def apply(name: str, changed: Mapping[str, str], csrc: Path) -> dict[str, str]:
    """The headers with an edit's replacements, on top of those that are changed already."""
    if name not in EDITS:
        raise ValueError(f"edit {name!r}; there are {', '.join(EDITS)}")
    texts = dict(changed)
    for edit in EDITS[name]:
        text = texts.get(edit.path) or (csrc / edit.path).read_text()
        if text.count(edit.old) != 1:
            raise ValueError(
                f"edit {name}: {text.count(edit.old)} times in {edit.path}: {edit.old}"
            )
        texts[edit.path] = text.replace(edit.old, edit.new)
    return texts
