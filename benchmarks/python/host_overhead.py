# SPDX-License-Identifier: BSD-3-Clause
"""Host time of one eager call: torch path, and kernel path with the extension stubbed.

    python benchmarks/python/host_overhead.py [--calls N] [--json]

The kernel path runs on CPU tensors with a stub in place of the extension, so it needs no GPU. What
is measured is the Python from the public call to its return (checks, dispatch, output allocation);
the query of the current stream and the extension's reading of the arguments are not in it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import limelight
import torch
from limelight import dispatch, execute, gemm_dispatch, gemm_execute, runtime


class StubExtension:
    """Takes the call that the real extension would launch."""

    def __init__(self) -> None:
        self.calls = 0

    def me(self) -> StubExtension:
        """Stand in for runtime.core."""
        return self

    def kernels(self) -> list[dict[str, Any]]:
        """Every kernel of the table, in every tile."""
        attention: list[dict[str, Any]] = [
            {"name": kernel.name, "family": kernel.family, "op": kernel.op, "headdim": tile}
            for kernel in dispatch.KERNELS
            for tile in kernel.headdim_tiles
        ]
        names = [f"sm80_{kernel}_16bit" for kernel in gemm_dispatch.KERNELS]
        linear = [{"name": name, "family": "sm80", "op": "gemm", "headdim": 0} for name in names]
        return attention + linear

    def device(self, index: int) -> dict[str, Any]:
        """A device that every kernel fits."""
        return {"has_image": True}

    def attention_forward(self, *arguments: Any) -> None:
        """Count the call."""
        self.calls += 1

    def flat_gemm(self, *arguments: Any) -> None:
        """Count the call."""
        self.calls += 1

    def flat_gemm_workspace(self, *extents: int) -> int:
        """Some partial sums."""
        return 4096

    def flat_gemm_tickets(self) -> int:
        """As many as the real ones."""
        return 4096


def launch_stub(entry: Any, tensors: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
    """runtime.launch without the stream of a device, which a CPU tensor does not have."""
    entry(*tensors, *arguments, 0)


def capability_of(device: torch.device) -> tuple[int, int]:
    """Any device is an A100."""
    return (8, 0)


def no_contents(device: torch.device) -> bool:
    """Lengths are read on CPU tensors; a call on a GPU does not."""
    return False


@contextmanager
def stubbed(stub: StubExtension) -> Iterator[None]:
    """CPU tensors pass for those of a device of capability 8.0 whose extension is the stub."""
    runtime.installed.cache_clear()
    gemm_execute.installed.cache_clear()
    with (
        mock.patch.object(runtime, "core", new=stub.me),
        mock.patch.object(runtime, "capability", new=capability_of),
        mock.patch.object(runtime, "launch", new=launch_stub),
        mock.patch.object(execute, "wanted", new=no_contents),
        runtime.override(fallback="error"),
    ):
        yield
    runtime.installed.cache_clear()
    gemm_execute.installed.cache_clear()


def microseconds(call: Any, calls: int) -> float:
    """The least mean over nine rounds: microseconds of this thread's CPU time a call."""
    call()
    best = float("inf")
    for _ in range(9):
        start = time.thread_time()
        for _ in range(calls):
            call()
        best = min(best, time.thread_time() - start)
    return best / calls * 1e6


def cases() -> dict[str, Any]:
    """Calls of a decoder layer, so small that arithmetic does not hide the host time."""
    q = torch.randn(1, 1, 32, 128, dtype=torch.bfloat16)
    k = torch.randn(1, 16, 8, 128, dtype=torch.bfloat16)
    packed = torch.randn(16, 32, 128, dtype=torch.bfloat16)
    cu_seqlens = torch.tensor([0, 7, 16], dtype=torch.int32)
    out = torch.empty_like(q)
    x, weight = torch.randn(1, 64).bfloat16(), torch.randn(32, 64).bfloat16()
    layer = limelight.FlatLinear(64, 32, bias=False, dtype=torch.bfloat16)
    linear_out = torch.empty(1, 32, dtype=torch.bfloat16)
    return {
        "flat_linear": lambda: limelight.flat_linear(x, weight),
        "flat_linear, out=": lambda: limelight.flat_linear(x, weight, out=linear_out),
        "FlatLinear": lambda: layer(x),
        "flash_attn_func": lambda: limelight.flash_attn_func(q, k, k, causal=True),
        "flash_attn_func, out=": lambda: limelight.flash_attn_func(q, k, k, causal=True, out=out),
        "flash_attn_varlen_func": lambda: limelight.flash_attn_varlen_func(
            packed, packed, packed, cu_seqlens, cu_seqlens, 9, 9, causal=True
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000, help="calls a round")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for name, call in cases().items():
            results[name] = {"torch path": microseconds(call, options.calls // 10)}
        stub = StubExtension()
        with stubbed(stub):
            for name, call in cases().items():
                before = stub.calls
                results[name]["kernel path"] = microseconds(call, options.calls)
                if stub.calls == before:
                    raise RuntimeError(f"{name} did not reach the extension")
    if options.json:
        print(json.dumps({"torch": torch.__version__, "microseconds": results}, indent=2))
        return
    print(f"{'microseconds a call':<28}{'torch path':>12}{'kernel path':>13}")
    for name, value in results.items():
        print(f"{name:<28}{value['torch path']:>12.1f}{value['kernel path']:>13.1f}")


if __name__ == "__main__":
    main()
