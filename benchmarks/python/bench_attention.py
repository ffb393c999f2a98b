# SPDX-License-Identifier: BSD-3-Clause
"""Time attention on this GPU beside torch's backends and keep the result under benchmarks/results/.

    python benchmarks/python/bench_attention.py [options of `python -m limelight bench`]

Writes <gpu>-<direction>.json and .png unless --out and --plot say otherwise.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from limelight.bench.device import NoGpuError, describe, require_gpu
from limelight.cli import bench

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> int:
    """Run the benchmark with the default paths filled in."""
    parser = argparse.ArgumentParser(description=__doc__)
    bench.add_arguments(parser)
    arguments = parser.parse_args()
    try:
        gpu = describe(require_gpu())["name"]
    except NoGpuError as error:
        print(f"bench_attention: {error}", file=sys.stderr)
        return 2
    stem = re.sub(r"\W+", "-", gpu.lower()).strip("-") + f"-{arguments.direction}"
    arguments.out = arguments.out or RESULTS / f"{stem}.json"
    arguments.plot = arguments.plot or RESULTS / f"{stem}.png"
    return bench.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
