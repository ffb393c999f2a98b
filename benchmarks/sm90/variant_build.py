# SPDX-License-Identifier: BSD-3-Clause
"""Variants of csrc/sm90's tiles as shared libraries, from the real sources.

Each compiles with an include folder before csrc that holds copies of the headers with other values:
the cells of a row of a tile table, constants such as kStages. The tree itself stays as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from variant_edits import apply

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
HOST = (Path(__file__).with_name("variant_entry.cpp"), CSRC / "host" / "derive.cpp")
HOST += (CSRC / "host" / "tensor_map.cpp",)
# Built with each variant, as it reads the tile table.
CHOICE = CSRC / "host" / "forward_sm90.cpp"
SPILL = re.compile(r"(?P<bytes>\d+) bytes spill stores")
ERROR = re.compile(r"^(?P<where>\S+)\(\d+\): error: (?P<what>.*)\n(?P<line>.*)$", re.M)


@dataclass(frozen=True)
class Row:
    """A row of a tile table that is tried with other cells."""

    headdim: int
    headdim_v: int
    full: bool = False  # the row of full attention
    fp8: bool = False

    @property
    def table(self) -> str:
        """The header that holds it."""
        return "fwd_fp8_tiles.h" if self.fp8 else "fwd_tiles.h"

    @property
    def source(self) -> Path:
        """The file that instantiates it."""
        return CSRC / "sm90" / f"fwd_{'fp8_' if self.fp8 else ''}hdim{self.headdim}.cu"

    @property
    def key(self) -> dict[str, str]:
        """The cells that find it."""
        cells = {"headdim": str(self.headdim), "headdim_v": str(self.headdim_v)}
        cells["scores"] = "Scores::kPlain"
        if not self.fp8:
            cells["visible"] = "Visible::kAll" if self.full else "Visible::kSome"
        return cells

    @property
    def name(self) -> str:
        """For example 128/128 full."""
        words = f"{self.headdim}/{self.headdim_v}", "full" * self.full, "fp8" * self.fp8
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class Variant:
    """A row with other cells, other constants, and edits; none for the sources as they are."""

    row: Row
    cells: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, str], ...] = ()
    edits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For example block_kv=112 ping_pong=false; "limelight" for the sources as they are."""
        changes = (*self.cells, *self.constants, *(("edit", edit) for edit in self.edits))
        return " ".join(f"{name}={value}" for name, value in changes) or "limelight"


