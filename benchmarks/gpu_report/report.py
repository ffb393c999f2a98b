# SPDX-License-Identifier: BSD-3-Clause
"""A visit to a GPU machine: build, test, benchmark and profile; everything is written under
gpu-report/.

    python3 benchmarks/gpu_report/report.py              every part that is not done yet
    python3 benchmarks/gpu_report/report.py --part build one part (again)
    python3 benchmarks/gpu_report/report.py --list       the parts and their state

Needs an NVIDIA GPU, nvcc, and a Python with torch, pybind11, scikit-build-core, ninja and pytest;
no network. A part ends after --limit seconds (default 480) at the latest. state.json remembers what
is done for which sources; an interrupted visit goes on where it stopped. Exit code: 0, 1 if a part
failed, 2 without a GPU or with bad options.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts import PARTS, Part, Skip, Visit

ROOT = Path(__file__).resolve().parents[2]
HASHED = ("csrc", "cmake", "python", "tests", "benchmarks", "CMakeLists.txt", "pyproject.toml")
HASHED_SUFFIXES = {".h", ".cuh", ".cu", ".cpp", ".py", ".txt", ".cmake", ".toml", ".ptx"}
DONE = ("ok", "skipped")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the asked parts; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument(
        "--part", action="append", choices=names, help="run this part, even if done"
    )
    parser.add_argument("--list", action="store_true", help="print the parts and their state")
    parser.add_argument("--fresh", action="store_true", help="forget what was done")
    parser.add_argument("--limit", type=float, default=480, help="seconds a part may take")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-report")
    options = parser.parse_args(arguments)
    visit = Visit(ROOT, options.out.resolve())
    state = State(visit.out / "state.json", fingerprint(ROOT))
    if options.fresh:
        state.forget()
    if options.list:
        print(state.table(PARTS))
        return 0
    if not has_gpu():
        print(
            "gpu-report: needs a machine with an NVIDIA GPU, and nvidia-smi finds none here "
            "(--list shows the parts)",
            file=sys.stderr,
        )
        return 2
    chosen = [part for part in PARTS if not options.part or part.name in options.part]
    for part in chosen:
        if options.part or not state.done(part.name):
            run_part(part, visit, state, options.limit)
    print(state.table(PARTS))
    return 0 if all(state.done(part.name) for part in chosen) else 1


def has_gpu() -> bool:
    """Whether nvidia-smi lists a GPU."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def fingerprint(root: Path) -> str:
    """A hash of the sources: results of other sources are not reused."""
    digest = hashlib.sha256()
    for name in HASHED:
        top = root / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for file in files:
            if file.suffix in HASHED_SUFFIXES and file.is_file():
                digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


class State:
    """What was run, kept in a file after every part."""

    def __init__(self, path: Path, sources: str) -> None:
        self.path = path
        self.sources = sources
        self.entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.entries = json.loads(path.read_text())

    def done(self, name: str) -> bool:
        """Whether a part ended well, or had nothing to do, for these sources."""
        entry = self.entries.get(name, {})
        return entry.get("status") in DONE and entry.get("sources") == self.sources

    def record(self, name: str, **facts: Any) -> None:
        """Write a part's outcome."""
        self.entries[name] = {"sources": self.sources, **facts}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.entries, indent=1) + "\n")
        partial.replace(self.path)

    def forget(self) -> None:
        """Start anew; logs and results stay until they are written again."""
        self.entries = {}
        self.path.unlink(missing_ok=True)

    def table(self, parts: Sequence[Part]) -> str:
        """One line per part."""
        lines = []
        for part in parts:
            entry = self.entries.get(part.name, {})
            status = entry.get("status", "-")
            if entry and entry["sources"] != self.sources:
                status += " (older sources)"
            seconds = f"{entry['seconds']:.0f} s" if "seconds" in entry else ""
            lines.append(
                f"{part.name:14} {status:24} {seconds:>6}  {entry.get('reason') or part.about}"
            )
        return "\n".join(lines)


def run_part(part: Part, visit: Visit, state: State, limit: float) -> None:
    """Run a part's commands until one fails or the time is over; output goes to the log and to the
    terminal."""
    visit.out.mkdir(parents=True, exist_ok=True)
    log_path = visit.out / f"{part.name}.log"
    start = time.monotonic()
    facts: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "log": log_path.name}
    status, reason = "ok", ""
    print(f"== {part.name}: {part.about}", flush=True)
    try:
        commands = part.commands(visit)
    except Skip as skip:
        status, reason, commands = "skipped", str(skip), []
    except RuntimeError as error:
        status, reason, commands = "failed", str(error), []
    with log_path.open("w") as log:
        for command in commands:
            line = shlex.join(command)
            print(f"$ {line}", file=log, flush=True)
            code = run_command(command, visit, log, limit - (time.monotonic() - start))
            if code is None:
                status, reason = "timed out", f"longer than {limit:.0f} s: {line}"
            elif code != 0:
                status, reason = "failed", f"exit code {code}: {line}"
            if status != "ok":
                break
    facts |= {"status": status, "reason": reason, "seconds": time.monotonic() - start}
    state.record(part.name, commands=[shlex.join(command) for command in commands], **facts)
    print(f"== {part.name}: {status} {reason}", flush=True)


def run_command(command: list[str], visit: Visit, log: Any, seconds: float) -> int | None:
    """The exit code, None if the time was over; then the command and its children are killed."""
    try:
        process = subprocess.Popen(
            command,
            cwd=visit.root,
            env=visit.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        print(error, file=log, flush=True)
        return 127
    over = threading.Event()

    def stop() -> None:
        over.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(max(0.1, seconds), stop)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            print(line, end="", flush=True)
        code = process.wait()
    finally:
        timer.cancel()
    return None if over.is_set() else code


if __name__ == "__main__":
    sys.exit(main())
