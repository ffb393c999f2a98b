# SPDX-License-Identifier: BSD-3-Clause
"""Run GEMM kernels on the emulator and print their launch reports; for test_gemm_kernel_io.py.

Usage: python tests/gemm_io_probe.py KERNEL,SPLITS,M,ROWS,K,FORMAT ..., in the emulator's
environment. One line a launch.
"""

import os
import sys

import torch
from gemm_kernel_tools import multiply
from linear_cases import LinearCase, draw

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        *numbers, weight_format = argument.split(",")
        kernel, splits, m, rows, k = map(int, numbers)
        multiply(draw(LinearCase(m, rows, k, weight_format), torch.device("cpu")), kernel, splits)
    with open(os.environ["LIMELIGHT_EMULATOR_REPORT"]) as report:
        print(report.read())
