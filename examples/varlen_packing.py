# SPDX-License-Identifier: BSD-3-Clause
"""Attention over sequences of different lengths without padding: packed, one after the other."""

import limelight
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
lengths = torch.tensor([113, 7, 40])
heads_q, heads_kv, headdim = 8, 2, 64
total = int(lengths.sum())
torch.manual_seed(0)
q = torch.randn(total, heads_q, headdim, device=device, dtype=dtype)
k, v = torch.randn(2, total, heads_kv, headdim, device=device, dtype=dtype)

# Sequence i is tokens cu_seqlens[i] to cu_seqlens[i + 1]: [0, 113, 120, 160].
cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32)
longest = int(lengths.max())
packed = limelight.flash_attn_varlen_func(
    q, k, v, cu_seqlens, cu_seqlens, longest, longest, causal=True
)

for a, b in zip(cu_seqlens.tolist(), cu_seqlens[1:].tolist(), strict=False):
    alone = limelight.flash_attn_func(q[None, a:b], k[None, a:b], v[None, a:b], causal=True)[0]
    difference = (packed[a:b] - alone).abs().max().item()
    print(f"tokens {a:3} to {b:3}: packed and alone differ by at most {difference:.1e}")
    assert difference < 1e-2, "a sequence saw its neighbour"
