# SPDX-License-Identifier: BSD-3-Clause
"""README says what the dispatch table says."""

from pathlib import Path

from limelight import dispatch

README = Path(__file__).parents[1] / "README.md"


def test_the_support_matrix_is_the_dispatch_table() -> None:
    text = README.read_text()
    begin, end = "<!-- support matrix: begin -->\n", "<!-- support matrix: end -->"
    written = text[text.index(begin) + len(begin) : text.index(end)]
    assert written.strip() == dispatch.support_matrix().strip()


def test_the_first_screen_holds_the_two_commands() -> None:
    first_screen = README.read_text().splitlines()[:12]
    assert any(line.strip().startswith("make demo") for line in first_screen)
    assert any(line.strip().startswith("make test") for line in first_screen)
