# SPDX-License-Identifier: BSD-3-Clause
"""The compiled extension, the environment's settings, and what devices can do.

LIMELIGHT_BACKEND    auto (default) | torch (no kernel) | emulator (CPU tensors are on a device)
LIMELIGHT_FALLBACK   warn (default: once per distinct reason) | error | silent
LIMELIGHT_CHECK      1: read lengths and tables on the GPU before a call, which waits for it | 0
LIMELIGHT_EMULATOR_ARCH     sm_80 (default) | sm_86 | sm_89 | sm_90a | sm_100a | sm_120a
LIMELIGHT_EMULATOR_LIBRARY  the emulator's libcudart.so.13 (default: of the source tree's build)
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CHOICES = {
    "LIMELIGHT_BACKEND": ("auto", "torch", "emulator"),
    "LIMELIGHT_FALLBACK": ("warn", "error", "silent"),
    "LIMELIGHT_CHECK": ("0", "1"),
}


class FallbackWarning(UserWarning):
    """A call on a device ran on the torch path because no kernel serves it."""


class FallbackError(RuntimeError):
    """No kernel serves the call and LIMELIGHT_FALLBACK=error forbids the torch path."""


@dataclass(frozen=True)
class Settings:
    """The environment at import time; ``override`` changes it for a block of code.

    arch is fixed for the process: the emulator reads it when it is loaded.
    """

    backend: str = "auto"
    fallback: str = "warn"
    check: bool = False
    arch: str = "sm_80"

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the LIMELIGHT_* variables; a ValueError names a bad one and what is allowed."""
        value = {}
        for name, allowed in _CHOICES.items():
            value[name] = os.environ.get(name) or allowed[0]
            if value[name] not in allowed:
                raise ValueError(f"{name} is {value[name]!r}; allowed: {', '.join(allowed)}")
        arch = os.environ.get("LIMELIGHT_EMULATOR_ARCH") or "sm_80"
        arch_capability(arch)
        return cls(
            value["LIMELIGHT_BACKEND"],
            value["LIMELIGHT_FALLBACK"],
            value["LIMELIGHT_CHECK"] == "1",
            arch,
        )


def arch_capability(arch: str) -> tuple[int, int]:
    """sm_90a -> (9, 0)."""
    match = re.fullmatch(r"sm_(\d+)(\d)[af]?", arch)
    if match is None:
        raise ValueError(f"LIMELIGHT_EMULATOR_ARCH is {arch!r}; allowed: sm_80, sm_90a, ...")
    return int(match[1]), int(match[2])


settings = Settings.from_environment()
_reported: set[str] = set()
_listeners: list[Callable[[], None]] = []


def on_change(listener: Callable[[], None]) -> None:
    """Call listener whenever the settings change."""
    _listeners.append(listener)


def _set(new: Settings) -> None:
    global settings
    settings = new
    for listener in _listeners:
        listener()


@contextmanager
def override(**changes: Any) -> Iterator[Settings]:
    """Change settings (backend, fallback, check) within a block.

    For tests and tools, not thread-safe.
    """
    before = settings
    _set(replace(before, **changes))
    try:
        yield settings
    finally:
        _set(before)


def emulator_path() -> Path:
    """Where the emulator's runtime library is expected."""
    named = os.environ.get("LIMELIGHT_EMULATOR_LIBRARY")
    root = Path(__file__).resolve().parents[2]
    return Path(named) if named else root / "build" / "emulator" / "libcudart.so.13"


@cache
def emulator() -> Any:
    """The emulator's library, loaded so that the extension takes it for the CUDA runtime."""
    path = emulator_path()
    if not path.exists():
        raise RuntimeError(
            f"LIMELIGHT_BACKEND=emulator: {path} does not exist; build it with `make emulator`, "
            "or name it in LIMELIGHT_EMULATOR_LIBRARY"
        )
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.limelight_emulator_register_host.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_char_p,
    ]
    library.limelight_emulator_unregister_host.argtypes = [ctypes.c_void_p]
    library.limelight_emulator_last_report.restype = ctypes.c_char_p
    library.limelight_emulator_configure.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    library.limelight_emulator_configure.restype = ctypes.c_char_p
    refused = library.limelight_emulator_configure(b"arch", settings.arch.encode())
    if refused:
        raise RuntimeError(f"LIMELIGHT_EMULATOR_ARCH: {refused.decode(errors='replace')}")
    return library


