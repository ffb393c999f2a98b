# SPDX-License-Identifier: BSD-3-Clause
"""Tickets of flat_linear's kernels: one set a stream, one a stream and capture, never shared."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

import pytest
import torch
from limelight import gemm_workspace
from limelight.gemm_workspace import tickets

CUDA = torch.device("cuda", 0)


@dataclass
class FakeDevice:
    """What torch and the driver say of the current stream."""

    stream: int = 7
    capture: int = 0  # 0: none


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device of CPU memory, with nothing allocated for it."""
    fake = FakeDevice()
    for name in ("_eager", "_reserves", "_captured", "_taken"):
        monkeypatch.setattr(gemm_workspace, name, {})
    monkeypatch.setattr(gemm_workspace, "CAPTURES", 3)
    monkeypatch.setattr(gemm_workspace, "ticket_count", lambda: 4)
    monkeypatch.setattr(
        gemm_workspace,
        "_zeros",
        lambda device, *rows: torch.zeros((*rows, 4), dtype=torch.int32),
    )
    monkeypatch.setattr(
        gemm_workspace,
        "_persistent",
        lambda device, count: list(gemm_workspace._zeros(device, count).unbind()),
    )
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(
        torch._C, "_cuda_getCurrentRawStream", lambda index: fake.stream, raising=False
    )
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: fake.capture != 0)
    monkeypatch.setattr(gemm_workspace, "capture_id", lambda stream: fake.capture)
    return fake


def place() -> int:
    found = tickets(CUDA)
    assert found.shape == (4,)
    assert not found.any()
    return found.data_ptr()


def test_one_set_a_stream(gpu: FakeDevice) -> None:
    first = place()
    assert place() == first
    gpu.stream = 8
    assert place() != first
    gpu.stream = 7
    assert place() == first


def test_one_set_a_capture(gpu: FakeDevice) -> None:
    eager = place()
    gpu.capture = 1
    one = place()
    assert place() == one != eager
    gpu.stream = 8
    forked = place()
    assert forked not in (one, eager)
    gpu.stream, gpu.capture = 7, 2
    two = place()
    assert two not in (one, forked, eager)
    gpu.capture = 0
    assert place() == eager


def test_captures_without_a_reserve_get_new_zeros(gpu: FakeDevice) -> None:
    """No warm-up call, or more captures than the reserve is for: nothing is kept or shared."""
    gpu.capture = 1
    kept = [tickets(CUDA), tickets(CUDA)]
    assert kept[0].data_ptr() != kept[1].data_ptr()
    assert not gemm_workspace._captured
    gpu.capture = 0
    place()
    seen = set()
    for gpu.capture in range(2, 5):
        seen.add(place())
    assert len(seen) == 3
    gpu.capture = 9
    kept += [tickets(CUDA), tickets(CUDA)]
    assert len({t.data_ptr() for t in kept} | seen) == 7


def test_released_captures_are_used_again(gpu: FakeDevice) -> None:
    eager = place()
    rounds = []
    for _ in range(3):
        places = set()
        for gpu.capture in range(1, 4):
            places.add(place())
        rounds.append(places)
        gemm_workspace.release_captures()
    assert rounds[0] == rounds[1] == rounds[2]
    assert len(rounds[0]) == 3
    gpu.capture = 0
    assert place() == eager not in rounds[0]


def test_an_unknown_capture_shares_nothing(
    gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    place()
    gpu.capture = 1
    monkeypatch.setattr(gemm_workspace, "capture_id", lambda stream: 0)
    kept = [tickets(CUDA), tickets(CUDA)]
    assert kept[0].data_ptr() != kept[1].data_ptr()


def test_no_driver_no_capture_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_workspace, "_capture_info", lambda: None)
    assert gemm_workspace.capture_id(0) == 0


def test_what_stays_is_allocated_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the current stream waits for its zeros."""
    seen: dict[str, object] = {}

    class Event:
        def record(self) -> None:
            seen["recorded"] = threading.get_ident()

    class Current:
        def wait_event(self, event: Event) -> None:
            seen["waited"] = threading.get_ident()

    def zeros(device: torch.device, count: int) -> torch.Tensor:
        seen["allocated"] = threading.get_ident()
        return torch.zeros(count, 4, dtype=torch.int32)

    monkeypatch.setattr(gemm_workspace, "_zeros", zeros)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Current())
    made = gemm_workspace._persistent(CUDA, 3)
    assert [t.shape for t in made] == [(4,)] * 3
    assert seen["allocated"] == seen["recorded"] != threading.get_ident() == seen["waited"]
