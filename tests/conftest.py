# SPDX-License-Identifier: BSD-3-Clause
"""Where kernels run in the tests: on a GPU where there is one, otherwise on the emulator.

Nothing is skipped. Without a GPU the extension is always loaded over the emulator, whichever test
asks for it first, because a process binds to one CUDA runtime only. CPU tensors still take the
torch path, except in tests that use the ``kernels`` fixture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import emulator_tools
import pytest
import torch
from limelight import runtime

_load_plain = runtime._load


def _load_on_emulator() -> tuple[Any, str]:
    if not os.environ.get("LIMELIGHT_EMULATOR_LIBRARY"):
        emulator_tools.emulator()  # builds it, or raises with the command that failed
    with runtime.override(backend="emulator"):
        return _load_plain()


if not torch.cuda.is_available():
    runtime._load = _load_on_emulator


def pytest_configure(config: pytest.Config) -> None:
    # Small tensors: a second thread costs more than it brings, minutes on a busy machine.
    torch.set_num_threads(1)
    config.addinivalue_line("markers", "every_arch: also run on the other emulated architectures")
    config.addinivalue_line("markers", "few_multiprocessors: also run with other numbers of SMs")


@pytest.fixture
def kernels() -> Iterator[torch.device]:
    """The device whose tensors kernels serve; in the test, falling back is an error."""
    if runtime.core() is None:
        pytest.fail(f"no extension ({runtime.core_error()}); run `make build`")
    if torch.cuda.is_available():
        with runtime.override(fallback="error"):
            yield torch.device("cuda", torch.cuda.current_device())
        return
    with runtime.override(backend="emulator", fallback="error"):
        yield torch.device("cpu")
    if runtime.emulator().cudaPeekAtLastError() != 0:
        # A fault sticks to its context, as on a GPU; the next test starts with a new one.
        runtime.emulator().cudaDeviceReset()


@pytest.fixture(params=["torch", "kernels"])
def where(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of the tensors; calls there run on the torch path or on the kernels."""
    if request.param == "kernels":
        yield request.getfixturevalue("kernels")
        return
    with runtime.override(backend="torch"):
        yield torch.device("cpu")