@cache
def _load() -> tuple[Any, str]:
    if settings.backend == "emulator":
        emulator()
    try:
        return importlib.import_module("limelight._core"), ""
    except ImportError as error:
        return None, str(error)


def core() -> Any:
    """The compiled extension, or None where it is missing or unusable."""
    return _load()[0]


def core_error() -> str:
    """Why the extension is missing; empty where it is there."""
    return _load()[1]


@cache
def installed() -> frozenset[tuple[str, int]]:
    """The (kernel name, headdim tile) pairs that the extension holds."""
    extension = core()
    if extension is None:
        return frozenset()
    return frozenset((kernel_name(entry), int(entry["headdim"])) for entry in extension.kernels())


def kernel_name(entry: dict[str, Any]) -> str:
    """The dispatch table's name of a kernel that the extension lists."""
    suffix = {"forward": "fwd", "backward": "bwd"}
    family, _, variant = entry["family"].partition("_")
    return "_".join(filter(None, (family, suffix.get(entry["op"], entry["op"]), variant)))


@cache
def _cuda_capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability that kernels see on device; None for a CPU without the emulator."""
    if device.type == "cuda":
        return _cuda_capability(
            torch.cuda.current_device() if device.index is None else device.index
        )
    if device.type == "cpu" and settings.backend == "emulator":
        return arch_capability(settings.arch)
    return None


def device_problem(device: torch.device) -> str:
    """Why the extension cannot run on device; empty where it can."""
    extension = core()
    if extension is None:
        return f"limelight's compiled extension is missing: {core_error()}"
    return _device_problem(extension, device)


@cache
def _device_problem(extension: Any, device: torch.device) -> str:
    index = 0
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
    facts = extension.device(index)
    return (
        "" if facts["has_image"] else f"the build does not fit {facts['name']}: {facts['problem']}"
    )


def fall_back(what: str, reason: str, *, stacklevel: int = 5) -> None:
    """Report that a device call runs on the torch path, as LIMELIGHT_FALLBACK says."""
    if settings.fallback == "silent" or (settings.fallback == "warn" and reason in _reported):
        return
    text = f"limelight: {what} has no kernel and runs on the torch path. {reason}"
    if settings.fallback == "error":
        raise FallbackError(f"{text}. LIMELIGHT_FALLBACK=error forbids that; allowed: warn, silent")
    _reported.add(reason)
    # Of flash_attn_func's caller: fall_back, forward, attention and the public function between.
    warnings.warn(text, FallbackWarning, stacklevel=stacklevel)


def launch(entry: Any, tensors: tuple[Tensor | None, ...], arguments: tuple[Any, ...]) -> None:
    """Call an extension function on the current stream of the tensors' device."""
    device = tensors[0].device  # type: ignore[union-attr]
    if device.type == "cuda":
        index = device.index
        stream = torch._C._cuda_getCurrentRawStream(index)
        if index == torch._C._cuda_getDevice():
            entry(*tensors, *arguments, stream)
        else:
            with torch.cuda.device(index):
                entry(*tensors, *arguments, stream)
    else:
        _launch_emulated(entry, tensors, arguments)


def _launch_emulated(
    entry: Any, tensors: tuple[Tensor | None, ...], arguments: tuple[Any, ...]
) -> None:
    """Call on the null stream, with the tensors' memory known to the emulator meanwhile."""
    library = emulator()
    storages = {}
    for position, tensor in enumerate(tensors):
        if tensor is not None and tensor.untyped_storage().nbytes() > 0:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = (storage.nbytes(), f"argument {position}")
    for pointer, (size, name) in storages.items():
        library.limelight_emulator_register_host(pointer, size, name.encode())
    try:
        entry(*tensors, *arguments, 0)
    except RuntimeError as error:
        report = library.limelight_emulator_last_report() or b""
        raise RuntimeError(f"{error}\n{report.decode(errors='replace')}") from error
    finally:
        for pointer in storages:
            library.limelight_emulator_unregister_host(pointer)
