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
from typing import Any
from unittest import mock

import limelight
import torch
from limelight import dispatch, runtime


class StubExtension:
    """Takes the call that the real extension would launch."""

    def __init__(self) -> None:
        self.calls = 0

    def kernels(self) -> list[dict[str, Any]]:
        """Every kernel of the table, in every tile."""
        return [
            {"family": kernel.family, "op": kernel.op, "headdim": tile}
            for kernel in dispatch.KERNELS
            for tile in kernel.headdim_tiles
        ]

    def device(self, index: int) -> dict[str, Any]:
        """A device that every kernel fits."""
        return {"has_image": True}

    def attention_forward(self, *arguments: Any) -> None:
        """Count the call."""
        self.calls += 1


def launch_stub(entry: Any, tensors: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
    """runtime.launch without the stream of a device, which a CPU tensor does not have."""
    entry(*tensors, *arguments, 0)


def microseconds(call: Any, calls: int) -> float:
    """The least mean over nine rounds, in microseconds a call."""
    call()
    best = float("inf")
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, time.perf_counter() - start)
    return best / calls * 1e6


def cases() -> dict[str, Any]:
    """Calls of a decoder layer, so small that arithmetic does not hide the host time."""
    q = torch.randn(1, 1, 32, 128, dtype=torch.bfloat16)
    k = torch.randn(1, 16, 8, 128, dtype=torch.bfloat16)
    packed = torch.randn(16, 32, 128, dtype=torch.bfloat16)
    cu_seqlens = torch.tensor([0, 7, 16], dtype=torch.int32)
    out = torch.empty_like(q)
    return {
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
        runtime.installed.cache_clear()
        with (
            mock.patch.object(runtime, "core", return_value=stub),
            mock.patch.object(runtime, "capability", return_value=(8, 0)),
            mock.patch.object(runtime, "launch", launch_stub),
            # Lengths are read on CPU tensors only; a GPU call does not.
            mock.patch("limelight.execute.wanted", return_value=False),
            runtime.override(check=True),
        ):
            for name, call in cases().items():
                before = stub.calls
                results[name]["kernel path"] = microseconds(call, options.calls)
                if stub.calls == before:
                    raise RuntimeError(f"{name} did not reach the extension")
        runtime.installed.cache_clear()
    if options.json:
        print(json.dumps({"torch": torch.__version__, "microseconds": results}, indent=2))
        return
    print(f"{'microseconds a call':<28}{'torch path':>12}{'kernel path':>13}")
    for name, value in results.items():
        print(f"{name:<28}{value['torch path']:>12.1f}{value['kernel path']:>13.1f}")


if __name__ == "__main__":
    main()
