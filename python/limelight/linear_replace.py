# SPDX-License-Identifier: BSD-3-Clause
"""Exchanges the nn.Linear layers of a model for FlatLinear."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import nn

from limelight.autograd import PLAIN
from limelight.linear import FlatLinear, check_modes
from limelight.messages import bad


@dataclass(frozen=True)
class Replacement:
    """What replace_linears did, by the modules' names."""

    replaced: dict[str, FlatLinear] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)  # linear layers left alone, and why

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} layers replaced, {len(self.kept)} kept"]
        return "\n".join(lines + [f"  kept {name}: {why}" for name, why in self.kept.items()])


def replace_linears(
    model: nn.Module,
    *,
    quantization: str | None = None,
    batch_invariant: bool = False,
    skip: Collection[str] | Callable[[str, nn.Linear], bool] = (),
) -> Replacement:
    """Exchange the nn.Linear layers of model for FlatLinear, in place; what was done and what not.

    quantization, batch_invariant: of FlatLinear. skip: names (as of model.named_modules(), or their
    last part: "lm_head") or a function of name and layer. Layers stay that flat_linear's kernels
    cannot serve: a dtype other than float16 and bfloat16, in_features no multiple of 8 (fp8: 16,
    int4: the group), a subclass of nn.Linear, hooks or parametrisations; with quantization also
    weights that another module shares. Parameters that are not quantised remain the same objects:
    tied weights stay tied, optimisers and state dicts keep working.
    """
    check_modes(None, quantization)
    if isinstance(model, nn.Linear):
        raise bad("model", "an nn.Linear itself", "a module that holds some", "from_linear(model)")
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(id(module))
    done: dict[int, FlatLinear] = {}
    result = Replacement()
    places = [
        (f"{path}.{name}" if path else name, parent, name, child)
        for path, parent in model.named_modules(remove_duplicate=False)
        for name, child in parent._modules.items()
        if isinstance(child, nn.Linear)
    ]
    for path, parent, name, linear in places:
        skipped = skip(path, linear) if callable(skip) else path in skip or name in skip
        shared = len(owners[id(linear.weight)]) > 1
        why = "named in skip" if skipped else _why_not(linear, quantization, shared)
        if why:
            result.kept[path] = why
            continue
        if id(linear) not in done:
            done[id(linear)] = FlatLinear.from_linear(
                linear, quantization=quantization, batch_invariant=batch_invariant
            )
        setattr(parent, name, done[id(linear)])
        result.replaced[path] = done[id(linear)]
    return result


def _why_not(linear: nn.Linear, quantization: str | None, shared: bool) -> str:
    """Why a layer stays; empty where it is replaced."""
    if type(linear) is not nn.Linear:
        return f"it is a {type(linear).__name__}, a subclass of nn.Linear"
    hooks = (
        linear._forward_hooks,
        linear._forward_pre_hooks,
        linear._backward_hooks,
        linear._backward_pre_hooks,
    )
    if any(hooks) or "forward" in vars(linear):
        return "it has hooks"
    if type(linear.weight) not in PLAIN:
        return f"its weight is a {type(linear.weight).__name__}, no plain tensor"
    if linear.weight.dtype not in (torch.float16, torch.bfloat16):
        return f"its dtype is {linear.weight.dtype}; nearest: torch.float16 or torch.bfloat16"
    step = 8 if quantization is None else 16  # rows of 16 bytes
    if quantization is not None and quantization.startswith("int4"):
        step = 64 if "g64" in quantization else 128
    if linear.in_features % step:
        return f"in_features is {linear.in_features}; nearest: a multiple of {step}"
    if quantization is not None and shared:
        return "its weight is shared with another module"
    return ""
