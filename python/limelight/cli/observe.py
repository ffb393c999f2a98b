# SPDX-License-Identifier: BSD-3-Clause
"""Counts on which backend forward calls really ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from limelight import execute, torch_path
from limelight.kernel_plan import Plan


@contextmanager
def backends_used() -> Iterator[Counter[str]]:
    """Within the block, count forward calls by kernel name ("torch" for the torch path); not
    thread-safe."""
    used: Counter[str] = Counter()
    run_kernel, run_torch = execute._run_kernel, torch_path.forward

    def kernel(plan: Plan, *arguments: Any) -> Any:
        used[plan.kernel.name if plan.kernel else "none"] += 1
        return run_kernel(plan, *arguments)

    def torch_forward(*arguments: Any) -> Any:
        used["torch"] += 1
        return run_torch(*arguments)

    with (
        mock.patch.object(execute, "_run_kernel", kernel),
        mock.patch.object(torch_path, "forward", torch_forward),
    ):
        yield used
