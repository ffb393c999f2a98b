# SPDX-License-Identifier: BSD-3-Clause
"""attn_implementation="limelight" against eager attention: tiny random models, padding, caches,
packing, gradients.

Rule of agreement: |limelight - exact| <= 2 * max |eager - exact| + 16 * eps32 * max |exact|, where
exact is the model in float64 with the plain formula below. Limelight and eager round the same sums
in another order; the last term covers models on which eager happens to hit the float64 value, and
the float32 norms that transformers keeps inside a float64 model.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

import limelight  # noqa: E402
import limelight.integrations.transformers as integration  # noqa: E402
from limelight.integrations import masks  # noqa: E402

BATCH, SEQLEN = 3, 17
EPS32 = torch.finfo(torch.float32).eps
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
    assert torch.isfinite(high).all() and torch.isfinite(ours).all()
    bound = 2 * (low.double() - high).abs().max() + 16 * EPS32 * high.abs().max()
    error = (ours.double() - high).abs().max()
    assert error <= bound, f"error {error:.3g} above {bound:.3g}"


@pytest.mark.parametrize("side", ["none", "right", "left", "holes"])
@pytest.mark.parametrize("name", ENCODERS + DECODERS)
def test_forward_agrees_with_eager(name: str, side: str) -> None:
    mask = padding(side)
    arguments = {"input_ids": tokens()} | ({} if side == "none" else {"attention_mask": mask})
    with torch.no_grad():
        outputs = [model(**arguments).last_hidden_state for model in twins(name)]
    assert_agree(*outputs, rows=mask)


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoder_agrees_with_eager(name: str, side: str) -> None:
    """The target is as long as the source once, where only the mask tells cross-attention from
    self-attention."""
    for target in (SEQLEN, 6):
        arguments = {"input_ids": tokens(), "attention_mask": padding(side)}
        arguments["decoder_input_ids"] = tokens(4)[:, :target]
        with torch.no_grad():
            outputs = [model(**arguments).last_hidden_state for model in twins(name)]
        assert_agree(*outputs)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma2", "gpt_oss", "t5", "bart"])
def test_generate_agrees_with_eager(name: str, side: str, cache: str) -> None:
    auto = "AutoModelForSeq2SeqLM" if name in ENCODER_DECODERS else "AutoModelForCausalLM"
    scores = []
    for model in twins(name, auto):
        generated = model.generate(
            input_ids=tokens(),
            attention_mask=padding(side),
            max_new_tokens=9,
            min_new_tokens=9,
            do_sample=False,
            cache_implementation=None if cache == "dynamic" else "static",
            disable_compile=True,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        scores.append(torch.stack(generated.logits))
    assert_agree(*scores)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_chunks_after_left_padding_agree_with_eager(name: str) -> None:
    """Several tokens at once behind a cache: fewer queries than keys, bottom-right aligned."""
    mask = padding("left")
    outputs = []
    with torch.no_grad():
        for model in twins(name):
            first = model(input_ids=tokens()[:, :11], attention_mask=mask[:, :11], use_cache=True)
            rest = model(
                input_ids=tokens()[:, 11:],
                attention_mask=mask,
                past_key_values=first.past_key_values,
            )
            outputs.append(rest.last_hidden_state)
    assert_agree(*outputs, rows=mask[:, 11:])


def test_padding_is_not_dropped() -> None:
    """Tokens of padding change nothing with the mask, and change the result without it."""
    ours = build("bert", attention="limelight")
    mask = padding("right")
    other = torch.where(mask.bool(), tokens(), tokens(9))
    with torch.no_grad():
        masked = [
            ours(input_ids=x, attention_mask=mask).last_hidden_state for x in (tokens(), other)
        ]
        plain = [ours(input_ids=x).last_hidden_state for x in (tokens(), other)]
    rows = mask.bool()
    assert torch.equal(masked[0][rows], masked[1][rows])
    assert not torch.allclose(plain[0][rows], plain[1][rows], atol=1e-2)


def packed_lengths() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([7, 1, 9])
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()])[None]
    return positions, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


# gpt_oss gives its masks no position_ids, so that even its eager attention needs cu_seq_lens to find packing.
PACKINGS = [
    ("llama", "position_ids"),
    ("llama", "cu_seq_lens with tensor lengths"),
    ("mistral", "position_ids"),
    ("mistral", "cu_seq_lens"),
    ("gpt_oss", "cu_seq_lens"),
]


@pytest.mark.parametrize(("name", "how"), PACKINGS)
def test_packed_sequences_agree_with_separate_ones(name: str, how: str) -> None:
    positions, cu_seqlens = packed_lengths()
    arguments = {"position_ids": positions}
    if how != "position_ids":
        longest = torch.tensor(9) if "tensor" in how else 9
        arguments |= {"cu_seq_lens_q": cu_seqlens, "cu_seq_lens_k": cu_seqlens}
        arguments |= {"max_length_q": longest, "max_length_k": longest}
    ids = tokens()[:1]
    ours, low, high = twins(name)
    with torch.no_grad():
        packed = ours(input_ids=ids, use_cache=False, **arguments).last_hidden_state
        parts = [
            [
                model(input_ids=ids[:, a:b]).last_hidden_state
                for a, b in zip(cu_seqlens, cu_seqlens[1:])
            ]
            for model in (low, high)
        ]
    assert_agree(packed, torch.cat(parts[0], 1), torch.cat(parts[1], 1))


def test_packed_sequences_run_as_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing found in position_ids needs no seqlen_q by seqlen_k bias."""
    calls: list[str] = []
    for function in ("flash_attn_func", "flash_attn_varlen_func"):
        real = getattr(limelight, function)

        def record(*args, _name=function, _real=real, **kwargs):
            calls.append(_name)
            assert kwargs.get("bias") is None
            return _real(*args, **kwargs)

        monkeypatch.setattr(limelight, function, record)
    positions, _ = packed_lengths()
    with torch.no_grad():
        build("llama", attention="limelight")(
            input_ids=tokens()[:1], position_ids=positions, use_cache=False
        )
    assert calls == ["flash_attn_varlen_func"] * 2


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_custom_4d_mask_agrees_with_eager(dtype: torch.dtype) -> None:
    visible = torch.rand(BATCH, 1, SEQLEN, SEQLEN, generator=torch.Generator().manual_seed(1)) > 0.4
    visible |= torch.eye(SEQLEN, dtype=torch.bool)
    outputs = []
    for model in twins("llama"):
        floating = torch.zeros(visible.shape, dtype=model.dtype).masked_fill(~visible, -1e9)
        ours = model.config._attn_implementation == "limelight"
        mask = visible if ours and dtype == torch.bool else floating
        with torch.no_grad():
            outputs.append(model(input_ids=tokens(), attention_mask=mask).last_hidden_state)
    assert_agree(*outputs)


