# SPDX-License-Identifier: BSD-3-Clause
"""What the backward kernels promise beside right numbers.

Exact zeros, equal bits, any layout of the incoming gradient, 64-bit offsets, refusals by name.
"""

from __future__ import annotations

from dataclasses import replace

import limelight
import pytest
import torch
from cases import Case, Inputs, build, vary
from limelight import runtime
from limelight.autograd import attention
from test_backward_kernel import NEG_INF, check, fit, gradients
from test_forward_kernel import BASE, spread
from tolerance import assert_gradients
from torch import Tensor


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
    given = (workspace, x.q, x.k, x.v, out, lse, *lengths, None, None, None, None)
    tail = (p.softmax_scale, False, -1, -1, 0, 0.0, 0.0, p.max_seqlen_q, p.max_seqlen_k)
    tensors = (dout, None, *grads, None, *given)
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
    tail = (problem.softmax_scale, True, -1, 0, 0, 0.0, 0.0, 3, 3)
    workspace = torch.empty(2, *lse.shape, device=kernels)
    tensors = (far[3], None, *grads, None, workspace, *far[:3], out, lse, *[None] * 8)
    runtime.launch(runtime.core().attention_backward, tensors, tail)
    for found, leaf in zip(grads, want, strict=True):
        assert leaf.grad is not None
        assert torch.equal(found, leaf.grad)


DETERMINISM = [
    vary(BASE, "plain", seqlen_q=150, seqlen_k=170, causal=True, heads_q=3, heads_kv=1),
    vary(BASE, "scores", softcap=9.0, alibi="batch", sink=True, bias="1hqk", window=(30, 9)),
    vary(BASE, "wide", headdim=256, seqlen_q=90, batch=1, causal=True),
    vary(BASE, "dropout", dropout_p=0.3, bias="b1qk", seqlen_q=90, headdim=64, softcap=9.0),
    vary(BASE, "summed", dropout_p=0.3, bias="1h1k", seqlen_q=150, seqlen_k=90, heads_kv=1),
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


WRONG = [
    ("dout", lambda t: t[:, :3], "dout must have the shape of out"),
    ("dq", lambda t: t.float(), "dq must have the dtype of q"),
    ("dk", lambda t: t[..., :1, :], "dk must have the shape of k"),
    ("dv", lambda t: t.transpose(1, 3), "dv must have the shape of v"),
    ("workspace", lambda t: t[:1], "workspace has 8 elements, allowed: 16"),
    ("dlse", lambda t: t.half(), "dlse is float16, allowed: float32"),
    ("dbias", lambda t: torch.zeros(1, 1, 1, 1), "dbias must be None without a bias"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_the_extension_names_what_is_wrong(
    name: str, change: object, message: str, kernels: torch.device
) -> None:
    q = torch.zeros(1, 4, 2, 32, device=kernels).half()
    lse = torch.zeros(1, 2, 4, device=kernels)
    given_tensors: dict[str, Tensor | None]
    given_tensors = {"dout": q, "dlse": lse, "dq": q, "dk": q, "dv": q, "dbias": None}
    given_tensors["workspace"] = torch.empty(2, 1, 2, 4, device=kernels)
    given_tensors[name] = change(given_tensors[name])  # type: ignore[operator]
    tensors = (*given_tensors.values(), q, q, q, q, lse, *[None] * 8)
    tail = (1.0, False, -1, -1, 0, 0.0, 0.0, 4, 4)
    with pytest.raises(ValueError, match=message):
        runtime.launch(runtime.core().attention_backward, tensors, tail)
