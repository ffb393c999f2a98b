# SPDX-License-Identifier: BSD-3-Clause
"""The emulator's pure units: formats, fragments, descriptors, tensor maps, mbarriers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "emulator-units"


def tool(name: str) -> str:
    """A build tool beside this Python or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is needed to build the emulator's unit tests"
    return found


@pytest.fixture(scope="module")
def built() -> Path:
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    source = ROOT / "tests" / "emulator" / "unit_tests"
    subprocess.run([tool("cmake"), "-S", source, "-B", BUILD, "-G", "Ninja"], check=True, env=env)
    subprocess.run([tool("cmake"), "--build", BUILD, "-j", "2"], check=True, env=env)
    return BUILD


@pytest.mark.parametrize("name", ["numeric_test", "async_units_test", "check_test", "check_fuzz"])
def test_units(built: Path, name: str) -> None:
    done = subprocess.run([built / name], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
