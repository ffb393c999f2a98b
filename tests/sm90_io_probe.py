# SPDX-License-Identifier: BSD-3-Clause
"""Run forward calls on the emulator and print their launch reports; for tests/test_sm90_io.py.

Usage: python tests/sm90_io_probe.py DTYPE,HEADDIM,SEQLEN,CAUSAL,SOFTCAP ..., in the emulator's
environment. One line a launch.
"""

import os
import sys

import limelight
import torch
from limelight import runtime

if __name__ == "__main__":
    forward = frozenset(pair for pair in runtime.installed() if "decode" not in pair[0])
    runtime.installed = lambda: forward  # few rows would go to the decode kernels first
    for argument in sys.argv[1:]:
        name, *numbers = argument.split(",")
        headdim, seqlen, causal, softcap = map(int, numbers)
        torch.manual_seed(0)
        tensors = (torch.randn(1, seqlen, 1, headdim) for _ in range(3))
        q, k, v = (x.to(getattr(torch, name)) for x in tensors)
        limelight.flash_attn_func(q, k, v, causal=bool(causal), softcap=float(softcap))
    with open(os.environ["LIMELIGHT_EMULATOR_REPORT"]) as report:
        print(report.read())
