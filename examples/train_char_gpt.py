# SPDX-License-Identifier: BSD-3-Clause
"""Train a small character GPT on Python's own documentation strings.

RoPE, grouped queries, optional sliding window. Run it once per implementation and compare curves:

    python examples/train_char_gpt.py --attention limelight --plot limelight.png
    python examples/train_char_gpt.py --attention eager
"""

from __future__ import annotations

import argparse
import json
import math
import pydoc_data.topics
import sys

import limelight
import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 128  # ASCII


def text() -> Tensor:
    """Python's reference manual as pydoc ships it, one token a character."""
    joined = "\n".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore")
    return torch.tensor(list(joined), dtype=torch.long)


def attend(q: Tensor, k: Tensor, v: Tensor, kind: str, window: int) -> Tensor:
    """Causal attention over (batch, seqlen, heads, headdim), by three implementations."""
    if kind == "limelight":
        return limelight.flash_attn_func(q, k, v, causal=True, window_size=(window, 0))
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    n = q.shape[2]
    behind = torch.arange(n, device=q.device)[:, None] - torch.arange(n, device=q.device)
    visible = (behind >= 0) & ((behind <= window) | (window < 0))
    if kind == "sdpa":
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    else:
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        out = scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v
    return out.transpose(1, 2)


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding on halves of the last dimension (Su et al., 2021)."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[1], device=x.device)[:, None, None] * frequency
    a, b = x.float().chunk(2, -1)
    turned = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
    return torch.cat(turned, -1).to(x.dtype)


class Block(nn.Module):
    """Attention with 4 query heads on 2 key/value heads of 32, then an MLP."""

    def __init__(self, width: int, kind: str, window: int) -> None:
        super().__init__()
        self.kind, self.window = kind, window
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 8 * 32), nn.Linear(4 * 32, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (8, 32)).split((4, 2, 2), dim=2)
        heads = attend(rotate(q), rotate(k), v, self.kind, self.window)
        x = x + self.out(heads.flatten(2))
        return x + self.mlp(self.between(x))


def train(args: argparse.Namespace) -> list[float]:
    """The loss of each step."""
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    data = text().to(device)
    blocks = [Block(args.width, args.attention, args.window) for _ in range(args.layers)]
    model = nn.Sequential(
        nn.Embedding(VOCABULARY, args.width), *blocks, nn.Linear(args.width, VOCABULARY)
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draws = torch.Generator().manual_seed(args.seed)  # the same text for every implementation
    losses: list[float] = []
    for step in range(args.steps):
        starts = torch.randint(len(data) - args.seqlen - 1, (args.batch,), generator=draws)
        rows = torch.stack([data[int(s) : int(s) + args.seqlen + 1] for s in starts])
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        done = 30 * (step + 1) // args.steps
        print(
            f"\r[{'#' * done:30}] {step + 1}/{args.steps} loss {losses[-1]:.3f}",
            end="",
            file=sys.stderr,
        )
    print(file=sys.stderr)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", choices=("eager", "sdpa", "limelight"), default="limelight")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--window", type=int, default=-1, help="keys before each token, -1: all")
    parser.add_argument("--plot", help="write the loss curve to this PNG")
    parser.add_argument("--json", help="write the losses to this file")
    args = parser.parse_args()
    losses = train(args)
    tail = losses[-max(1, len(losses) // 10) :]
    mean = sum(tail) / len(tail)
    print(f"{args.attention}: mean loss of the last {len(tail)} steps {mean:.4f} nats", end="")
    print(f" ({mean / math.log(2):.3f} bits a character)")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"attention": args.attention, "seed": args.seed, "loss": losses}, file)
    if args.plot:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        plt.plot(losses)
        plt.xlabel("step")
        plt.ylabel("loss, nats")
        plt.title(f"character GPT, attention: {args.attention}")
        plt.savefig(args.plot)


if __name__ == "__main__":
    main()
