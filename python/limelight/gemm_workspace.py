# SPDX-License-Identifier: BSD-3-Clause
"""Tickets: the counters by which thread blocks of a flat matrix product find out who is last.

A few kilobytes that are zero before and after every call and serve one stream at a time, so they
are allocated once: per stream, and per stream and capture of a CUDA graph. Two graphs may replay at
the same time, and memory of a graph's pool must not outlive its capture, so captures take theirs
from a reserve that the device's first eager call makes. Where that is missing or used up, a capture
fills new tickets for every call: one more node in the graph.

What stays is allocated by another thread: inductor's CUDA graphs send all allocations of the thread
that warms up to their pool, and check that nothing stays there.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from limelight import runtime

CAPTURES = 256  # captured streams that a device's reserve is for
_eager: dict[tuple[int, int], Tensor] = {}
_reserves: dict[int, list[Tensor]] = {}
_captured: dict[tuple[int, int], tuple[int, Tensor]] = {}
_taken: dict[int, list[Tensor]] = {}
_host: list[Tensor] = []


@cache
def ticket_count() -> int:
    """int32 elements of tickets."""
    return int(runtime.core().flat_gemm_tickets())


def tickets(device: torch.device) -> Tensor:
    """Zeros for a call on the current stream of device."""
    if device.type != "cuda":
        if not _host:
            _host.append(torch.zeros(ticket_count(), dtype=torch.int32))
        return _host[0]
    index = torch._C._cuda_getDevice()
    if device.index is not None and device.index != index:
        with torch.cuda.device(device):
            return tickets(device)
    key = (index, torch._C._cuda_getCurrentRawStream(index))
    if torch.cuda.is_current_stream_capturing():
        return _for_capture(device, key)
    found = _eager.get(key)
    if found is None:
        found = _eager[key] = _persistent(device, 1)[0]
        if index not in _reserves:
            _reserves[index] = _persistent(device, CAPTURES)
    return found


def release_captures() -> None:
    """Give the tickets of all captures back to the reserves: only where no captured graph is left,
    and nothing runs."""
    _captured.clear()
    for index, taken in _taken.items():
        _reserves[index] += taken
        taken.clear()


def _zeros(device: torch.device, *rows: int) -> Tensor:
    return torch.zeros((*rows, ticket_count()), dtype=torch.int32, device=device)


def _for_capture(device: torch.device, key: tuple[int, int]) -> Tensor:
    """The same tickets for every call on a stream in one capture."""
    number = capture_id(key[1])
    known = _captured.get(key)
    if known is not None and number and known[0] == number:
        return known[1]
    reserve = _reserves.get(key[0])
    if not number or not reserve:
        return _zeros(device)
    found = reserve.pop()
    _captured[key] = (number, found)
    _taken.setdefault(key[0], []).append(found)
    return found


def _persistent(device: torch.device, count: int) -> list[Tensor]:
    """Tickets that stay, ready on the current stream."""

    def allocate() -> tuple[Tensor, torch.cuda.Event]:
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
            made, ready = _zeros(device, count), torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return made, ready

    with ThreadPoolExecutor(1) as thread:
        made, ready = thread.submit(allocate).result()
    torch.cuda.current_stream(device).wait_event(ready)
    return list(made.unbind())


@cache
def _capture_info() -> Any:
    """The driver's cuStreamGetCaptureInfo, or None."""
    try:
        function = ctypes.CDLL("libcuda.so.1").cuStreamGetCaptureInfo_v2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p] * 6
    function.restype = ctypes.c_int
    return function


def capture_id(stream: int) -> int:
    """The number of a stream's capture, unique in the process; 0 where it is unknown."""
    function = _capture_info()
    if function is None:
        return 0
    status, number = ctypes.c_int(0), ctypes.c_uint64(0)
    found = function(stream, ctypes.byref(status), ctypes.byref(number), None, None, None)
    return number.value if found == 0 and status.value == 1 else 0
