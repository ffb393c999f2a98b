# SPDX-License-Identifier: BSD-3-Clause
"""Random combinations of features, layouts, dtypes and extents against the reference."""

from unittest import mock

import torch
from cases import Case, build
from drawn_cases import drawn_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limelight.torch_path import backward, forward, plan
from tolerance import assert_forward, assert_gradients

torch.set_num_threads(1)


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    case=drawn_case(),
    elements=st.sampled_from([1 << 18, 2000]),
    most_keys=st.sampled_from([256, 16, 7]),
    host=st.booleans(),
    with_dlse=st.booleans(),
)
def test_any_combination(
    case: Case, elements: int, most_keys: int, host: bool, with_dlse: bool
) -> None:
    """host: whether the plan may read lengths, as on CPUs, or not, as on GPUs."""
    x = build(case)
    with (
        mock.patch.object(plan, "_CPU_ELEMENTS", elements),
        mock.patch.object(plan, "_CPU_KEYS", most_keys),
        mock.patch.object(plan, "reads_lengths", return_value=host),
    ):
        out, lse = forward(x.q, x.k, x.v, x.problem)
        dlse = x.dlse if with_dlse else None
        found = backward(x.dout, dlse, x.q, x.k, x.v, out, lse, x.problem)
    assert_forward(x, out, lse)
    assert_gradients(x, found._asdict(), with_dlse=with_dlse)
