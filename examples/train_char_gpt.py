# SPDX-License-Identifier: BSD-3-Clause
"""Train a small character GPT on Python's own documentation, on the CPU or a GPU.

RoPE, grouped queries, optional sliding window. Several implementations of attention and seeds are
trained one after the other and their loss curves compared:

    python examples/train_char_gpt.py
    python examples/train_char_gpt.py --attention eager limelight --seed 0 1 --plot curves.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import limelight
import torch
import torch.nn.functional as F
from char_gpt import Attend, CharGPT, Config, decode, eager, encode, save, text, visible
from torch import Tensor


class Run(NamedTuple):
    """The loss of each step, in nats a character."""

    attention: str
    seed: int
    loss: list[float]


def attention(kind: str, window: int) -> Attend:
    """Causal attention over (batch, seqlen, heads, headdim), by three implementations."""

    def with_limelight(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = limelight.flash_attn_func(q, k, v, causal=True, window_size=(window, 0))
        return out

    def with_sdpa(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        mask = visible(q.shape[2], window, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    return {"limelight": with_limelight, "sdpa": with_sdpa, "eager": eager(window)}[kind]


def train(args: argparse.Namespace, kind: str, seed: int) -> tuple[CharGPT, Run]:
    """One training run; equal seeds see the same text from the same weights."""
    torch.manual_seed(seed)
    device, dtype = args.device, getattr(torch, args.dtype)
    data = text()
    model = CharGPT(Config(width=args.width, layers=args.layers, window=args.window)).to(device)
    attend = attention(kind, args.window)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    draws = torch.Generator().manual_seed(seed)
    positions = torch.arange(args.seqlen, device=device).expand(args.batch, -1)
    run = Run(kind, seed, [])
    for step in range(args.steps):
        starts = torch.randint(len(data) - args.seqlen - 1, (args.batch,), generator=draws)
        rows = torch.stack([data[s : s + args.seqlen + 1] for s in starts.tolist()]).to(device)
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            logits = model(rows[:, :-1], positions, attend)
        loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.loss.append(loss.item())
        progress(f"{kind} seed {seed}", step + 1, args.steps, run.loss[-1])
    return model, run


def progress(name: str, done: int, steps: int, loss: float) -> None:
    if not sys.stderr.isatty() and done < steps:
        return
    bar = "#" * (30 * done // steps)
    end = "\n" if done == steps else ""
    line = f"\r{name} [{bar:30}] {done}/{steps} loss {loss:.3f}"
    print(line, end=end, file=sys.stderr, flush=True)


def smooth(loss: list[float]) -> list[float]:
    """The running mean of a tenth of the steps."""
    width = max(1, len(loss) // 10)
    return [sum(loss[i : i + width]) / width for i in range(len(loss) - width + 1)]


def gap(a: Run, b: Run) -> float:
    """The largest distance of two smoothed curves."""
    return max(abs(x - y) for x, y in zip(smooth(a.loss), smooth(b.loss), strict=True))


def report(runs: list[Run]) -> None:
    """Where each run ended, and how far curves of one seed and of one implementation differ."""
    for run in runs:
        mean = smooth(run.loss)[-1]
        print(f"{run.attention:9} seed {run.seed}: {mean:.4f} nats a character at the end", end="")
        print(f" ({mean / math.log(2):.3f} bits)")
    first = runs[0]
    for run in runs[1:]:
        same = "seed" if run.seed == first.seed else "attention"
        if run.seed == first.seed or run.attention == first.attention:
            print(
                f"{first.attention} {first.seed} and {run.attention} {run.seed} (same {same}): "
                f"smoothed curves at most {gap(first, run):.5f} nats apart"
            )


def plot(runs: list[Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for run in runs:
        plt.plot(run.loss, label=f"{run.attention}, seed {run.seed}", linewidth=0.8)
    plt.xlabel("step")
    plt.ylabel("loss, nats a character")
    plt.title("character GPT by implementation of attention")
    plt.legend()
    plt.savefig(path)


@torch.no_grad()
def sample(model: CharGPT, attend: Attend, prompt: str, count: int) -> str:
    """The prompt, continued by the likeliest characters."""
    tokens = encode(prompt).to(next(model.parameters()).device)[None]
    for _ in range(count):
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        best = model(tokens, positions, attend)[:, -1:].argmax(-1)
        tokens = torch.cat((tokens, best), 1)
    return decode(tokens[0].tolist())


def main() -> None:
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ("eager", "sdpa", "limelight")
    parser.add_argument("--attention", choices=kinds, nargs="+", default=["limelight"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--window", type=int, default=-1, help="keys before each token, -1: all")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default=here)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of autocast; float32: none"
    )
    parser.add_argument("--plot", type=Path, help="write the loss curves to this PNG")
    parser.add_argument("--json", type=Path, help="write the losses to this file")
    parser.add_argument("--save", type=Path, help="write the last run's weights, for serve_tiny.py")
    parser.add_argument("--sample", help="continue this text with the last run's model")
    args = parser.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32")
    runs = []
    for kind in args.attention:
        for seed in args.seed:
            model, run = train(args, kind, seed)
            runs.append(run)
    report(runs)
    if args.json:
        args.json.write_text(json.dumps([run._asdict() for run in runs]))
    if args.plot:
        plot(runs, args.plot)
    if args.save:
        save(model, args.save)
    if args.sample:
        print(sample(model.float(), eager(args.window), args.sample, 200))


if __name__ == "__main__":
    main()
