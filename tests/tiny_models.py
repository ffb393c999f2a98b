# SPDX-License-Identifier: BSD-3-Clause
"""Tiny random transformers models in three versions, and the rule by which their outputs agree.

|limelight - exact| <= 2 * max |eager - exact| + 16 * eps * max |exact|, where exact is the model
in float64 with the plain formula below. Limelight and eager round the same sums in another order;
the last term covers models on which eager happens to hit the float64 value, and the float32 norms
that transformers keeps inside a float64 model.
"""

from __future__ import annotations

from collections.abc import Iterator

import limelight.integrations.transformers as integration
import pytest
import torch
import transformers
from torch import Tensor

BATCH, SEQLEN = 3, 17
COMMON = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA = COMMON | {"num_key_value_heads": 2, "head_dim": 16}
BART = {
    "vocab_size": 99,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": 99, "d_model": 48, "d_kv": 12, "d_ff": 64, "num_layers": 2, "num_heads": 4}
MLA = {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}


def config(name: str):
    if name == "bert":
        return transformers.BertConfig(**COMMON)
    if name == "modernbert":
        return transformers.ModernBertConfig(
            **COMMON, local_attention=8, global_attn_every_n_layers=2
        )
    if name == "gpt2":
        return transformers.GPT2Config(
            vocab_size=99, n_embd=48, n_layer=2, n_head=4, n_positions=64
        )
    if name == "llama":
        return transformers.LlamaConfig(**GQA)
    if name == "mistral":
        return transformers.MistralConfig(**GQA, sliding_window=5)
    if name == "gemma2":
        return transformers.Gemma2Config(
            **GQA, sliding_window=5, attn_logit_softcapping=3.0, query_pre_attn_scalar=16
        )
    if name == "gpt_oss":
        return transformers.GptOssConfig(**GQA, **MOE, sliding_window=5)
    if name == "deepseek_v3":
        return transformers.DeepseekV3Config(
            **COMMON, **MLA, v_head_dim=24, n_routed_experts=4, n_group=1, topk_group=1,
            num_experts_per_tok=2, first_k_dense_replace=2, num_key_value_heads=4,
        )  # fmt: skip
    if name == "llama4_text":
        return transformers.Llama4TextConfig(
            **GQA, num_local_experts=2, attention_chunk_size=6, intermediate_size_mlp=64
        )
    if name == "t5":
        return transformers.T5Config(**T5, decoder_start_token_id=0)
    assert name == "bart"
    return transformers.BartConfig(**BART)


ENCODERS = ["bert", "modernbert"]
DECODERS = ["gpt2", "llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "llama4_text"]
ENCODER_DECODERS = ["t5", "bart"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models only wait for the threads of a pool, longest on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str, auto: str = "AutoModel", attention: str = "eager"):
    """A random model; weights are scaled up so that attention is far from uniform."""
    integration.register()
    torch.manual_seed(7)
    implementations = {"attn_implementation": attention, "experts_implementation": "eager"}
    model = getattr(transformers, auto).from_config(config(name), **implementations)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def exact_attention(
    module, query, key, value, attention_mask, scaling=None, softcap=None, s_aux=None,
    position_bias=None, **_,
):  # fmt: skip
    """The plain formula in float64 (eager computes its softmax in float32) on a dense mask."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, 1) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    elif attention_mask is not None:
        scores = scores + attention_mask
    if s_aux is not None:
        scores = torch.cat([scores, s_aux.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)[..., : key.shape[2]]
    return (weights @ value).transpose(1, 2).contiguous(), None


def dense_mask(**kwargs):
    refused = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return transformers.masking_utils.sdpa_mask(**kwargs | refused)


def twins(name: str, auto: str = "AutoModel"):
    """The same weights with limelight, with eager in float32, and with the plain formula in
    float64."""
    transformers.AttentionInterface.register("exact", exact_attention)
    transformers.masking_utils.AttentionMaskInterface.register("exact", dense_mask)
    ours = build(name, auto, "limelight")
    low, high = build(name, auto), build(name, auto, "exact")
    low.load_state_dict(ours.state_dict())
    high.load_state_dict(ours.state_dict())
    assert ours.config._attn_implementation == "limelight"
    return ours, low, high.double()


def tokens(seed: int = 3) -> Tensor:
    return torch.randint(5, 90, (BATCH, SEQLEN), generator=torch.Generator().manual_seed(seed))


def padding(side: str) -> Tensor:
    mask = torch.ones(BATCH, SEQLEN, dtype=torch.long)
    if side == "holes":
        mask[1, 4:7] = 0
        mask[2, [0, 9]] = 0
        return mask
    if side != "none":
        mask[1, 9:] = 0
        mask[2, 1:] = 0
    return mask.flip(1) if side == "left" else mask


def assert_agree(ours: Tensor, low: Tensor, high: Tensor, rows: Tensor | None = None) -> None:
    if rows is not None:
        ours, low, high = (x[rows.bool()] for x in (ours, low, high))
    assert torch.isfinite(high).all()
    assert torch.isfinite(ours).all()
    eps = torch.finfo(ours.dtype).eps
    bound = 2 * (low.double() - high).abs().max() + 16 * eps * high.abs().max()
    error = (ours.double() - high).abs().max()
    assert error <= bound, f"error {error:.3g} above {bound:.3g}"
