# SPDX-License-Identifier: BSD-3-Clause
"""GraphTimer with a stand-in for torch's graphs: captured once a call, forgotten with it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from limelight import gemm_workspace
from limelight.bench import timers


class Graph:
    """Counts captures and replays."""

    made = replayed = 0

    def __init__(self) -> None:
        Graph.made += 1

    def capture_begin(self) -> None:
        """Nothing to record."""

    def capture_end(self) -> None:
        """Nothing to record."""

    def replay(self) -> None:
        """Count."""
        Graph.replayed += 1


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many graphs were made at each release of tickets."""
    seen: list[int] = []
    Graph.made = Graph.replayed = 0
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gemm_workspace, "release_captures", lambda: seen.append(Graph.made))

    def between_events(work: Any) -> float:
        work()
        return 60.0

    monkeypatch.setattr(timers, "_between_events", between_events)
    return seen


def test_a_call_is_captured_once_a_length(released: list[int]) -> None:
    timer, indices = timers.GraphTimer(), []
    call = indices.append
    recorded = lambda index: call(index)  # noqa: E731
    assert timer.microseconds(recorded, 0, 3) == 20.0
    assert timer.microseconds(recorded, 3, 3) == 20.0
    assert indices == [0, 1, 2]
    assert (Graph.made, Graph.replayed) == (1, 3)
    assert timer.microseconds(recorded, 0, 6) == 10.0
    assert (Graph.made, len(timer._graphs)) == (2, 1)


def test_tickets_are_given_back_when_no_graph_is_left(released: list[int]) -> None:
    timer = timers.GraphTimer()
    first, second = (lambda index: None), (lambda index: None)
    timer.microseconds(first, 0, 2)
    timer.microseconds(second, 0, 2)
    assert released == [0]
    del first, second
    assert not timer._graphs
    timer.microseconds(lambda index: None, 0, 2)
    assert released == [0, 2]


def test_a_failing_call_ends_its_capture(released: list[int]) -> None:
    def fail(index: int) -> None:
        raise RuntimeError("not in a capture")

    timer = timers.GraphTimer()
    with pytest.raises(RuntimeError, match="not in a capture"):
        timer.microseconds(fail, 0, 2)
    assert not timer._graphs
