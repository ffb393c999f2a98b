# SPDX-License-Identifier: BSD-3-Clause
"""``python -m limelight {info,demo,bench,tune,numerics}``; ``--cmake-dir``, ``--version`` too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import limelight
from limelight.cli import bench, demo, info, numerics, tune

COMMANDS = {
    "info": (info, "devices, kernels, versions, and why a backend is missing"),
    "demo": (demo, "embed and search real sentences with a pretrained transformer"),
    "bench": (bench, "time attention against torch's backends on a GPU"),
    "tune": (tune, "measure where flat_linear's implementations cross on this GPU"),
    "numerics": (numerics, "measure deviations from float64 against length and tile size"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (0 success, 1 a check failed, 2 it cannot run here)."""
    parser = argparse.ArgumentParser(prog="python -m limelight", description=limelight.__doc__)
    parser.add_argument("--version", action="version", version=limelight.__version__)
    parser.add_argument(
        "--cmake-dir",
        action="store_true",
        help="print the folder that holds limelight-config.cmake, for find_package(limelight)",
    )
    commands = parser.add_subparsers(dest="command", metavar=f"{{{','.join(COMMANDS)}}}")
    for name, (module, text) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=text, description=module.__doc__))
    parsed = parser.parse_args(arguments)
    if parsed.cmake_dir:
        return _print_cmake_dir()
    if parsed.command is None:
        parser.print_help()
        return 2
    code: int = COMMANDS[parsed.command][0].run(parsed)
    return code


def _print_cmake_dir() -> int:
    folder = Path(limelight.__file__).resolve().parent / "cmake"
    if not (folder / "limelight-config.cmake").exists():
        print(
            f"{folder} holds no limelight-config.cmake: this installation has no compiled library; "
            "install a wheel, or run `make build` in a checkout",
            file=sys.stderr,
        )
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
