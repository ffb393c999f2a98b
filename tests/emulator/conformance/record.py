# SPDX-License-Identifier: BSD-3-Clause
"""Records what a real GPU answers to every case it can run: golden/<arch>.npz, golden/FORMS.md.

python tests/emulator/conformance/record.py            needs a GPU
python tests/emulator/conformance/record.py --forms    only rewrites FORMS.md, anywhere
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
from run import ARCHES, GOLDEN, cases_of, golden, run


def capability() -> tuple[int, int]:
    """Compute capability of device 0; (0, 0) without a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, 0
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return 0, 0
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return major.value, minor.value


def forms() -> str:
    """The table of forms: what each is held to, and which GPU's outputs are recorded."""
    lines = [
        "# Instruction forms under test",
        "",
        "Every form is held to the PTX ISA, restated in NumPy. `golden` marks those that are",
        "also held to outputs recorded on a GPU (`make conformance`).",
        "",
        "| target | form | agreement | golden |",
        "|---|---|---|---|",
    ]
    for arch in ARCHES:
        recorded = golden(arch)
        for case in cases_of(arch):
            agreement = "equal bits" if case.tolerance is None else "the ISA's error bound"
            mark = "yes" if case.name in recorded else "no, ISA text only"
            lines.append(f"| {arch} | {case.name} | {agreement} | {mark} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    GOLDEN.mkdir(exist_ok=True)
    failures = 0
    if "--forms" not in sys.argv[1:]:
        have = capability()
        if have == (0, 0):
            print("no GPU: nothing to record", file=sys.stderr)
            return 1
        for arch, (major, minor, forward) in ARCHES.items():
            fits = have >= (major, minor) if forward else have[0] == major
            if not fits:
                print(f"{arch}: not for a GPU of compute capability {have[0]}.{have[1]}")
                continue
            cases = [c for c in cases_of(arch) if not c.own_gpu or have == (major, minor)]
            results, messages = run(arch, cases, {})
            kept = {}
            for case in cases:
                got = results.get(case.name)
                if not isinstance(got, np.ndarray):
                    print(f"{arch} {case.name}: error {got}")
                    failures += 1
                    continue
                kept[case.name] = got
                difference = case.agrees(got)
                if difference:  # the restatement of the ISA is wrong, or the GPU deviates from it
                    print(f"{arch} {difference}")
                    failures += 1
            np.savez_compressed(GOLDEN / f"{arch}.npz", **kept)
            print(f"{arch}: {len(kept)} of {len(cases)} recorded\n{messages}")
    (GOLDEN / "FORMS.md").write_text(forms())
    return int(failures != 0)


if __name__ == "__main__":
    sys.exit(main())
