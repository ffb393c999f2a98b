# SPDX-License-Identifier: BSD-3-Clause
"""The serving example: many requests over few pages get the tokens that each would get alone."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from char_gpt import CharGPT, Config
from continuous_batching import Engine, Request
from limelight import runtime
from page_allocator import PageAllocator
from serve_tiny import backend, check, make_requests

EXAMPLES = Path(__file__).parents[1] / "examples"


def build(pages: int, size: int = 16, **config: Any) -> tuple[CharGPT, Engine]:
    torch.manual_seed(0)
    model = CharGPT(Config(width=64, **config)).eval()
    engine = Engine(model, num_pages=pages, page_size=size)
    # What a page held before must never show.
    take = engine.pages.take

    def poisoned() -> int:
        page = take()
        engine.cache[:, page] = float("nan")
        return page

    engine.pages.take = poisoned  # type: ignore[method-assign]
    return model, engine


def run(engine: Engine, count: int, longest: int = 96, new: int = 48) -> list[Request]:
    args = argparse.Namespace(seed=1, max_prompt=longest, max_new=new, requests=count)
    requests = [engine.submit(prompt, max_new) for prompt, max_new in make_requests(args)]
    for _ in range(5000):
        if not engine.step():
            break
    else:
        pytest.fail(f"no end in sight: {engine.statistics}")
    return requests


def assert_nothing_lost(engine: Engine, requests: list[Request]) -> None:
    assert sorted(r.number for r in engine.finished) == [r.number for r in requests]
    assert all(len(r.generated) == r.max_new for r in requests)
    assert all(r.tokens[: len(r.prompt)] == r.prompt for r in requests)
    assert engine.pages.held == 0
    assert not engine.waiting
    assert not engine.running


@pytest.mark.parametrize(
    ("count", "pages", "size"), [(64, 24, 16), (64, 400, 16), (24, 70, 5), (16, 150, 1)]
)
def test_requests_get_the_eager_models_tokens(count: int, pages: int, size: int) -> None:
    model, engine = build(pages, size)
    requests = run(engine, count)
    assert_nothing_lost(engine, requests)
    wanted = sum(r.max_new for r in requests)
    assert check(model, requests) == (wanted, 0, 0)
    s = engine.statistics
    assert s.generated == wanted
    assert s.prefix_hits > 4 * count
    assert (s.evictions > 0) == (pages < 400)
    assert (s.copies > 0) == (size > 1)
    assert s.peak_pages <= pages


def test_a_sliding_window() -> None:
    model, engine = build(30, window=20)
    requests = run(engine, 20)
    assert_nothing_lost(engine, requests)
    assert check(model, requests)[1:] == (0, 0)


def forget_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_copy_page", lambda *_: None)


def write_to_shared_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageAllocator, "writable", lambda *_: True)


def match_one_token_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PageAllocator.match

    def match(self: PageAllocator, tokens: list[int]) -> Any:
        found = real(self, tokens)
        partial = found.tokens % self.page_size and found.tokens < len(tokens)
        return found._replace(tokens=found.tokens + 1) if partial else found

    monkeypatch.setattr(PageAllocator, "match", match)


BUGS = [forget_to_copy, write_to_shared_pages, match_one_token_too_many]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_seen(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    model, engine = build(24)
    requests = run(engine, 40)
    assert check(model, requests)[2] > 0


def test_a_page_freed_under_another_holder_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PageAllocator.let_go

    def let_go(self: PageAllocator, pages: list[int]) -> None:
        for page in pages:
            self._holders[page] = 1
        real(self, pages)

    monkeypatch.setattr(PageAllocator, "let_go", let_go)
    with pytest.raises(AssertionError, match="is not held"):
        run(build(24)[1], 40)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_kernels(dtype: torch.dtype, kernels: torch.device) -> None:
    """Where the build has kernels for pages, falling back is an error."""
    model, _ = build(9, layers=1)
    model.to(kernels, dtype)
    engine = Engine(model, num_pages=9, page_size=16, token_budget=24)
    with runtime.override(fallback="silent" if backend(model) == "torch" else "error"):
        requests = run(engine, 5, longest=40, new=6)
    assert_nothing_lost(engine, requests)
    equal, tied, wrong = check(model, requests)
    assert wrong == 0
    assert equal + tied == sum(r.max_new for r in requests)
    assert tied <= equal / 4


def test_what_can_never_fit_is_refused() -> None:
    _, engine = build(4)
    engine.submit([1] * 60, 5)
    for prompt, new in (([1] * 60, 6), ([], 3), ([1], 0)):
        with pytest.raises(ValueError, match="allowed: at least one token each and 4 pages"):
            engine.submit(prompt, new)


def test_the_program() -> None:
    command = [sys.executable, str(EXAMPLES / "serve_tiny.py"), "--device", "cpu", "--show", "1"]
    sizes = ["--requests", "12", "--pages", "16", "--max-new", "12"]
    done = subprocess.run(
        [*command, *sizes],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "tokens/s generated" in done.stdout
    assert " evictions\n" in done.stdout
    assert done.stdout.rstrip().endswith("0 differ within rounding, 0 are wrong")
