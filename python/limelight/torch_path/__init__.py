# SPDX-License-Identifier: BSD-3-Clause
"""Attention in plain torch operations: every feature, every device.

It is the fallback of the kernels and the first oracle of the tests.

``forward`` and ``backward`` take checked arguments (``limelight.checks`` validates) and never write
to them. They are not differentiable through autograd by themselves: ``limelight.autograd`` pairs
them.
"""

from limelight.torch_path.backward import Gradients, backward
from limelight.torch_path.dropout import dropout_keep_mask
from limelight.torch_path.forward import forward
from limelight.torch_path.pages import gather_pages
from limelight.torch_path.rotary import apply_rotary

__all__ = [
    "Gradients",
    "apply_rotary",
    "backward",
    "dropout_keep_mask",
    "forward",
    "gather_pages",
]
