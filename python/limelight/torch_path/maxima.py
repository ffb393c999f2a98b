# SPDX-License-Identifier: BSD-3-Clause
"""The largest scores of rows, block of keys by block of keys: what calibration looks at."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from limelight.problem import AttentionProblem
from limelight.torch_path.forward import make_context
from limelight.torch_path.plan import make_plan
from limelight.torch_path.scores import without_autocast


def block_maxima(
    q: Tensor, k: Tensor, problem: AttentionProblem, *, tile_keys: int | None = None
) -> Iterator[Tensor]:
    """Yield the final logits' maxima of each row over blocks of keys; -inf where it sees none."""
    with without_autocast(q.device):
        plan = make_plan(q, k, problem, tile_keys)
        context = make_context(q, k, problem, plan)
        for group in plan.groups:
            for rows in plan.row_blocks(group):
                q_tile = context.read_queries(q, rows)
                for keys in plan.key_blocks(group, rows, problem):
                    visible = context.visible(group, rows, keys)
                    seen = None if visible is None else visible.any(-2)
                    k_tile = context.read_keys(k, keys, seen)
                    scores, _ = context.scores(q_tile, k_tile, group, rows, keys, visible)
                    yield scores.amax(-1)