@pytest.mark.parametrize("name", ["bert", "llama", "gemma2", "gpt_oss", "t5"])
def test_gradients_agree_with_eager(name: str) -> None:
    """Loss over real tokens; right padding takes the seqused route, left padding the varlen one."""
    for side in ("right", "left"):
        mask = padding(side)
        gradients = []
        for model in twins(name):
            arguments = {"input_ids": tokens(), "attention_mask": mask}
            if name == "t5":
                arguments["decoder_input_ids"] = tokens(4)
            out = model(**arguments).last_hidden_state
            if name != "t5":
                out = out[mask.bool()]
            weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
            (out * weights).sum().backward()
            parameters = dict(model.named_parameters())
            gradients.append({n: p.grad for n, p in parameters.items() if p.grad is not None})
        ours, low, high = gradients
        assert ours.keys() == high.keys() and len(high) > 10
        flat = [torch.cat([g[n].flatten() for n in high]) for g in (ours, low, high)]
        assert_agree(*flat)


def test_dropout_in_training() -> None:
    """The mean over many masks is the result without dropout; two masks differ; a seed replays its
    mask."""
    module = torch.nn.Module()
    q, k, v = (
        torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    plain = integration.attention(module, q, k, v, None)[0]
    draws = [integration.attention(module, q, k, v, None, dropout=0.3)[0] for _ in range(400)]
    stack = torch.stack(draws)
    assert not torch.equal(draws[0], draws[1])
    standard_error = stack.std(0) / len(draws) ** 0.5
    # 160 entries, 6 standard errors: a false alarm once in 3 million runs of normal draws.
    assert ((stack.mean(0) - plain).abs() <= 6 * standard_error + 1e-6).all()
    replay = []
    for _ in range(2):
        torch.manual_seed(5)
        replay.append(integration.attention(module, q, k, v, None, dropout=0.3)[0])
    assert torch.equal(*replay)


def test_training_step_with_dropout_has_gradients() -> None:
    model = transformers.AutoModel.from_config(
        transformers.LlamaConfig(**GQA, attention_dropout=0.2),
        attn_implementation=integration.register(),
    ).train()
    model(input_ids=tokens(), attention_mask=padding("left")).last_hidden_state.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_bfloat16_autocast_agrees_with_eager() -> None:
    ours, low, high = twins("llama")
    arguments = {"input_ids": tokens(), "attention_mask": padding("left")}
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = [model(**arguments).last_hidden_state for model in (ours, low)]
        reference = high(**arguments).last_hidden_state
    assert_agree(*outputs, reference, rows=padding("left"))


@pytest.mark.parametrize("name", ["bert", "llama", "mistral"])
def test_compiles_without_graph_breaks(name: str) -> None:
    """While tracing the mask's values stay unread: padding becomes a bias, the result is the
    same."""
    ours = build(name, attention="limelight")
    arguments = {"input_ids": tokens(), "attention_mask": padding("left")}
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    rows = padding("left").bool()
    with torch.no_grad():
        expected = ours(**arguments).last_hidden_state[rows]
        torch.testing.assert_close(compiled(**arguments).last_hidden_state[rows], expected)


def test_single_batch_query_broadcasts() -> None:
    """Learned queries of batch 1 attend to a batch of keys, as SDPA allows."""
    q, kv = torch.randn(1, 2, 4, 8), torch.randn(3, 2, 6, 8)
    module = torch.nn.Module()
    out = integration.attention(module, q, kv, kv, None)[0]
    separate = [integration.attention(module, q, x[None], x[None], None)[0] for x in kv]
    torch.testing.assert_close(out, torch.cat(separate))


def test_register_twice_and_name() -> None:
    assert integration.register() == integration.register() == "limelight"
    assert "limelight" in transformers.AttentionInterface._global_mapping
    assert "limelight" in transformers.masking_utils.AttentionMaskInterface._global_mapping


REFUSALS = [
    ({"output_attentions": True}, "output_attentions=True: .*eager"),
    ({"indices": torch.zeros(1)}, "indices: .*sparse key indices"),
    ({"cache": object()}, "cache: .*continuous batching"),
    ({"sinks": torch.zeros(1)}, "sinks: .*s_aux"),
    ({"cu_seq_lens_q": torch.tensor([0, 6])}, "one is None; pass both or neither"),
]


@pytest.mark.parametrize(("kwargs", "message"), REFUSALS, ids=[next(iter(r[0])) for r in REFUSALS])
def test_refuses_what_it_cannot_compute(kwargs: dict, message: str) -> None:
    x = torch.randn(1, 2, 6, 8)
    with pytest.raises(ValueError, match=message):
        integration.attention(torch.nn.Module(), x, x, x, None, **kwargs)


def test_refuses_bad_masks() -> None:
    module, x = torch.nn.Module(), torch.randn(1, 2, 6, 8)
    cu_seqlens = torch.tensor([0, 6], dtype=torch.int32)
    padded = torch.tensor([[1, 1, 1, 1, 1, 0]])
    with pytest.raises(ValueError, match="padded attention_mask"):
        integration.attention(
            module, x, x, x, padded, cu_seq_lens_q=cu_seqlens, cu_seq_lens_k=cu_seqlens
        )
    with pytest.raises(ValueError, match=r"shape \(1, 6, 6\); allowed: None, 2-D .* or 4-D"):
        integration.attention(module, x, x, x, torch.ones(1, 6, 6))
    with pytest.raises(ValueError, match="int64; allowed: 4-D boolean"):
        integration.attention(module, x, x, x, torch.ones(1, 1, 6, 6, dtype=torch.long))
    with pytest.raises(ValueError, match="attention_mask has 7 keys but key has seqlen_k = 6"):
        integration.attention(module, x, x, x, torch.ones(1, 7))


def test_structure_of_mask_functions() -> None:
    """Each known composition becomes structure; every composition with an unknown part does not."""
    m = transformers.masking_utils

    def bounds(function):
        structure = masks.structure_of(function)
        return structure and (structure.window_left, structure.window_right)

    segments = torch.zeros(1, 4, dtype=torch.long)
    packed = m.packed_sequence_compatibility_function(m.causal_mask_function, segments, segments)
    assert bounds(m.causal_mask_function) == (-1, 0)
    assert bounds(m.bidirectional_mask_function) == (-1, -1)
    assert bounds(m.sliding_window_causal_mask_function(5)) == (4, 0)
    assert bounds(m.sliding_window_bidirectional_mask_function(5)) == (5, 5)
    assert bounds(packed) == (-1, 0) and masks.structure_of(packed).segments is segments
    assert bounds(m.chunked_causal_mask_function(4, torch.zeros(1))) is None
    assert bounds(m.or_masks(m.causal_mask_function, m.bidirectional_mask_function)) is None
    assert bounds(m.and_masks(m.causal_mask_function, lambda b, h, q, k: k > 2)) is None
    assert bounds(m.remap_positions_for_packed_sequence(m.causal_mask_function, segments)) == (
        -1,
        0,
    )
    alone = m.and_masks(m.remap_positions_for_packed_sequence(m.causal_mask_function, segments))
    assert bounds(alone) is None


def test_a_mask_that_lost_its_layout_keeps_its_padding() -> None:
    """Reentrant checkpointing detaches tensors, which drops the attribute."""
    ours = build("llama", attention="limelight")
    detached = copy.copy(ours)
    arguments = {"input_ids": tokens(), "attention_mask": padding("left")}
    with torch.no_grad():
        expected = ours(**arguments).last_hidden_state
        original = masks.attach
        masks.attach = lambda mask, layout: mask
        try:
            got = detached(**arguments).last_hidden_state
        finally:
            masks.attach = original
    torch.testing.assert_close(got, expected)
