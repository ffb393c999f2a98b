# SPDX-License-Identifier: BSD-3-Clause
"""Run one forward call on the emulator and print its launch report; for tests/test_emulator_io.py.

Usage: python tests/emulator_io_probe.py SEQLEN HEADDIM SOFTCAP, in the emulator's environment.
"""

import os
import sys

import limelight
import torch

if __name__ == "__main__":
    seqlen, headdim, softcap = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, seqlen, 1, headdim, dtype=torch.bfloat16) for _ in range(3))
    limelight.flash_attn_func(q, k, v, softcap=softcap)
    with open(os.environ["LIMELIGHT_EMULATOR_REPORT"]) as report:
        print(report.read())
