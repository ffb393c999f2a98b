# SPDX-License-Identifier: BSD-3-Clause
"""Time flat_linear or decoding on this GPU and keep the result under benchmarks/results/.

    python benchmarks/python/bench_rates.py {linear,decode} [options of `python -m limelight bench`]

Writes <gpu>-<suite>.json unless --out says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from limelight.bench.device import NoGpuError, describe, require_gpu
from limelight.cli import bench_rates
from limelight.gemm_tables import gpu_stem

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> int:
    """Run the suite with the default path filled in."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    suites = parser.add_subparsers(dest="suite", required=True)
    bench_rates.add_linear_arguments(suites.add_parser("linear"))
    bench_rates.add_decode_arguments(suites.add_parser("decode"))
    arguments = parser.parse_args()
    try:
        gpu = describe(require_gpu())["name"]
    except NoGpuError as error:
        print(f"bench_rates: {error}", file=sys.stderr)
        return 2
    arguments.out = arguments.out or RESULTS / f"{gpu_stem(gpu)}-{arguments.suite}.json"
    return bench_rates.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
