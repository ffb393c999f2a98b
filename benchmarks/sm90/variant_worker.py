# SPDX-License-Identifier: BSD-3-Clause
"""One step of variants.py in a process of its own: variant_worker.py {check,time} JOB ANSWER."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from limelight.bench import report
from limelight.bench.cases import Case
from limelight.bench.harness import Plan
from limelight.bench.timers import CudaTimer, Timer
from variant_run import CHECKS, Check, Library, check, measure


@dataclass(frozen=True)
class ValueCase(Case):
    """A case whose values have another head dimension than its keys."""

    headdim_v: int = 0

    @property
    def flops(self) -> float:
        """Half of it is P V."""
        return super().flops * (self.headdim + self.headdim_v) / (2 * self.headdim)


def cases(job: dict[str, Any]) -> list[ValueCase]:
    """Every mask and seqlen; the batch is what fills the tokens."""
    headdim, headdim_v = job["headdim"], job["headdim_v"]
    heads = job["hidden"] // headdim
    shapes = [(max(1, job["tokens"] // s), s, heads, heads, headdim) for s in job["seqlen"]]
    return [ValueCase(*s, causal, headdim_v=headdim_v) for causal in job["causal"] for s in shapes]


def check_one(
    job: dict[str, Any],
    device: torch.device,
    sm_count: int,
    checks: Sequence[Check] = CHECKS,
) -> dict[str, Any]:
    """Whether a library computes attention."""
    chosen = [c for c in checks if (not c.full) in job["causal"]]
    library = Library(Path(job["library"]), sm_count)
    wrong, share = check(library, chosen, job["headdim"], job["headdim_v"], device)
    return {"wrong": wrong, "share_of_allowed_error": share}


def time_all(
    job: dict[str, Any], device: torch.device, sm_count: int, timer: Timer, answer: Path
) -> None:
    """Case by case into the answer."""
    libraries = {name: Library(Path(p), sm_count) for name, p in job["libraries"].items()}
    result = report.new_report(job["gpu"], {})
    plan = Plan(rounds=job["rounds"])
    for case in cases(job):
        found = measure(
            libraries,
            job["peers"],
            case,
            job["headdim_v"],
            device,
            job["gpu"]["l2_bytes"],
            timer,
            plan,
        )
        torch.cuda.empty_cache()
        report.add_result(result, case, found)
        report.write_json(result, answer)


def main() -> int:
    """Read the job, write the answer."""
    action, question, answer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    job = json.loads(question.read_text())
    device = torch.device("cuda", torch.cuda.current_device())
    sm_count = torch.cuda.get_device_properties(device).multi_processor_count
    if action == "check":
        answer.write_text(json.dumps(check_one(job, device, sm_count)))
    else:
        time_all(job, device, sm_count, CudaTimer(), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
