# SPDX-License-Identifier: BSD-3-Clause
"""The dropout mask: exact values, independence of blocks and layout, statistics."""

import pytest
import torch
from cases import Case, build
from limelight.torch_path import dropout_keep_mask, forward, plan
from limelight.torch_path.dropout import philox4x32
from reference import philox_keep

torch.set_num_threads(1)

# (counter, key, result) published with Random123 1.14 (kat_vectors, philox4x32 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], result: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = (torch.tensor(x) for x in counter)
    k0, k1 = (torch.tensor(x) for x in key)
    assert tuple(int(x) for x in philox4x32((c0, c1, c2, c3), (k0, k1))) == result


@pytest.mark.parametrize("state", [(0, 0), (-7, 2**40 + 3), (2**62, -1)])
def test_mask_is_the_documented_function(state: tuple[int, int]) -> None:
    rng_state = torch.tensor(state)
    whole = dropout_keep_mask(rng_state, 0.3, (0, 3), (0, 5, 5), (0, 77), (0, 101))
    for b in range(3):
        for h in range(5):
            expected = philox_keep(rng_state, 0.3, b, 5, h, 77, 101)
            assert torch.equal(whole[b, h], torch.from_numpy(expected))


@pytest.mark.parametrize("rows", [(0, 16), (5, 9), (17, 77)])
@pytest.mark.parametrize("columns", [(0, 101), (33, 34), (15, 65)])
def test_any_part_equals_the_whole(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    rng_state = torch.tensor([12, 34])
    whole = dropout_keep_mask(rng_state, 0.3, (0, 3), (0, 5, 5), (0, 77), (0, 101))
    part = dropout_keep_mask(rng_state, 0.3, (1, 3), (2, 4, 5), rows, columns)
    assert torch.equal(part, whole[1:3, 2:4, rows[0] : rows[1], columns[0] : columns[1]])


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0 - 2.0**-20])
def test_rate(p: float) -> None:
    """2.1e6 draws: the mean is within 5 standard errors, in total and along rows and columns."""
    mask = dropout_keep_mask(
        torch.tensor([1, 2]), p, (0, 2), (0, 4, 4), (0, 512), (0, 512)
    ).double()
    threshold = round(p * 65536) / 65536
    deviation = (threshold * (1 - threshold)) ** 0.5
    assert abs(float(mask.mean()) - (1 - threshold)) <= 5 * deviation / mask.numel() ** 0.5
    for dim in range(4):
        others = [d for d in range(4) if d != dim]
        spread = (mask.mean(others) - (1 - threshold)).abs().max()
        assert float(spread) <= 5 * deviation / (mask.numel() / mask.shape[dim]) ** 0.5


def test_neighbours_are_uncorrelated() -> None:
    """Correlations over n = 1e6 pairs stay within 5 / sqrt(n)."""
    states = [(1, 2), (2, 2), (1, 3), (1, 2 + 2**32)]
    masks = [
        dropout_keep_mask(torch.tensor(s), 0.5, (0, 2), (0, 2, 2), (0, 512), (0, 512)).double()
        - 0.5
        for s in states
    ]
    x = masks[0]
    pairs = [(x[..., :-d], x[..., d:]) for d in (1, 2, 8, 16)]
    pairs += [(x[..., :-d, :], x[..., d:, :]) for d in (1, 8, 16)]
    pairs += [(x[:, :1], x[:, 1:]), (x[:1], x[1:])]
    pairs += [(x, other) for other in masks[1:]]
    for a, b in pairs:
        assert abs(float((a * b).mean()) * 4) <= 5 / a.numel() ** 0.5


@pytest.mark.parametrize("elements", [1 << 8, 1 << 12, 1 << 20])
@pytest.mark.parametrize("most_keys", [16, 48, 512])
def test_block_sizes_do_not_change_the_mask(
    elements: int, most_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding aside, O is the same; a moved mask would change it by order 1."""
    x = build(Case("dropout", dropout_p=0.4, seqlen_q=90, seqlen_k=130, dtype="float64"))
    expected, _ = forward(x.q, x.k, x.v, x.problem)
    monkeypatch.setattr(plan, "_CPU_ELEMENTS", elements)
    monkeypatch.setattr(plan, "_CPU_KEYS", most_keys)
    found, _ = forward(x.q, x.k, x.v, x.problem)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_mean_over_seeds_is_attention_without_dropout() -> None:
    """400 masks: within 6 standard errors of the undropped result."""
    x = build(Case("dropout", batch=1, dropout_p=0.25, seqlen_q=4, seqlen_k=24, dtype="float64"))
    outs = []
    for seed in range(400):
        assert x.problem.rng_state is not None
        x.problem.rng_state.copy_(torch.tensor([seed, 11]))
        outs.append(forward(x.q, x.k, x.v, x.problem)[0])
    plain = build(Case("plain", batch=1, seqlen_q=4, seqlen_k=24, dtype="float64"))
    expected, _ = forward(x.q, x.k, x.v, plain.problem)
    stacked = torch.stack(outs)
    error = (stacked.mean(0) - expected).abs() / (stacked.std(0) / 20)
    assert float(error.max()) < 6
