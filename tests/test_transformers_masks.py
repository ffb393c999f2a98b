# SPDX-License-Identifier: BSD-3-Clause
"""Masks of transformers models: padding, packing, structure; what cannot be computed raises."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import limelight
import limelight.integrations.transformers as integration
import transformers
from limelight.integrations import masks
from tiny_models import BATCH, SEQLEN, assert_agree, build, one_thread, padding, tokens, twins  # noqa: F401


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


# gpt_oss gives its masks no position_ids: its eager attention does not find packing there either.
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
            [model(input_ids=ids[:, a:b]).last_hidden_state for a, b in pairwise(cu_seqlens)]
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
    packed = m.and_masks(m.packed_sequence_mask_function(segments), m.causal_mask_function)
    assert bounds(m.causal_mask_function) == (-1, 0)
    assert bounds(m.bidirectional_mask_function) == (-1, -1)
    assert bounds(m.sliding_window_causal_mask_function(5)) == (4, 0)
    assert bounds(m.sliding_window_bidirectional_mask_function(5)) == (5, 5)
    assert bounds(packed) == (-1, 0)
    assert masks.structure_of(packed).segments is segments
    chunked = m.chunked_causal_mask_function(4, torch.zeros(1))
    assert bounds(chunked) == (-1, 0)
    assert masks.structure_of(chunked).chunk == 4
    assert not masks.structure_of(chunked).unmasked
    assert bounds(m.chunked_causal_mask_function(4, torch.ones(1))) is None
    assert bounds(m.and_masks(chunked, packed)) is None
    assert bounds(m.and_masks(chunked, m.chunked_causal_mask_function(3, torch.zeros(1)))) is None
    assert bounds(m.or_masks(m.causal_mask_function, m.bidirectional_mask_function)) is None
    assert bounds(m.and_masks(m.causal_mask_function, lambda b, h, q, k: k > 2)) is None
    if hasattr(m, "remap_positions_for_packed_sequence"):  # transformers 5.17 has no such part
        remapped = m.remap_positions_for_packed_sequence(m.causal_mask_function, segments)
        assert bounds(m.and_masks(remapped, m.packed_sequence_mask_function(segments))) == (-1, 0)
        assert bounds(m.and_masks(remapped)) is None


@pytest.mark.parametrize(
    ("function", "q_length", "kv_length"),
    [("causal", 4, 3), ("window", 3, 8), ("causal", 3, 8), ("bidirectional", 3, 8)],
)
def test_masks_without_bottom_right_alignment(function: str, q_length: int, kv_length: int) -> None:
    """From position 0: keys behind the last query are cut under a causal mask, else it is dense."""
    m = transformers.masking_utils
    functions = {
        "causal": m.causal_mask_function,
        "window": m.sliding_window_bidirectional_mask_function(2),
        "bidirectional": m.bidirectional_mask_function,
    }
    extents = {"batch_size": 1, "q_length": q_length, "kv_length": kv_length, "q_offset": 0}
    skips = {"allow_is_causal_skip": True, "allow_is_bidirectional_skip": True}
    got = integration.attention_mask(mask_function=functions[function], **extents, **skips)
    if (function, q_length) in {("causal", 4), ("window", 3)}:
        dense = m.sdpa_mask(
            mask_function=functions[function], allow_is_causal_skip=False, **extents
        )
        assert torch.equal(got, dense)
    else:
        assert got.shape == (1, q_length if function == "causal" else kv_length)
        assert got.all()


@pytest.mark.parametrize("side", ["none", "right", "left"])
def test_chunks_run_as_chunks(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 4: a dense mask only behind left padding, where chunks begin elsewhere."""
    seen: list[tuple[int, bool]] = []
    real = limelight.flash_attn_func

    def record(*args, **kwargs):
        seen.append((kwargs.get("attention_chunk", 0), kwargs.get("bias") is not None))
        return real(*args, **kwargs)

    monkeypatch.setattr(limelight, "flash_attn_func", record)
    mask = None if side == "none" else padding(side)
    outputs = []
    with torch.no_grad():
        for model in twins("llama4_text"):
            first = model(
                input_ids=tokens()[:, :11],
                attention_mask=None if mask is None else mask[:, :11],
                use_cache=True,
            )
            rest = model(
                input_ids=tokens()[:, 11:],
                attention_mask=mask,
                past_key_values=first.past_key_values,
            )
            outputs.append(torch.cat((first.last_hidden_state, rest.last_hidden_state), 1))
    assert_agree(*outputs, rows=mask)
    assert {chunk for chunk, _ in seen} == ({0} if side == "left" else {6})
    assert side != "none" or not any(bias for _, bias in seen)


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
