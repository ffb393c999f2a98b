# SPDX-License-Identifier: BSD-3-Clause
"""A small character GPT (RoPE, grouped queries) whose attention is given from outside.

train_char_gpt.py trains it; serve_tiny.py serves it from a paged cache.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

# (layer, q, k, v) -> out; q (..., heads_q, headdim), k and v (..., heads_kv, headdim), rotated.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Config:
    """window: keys before each token that it sees, -1: all."""

    width: int = 128
    layers: int = 2
    heads_q: int = 4
    heads_kv: int = 2
    headdim: int = 32
    window: int = -1
    vocabulary: int = 128  # ASCII


def text() -> Tensor:
    """Python's reference manual as pydoc ships it, one token a character."""
    return encode("\n".join(pydoc_data.topics.topics.values()))


def encode(string: str) -> Tensor:
    return torch.tensor(list(string.encode("ascii", "ignore")), dtype=torch.long)


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode("ascii", "replace")


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position embedding on halves of the last dimension (Su et al., 2021).

    x: (..., heads, headdim); positions: the leading dimensions of x.
    """
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = positions[..., None, None] * frequency
    wide = x.double() if x.dtype == torch.float64 else x.float()
    a, b = wide.chunk(2, -1)
    turned = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
    return torch.cat(turned, -1).to(x.dtype)


class Block(nn.Module):
    """Attention, then an MLP, each on the normalised input and added to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.split = (config.heads_q, config.heads_kv, config.heads_kv)
        width, headdim = config.width, config.headdim
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, sum(self.split) * headdim)
        self.out = nn.Linear(config.heads_q * headdim, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, layer: int, positions: Tensor, attend: Attend) -> Tensor:
        heads = self.qkv(self.before(x)).unflatten(-1, (sum(self.split), -1))
        q, k, v = heads.split(self.split, dim=-2)
        seen = attend(layer, rotate(q, positions), rotate(k, positions), v)
        x = x + self.out(seen.flatten(-2))
        return x + self.mlp(self.between(x))


class CharGPT(nn.Module):
    """Tokens of any layout (batch, seqlen) or (total,) with their positions to hidden states."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = nn.Linear(config.width, config.vocabulary)

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, positions, attend)
        return x

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        logits: Tensor = self.head(self.hidden(tokens, positions, attend))
        return logits


def eager(window: int = -1) -> Attend:
    """Causal attention by the formula over (..., seqlen, heads, headdim)."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
        k, v = (x.repeat_interleave(q.shape[-3] // k.shape[-3], -3) for x in (k, v))
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        hidden = ~visible(q.shape[-2], window, q.device)
        return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v).transpose(-3, -2)

    return attend


def visible(seqlen: int, window: int, device: torch.device) -> Tensor:
    """Which keys (columns) a token (row) sees."""
    token = torch.arange(seqlen, device=device)
    behind = token[:, None] - token
    return (behind >= 0) & ((behind <= window) | (window < 0))


def save(model: CharGPT, path: Path) -> None:
    torch.save({"config": asdict(model.config), "weights": model.state_dict()}, path)


def load(path: Path) -> CharGPT:
    stored = torch.load(path, map_location="cpu", weights_only=True)
    model = CharGPT(Config(**stored["config"]))
    model.load_state_dict(stored["weights"])
    return model
