# SPDX-License-Identifier: BSD-3-Clause
"""A linear layer on flat_linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limelight.gemm import flat_linear
from limelight.gemm_checks import ACTIVATIONS, FP8
from limelight.messages import bad, check_tensor
from limelight.quantize import MODES, QuantizedWeight, quantize


class FlatLinear(nn.Module):
    """activation(x @ weight.T + bias) + residual through flat_linear, as nn.Linear otherwise.

    in_features, out_features: of x and of the result; with activation "swiglu" weight and bias have
    2 * out_features rows, [gate | up]. quantization: None, or "fp8" (a scale a row), "fp8_block"
    (128 x 128), "int4", "int4_g64", "int4_zero", "int4_g64_zero" (groups of 128 or 64 columns).
    batch_invariant: a row's bits do not depend on the other rows. device, dtype: of the parameters.

    weight is a parameter; a quantised weight, weight_scale and weight_zero are buffers without
    gradient, which ``.to(dtype)`` leaves in their format. The state dict has nn.Linear's names.
    Without gradients a weight that torch did not write since the last call counts as
    flat_linear's static_weight; writing through ``.data`` or by other libraries' kernels must be
    followed by some other operation before the layer is called.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = None,
        *,
        quantization: str | None = None,
        batch_invariant: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_modes(activation, quantization)
        rows = out_features * (2 if activation == "swiglu" else 1)
        made = nn.Linear(in_features, rows, bias, device, dtype)
        self._take(made.weight, made.bias, activation, quantization, batch_invariant)

    def _take(
        self,
        weight: Tensor,
        bias: nn.Parameter | None,
        activation: str | None,
        quantization: str | None,
        batch_invariant: bool,
    ) -> None:
        rows, self.in_features = weight.shape
        self.out_features = rows // 2 if activation == "swiglu" else rows
        self.activation = activation
        self.quantization = quantization
        self.batch_invariant = batch_invariant
        self._seen: tuple[Any, ...] = ()
        self.weight: Tensor
        self.weight_scale: Tensor | None
        self.weight_zero: Tensor | None
        if quantization is None:
            self.weight = weight
            self.weight_scale = self.weight_zero = None
        else:
            stored = _quantized(weight.detach(), quantization)
            self.register_buffer("weight", stored.weight)
            self.register_buffer("weight_scale", stored.scale)
            self.register_buffer("weight_zero", stored.zero)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear | FlatLinear,
        activation: str | None = None,
        *,
        quantization: str | None = None,
        batch_invariant: bool = False,
    ) -> FlatLinear:
        """A layer with linear's own parameters, not copies; a quantised weight is new."""
        check_modes(activation, quantization)
        if isinstance(linear, FlatLinear) and linear.quantization is not None:
            nearest = "from_linear of the layer before quantising"
            raise bad("linear.quantization", repr(linear.quantization), "None", nearest)
        rows = linear.weight.shape[0]
        if activation == "swiglu" and rows % 2:
            raise bad("linear.out_features", rows, "even for swiglu: [gate | up]", "from_gate_up")
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        bias: Any = linear.bias
        made._take(linear.weight, bias, activation, quantization, batch_invariant)
        return made.train(linear.training)

    @classmethod
    def from_gate_up(
        cls,
        gate: nn.Linear,
        up: nn.Linear,
        *,
        quantization: str | None = None,
        batch_invariant: bool = False,
    ) -> FlatLinear:
        """silu(gate(x)) * up(x) as one layer; weights and biases are copied into one."""
        if gate.weight.shape != up.weight.shape or (gate.bias is None) != (up.bias is None):
            allowed = f"{tuple(gate.weight.shape)}, with a bias or without as gate"
            raise bad("up.weight.shape", up.weight.shape, allowed, "two layers of one shape")
        with torch.no_grad():
            joined = nn.Linear(1, 1, gate.bias is not None, device="meta")
            joined.weight = nn.Parameter(
                torch.cat((gate.weight, up.weight)), gate.weight.requires_grad
            )
            if gate.bias is not None:
                joined.bias = nn.Parameter(torch.cat((gate.bias, up.bias)), gate.bias.requires_grad)
        return cls.from_linear(
            joined.train(gate.training),
            "swiglu",
            quantization=quantization,
            batch_invariant=batch_invariant,
        )

    def forward(
        self, x: Tensor, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        known = self._parameters  # nn.Module's attributes cost a microsecond each
        weight = known["weight"] if "weight" in known else self.weight  # noqa: SIM401
        bias = known["bias"] if "bias" in known else self.bias  # noqa: SIM401
        assert weight is not None
        scale, zero = self.weight_scale, self.weight_zero
        return flat_linear(
            x,
            weight,
            bias,
            self.activation,
            residual,
            out,
            scale,
            weight_zero=zero,
            batch_invariant=self.batch_invariant,
            static_weight=not torch.is_grad_enabled() and self._unwritten(weight, scale, zero),
        )

    def _unwritten(self, weight: Tensor, scale: Tensor | None, zero: Tensor | None) -> bool:
        """Whether no torch operation wrote the weight or its scales since the layer's last call.

        Then the kernel just before this call's does not write them either. Never true while
        compiling, nor for tensors of inference mode, which count no writes.
        """
        if torch.compiler.is_compiling() or weight.is_inference():
            return False
        now = (
            (weight.data_ptr(), weight._version),
            None if scale is None else (scale.data_ptr(), scale._version),
            None if zero is None else (zero.data_ptr(), zero._version),
        )
        if now == self._seen:
            return True
        self.__dict__["_seen"] = now
        return False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name.startswith("weight"):
            self._seen = ()  # another tensor may lie at the old one's address

    def extra_repr(self) -> str:
        """What repr shows between the brackets."""
        parts = [f"in_features={self.in_features}, out_features={self.out_features}"]
        parts.append(f"bias={self.bias is not None}")
        parts += [f"activation={self.activation!r}"] if self.activation else []
        parts += [f"quantization={self.quantization!r}"] if self.quantization else []
        parts += ["batch_invariant=True"] if self.batch_invariant else []
        return ", ".join(parts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlatLinear:
        """Move, and convert the dtype of what is no float8 weight nor its fp32 scale."""
        self._seen = ()
        if self.weight.dtype != FP8:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            return self
        kept = (self.weight, self.weight_scale)

        def move(t: Tensor) -> Tensor:
            if not any(t is x for x in kept):
                return fn(t)
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **options: Any
    ) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if isinstance(weight, Tensor):
            stored, own = weight.dtype, self.weight.dtype
            if stored != own and (self.quantization or stored in (FP8, torch.uint8)):
                raise bad(
                    f"{prefix}weight.dtype",
                    stored,
                    f"{own}: copying would cast without a scale",
                    "load into layers of the same quantization, then from_linear(quantization=...)",
                    TypeError,
                )
        super()._load_from_state_dict(state_dict, prefix, *others, **options)


def check_modes(activation: str | None, quantization: str | None) -> None:
    """Raise ValueError for a mode that FlatLinear does not know."""
    if activation not in ACTIVATIONS:
        names = ", ".join(map(repr, ACTIVATIONS))
        raise bad("activation", repr(activation), names, "activation=None")
    if quantization is not None and quantization not in MODES:
        names = ", ".join(map(repr, (None, *MODES)))
        raise bad("quantization", repr(quantization), names, "quantization='fp8'")


def _quantized(weight: Tensor, mode: str) -> QuantizedWeight:
    check_tensor("weight", weight)
    stored = quantize(weight, mode)
    return stored._replace(weight=stored.weight.contiguous())
