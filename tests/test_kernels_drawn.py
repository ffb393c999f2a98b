# SPDX-License-Identifier: BSD-3-Clause
"""Random combinations of features, layouts and extents through the forward and backward kernels.

What is combined follows the dispatch table: a feature that a kernel gains is drawn from then on.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from cases import Case
from drawn_cases import drawn_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limelight import dispatch
from limelight.autograd import attention
from test_backward_kernel import NEG_INF, fit
from test_forward_kernel import poisoned_memory
from tolerance import KERNELS_TANH_ERROR, assert_forward, assert_gradients
from torch import Tensor


def served(feature: str) -> bool:
    """Whether some kernel of each pass has the feature."""
    return all(
        any(feature in kernel.features for kernel in dispatch.KERNELS if kernel.op == op)
        for op in dispatch.OPS
    )


DROPOUT = served("dropout")
DBIAS = any("dbias" in k.features for k in dispatch.KERNELS if k.op == "backward")

# Of every tile, small ones more often; odd ones are padded.
HEADDIMS = st.one_of(
    st.sampled_from([8, 16, 32, 40]), st.integers(1, 64), st.sampled_from([72, 128, 192, 256])
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    case=drawn_case(
        dtypes=("float16", "bfloat16"),
        layouts_k=("dense", "packed"),
        dropout=DROPOUT,
        leftpad=False,
        headdims=HEADDIMS,
        longest=100,
    ),
    with_dlse=st.booleans(),
)
def test_any_combination(kernels: torch.device, case: Case, with_dlse: bool) -> None:
    x = fit(case, kernels)
    p = x.problem
    leaves = [t.detach().requires_grad_() for t in (x.q, x.k, x.v)]
    if p.sink is not None:
        p = replace(p, sink=p.sink.detach().requires_grad_())
    if p.bias is not None and DBIAS:
        p = replace(p, bias=p.bias.detach().requires_grad_())
    with poisoned_memory():
        out, lse = attention(*leaves, p)
        outputs, seeds = [out], [x.dout]
        if with_dlse:
            outputs.append(lse)
            seeds.append(torch.where(lse == NEG_INF, float("nan"), x.dlse))
        torch.autograd.backward(outputs, seeds)
    assert_forward(x, out.detach(), lse.detach(), KERNELS_TANH_ERROR)
    found: dict[str, Tensor | None] = {
        name: leaf.grad for name, leaf in zip(("dq", "dk", "dv"), leaves, strict=True)
    }
    if p.sink is not None:
        found["dsink"] = p.sink.grad
    if p.bias is not None and DBIAS:
        found["dbias"] = p.bias.grad
    assert_gradients(x, found, with_dlse=with_dlse)
