# SPDX-License-Identifier: BSD-3-Clause
"""The torch path against the float64 definition: every feature, dtype and shape, both passes."""

import pytest
import torch
from cases import (
    BIAS_SHAPES,
    CACHES,
    DROPOUT,
    FEATURES,
    LAYOUTS,
    LONG_SHAPES,
    SHAPES,
    Case,
    build,
    vary,
)
from limelight.torch_path import backward, forward
from tolerance import assert_forward, assert_gradients

torch.set_num_threads(1)  # small tensors lose more to waking threads than they gain

DTYPES = ["float16", "bfloat16", "float32", "float64"]
BASE = Case("base")


def check(case: Case, *, gradients: bool = True) -> None:
    """Both passes of one case, with the gradient of LSE."""
    x = build(case)
    out, lse = forward(x.q, x.k, x.v, x.problem)
    assert out.is_contiguous()
    assert lse.is_contiguous()
    assert_forward(x, out, lse)
    if gradients:
        found = backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
        for name, like in (("dq", x.q), ("dk", x.k), ("dv", x.v)):
            gradient = getattr(found, name)
            assert gradient.dtype == like.dtype
            assert gradient.shape == like.shape
        assert_gradients(x, found._asdict(), with_dlse=True)


@pytest.mark.parametrize("case", FEATURES + LAYOUTS + CACHES + DROPOUT, ids=str)
def test_features_and_layouts(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case", [c for c in FEATURES + LAYOUTS + DROPOUT if c.name.count("-") == 1], ids=str
)
def test_every_dtype(case: Case, dtype: str) -> None:
    check(vary(case, dtype, dtype=dtype))


@pytest.mark.parametrize("seqlens", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_ragged_shapes(seqlens: tuple[int, int], causal: bool, dtype: str) -> None:
    check(vary(BASE, "shape", seqlen_q=seqlens[0], seqlen_k=seqlens[1], causal=causal, dtype=dtype))


@pytest.mark.parametrize("seqlens", LONG_SHAPES, ids=str)
def test_many_blocks(seqlens: tuple[int, int]) -> None:
    case = vary(BASE, "long", batch=1, heads_q=2, heads_kv=1, headdim=16, causal=True)
    check(vary(case, "shape", seqlen_q=seqlens[0], seqlen_k=seqlens[1], softcap=20.0, sink=True))


@pytest.mark.parametrize("headdim", [1, 3, 7, 59, 111, 256, 300])
def test_any_headdim(headdim: int) -> None:
    check(vary(BASE, "headdim", headdim=headdim, headdim_v=headdim + 5, seqlen_q=19))
    check(vary(BASE, "headdim", headdim=headdim, seqlen_q=19, dtype="float32"))


@pytest.mark.parametrize("bias", BIAS_SHAPES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_bias_shape(bias: str, dtype: str) -> None:
    check(vary(BASE, bias, bias=bias, bias_dtype=dtype, seqlen_q=33, seqlen_k=47, causal=True))
    check(vary(BASE, bias, bias=bias, seqlen_q=40, seqused_k=True, layout_q="packed", batch=3))


@pytest.mark.parametrize(
    "window", [(0, 0), (0, -1), (-1, 0), (3, 0), (64, 64), (1000, 1000), (5, 90)]
)
@pytest.mark.parametrize("seqlens", [(33, 33), (70, 20), (20, 70), (1, 30), (30, 1)], ids=str)
def test_window_edges(window: tuple[int, int], seqlens: tuple[int, int]) -> None:
    case = vary(BASE, "window", heads_q=2, headdim=8, dtype="float32", window=window)
    check(vary(case, "shape", seqlen_q=seqlens[0], seqlen_k=seqlens[1]))


@pytest.mark.parametrize("magnitude", [30.0, 300.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_logits(magnitude: float, dtype: str) -> None:
    check(vary(BASE, "huge", magnitude=magnitude, scale=1.0, headdim=16, dtype=dtype, causal=True))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "bfloat16"])
@pytest.mark.parametrize("layout_k", ["dense", "paged", "rows"])
def test_fp8_with_descales(dtype: str, layout_k: str) -> None:
    case = vary(BASE, "fp8", dtype=dtype, kv_dtype="float8_e4m3fn", descale=True, batch=3)
    check(vary(case, layout_k, layout_k=layout_k, seqused_k=True, causal=True), gradients=False)


def test_fp8_backward_is_refused() -> None:
    x = build(vary(BASE, "fp8", kv_dtype="float8_e4m3fn"))
    out, lse = forward(x.q, x.k, x.v, x.problem)
    with pytest.raises(
        ValueError, match=r"k is torch\.float8_e4m3fn: FP8 attention has no backward"
    ):
        backward(x.dout, None, x.q, x.k, x.v, out, lse, x.problem)


EMPTY = [
    vary(BASE, "no-batch", batch=0),
    vary(BASE, "no-batch-varlen", batch=0, layout_q="packed", layout_k="packed"),
    vary(BASE, "no-rows", seqlen_q=0),
    vary(BASE, "no-keys", seqlen_k=0),
    vary(BASE, "no-keys-sink", seqlen_k=0, sink=True, causal=True),
    vary(BASE, "nothing", seqlen_q=0, seqlen_k=0),
    vary(BASE, "varlen-no-rows", layout_q="packed", seqlen_q=0, layout_k="packed"),
    vary(BASE, "varlen-no-keys", layout_q="packed", layout_k="packed", seqlen_k=0),
    vary(BASE, "paged-no-keys", layout_k="paged", seqlen_k=0),
]


@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_empty_extents(case: Case) -> None:
    check(case)
    check(vary(case, "fp32", dtype="float32"))


def test_bias_of_minus_infinity_masks() -> None:
    x = build(vary(BASE, "bias", bias="11qk", dtype="float32", sink=True))
    assert x.problem.bias is not None
    x.problem.bias[..., 20:] = float("-inf")
    x.problem.bias[..., 5:9, :] = float("-inf")
    out, lse = forward(x.q, x.k, x.v, x.problem)
    assert_forward(x, out, lse)
    assert bool((lse[:, :, 5:9] == float("-inf")).all())
    found = backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
    assert_gradients(x, found._asdict(), with_dlse=True)


def test_rows_without_keys_ignore_their_values() -> None:
    """NaN and inf in rows that see nothing reach no result and no gradient."""
    case = vary(BASE, "tall", causal=True, seqlen_q=50, seqlen_k=20, window=(4, -1))
    for dtype in DTYPES:
        x = build(vary(case, dtype, dtype=dtype))
        x.q[:, :30] = float("nan")
        x.dout[:, :30] = float("inf")
        x.dlse[:, :, :30] = float("nan")
        out, lse = forward(x.q, x.k, x.v, x.problem)
        found = backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
        assert bool((out[:, :30] == 0).all())
        assert bool((lse[:, :, :30] == float("-inf")).all())
        assert bool((found.dq[:, :30] == 0).all())
        for tensor in (out, found.dq, found.dk, found.dv):
            assert bool(torch.isfinite(tensor).all())


def test_gradients_that_are_not_needed() -> None:
    x = build(vary(BASE, "bias", bias="1hqk", sink=True))
    out, lse = forward(x.q, x.k, x.v, x.problem)
    rest = (x.q, x.k, x.v, out, lse, x.problem)
    found = backward(x.dout, None, *rest, need_dbias=False, need_dsink=False)
    assert found.dbias is None
    assert found.dsink is None
    assert_gradients(x, {"dq": found.dq, "dk": found.dk, "dv": found.dv})
