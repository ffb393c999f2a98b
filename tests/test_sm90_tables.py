# SPDX-License-Identifier: BSD-3-Clause
"""Tables of csrc/sm90/README.md from machine code: the loop that is counted, what stands beside it,
registers and spills from the compiler's log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
for folder in ("python", "sm90"):
    sys.path.insert(0, str(ROOT / "benchmarks" / folder))

import ptxas_report  # noqa: E402
import sass  # noqa: E402
import tables  # noqa: E402
from tile_facts import tile_facts  # noqa: E402

PLAIN = "sm90_attention_fwdINS0_9FwdConfigI13__nv_bfloat16Li64ELi64ELNS0_6ScoresE0ELNS0_7VisibleE1E"
# A tile loop around a step with a wait, a mask and a rescaling; a loader that walks by itself.
KERNEL = f"""
.text._ZN{PLAIN}:
.L_x_0:
        /*0000*/                   S2R R11, SR_TID.X ;
        /*0010*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR28], RZ, !UPT ;
        /*0020*/               @P0 BRA `(.L_x_6) ;
.L_x_1:
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR10], R9 ;
        /*0040*/              @!P1 BRA `(.L_x_1) ;
        /*0050*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR28], RZ, !UPT ;
        /*0060*/                   UISETP.NE.AND UP0, UPT, UR4, URZ, UPT ;
        /*0070*/                   BRA.U UP0, `(.L_x_5) ;
.L_x_2:
        /*0080*/                   MUFU.EX2 R90, R91 ;
        /*0090*/               @P2 BRA `(.L_x_4) ;
.L_x_3:
        /*00a0*/                   F2FP.BF16.F32.PACK_AB R124, R90, R155 ;
        /*00b0*/               @P3 BRA `(.L_x_1) ;
        /*00c0*/               @P4 BRA `(.L_x_0) ;
        /*00d0*/                   EXIT ;
.L_x_4:
        /*00e0*/                   FMUL R88, R88, R7 ;
        /*00f0*/                   FMUL R89, R89, R7 ;
        /*0100*/                   FMUL R90, R89, R7 ;
        /*0110*/                   BRA `(.L_x_3) ;
.L_x_5:
        /*0120*/                   LOP3.LUT R26, R26, R27, RZ, 0xc0, !PT ;
MASKS
        /*0130*/                   BRA `(.L_x_2) ;
.L_x_6:
        /*0140*/                   UTMALDG.4D [UR8], [UR4] ;
        /*0150*/                   UTMALDG.4D [UR8], [UR4] ;
        /*0160*/               @P0 BRA `(.L_x_6) ;
        /*0170*/                   EXIT ;
""".replace(
    "MASKS", "\n".join(["        /*0130*/                   FSEL R25, R25, -INF, P1 ;"] * 16)
)

LOG = f"""
ptxas info    : Compiling entry function '_ZN{PLAIN}EEEvNS0_15FwdKernelParamsE' for 'sm_90a'
    16 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 128 registers, used 16 barriers
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due\
 to insufficient register resources for the wgmma pipeline in the function '_ZN{PLAIN}EEE'
"""


def test_a_step_is_the_shortest_way_through_the_loop_with_a_gemm() -> None:
    (function,) = sass.parse(KERNEL)
    path = sass.path_of_step(function)
    assert [function.opcodes[at].split(".")[0] for at in sorted(path)] == [
        *("SYNCS", "BRA", "HGMMA", "UISETP", "BRA", "MUFU", "BRA", "F2FP", "BRA")
    ]
    step = tables.step_of(function)
    assert step is not None
    assert (step.counts["GEMM"], step.counts["MUFU"], step.counts["all"]) == (1, 1, 9)
    assert step.counts["UTMALDG"] == 2
    assert step.mask == 18
    assert step.rescale == 4
    assert step.registers == 156


def test_a_kernel_without_a_gemm_has_no_step() -> None:
    (function,) = sass.parse(KERNEL.replace("HGMMA", "IADD3"))
    assert tables.step_of(function) is None


def test_tables_join_machine_code_log_and_tile_table() -> None:
    facts = tile_facts()
    instructions, registers = tables.make_tables(facts, sass.parse(KERNEL), LOG)
    (line,) = instructions[2:]
    tile = next(t for t in facts if (t.headdim, t.change, t.fp8) == (64, False, False))
    scores = 64 * tile.consumers * tile.block_kv
    columns = 128 + 8 * tile.sum_column
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["64/64", f"{64 * tile.consumers} x {tile.block_kv}", "1"]
    assert cells[-3:] == [
        *map(str, (scores * columns // 2048, scores // 16, 9 * tile.consumers)),
    ]
    (line,) = registers[2:]
    assert "| 128 | 156 | - |" in line
    assert line.endswith("| 36 |")


def test_the_readme_holds_the_tables() -> None:
    """--write replaces them and nothing else."""
    text = tables.README.read_text()
    made = tables.make_tables(tile_facts(), sass.parse(KERNEL), LOG)
    written = tables.replace_tables(text, made)
    assert made[0][2] in written
    assert len(written.splitlines()) < len(text.splitlines())
    kept = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line for line in written.splitlines() if not line.startswith("|")] == kept


def test_logs_name_spills_and_serialised_wgmma() -> None:
    table = ptxas_report.table(ptxas_report.parse(LOG))
    assert "| 64 | forward, plain | 128 | 36 |" in table
    assert ptxas_report.serialised(LOG) == [f"_ZN{PLAIN}EEE"]
    assert ptxas_report.serialised("ptxas info : Used 128 registers") == []


def test_tile_facts_follow_the_sources(tmp_path: Path) -> None:
    """As the kernels see them: an include path before theirs counts."""
    shadow = tmp_path / "sm90"
    shadow.mkdir()
    for name in ("fwd_tiles.h", "fwd_fp8_tiles.h"):
        text = (ROOT / "csrc" / "sm90" / name).read_text()
        (shadow / name).write_text(text.replace("kStages = 2", "kStages = 1"))
    ours, other = tile_facts(), tile_facts(tmp_path)
    assert len(ours) == len(other)
    assert all(a.smem_bytes < b.smem_bytes for a, b in zip(other, ours, strict=True))
    assert {t.headdim for t in ours} == {64, 96, 128, 192, 256}


def test_a_missing_disassembler_is_named(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDACXX", "/no/such/nvcc")
    monkeypatch.setenv("PATH", "/no/such")
    with pytest.raises(SystemExit, match="nvdisasm is neither on PATH nor beside"):
        tables.main(["--cubin", "x.cubin"])
