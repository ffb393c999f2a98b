# SPDX-License-Identifier: BSD-3-Clause
"""Timing attention side by side with torch's backends: cases, peers, harness, report.

``python -m limelight bench`` and ``benchmarks/python/bench_attention.py`` are its commands.
"""
