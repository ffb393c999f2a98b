# SPDX-License-Identifier: BSD-3-Clause
"""The backward kernels, on a GPU or on the emulator, against the float64 gradients.

torch.empty returns NaN, slots of k and v that no row may read are NaN, and both out and lse have a
gradient, so every case also tests the differentiable LSE.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import limelight
import pytest
import torch
from cases import BIAS_SHAPES, FEATURES, LAYOUTS, SHAPES, Case, Inputs, build, vary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limelight import runtime
from limelight.autograd import attention
from test_forward_kernel import BASE, ODD_HEADDIMS, TILES, WINDOWS, cut, poisoned_memory, spread
from tolerance import assert_gradients
from torch import Tensor

EVERY_ARCH = {"base-causal", "base-softcap", "base-alibi", "base-sink", "base-varlen-causal"}
NEG_INF = float("-inf")
Found = dict[str, Tensor | None]


def gradients(x: Inputs, *, with_dlse: bool = True, dout: Tensor | None = None) -> Found:
    """dq, dk, dv and dsink by autograd; falling back is an error in these tests."""
    leaves = [t.detach().requires_grad_() for t in (x.q, x.k, x.v)]
    p = x.problem
    if p.sink is not None:
        p = replace(p, sink=p.sink.detach().requires_grad_())
    with poisoned_memory():
        out, lse = attention(*leaves, p)
        outputs, seeds = [out], [x.dout if dout is None else dout]
        if with_dlse:
            # The gradient of an LSE of -inf is ignored: NaN there must not show.
            outputs.append(lse)
            seeds.append(torch.where(lse == NEG_INF, float("nan"), x.dlse))
        torch.autograd.backward(outputs, seeds)
    if x.q.is_cuda:
        torch.cuda.synchronize()
    found: Found = {n: t.grad for n, t in zip(("dq", "dk", "dv"), leaves, strict=True)}
    if p.sink is not None:
        found["dsink"] = p.sink.grad
    return found


def fit(case: Case, device: torch.device) -> Inputs:
    """The inputs of case with seqused inside the packed sequences."""
    x = cut(build(case, str(device)))
    p = x.problem
    if p.cu_seqlens_q is None or p.seqused_q is None:
        return x
    return replace(x, problem=replace(p, seqused_q=p.seqused_q.minimum(p.cu_seqlens_q.diff())))


def check(case: Case, device: torch.device) -> Found:
    x = fit(case, device)
    found = gradients(x)
    assert_gradients(x, found, with_dlse=True)
    return found


def marked(cases: list[Case]) -> list[object]:
    mark = pytest.mark.every_arch
    return [pytest.param(c, id=c.name, marks=[mark] if c.name in EVERY_ARCH else []) for c in cases]


@pytest.mark.parametrize("case", marked(FEATURES + LAYOUTS))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_features_and_layouts(case: Case, dtype: str, kernels: torch.device) -> None:
    bias_dtype = case.bias_dtype.replace("bfloat16", dtype)
    check(vary(case, dtype, dtype=dtype, bias_dtype=bias_dtype), kernels)


@pytest.mark.parametrize("seqlens", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_ragged_shapes(seqlens: tuple[int, int], causal: bool, kernels: torch.device) -> None:
    case = vary(BASE, "shape", batch=1, heads_q=3, heads_kv=1, headdim=64, causal=causal)
    check(vary(case, "seqlens", seqlen_q=seqlens[0], seqlen_k=seqlens[1]), kernels)


@pytest.mark.every_arch
@pytest.mark.parametrize("headdim", TILES)
def test_headdim_tiles(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "tile", batch=1, heads_q=2, heads_kv=1, headdim=headdim, seqlen_q=133)
    check(vary(case, "plain", seqlen_k=150, causal=True), kernels)
    check(vary(case, "scores", seqlen_q=35, seqlen_k=70, softcap=20.0, alibi="batch"), kernels)


@pytest.mark.parametrize("headdim", [*ODD_HEADDIMS, 1, 59])
def test_odd_headdims(headdim: int, kernels: torch.device) -> None:
    case = vary(BASE, "odd", batch=1, heads_q=2, heads_kv=1, seqlen_q=19, headdim=headdim)
    check(vary(case, "causal", causal=True), kernels)


@pytest.mark.parametrize("headdims", [(40, 24), (24, 64), (192, 128), (64, 256), (59, 13)], ids=str)
def test_headdim_v(headdims: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "v", batch=1, heads_q=2, heads_kv=1, seqlen_q=19)
    check(vary(case, "dims", headdim=headdims[0], headdim_v=headdims[1], causal=True), kernels)


@pytest.mark.parametrize("ratio", [1, 3, 7])
def test_gqa_ratios(ratio: int, kernels: torch.device) -> None:
    check(vary(BASE, "gqa", seqlen_q=71, heads_q=2 * ratio, heads_kv=2, sink=True), kernels)


@pytest.mark.parametrize("bias", BIAS_SHAPES)
def test_every_bias_shape(bias: str, kernels: torch.device) -> None:
    check(vary(BASE, bias, bias=bias, seqlen_q=33, seqlen_k=47, causal=True), kernels)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("seqlens", [(170, 20), (20, 150), (200, 300)], ids=str)
def test_windows(window: tuple[int, int], seqlens: tuple[int, int], kernels: torch.device) -> None:
    case = vary(BASE, "window", batch=1, heads_q=2, window=window)
    check(vary(case, "shape", seqlen_q=seqlens[0], seqlen_k=seqlens[1]), kernels)


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "varlen"])
@pytest.mark.parametrize("softcap", [0.0, 15.0])
def test_everything_at_once(softcap: float, packed: bool, kernels: torch.device) -> None:
    layout = "packed" if packed else "dense"
    case = vary(BASE, "all", batch=3, seqlen_q=150, seqlen_k=199, causal=True, window=(60, 0))
    case = vary(case, "scores", softcap=softcap, alibi="batch", sink=True, bias="bh1k")
    case = vary(case, "used", seqused_q=True, seqused_k=True, heads_q=3, heads_kv=1)
    check(vary(case, "layout", layout_q=layout, layout_k=layout), kernels)


@pytest.mark.parametrize("magnitude", [30.0, 300.0])
def test_huge_logits(magnitude: float, kernels: torch.device) -> None:
    check(vary(BASE, "huge", magnitude=magnitude, scale=1.0, headdim=16, causal=True), kernels)


@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_scale_that_is_not_positive(scale: float, kernels: torch.device) -> None:
    check(vary(BASE, "scale", scale=scale, causal=True), kernels)


def test_scores_that_grow_with_distance(kernels: torch.device) -> None:
    """Rows past the last one of a tile must stay out even where their P would be infinite."""
    x = build(vary(BASE, "slopes", alibi="heads", seqlen_q=70, seqlen_k=90), str(kernels))
    assert x.problem.alibi_slopes is not None
    x = replace(x, problem=replace(x.problem, alibi_slopes=-9 - x.problem.alibi_slopes))
    assert_gradients(x, gradients(x), with_dlse=True)


def test_what_takes_no_part_gets_exact_zeros(kernels: torch.device) -> None:
    """Rows that see no key, rows past seqused_q, keys past seqused_k and keys that no row sees."""
    case = vary(BASE, "tall", seqlen_q=101, seqlen_k=37, causal=True, batch=1)
    found = check(case, kernels)
    assert found["dq"] is not None
    assert not found["dq"][:, :64].any()
    assert found["dq"][:, 64:].any()
    case = vary(BASE, "used", batch=3, seqused_q=True, seqused_k=True, seqlen_q=150, seqlen_k=140)
    x = build(case, str(kernels))
    found = gradients(x)
    for name, used in (("dq", "seqused_q"), ("dk", "seqused_k"), ("dv", "seqused_k")):
        gradient = found[name]
        assert gradient is not None
        for b, n in enumerate(getattr(x.problem, used).tolist()):
            assert not gradient[b, n:].any()
    found = check(vary(BASE, "unseen", seqlen_q=3, seqlen_k=200, window=(5, 0), batch=1), kernels)
    for name in ("dk", "dv"):
        gradient = found[name]
        assert gradient is not None
        assert not gradient[:, : 200 - 3 - 5].any()


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "varlen"])
def test_rows_that_see_no_key_may_hold_anything(packed: bool, kernels: torch.device) -> None:
    layout = "packed" if packed else "dense"
    case = vary(BASE, "dead", seqlen_q=101, seqlen_k=37, causal=True, seed=2)
    x = build(vary(case, layout, layout_q=layout, layout_k=layout), str(kernels))
    with torch.no_grad():
        lse = attention(x.q, x.k, x.v, x.problem)[1]
    dead = (lse == NEG_INF).transpose(-1, -2).unsqueeze(-1)
    assert dead.any()
    x = replace(x, q=x.q.masked_fill(dead, 0), dout=x.dout.masked_fill(dead, 0))
    bad = replace(
        x, q=x.q.masked_fill(dead, float("nan")), dout=x.dout.masked_fill(dead, float("inf"))
    )
    found = gradients(bad)
    for name, wanted in gradients(x).items():
        assert torch.equal(found[name], wanted), name  # type: ignore[arg-type]


def test_every_element_of_packed_gradients_is_written(kernels: torch.device) -> None:
    """The Python layer zeroes packed gradients first; the kernels do not depend on it."""
    case = vary(BASE, "packed", batch=4, layout_q="packed", layout_k="packed", seqlen_q=140)
    x = fit(vary(case, "used", seqused_q=True, seqused_k=True), kernels)
    with torch.no_grad():
        out, lse = attention(x.q, x.k, x.v, x.problem)
    nan = [torch.full_like(t.contiguous(), float("nan")) for t in (x.q, x.k, x.v)]
    launch(x, x.dout, nan, lse.new_full((2, *lse.shape), float("nan")), out, lse)
    for name, gradient in zip(("dq", "dk", "dv"), nan, strict=True):
        wanted = gradients(x, with_dlse=False)[name]
        assert wanted is not None
        assert torch.equal(gradient, wanted), name


def launch(
    x: Inputs, dout: Tensor, grads: list[Tensor], workspace: Tensor, out: Tensor, lse: Tensor
) -> None:
    p = x.problem
    lengths = (p.cu_seqlens_q, p.cu_seqlens_k, p.seqused_q, p.seqused_k)
    tensors = (dout, None, *grads, workspace, x.q, x.k, x.v, out, lse, *lengths, None, None, None)
    tail = (p.softmax_scale, False, -1, -1, 0.0, p.max_seqlen_q, p.max_seqlen_k)
    runtime.launch(runtime.core().attention_backward, tensors, tail)


def test_any_layout_of_the_incoming_gradient(kernels: torch.device) -> None:
    x = build(vary(BASE, "dout", causal=True), str(kernels))
    want = gradients(x, with_dlse=False)
    sliced = torch.full((*x.dout.shape[:-1], 40), float("nan"), device=kernels).to(x.dout)
    sliced[..., :32] = x.dout
    flat = torch.empty(x.dout.numel() + 1, device=kernels).to(x.dout)
    layouts = [
        x.dout.transpose(1, 2).contiguous().transpose(1, 2),
        x.dout.transpose(2, 3).contiguous().transpose(2, 3),
        sliced[..., :32],
        flat[1:].view_as(x.dout).copy_(x.dout),
    ]
    for dout in layouts:
        found = gradients(x, with_dlse=False, dout=dout)
        assert all(torch.equal(found[n], want[n]) for n in want)  # type: ignore[arg-type]
    ones = torch.ones((), device=kernels).to(x.dout).expand_as(x.dout)
    assert_gradients(replace(x, dout=ones.contiguous()), gradients(x, with_dlse=False, dout=ones))


def test_only_lse_is_differentiated(kernels: torch.device) -> None:
    x = build(vary(BASE, "lse", causal=True, seqlen_q=90), str(kernels))
    q = x.q.detach().requires_grad_()
    _, lse = attention(q, x.k, x.v, x.problem)
    lse.masked_fill(lse == NEG_INF, 0.0).backward(x.dlse)
    still = replace(x, dout=torch.zeros_like(x.dout))
    assert_gradients(still, {"dq": q.grad}, with_dlse=True)


@pytest.mark.parametrize("wide", ["row", "head"])
def test_offsets_beyond_2_to_the_31(wide: str, kernels: torch.device) -> None:
    x = torch.randn(4, 1, 3, 3, 32).half().to(kernels)
    strides = (2**30 + 8, 32) if wide == "row" else (32, 2**30 + 8)
    want = [t.clone().requires_grad_() for t in x[:3]]
    limelight.flash_attn_func(*want, causal=True).backward(x[3])
    far = [spread(t, *strides) for t in x]
    grads = [spread(torch.full_like(x[0], float("nan")), *strides) for _ in range(3)]
    out, lse = limelight.flash_attn_func(*far[:3], causal=True, return_lse=True)
    out = spread(out, *strides)
    problem = build(vary(BASE, "far", seqlen_q=3, seqlen_k=3, causal=True)).problem
    tail = (problem.softmax_scale, True, -1, 0, 0.0, 3, 3)
    workspace = torch.empty(2, *lse.shape, device=kernels)
    tensors = (far[3], None, *grads, workspace, *far[:3], out, lse, *[None] * 7)
    runtime.launch(runtime.core().attention_backward, tensors, tail)
    for found, leaf in zip(grads, want, strict=True):
        assert leaf.grad is not None
        assert torch.equal(found, leaf.grad)


DETERMINISM = [
    vary(BASE, "plain", seqlen_q=150, seqlen_k=170, causal=True, heads_q=3, heads_kv=1),
    vary(BASE, "scores", softcap=9.0, alibi="batch", sink=True, bias="1hqk", window=(30, 9)),
    vary(BASE, "wide", headdim=256, seqlen_q=90, batch=1, causal=True),
]


@pytest.mark.parametrize("case", DETERMINISM, ids=str)
def test_equal_bits_from_run_to_run(case: Case, kernels: torch.device) -> None:
    """Without a GPU, asynchronous copies complete in a different order in every run."""
    x = build(case, str(kernels))
    want = gradients(x)
    library = None if x.q.is_cuda else runtime.emulator()
    try:
        for seed in range(20):
            if library is not None:
                assert not library.limelight_emulator_configure(b"schedule", b"random")
                assert not library.limelight_emulator_configure(b"seed", str(seed).encode())
            found = gradients(x)
            for name, gradient in found.items():
                assert torch.equal(gradient, want[name]), (seed, name)  # type: ignore[arg-type]
    finally:
        if library is not None:
            library.limelight_emulator_configure(b"schedule", b"fair")
            library.limelight_emulator_configure(b"seed", b"0")


def test_equal_bits_alone_and_in_a_batch(kernels: torch.device) -> None:
    x = build(vary(BASE, "batch", batch=3, seqlen_q=150, causal=True), str(kernels))
    whole = gradients(x)
    one = replace(x, q=x.q[1:2], k=x.k[1:2], v=x.v[1:2], dout=x.dout[1:2], dlse=x.dlse[1:2])
    for name, gradient in gradients(one).items():
        assert gradient is not None
        assert torch.equal(gradient[0], whole[name][1]), name  # type: ignore[index]


def test_the_gradient_of_a_bias_is_refused_by_name(kernels: torch.device) -> None:
    x = build(vary(BASE, "bias", bias="1hqk"), str(kernels))
    bias = x.problem.bias
    assert bias is not None
    p = replace(x.problem, bias=bias.detach().requires_grad_())
    q = x.q.detach().requires_grad_()
    out, _ = attention(q, x.k, x.v, p)
    with pytest.raises(limelight.FallbackError, match="the gradient of a bias; nearest: a bias"):
        out.backward(x.dout)
    with runtime.override(fallback="silent"):
        out, _ = attention(q, x.k, x.v, p)
        out.backward(x.dout)
    assert p.bias is not None
    assert_gradients(x, {"dq": q.grad, "dbias": p.bias.grad})


WRONG = [
    ("dout", lambda t: t[:, :3], "dout must have the shape of out"),
    ("dq", lambda t: t.float(), "dq must have the dtype of q"),
    ("dk", lambda t: t[..., :1, :], "dk must have the shape of k"),
    ("dv", lambda t: t.transpose(1, 3), "dv must have the shape of v"),
    ("workspace", lambda t: t[:1], "workspace has 8 elements, allowed: 16"),
    ("dlse", lambda t: t.half(), "dlse is float16, allowed: float32"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_the_extension_names_what_is_wrong(
    name: str, change: object, message: str, kernels: torch.device
) -> None:
    q = torch.zeros(1, 4, 2, 32, device=kernels).half()
    lse = torch.zeros(1, 2, 4, device=kernels)
    given_tensors: dict[str, Tensor] = {"dout": q, "dlse": lse, "dq": q, "dk": q, "dv": q}
    given_tensors["workspace"] = torch.empty(2, 1, 2, 4, device=kernels)
    given_tensors[name] = change(given_tensors[name])  # type: ignore[operator]
    tensors = (*given_tensors.values(), q, q, q, q, lse, *[None] * 7)
    tail = (1.0, False, -1, -1, 0.0, 4, 4)
    with pytest.raises(ValueError, match=message):
        runtime.launch(runtime.core().attention_backward, tensors, tail)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seqlens=st.tuples(st.integers(1, 140), st.integers(1, 140)),
    heads=st.sampled_from([(1, 1), (3, 1), (4, 2)]),
    headdim=st.sampled_from([8, 24, 32, 64]),
    window=st.tuples(st.integers(-1, 50), st.integers(-1, 50)),
    causal=st.booleans(),
    softcap=st.sampled_from([0.0, 10.0]),
    extra=st.sampled_from([{}, {"alibi": "heads"}, {"bias": "bh1k"}, {"sink": True}]),
    packed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_drawn_combinations(
    kernels: torch.device,
    seqlens: tuple[int, int],
    heads: tuple[int, int],
    headdim: int,
    window: tuple[int, int],
    causal: bool,
    softcap: float,
    extra: dict[str, object],
    packed: bool,
    seed: int,
) -> None:
    layout = "packed" if packed else "dense"
    case = vary(BASE, "drawn", seqlen_q=seqlens[0], seqlen_k=seqlens[1], headdim=headdim, seed=seed)
    case = vary(case, "heads", heads_q=heads[0], heads_kv=heads[1], window=window, causal=causal)
    case = vary(case, "layout", layout_q=layout, layout_k=layout, softcap=softcap, **extra)
    check(case, kernels)


if not torch.cuda.is_available():

    def test_another_tile_table() -> None:
        """A few cases on the small tiles; one process emulates one architecture."""
        options = ["-q", "-m", "every_arch", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(Path(__file__))],
            env={**os.environ, "LIMELIGHT_EMULATOR_ARCH": "sm_86"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
