# SPDX-License-Identifier: BSD-3-Clause
"""How the torch path cuts the work: any cut is right, memory is bounded, no device is awaited."""

from typing import Any

import pytest
import torch
from cases import CACHES, DROPOUT, FEATURES, LAYOUTS, Case, build, vary
from limelight.torch_path import backward, forward, fused, plan
from tolerance import assert_forward, assert_gradients
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

torch.set_num_threads(1)

ALL = FEATURES + LAYOUTS + CACHES + DROPOUT
EVERYTHING = Case(
    "everything",
    batch=3,
    layout_q="packed",
    layout_k="packed",
    causal=True,
    window=(50, 0),
    softcap=20.0,
    alibi="batch",
    sink=True,
    bias="bhqk",
    dropout_p=0.2,
    headdim_v=24,
)


def check(case: Case) -> None:
    x = build(case)
    out, lse = forward(x.q, x.k, x.v, x.problem)
    assert_forward(x, out, lse)
    found = backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
    assert_gradients(x, found._asdict(), with_dlse=True)


@pytest.mark.parametrize("case", [*ALL, EVERYTHING], ids=str)
def test_without_reading_lengths(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that GPUs use, on CPU tensors: padded groups and device masks instead of lengths."""
    monkeypatch.setattr(plan, "reads_lengths", lambda q: False)
    check(case)


@pytest.mark.parametrize("case", [*ALL, EVERYTHING], ids=str)
def test_no_result_depends_on_a_value_on_the_host(case: Case) -> None:
    """Meta tensors have no values, so any host synchronisation would raise here."""
    x = build(case, device="meta")
    out, lse = forward(x.q, x.k, x.v, x.problem)
    found = backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
    expected = build(case)
    real_out, real_lse = forward(expected.q, expected.k, expected.v, expected.problem)
    assert out.shape == real_out.shape
    assert out.stride() == real_out.stride()
    assert lse.shape == real_lse.shape
    assert lse.stride() == real_lse.stride()
    assert found.dq.shape == x.q.shape
    assert found.dk.shape == x.k.shape


@pytest.mark.parametrize("elements", [1, 3000, 1 << 24])
@pytest.mark.parametrize("most_keys", [1, 16, 50])
@pytest.mark.parametrize("case", [EVERYTHING, vary(EVERYTHING, "fp32", dtype="float32")], ids=str)
def test_any_block_size(
    case: Case, elements: int, most_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_CPU_ELEMENTS", elements)
    monkeypatch.setattr(plan, "_CPU_KEYS", most_keys)
    check(case)


@pytest.mark.parametrize("ratio", [0.0, 1e9])
@pytest.mark.parametrize("case", LAYOUTS + CACHES, ids=str)
def test_shared_and_single_groups(
    case: Case, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_SHARED_SCORES", 0)
    monkeypatch.setattr(plan, "_SHARED_RATIO", ratio)
    check(case)
    check(vary(case, "sink", sink=True, dtype="float32"))


class _Largest(TorchDispatchMode):
    """Records the element count of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.itemsize)
        return result


@pytest.mark.parametrize("case", [*FEATURES, *DROPOUT], ids=str)
def test_memory_is_one_tile(case: Case) -> None:
    """A score matrix of seqlen 3000 would have 9e6 elements a head; nothing exceeds a tile."""
    long = vary(
        case, "long", batch=1, heads_q=2, heads_kv=1, seqlen_q=3000, seqlen_k=3000, headdim=8
    )
    x = build(vary(long, "plain", bias="11q1" if case.bias else "", headdim_v=8))
    with _Largest() as largest:
        out, lse = forward(x.q, x.k, x.v, x.problem)
        backward(x.dout, x.dlse, x.q, x.k, x.v, out, lse, x.problem)
    # Twice: Philox words of a tile are int64 and rounded up to multiples of 16.
    assert largest.elements <= 2 * plan._CPU_ELEMENTS


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_and_blockwise_agree(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused operator is used for plain float32 and float64 and gives what the loop gives."""
    used = []
    real = fused.forward
    monkeypatch.setattr(fused, "forward", lambda *a: used.append(1) or real(*a))
    for case in (
        Case("plain", sink=True),
        Case("causal", causal=True, heads_kv=1),
        Case("decode", causal=True, seqlen_q=1),
        Case("window-that-hides-nothing", window=(64, 64)),
        Case("varlen", layout_q="packed", layout_k="packed", causal=True, batch=1),
    ):
        used.clear()
        check(vary(case, dtype, dtype=dtype))
        x = build(vary(case, dtype, dtype=dtype))
        out, lse = forward(x.q, x.k, x.v, x.problem)
        found = backward(x.dout, None, x.q, x.k, x.v, out, lse, x.problem)
        assert_gradients(x, found._asdict())
        assert used, case.name
    for case in (
        Case("causal-wide", causal=True, seqlen_q=30),
        Case("window", window=(63, 64)),
        Case("bias", bias="1hqk"),
        Case("headdim-v", headdim_v=16),
        Case("invariant", batch_invariant=True),
        Case("seqused", seqused_k=True),
    ):
        used.clear()
        check(vary(case, dtype, dtype=dtype))
        assert not used, case.name
