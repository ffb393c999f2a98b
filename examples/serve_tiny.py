# SPDX-License-Identifier: BSD-3-Clause
"""Serve a small GPT to many requests at once from a paged cache, and check every token.

Continuous batching with chunked prompts, shared prefixes and eviction (continuous_batching.py); the
output of each request must be what the model gives with eager attention to this request alone.

    python examples/serve_tiny.py
    python examples/train_char_gpt.py --save gpt.pt
    python examples/serve_tiny.py --weights gpt.pt --show 3 --pages 40
    LIMELIGHT_BACKEND=emulator python examples/serve_tiny.py --requests 4 --dtype float16
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import limelight
import torch
from char_gpt import CharGPT, Config, decode, eager, load, text
from continuous_batching import Engine, Request
from torch import Tensor


def make_requests(args: argparse.Namespace) -> list[tuple[list[int], int]]:
    """Prompts of random lengths from the documentation; half of them share one of three starts."""
    draws = random.Random(args.seed)
    data = text()

    def piece(length: int) -> list[int]:
        start = draws.randrange(len(data) - length)
        found: list[int] = data[start : start + length].tolist()
        return found

    common = [piece(draws.randint(args.max_prompt // 3, args.max_prompt // 2)) for _ in range(3)]
    requests = []
    for _ in range(args.requests):
        start = draws.choice(common) if draws.random() < 0.5 else []
        prompt = start + piece(draws.randint(1, args.max_prompt - len(start)))
        requests.append((prompt, draws.randint(1, args.max_new)))
    return requests


def serve(engine: Engine, requests: list[tuple[list[int], int]]) -> tuple[list[Request], float]:
    """Run all requests to their end; returns them in order, and the seconds."""
    submitted = [engine.submit(prompt, max_new) for prompt, max_new in requests]
    begin = time.perf_counter()
    while engine.step():
        show(engine, len(submitted), time.perf_counter() - begin)
    show(engine, len(submitted), time.perf_counter() - begin)
    print(file=sys.stderr)
    return submitted, time.perf_counter() - begin


def show(engine: Engine, total: int, seconds: float) -> None:
    done, pages = len(engine.finished), engine.pages
    if not sys.stderr.isatty() and done < total:
        return
    bar = "#" * (24 * done // total)
    print(
        f"\r[{bar:24}] {done}/{total} done, {len(engine.running):3} running, "
        f"{len(engine.waiting):3} waiting, {pages.held:4}/{pages.num_pages} pages, "
        f"{engine.statistics.generated / seconds:6.0f} tokens/s ",
        end="",
        file=sys.stderr,
        flush=True,
    )


@torch.no_grad()
def alone(model: CharGPT, request: Request) -> Tensor:
    """Eager logits (generated, vocabulary) in float64 or the model's dtype, from which each
    generated token was to be chosen.

    Causal attention: row i depends on tokens up to i only, so where every token is the argmax of
    the row before it, decoding one token at a time without a cache gives the same tokens.
    """
    device = model.head.weight.device
    tokens = torch.tensor(request.tokens[:-1], device=device)
    positions = torch.arange(len(tokens), device=device)
    logits = model(tokens, positions, eager(model.config.window))
    return logits[len(request.prompt) - 1 :]


def check(model: CharGPT, requests: list[Request]) -> tuple[int, int, int]:
    """(equal, tied, wrong) tokens against the eager model.

    In 16 bits two correct implementations may choose differently where logits nearly tie: a token
    is tied if its float64 logit is within what the rounding of both may add up to, four times the
    eager model's own largest error; float32 tokens have to be equal.
    """
    equal = tied = wrong = 0
    half = model.head.weight.element_size() == 2
    exact = CharGPT(model.config).to(model.head.weight.device).double()
    exact.load_state_dict(model.state_dict())
    for request in requests:
        logits = alone(model, request)
        served = torch.tensor(request.generated, device=logits.device)
        same = logits.argmax(-1) == served
        truth = alone(exact, request)
        error = (logits.double() - truth).abs().max()
        behind = truth.amax(-1) - truth.gather(-1, served[:, None])[:, 0]
        near = ~same & (behind <= 4 * error) & half
        equal, tied = equal + int(same.sum()), tied + int(near.sum())
        wrong += int((~same & ~near).sum())
    return equal, tied, wrong


def report(engine: Engine, requests: list[Request], seconds: float) -> None:
    s, pages = engine.statistics, engine.pages
    prompts = sum(len(request.prompt) for request in requests)
    print(
        f"{len(requests)} requests, {prompts} prompt tokens, {s.generated} generated in "
        f"{seconds:.2f} s: {s.generated / seconds:.0f} tokens/s generated, "
        f"{s.computed / seconds:.0f} computed"
    )
    print(f"{s.steps} steps of {s.computed / max(1, s.steps):.1f} tokens on average")
    print(
        f"cache: at most {s.peak_pages} of {pages.num_pages} pages of {pages.page_size} tokens; "
        f"{s.prefix_hits} tokens found in known prefixes, {s.copies} pages copied before a write, "
        f"{s.evictions} evictions"
    )


def backend(model: CharGPT) -> str:
    c, weight = model.config, model.head.weight
    heads = {"heads_q": c.heads_q, "heads_kv": c.heads_kv, "headdim": c.headdim}
    features = {"causal": True, "paged": True, "seqused": True, "varlen": True}
    return str(
        limelight.explain(device=weight.device, dtype=weight.dtype, **heads, **features).backend
    )


def parse() -> argparse.Namespace:
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--max-prompt", type=int, default=96)
    parser.add_argument("--max-new", type=int, default=48)
    parser.add_argument("--pages", type=int, default=96, help="fewer pages: more evictions")
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument("--budget", type=int, default=64, help="tokens of a step")
    parser.add_argument("--weights", type=Path, help="from train_char_gpt.py; default: random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=here)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--show", type=int, default=0, help="print this many continuations")
    return parser.parse_args()


def main() -> int:
    args = parse()
    dtype = args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32")
    torch.manual_seed(args.seed)
    model = load(args.weights) if args.weights else CharGPT(Config())
    model = model.to(args.device, getattr(torch, dtype)).eval()
    engine = Engine(model, num_pages=args.pages, page_size=args.page_size, token_budget=args.budget)
    requests, seconds = serve(engine, make_requests(args))
    report(engine, requests, seconds)
    for request in requests[: args.show]:
        print(f"{decode(request.prompt)!r} -> {decode(request.generated)!r}")
    equal, tied, wrong = check(model, requests)
    wanted = sum(request.max_new for request in requests)
    print(
        f"attention on {args.device} in {dtype} by {backend(model)}: {equal} of {wanted} tokens "
        f"are the eager model's, {tied} differ within rounding, {wrong} are wrong"
    )
    lost = wanted - equal - tied - wrong
    return 0 if wrong == 0 and lost == 0 and engine.pages.held == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
