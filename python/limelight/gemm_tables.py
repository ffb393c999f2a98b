# SPDX-License-Identifier: BSD-3-Clause
"""Measured crossing points per GPU: the wheel's tables, and the user's cache over them.

LIMELIGHT_CACHE  the cache folder (default: the platform's; on Linux ~/.cache/limelight)
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from limelight.gemm_dispatch import IMPLEMENTATIONS, Crossing, Table, TableKey

SCHEMA = 1
SHIPPED = Path(__file__).resolve().parent / "tables"


def cache_folder() -> Path:
    """LIMELIGHT_CACHE, else limelight's folder in the platform's cache folder."""
    named = os.environ.get("LIMELIGHT_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "limelight"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local or Path.home() / "AppData" / "Local") / "limelight" / "Cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "limelight"


def gpu_stem(name: str) -> str:
    """NVIDIA H200 -> nvidia-h200."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def cached_path(gpu: str) -> Path:
    """Where ``python -m limelight tune`` writes the table of a GPU."""
    return cache_folder() / "tables" / f"{gpu_stem(gpu)}.json"


def read_entries(data: dict[str, Any]) -> dict[TableKey, Crossing]:
    """The entries of a table's JSON; ValueError or KeyError where it is no table."""
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']}, not {SCHEMA}")
    found: dict[TableKey, Crossing] = {}
    for entry in data["entries"]:
        times = tuple(
            (int(m), tuple(us.get(name) for name in IMPLEMENTATIONS))
            for m, us in sorted(entry["us"].items(), key=lambda item: int(item[0]))
        )
        key = (str(entry["format"]), int(entry["n"]), int(entry["k"]))
        found[key] = Crossing(int(entry["m1"]), int(entry["m2"]), times)
    return found


def read_file(path: Path) -> dict[TableKey, Crossing]:
    """The entries of a file; empty where there is none. A warning names one that is no table."""
    if not path.exists():
        return {}
    try:
        return read_entries(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"limelight: {path} is no table of flat_linear and is not used: "
            f"{type(error).__name__}: {error}; `python -m limelight tune` writes a new one",
            stacklevel=2,
        )
        return {}


@cache
def table(gpu: str) -> Table:
    """The wheel's table of a GPU by name, its entries replaced by those of the user's cache."""
    return read_file(SHIPPED / f"{gpu_stem(gpu)}.json") | read_file(cached_path(gpu))
