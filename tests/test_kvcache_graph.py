# SPDX-License-Identifier: BSD-3-Clause
"""A decode step in a CUDA graph: captured once, replayed with other tokens, lengths and pages.

On a GPU torch captures; without one the emulator's runtime does, which refuses in a capture what a
CUDA runtime refuses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import limelight
import pytest
import torch
from kvcache_tools import draw, ints
from limelight import execute, kvcache, runtime
from torch import Tensor

BATCH, HEADS, HEADS_KV, HEADDIM, PAGE, PAGES = 3, 4, 2, 64, 8, 5
HALF = torch.bfloat16


class Step:
    """The tensors that a graph keeps; attend() appends the new tokens and attends."""

    def __init__(self, device: torch.device) -> None:
        rows = BATCH * PAGES
        self.q = draw(BATCH, 2, HEADS, HEADDIM, dtype=HALF).to(device)
        self.new = [
            draw(BATCH, 2, HEADS_KV, HEADDIM, dtype=HALF, seed=s).to(device) for s in (1, 2)
        ]
        self.caches = [
            torch.full((rows, PAGE, HEADS_KV, HEADDIM), float("nan"), dtype=HALF, device=device)
            for _ in range(2)
        ]
        self.lengths = ints(0, 0, 0).to(device)
        self.table = torch.arange(rows, dtype=torch.int32).view(BATCH, PAGES).to(device)
        angles = draw(PAGE * PAGES, HEADDIM // 2)
        self.tables = (angles.cos().to(device), angles.sin().to(device))
        self.splits = 0

    def attend(self) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = limelight.flash_attn_with_kvcache(
            self.q,
            *self.caches,
            *self.new,
            *self.tables,
            cache_seqlens=self.lengths,
            block_table=self.table,
            causal=True,
            num_splits=self.splits,
            return_softmax_lse=True,
        )
        return found

    def advance(self, turn: int) -> None:
        """What a server writes between steps."""
        self.lengths.add_(2)
        if turn == 2:  # a request ends, another takes its row, with pages in another order
            self.lengths[1] = 0
            self.table[1] = self.table[1].flip(0)
        generator = torch.Generator().manual_seed(turn)
        for x in (self.q, *self.new):
            x.copy_(torch.randn(x.shape, generator=generator).to(x.dtype))


class EmulatedGraph:
    """Captures the extension's launches on a stream of the emulator."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library = runtime.emulator()
        self.patch = monkeypatch
        self.stream, self.graph, self.executable = (ctypes.c_void_p() for _ in range(3))
        self.alive: list[Any] = []  # what torch's graph pool keeps
        self.launches = 0

    def call(self, name: str, *arguments: Any) -> None:
        error = getattr(self.library, name)(*arguments)
        assert error == 0, (name, error, self.library.limelight_emulator_last_report())

    def capture(self, function: Callable[[], Any]) -> Any:
        self.call("cudaStreamCreate", ctypes.byref(self.stream))
        self.call("cudaStreamBeginCapture", self.stream, 0)
        with self.patch.context() as patch:
            patch.setattr(runtime, "_launch_emulated", self.launch)
            result = function()
        self.call("cudaStreamEndCapture", self.stream, ctypes.byref(self.graph))
        flags = ctypes.c_ulonglong(0)
        self.call("cudaGraphInstantiate", ctypes.byref(self.executable), self.graph, flags)
        return result

    def launch(self, entry: Any, tensors: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        self.alive.append(tensors)
        for x in tensors:
            if x is not None and x.untyped_storage().nbytes() > 0:
                storage = x.untyped_storage()
                self.library.limelight_emulator_register_host(
                    storage.data_ptr(), storage.nbytes(), b"captured"
                )
        entry(*tensors, *arguments, self.stream.value)
        self.launches += 1

    def replay(self) -> None:
        self.call("cudaGraphLaunch", self.executable, self.stream)
        self.call("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        for tensors in self.alive:
            for x in tensors:
                if x is not None:
                    pointer = x.untyped_storage().data_ptr()
                    self.library.limelight_emulator_unregister_host(pointer)


@pytest.mark.parametrize("num_splits", [0, 3])
def test_a_captured_step_follows_lengths_and_pages(
    num_splits: int, kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (kvcache, execute):  # CPU tensors stand for device tensors: no value is read
        monkeypatch.setattr(module, "wanted", lambda device: False)
    graphed, eager = Step(kernels), Step(kernels)
    graphed.splits = eager.splits = num_splits
    if kernels.type == "cuda":
        Step(kernels).attend()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out, lse = graphed.attend()
        replay = graph.replay
    else:
        emulated = EmulatedGraph(monkeypatch)
        out, lse = emulated.capture(graphed.attend)
        assert emulated.launches == 2  # append, then attend with its schedule
        replay = emulated.replay
    assert bool(graphed.caches[0].isnan().all())  # capture runs nothing
    for turn in range(6):
        replay()
        want, want_lse = eager.attend()
        assert torch.equal(out, want)
        assert torch.equal(lse, want_lse)
        for a, b in zip(graphed.caches, eager.caches, strict=True):
            assert torch.equal(a.view(torch.int16), b.view(torch.int16))
        graphed.advance(turn)
        eager.advance(turn)
    if kernels.type != "cuda":
        emulated.close()


def test_a_step_reads_nothing_on_the_host(
    kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (kvcache, execute):
        monkeypatch.setattr(module, "wanted", lambda device: False)
    step = Step(kernels)

    def refuse(*_: Any) -> Any:
        raise AssertionError("the host waits for the device")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__"):
            patch.setattr(Tensor, name, refuse)
        step.attend()
        limelight.get_scheduler_metadata(
            BATCH, 2, PAGE * PAGES, HEADS, HEADS_KV, HEADDIM, step.lengths, max_seqlen_k_new=2
        )
