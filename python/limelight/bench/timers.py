# SPDX-License-Identifier: BSD-3-Clause
"""Device time of calls: between events, or as one CUDA graph without the host's share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from limelight import gemm_workspace

Call = Callable[[int], Any]


class Timer(Protocol):
    """Measures calls; a fake one makes the harness testable without a GPU."""

    def microseconds(self, call: Call, first: int, iterations: int) -> float:
        """Mean time of call(first), ..., call(first + iterations - 1)."""
        ...


def _between_events(work: Callable[[], Any]) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return 1e3 * float(start.elapsed_time(end))


class CudaTimer:
    """Device time between two CUDA events."""

    def microseconds(self, call: Call, first: int, iterations: int) -> float:
        """Mean time of one call; waits for the device."""

        def work() -> None:
            for index in range(first, first + iterations):
                call(index)

        return _between_events(work) / iterations


class GraphTimer:
    """Device time of a CUDA graph of the calls: what a server that captures its step sees.

    Calls of a few microseconds would otherwise wait for Python. A call's graph is kept as long as
    the call; no graph that others captured may exist.
    """

    def __init__(self) -> None:
        self._graphs: WeakKeyDictionary[Call, tuple[int, Any]] = WeakKeyDictionary()
        self._stream: Any = None

    def microseconds(self, call: Call, first: int, iterations: int) -> float:
        """Mean time of one call in a replay; waits for the device.

        The graph runs call(0), ... whatever first is: enough calls leave no input in L2.
        """
        count, graph = self._graphs.get(call, (0, None))
        if count != iterations:
            self._graphs.pop(call, None)
            graph = self._capture(call, iterations)
            self._graphs[call] = iterations, graph
            graph.replay()
        return _between_events(graph.replay) / iterations

    def _capture(self, call: Call, iterations: int) -> Any:
        # torch.cuda.graph would collect garbage and empty the cache each time: a tenth of a second.
        torch.cuda.synchronize()
        if not self._graphs:
            gemm_workspace.release_captures()
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin()
            try:
                for index in range(iterations):
                    call(index)
            finally:
                graph.capture_end()
        return graph


def copy_gbps(device: torch.device, size: int = 1 << 30, repeats: int = 10) -> float:
    """GB/s of copying a buffer on the device, read and written bytes counted: the yardstick of
    kernels that wait for memory."""
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    times = [_between_events(lambda: target.copy_(source)) for _ in range(repeats + 2)]
    return 2 * size / sorted(times[2:])[repeats // 2] / 1e3