@dataclass
class Built:
    """A library, or why there is none."""

    variant: Variant
    library: Path | None = None
    rejected: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiler:
    """nvcc and the runtime that libraries are linked to."""

    nvcc: Path
    cudart: Path
    emulated: bool = False  # PTX only

    @classmethod
    def find(cls) -> Compiler:
        """CUDACXX, else nvcc on PATH, else the usual place, with the runtime beside it."""
        nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        top = Path(nvcc).resolve().parent.parent
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib"):
            library = top / folder / "libcudart.so.13"
            if library.exists():
                return cls(Path(nvcc), library)
        raise FileNotFoundError(f"no libcudart.so.13 beside {nvcc}; name nvcc in CUDACXX")

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """nvcc with what it printed in stdout."""
        paths = [str(self.cudart.parent), *filter(None, [os.environ.get("LIBRARY_PATH")])]
        return subprocess.run(
            [str(self.nvcc), *self.options(), *map(str, arguments)],
            env=dict(os.environ, LIBRARY_PATH=os.pathsep.join(paths)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def options(self) -> list[str]:
        """As in the build; PTX for the emulator, machine code for a GPU."""
        code = "compute_90a" if self.emulated else "sm_90a"
        target = ["-gencode", f"arch=compute_90a,code={code}", "-cudart", "none"]
        return ["-std=c++20", "-O3", "-lineinfo", *target, "-Xcompiler=-fPIC,-fvisibility=hidden"]


def changed_headers(variant: Variant, csrc: Path = CSRC) -> dict[str, str]:
    """The headers of a variant that differ from the tree: name below csrc -> text."""
    changed: dict[str, str] = {}
    if variant.cells:
        path = f"sm90/{variant.row.table}"
        text = (csrc / path).read_text()
        changed[path] = change_row(text, variant.row.key, dict(variant.cells))
    for name, value in variant.constants:
        pattern = re.compile(rf"^(constexpr \w+ {re.escape(name)} = )[^;]*;", re.M)
        paths = [f"sm90/{file.name}" for file in sorted((csrc / "sm90").glob("*.*h"))]
        texts = {path: changed.get(path) or (csrc / path).read_text() for path in paths}
        found = {path: text for path, text in texts.items() if pattern.search(text)}
        if len(found) != 1:
            raise ValueError(f"constant {name}: in {len(found)} headers of csrc/sm90, not in one")
        ((path, text),) = found.items()
        changed[path] = pattern.sub(rf"\g<1>{value};", text)
    for edit in variant.edits:
        changed = apply(edit, changed, csrc)
    return changed


def change_row(text: str, key: Mapping[str, str], cells: Mapping[str, str]) -> str:
    """A tile table with other cells in one row; columns are named by the comment above the rows."""
    names = re.search(r"^ *// (headdim +headdim_v .*)$", text, re.M)
    if names is None:
        raise ValueError("the table has no comment that names its columns")
    columns = names[1].split()
    unknown = set(cells) - set(columns)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: the table has {', '.join(columns)}")
    for match in re.finditer(r"^ *\{(?P<cells>\d[^{}]*)\},$", text, re.M):
        row = dict(zip(columns, (c.strip() for c in match["cells"].split(",")), strict=True))
        if all(row[name] == value for name, value in key.items()):
            row |= cells
            return (
                text[: match.start()] + f"    {{{', '.join(row.values())}}}," + text[match.end() :]
            )
    raise ValueError(f"the table has no row {dict(key)}")


def build(variants: Sequence[Variant], folder: Path, compiler: Compiler, jobs: int) -> list[Built]:
    """Compile all, so many at a time; in the order of the variants."""
    folder.mkdir(parents=True, exist_ok=True)
    include = ["-I", CSRC, "-I", CSRC / "include"]

    def compile_host(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        done = compiler.run("-c", source, *include, "-o", target)
        if done.returncode != 0:
            raise RuntimeError(f"{source} does not compile:\n{done.stdout}")
        return target

    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(compile_host, HOST))
        one = partial(_build_one, folder=folder, compiler=compiler, objects=objects)
        return list(pool.map(one, variants, range(len(variants))))


def _build_one(
    variant: Variant, number: int, folder: Path, compiler: Compiler, objects: list[Path]
) -> Built:
    built = Built(variant)
    place = folder / f"variant-{number}"
    for path, text in changed_headers(variant).items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    place.mkdir(exist_ok=True)
    include = ["-I", place, "-I", CSRC, "-I", CSRC / "include"]
    own = []
    log = ""
    for source in (variant.row.source, CHOICE):
        own.append(place / f"{source.stem}.o")
        ptxas = [] if compiler.emulated else ["-Xptxas", "--warn-on-spills,-v"]
        done = compiler.run("-c", source, *ptxas, *include, "-o", own[-1])
        log += done.stdout
        if done.returncode != 0:
            (place / "build.log").write_text(log)
            built.rejected = f"does not compile: {first_error(done.stdout)}"
            return built
    (place / "build.log").write_text(log)
    built.rejected = verdict(log)
    if built.rejected:
        return built
    library = place / "variant.so"
    absent = [f"-Xlinker=--defsym={name}=0" for name in other_rows(own)]
    runtime = ["-Xlinker", compiler.cudart, f"-Xlinker=-rpath,{compiler.cudart.parent}"]
    link = ["-shared", *own, *objects, *runtime, "-Xlinker=-z,defs", *absent]
    done = compiler.run(*link, "-o", library)
    if done.returncode != 0:
        raise RuntimeError(f"{variant.row.name}, {variant.name} does not link:\n{done.stdout}")
    built.library = library
    return built


def other_rows(objects: Sequence[Path]) -> list[str]:
    """Launches that a variant's calls never reach: of other rows, and of the kernel that combines
    splits, which calls without a workspace do not have."""

    def names(kind: str) -> set[str]:
        done = subprocess.run(["nm", kind, *objects], capture_output=True, text=True, check=True)
        return {line.split()[-1] for line in done.stdout.splitlines() if line.strip()}

    absent = ("launch_fwd", "launch_combine")
    wanted = {name for name in names("--undefined-only") if any(part in name for part in absent)}
    return sorted(wanted - names("--defined-only"))


def verdict(log: str) -> str:
    """Why machine code is not worth timing: spills, serialised wgmma; empty if it is."""
    if "wgmma.mma_async instructions are serialized" in log:
        return "wgmma is serialised (C7511)"
    spilled = max((int(found["bytes"]) for found in SPILL.finditer(log)), default=0)
    return f"{spilled} bytes are spilled" if spilled else ""


def first_error(log: str) -> str:
    """The first error of a compilation, with the line it is about."""
    found = ERROR.search(log)
    if found is None:
        return log.strip()[-300:]
    return f"{found['what']}: {found['line'].strip()}"
