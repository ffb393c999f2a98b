# SPDX-License-Identifier: BSD-3-Clause
"""What the commands share: a progress line, and options that are checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable


def positive(text: str) -> int:
    """An option that is a number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; allowed: 1 or more")
    return number


def progress(prefix: str) -> Callable[[str], None]:
    """Writes one line on stderr, rewritten in place on a terminal."""
    terminal = sys.stderr.isatty()
    shown: list[str] = []

    def show(text: str) -> None:
        line = (prefix + text)[:118]
        if terminal:
            print(f"\r{line:118}", end="" if line else "\r", file=sys.stderr, flush=True)
        elif text and ": round" not in text and text.split(":")[0] not in shown:
            shown.append(text.split(":")[0])
            print(prefix + shown[-1], file=sys.stderr, flush=True)

    return show
