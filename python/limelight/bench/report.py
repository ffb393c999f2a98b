# SPDX-License-Identifier: BSD-3-Clause
"""Results as JSON, as a table, and as a plot."""

from __future__ import annotations

import json
import statistics
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from limelight.bench.harness import Measurement, ratios

SCHEMA = 1


def new_report(gpu: dict[str, Any], clocks: dict[str, str]) -> dict[str, Any]:
    """A report without results: where, when and by which command."""
    return {
        "schema": SCHEMA,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "gpu": gpu,
        "clocks_before": clocks,
        "results": [],
    }


def add_result(
    report: dict[str, Any],
    case: Any,
    measurements: list[Measurement],
    facts: dict[str, Any] | None = None,
) -> None:
    """Append one case (a harness.Work with as_dict), and what else is known of it."""
    peak, copy = report["gpu"].get("peak_tflops"), report["gpu"].get("copy_gbps")
    result = {
        "case": case.as_dict(),
        "flops": case.flops,
        "moved_bytes": case.moved_bytes,
        **(facts or {}),
        "peers": [m.as_dict(case, peak, copy) for m in measurements],
        "ratio_to_limelight": ratios(measurements),
    }
    report["results"].append(result)


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write the report; an interrupted run leaves the previous file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(path)


def table(report: dict[str, Any]) -> str:
    """One line per case and peer: time, TFLOP/s, share of the peak, and how much longer than
    limelight it takes."""
    lines = [f"{'case':46} {'peer':16} {'us':>10} {'TFLOP/s':>8} {'peak':>6} {'vs limelight':>13}"]
    for result in report["results"]:
        for peer in result["peers"]:
            start = f"{result['case']['name']:46} {peer['peer']:16} "
            if peer["error"]:
                lines.append(f"{start}{'-':>10} {peer['error']}")
                continue
            ratio = result["ratio_to_limelight"].get(peer["peer"])
            share = peer["fraction_of_peak"]
            lines.append(
                f"{start}{peer['median_us']:10.1f} {peer['tflops']:8.1f} "
                f"{'' if share is None else format(share, '.0%'):>6} "
                f"{'' if ratio is None else format(ratio, '.2f') + 'x':>13}"
            )
    return "\n".join(lines)


def rate_table(report: dict[str, Any]) -> str:
    """One line per case and peer: time, GB/s, share of the copy bandwidth, and how much longer than
    limelight it takes."""
    copy = report["gpu"].get("copy_gbps")
    lines = [f"copy bandwidth {copy} GB/s"]
    lines.append(f"{'case':50} {'peer':16} {'us':>9} {'GB/s':>7} {'copy':>5} {'vs limelight':>13}")
    for result in report["results"]:
        name = result["case"]["name"]
        if "skipped" in result:
            lines.append(f"{name:50} skipped: {result['skipped']}")
        for peer in result["peers"]:
            start = f"{name:50} {peer['peer']:16} "
            if peer["error"]:
                lines.append(f"{start}{'-':>9} {peer['error']}")
                continue
            ratio = result["ratio_to_limelight"].get(peer["peer"])
            share = peer["fraction_of_copy"]
            lines.append(
                f"{start}{peer['median_us']:9.1f} {peer['gbps']:7.0f} "
                f"{'' if share is None else format(share, '.0%'):>5} "
                f"{'' if ratio is None else format(ratio, '.2f') + 'x':>13}"
            )
    return "\n".join(lines)


def summary(report: dict[str, Any], own: str, other: str, least_bytes: int = 16 << 20) -> str:
    """Lowest and median time of ``other`` over ``own``'s, and share of the copy bandwidth where at
    least ``least_bytes`` are moved."""
    ratios, shares = [], []
    for result in report["results"]:
        peers = {peer["peer"]: peer for peer in result["peers"]}
        us = [peers.get(name, {}).get("median_us") for name in (own, other)]
        if all(us):
            ratios.append(us[1] / us[0])
        share = peers.get(own, {}).get("fraction_of_copy")
        if share and result["moved_bytes"] >= least_bytes:
            shares.append(share)
    lines = []
    if ratios:
        text = f"lowest {min(ratios):.2f}, median {statistics.median(ratios):.2f}"
        lines.append(f"{other}'s time over {own}'s: {text} of {len(ratios)} cases")
    if shares:
        text = f"lowest {min(shares):.0%}, median {statistics.median(shares):.0%}"
        over = f"{least_bytes >> 20} MiB"
        lines.append(f"{own}'s share of copy bandwidth over {over}: {text} of {len(shares)} cases")
    return "\n".join(lines)


def wrong(report: dict[str, Any], peer: str) -> list[str]:
    """Names of the cases on which a peer was not timed, with the reason."""
    return [
        f"{result['case']['name']}: {entry['error']}"
        for result in report["results"]
        for entry in result["peers"]
        if entry["peer"] == peer and entry["error"]
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    """TFLOP/s over seqlen, one panel per headdim and mask, one line per peer. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def panel(result: dict[str, Any]) -> tuple[str, int, bool]:
        case = result["case"]
        return case["direction"], case["headdim"], case["causal"]

    panels = sorted({panel(result) for result in report["results"]})
    columns = max(1, len(panels))
    figure, axes = pyplot.subplots(1, columns, figsize=(4.2 * columns, 3.6), squeeze=False)
    for axis, key in zip(axes[0], panels, strict=False):
        lines: dict[str, list[tuple[int, float]]] = {}
        for result in report["results"]:
            if panel(result) == key:
                for peer in result["peers"]:
                    if peer["tflops"]:
                        point = (result["case"]["seqlen"], peer["tflops"])
                        lines.setdefault(peer["peer"], []).append(point)
        for name, points in lines.items():
            xs, ys = zip(*sorted(points), strict=True)
            width = 2.5 if name == "limelight" else 1.2
            axis.plot(xs, ys, marker="o", markersize=3, linewidth=width, label=name)
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_title(f"{key[0]}, headdim {key[1]}, {'causal' if key[2] else 'full'}", fontsize=9)
        axis.set_xlabel("seqlen (16k tokens)", fontsize=8)
    axes[0][0].set_ylabel("TFLOP/s", fontsize=8)
    axes[0][-1].legend(fontsize=7)
    figure.suptitle(f"{report['gpu']['name']}, {report['date'][:10]}", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
