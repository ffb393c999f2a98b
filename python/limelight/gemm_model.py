# SPDX-License-Identifier: BSD-3-Clause
"""How long a flat matrix product should take: bytes, waves and operations, nothing measured.

It stands in where no table of ``python -m limelight tune`` covers a shape. Device numbers are from
NVIDIA's data sheets; every other constant is an assumption, stated here and in docs/linear.md.
Only the comparison between implementations matters: all share the bandwidth.
"""

from __future__ import annotations

from typing import NamedTuple

# Name part -> (memory GB/s, dense 16-bit tensor TFLOP/s); the data sheets' values, first match.
DATA_SHEETS: tuple[tuple[str, float, float], ...] = (
    ("B300", 8000.0, 2250.0),
    ("GB200", 8000.0, 2500.0),
    ("B200", 8000.0, 2250.0),
    ("GH200", 4000.0, 989.0),
    ("H200", 4800.0, 989.0),
    ("H100 PCIe", 2000.0, 756.0),
    ("H100 NVL", 3900.0, 835.0),
    ("H100", 3350.0, 989.0),
    ("H20", 4000.0, 148.0),
    ("A100-PCIE-40GB", 1555.0, 312.0),
    ("A100-SXM4-40GB", 1555.0, 312.0),
    ("A100", 2039.0, 312.0),
    ("A30", 933.0, 165.0),
    ("A10", 600.0, 125.0),
    ("L40S", 864.0, 362.0),
    ("L40", 864.0, 181.0),
    ("L4", 300.0, 121.0),
    ("RTX 5090", 1792.0, 209.5),
    ("RTX 4090", 1008.0, 165.2),
    ("RTX 3090", 936.0, 71.0),
)
# Capability -> the device whose numbers are taken where the name is not listed.
STAND_INS = (
    ((10, 0), "B200", 148),
    ((9, 0), "H200", 132),
    ((8, 9), "L40S", 142),
    ((8, 6), "A10", 72),
    ((8, 0), "A100", 108),
)
LAUNCH_US = 2.0  # a kernel's start and end
READ_EFFICIENCY = 0.9  # of the data sheet's bandwidth, for all three
CACHE_SPEED = 3.0  # bandwidth of L2 over that of memory
SHARING_US = 1.0  # where K is split: the last thread block of a tile waits for the others' sums
GEMV_TILE, FLAT_TILE = 16, 128  # weight rows of a thread block; cuBLAS's too
MMA_EFFICIENCY = {8: 0.6, 9: 0.35, 10: 0.15, 12: 0.6}  # mma.sync of the data sheet's tensor rate
WGMMA_EFFICIENCY = 0.6  # the Hopper kernel for 16-bit weights
LIBRARY_EFFICIENCY = 0.8  # cuBLAS of the same
LIBRARY_ROWS = 64  # M that cuBLAS pads to
BITS = {"16bit": 16, "fp8": 8, "int4": 4}


class Device(NamedTuple):
    """What the model knows of a GPU."""

    name: str
    capability: tuple[int, int]
    sm_count: int
    bandwidth: float  # bytes per second
    tensor_flops: float  # 16-bit operations per second
    source: str  # where the numbers are from


class Estimate(NamedTuple):
    """One implementation on one shape."""

    microseconds: float
    bytes: int  # read and written
    waves: float  # CTAs over SMs
    bound: str  # memory or compute


def device_facts(name: str, capability: tuple[int, int], sm_count: int = 0) -> Device:
    """The data sheet's numbers by name, else those of a stand-in of the same generation."""
    for part, gigabytes, tflops in DATA_SHEETS:
        if part in name and sm_count:
            return Device(
                name, capability, sm_count, gigabytes * 1e9, tflops * 1e12, f"{part}'s data sheet"
            )
    stand_in, sms = next(
        (n, s) for c, n, s in (*STAND_INS, ((0, 0), "A100", 108)) if capability >= c
    )
    gigabytes, tflops = next((g, t) for part, g, t in DATA_SHEETS if part == stand_in)
    source = f"{stand_in}'s data sheet, a stand-in"
    return Device(name, capability, sm_count or sms, gigabytes * 1e9, tflops * 1e12, source)


def weight_bytes(rows: int, k: int, weight_format: str) -> int:
    """Bytes of weight and its scales."""
    kind = weight_format.split("_")[0]
    values = rows * k * BITS.get(kind, 16) // 8
    if weight_format == "fp8_channel":
        return values + 4 * rows
    if weight_format == "fp8_block":
        return values + 4 * -(-rows // 128) * -(-k // 128)
    if kind == "int4":
        return values + 2 * rows * k // int(weight_format[6:])
    return values


def estimate(
    implementation: str, m: int, rows: int, k: int, weight_format: str, device: Device
) -> Estimate:
    """The time of gemv, flat or torch: a launch plus the slower of memory and arithmetic."""
    traffic = weight_bytes(rows, k, weight_format) + 2 * m * (k + rows)
    rate = device.tensor_flops * MMA_EFFICIENCY.get(device.capability[0], 0.15)
    if implementation == "flat" and weight_format == "16bit" and device.capability == (9, 0):
        rate = device.tensor_flops * WGMMA_EFFICIENCY
    tile, padded, overhead, waves = FLAT_TILE, -(-m // 8) * 8, LAUNCH_US, 1.0
    if implementation == "gemv":
        tile = GEMV_TILE
    elif implementation == "torch":
        rate = device.tensor_flops * LIBRARY_EFFICIENCY
        padded = -(-m // LIBRARY_ROWS) * LIBRARY_ROWS
        waves = -(-rows // tile) * -(-m // tile) / device.sm_count
        if weight_format != "16bit":
            traffic += 2 * 2 * rows * k  # the expanded weight, written and read
            overhead += 3 * LAUNCH_US
    cached = 2 * -(-rows // tile) * m * k  # every tile of weight reads x
    if implementation == "flat" or waves < 1:
        # K is split until every SM has a thread block; each writes and reads two tiles of sums.
        waves = 1.0
        cached += 2 * 2 * 4 * device.sm_count * tile * padded
        overhead += SHARING_US
    bandwidth = device.bandwidth * READ_EFFICIENCY
    filled = waves / -(-waves // 1)  # the last wave leaves some SMs idle
    read = traffic / (bandwidth * filled) + cached / (bandwidth * CACHE_SPEED)
    compute = 2.0 * rows * k * padded / rate
    bound = "memory" if read >= compute else "compute"
    return Estimate(overhead + 1e6 * max(read, compute), traffic, waves, bound)
