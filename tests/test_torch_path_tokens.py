# SPDX-License-Identifier: BSD-3-Clause
"""Rotary embedding and page gathering."""

import pytest
import torch
from cases import Case, build
from limelight.torch_path import apply_rotary, forward, gather_pages
from limelight.torch_path.tokens import PackedTokens, Span
from tolerance import assert_forward

torch.set_num_threads(1)


def angles(length: int, half: int) -> torch.Tensor:
    rate = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    return torch.arange(length, dtype=torch.float64)[:, None] * rate


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [8, 24, 32])
def test_rotary_is_complex_multiplication(interleaved: bool, rotary_dim: int) -> None:
    x = torch.randn(2, 5, 3, 32, dtype=torch.float64)
    theta = angles(50, rotary_dim // 2)
    positions = torch.randint(0, 50, (2, 5))
    found = apply_rotary(x, theta.cos(), theta.sin(), positions, interleaved=interleaved)
    turned = x[..., :rotary_dim]
    if interleaved:
        pairs = torch.view_as_complex(turned.unflatten(-1, (-1, 2)).contiguous())
    else:
        pairs = torch.complex(turned[..., : rotary_dim // 2], turned[..., rotary_dim // 2 :])
    factor = torch.polar(torch.ones_like(theta), theta)[positions].unsqueeze(2)
    product = torch.view_as_real(pairs * factor)
    expected = product.flatten(-2) if interleaved else torch.cat(product.unbind(-1), -1)
    torch.testing.assert_close(found[..., :rotary_dim], expected)
    assert torch.equal(found[..., rotary_dim:], x[..., rotary_dim:])


def test_rotary_scores_depend_on_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    theta = angles(40, 8)
    scores = []
    for at in (0, 7, 23):
        a = apply_rotary(q, theta.cos(), theta.sin(), torch.tensor([at + 5]))
        b = apply_rotary(k, theta.cos(), theta.sin(), torch.tensor([at]))
        scores.append((a * b).sum())
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rotary_rounds_once(dtype: torch.dtype) -> None:
    """The result is the float64 one rounded to dtype, give or take fp32 arithmetic before it."""
    theta = angles(64, 16)
    cos, sin = theta.cos().to(dtype), theta.sin().to(dtype)
    x, positions = torch.randn(3, 7, 2, 32).to(dtype), torch.randint(0, 64, (3, 7))
    found = apply_rotary(x, cos, sin, positions)
    expected = apply_rotary(x.double(), cos.double(), sin.double(), positions)
    assert found.dtype == dtype
    bound = torch.finfo(dtype).eps / 2 * expected.abs() + 2.0**-22 * x.double().abs().max()
    assert bool(((found.double() - expected).abs() <= bound).all())


def test_rotary_of_packed_tokens_and_clamped_positions() -> None:
    theta = angles(10, 4)
    x = torch.randn(6, 2, 8)
    positions = torch.tensor([0, 1, 2, 9, 10, -1])
    found = apply_rotary(x, theta.cos().float(), theta.sin().float(), positions)
    clamped = apply_rotary(x, theta.cos().float(), theta.sin().float(), positions.clamp(0, 9))
    assert torch.equal(found, clamped)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_pages_in_table_order(dtype: torch.dtype) -> None:
    both = torch.randn(2, 7, 3, 2, 8).to(dtype).transpose(0, 1)  # K and V as views of one cache
    cache = both[:, 1]
    table = torch.tensor([[4, 0, 6], [1, -1, 99]], dtype=torch.int32)
    dense = gather_pages(cache, table, num_tokens=8)
    assert dense.shape == (2, 8, 2, 8)
    assert dense.dtype == dtype
    for b, j in ((0, 0), (0, 2), (0, 3), (0, 7), (1, 0), (1, 2)):
        expected = cache[int(table[b, j // 3]), j % 3]
        assert torch.equal(dense[b, j].float(), expected.float())
    assert gather_pages(cache, table).shape == (2, 9, 2, 8)
    assert gather_pages(cache[:0], table).shape == (2, 9, 2, 8)


def test_wild_table_entries_beyond_the_sequence() -> None:
    x = build(Case("paged", layout_k="paged", page_size=4, seqlen_k=40, seqlen_q=3, batch=3))
    table, used = x.problem.block_table, x.problem.seqused_k
    assert table is not None
    assert used is not None
    for b, n in enumerate(used.tolist()):
        table[b, -(-n // 4) :] = torch.iinfo(torch.int32).max if b else -1
    out, lse = forward(x.q, x.k, x.v, x.problem)
    assert_forward(x, out, lse)


@pytest.mark.parametrize("host", [None, [(3, 2), (0, 3)]])
def test_packed_tokens_beyond_a_sequence_go_to_the_spare_row(
    host: list[tuple[int, int]] | None,
) -> None:
    """Sequence 0 lies behind sequence 1, so overlong writes in either order would show."""
    tokens = PackedTokens(torch.tensor([3, 0]), torch.tensor([2, 3]), 5, host)
    tile = torch.arange(1.0, 9.0).view(2, 4)
    target = torch.zeros(6)
    tokens.write(target, Span(0, 2, 0, 4), tile)
    assert target[:5].tolist() == [5, 6, 7, 1, 2]
    tokens.add(target, Span(0, 2, 0, 4), tile)
    assert target[:5].tolist() == [10, 12, 14, 2, 4]
    read = tokens.read(target[:5], Span(0, 2, 0, 4))
    assert read[0, :2].tolist() == [2, 4]
    assert read[1, :3].tolist() == [10, 12, 14]
