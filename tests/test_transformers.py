# SPDX-License-Identifier: BSD-3-Clause
"""attn_implementation="limelight" against eager attention, forward, generate() and gradients."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

import limelight.integrations.transformers as integration
import transformers
from tiny_models import (
    DECODERS,
    ENCODER_DECODERS,
    ENCODERS,
    GQA,
    SEQLEN,
    assert_agree,
    build,
    one_thread,  # noqa: F401
    padding,
    tokens,
    twins,
)


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
        assert ours.keys() == high.keys()
        assert len(high) > 10
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
