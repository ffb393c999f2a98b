# SPDX-License-Identifier: BSD-3-Clause
"""FlatLinear and the quantised formats on the CPU."""

from __future__ import annotations

import copy
import io
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from limelight import FlatLinear
from limelight.gemm_torch import unpack_int4
from limelight.quantize import MODES, pack_int4, quantize, quantize_fp8, quantize_int4
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

HALF = torch.bfloat16


def seeded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
def test_is_an_nn_linear(bias: bool) -> None:
    linear = nn.Linear(24, 10, bias, dtype=HALF)
    layer = FlatLinear.from_linear(linear)
    x = seeded(3, 5, 24, dtype=HALF)
    assert torch.equal(layer(x), linear(x))
    assert layer.weight is linear.weight
    assert layer.state_dict().keys() == linear.state_dict().keys()
    again = FlatLinear(24, 10, bias, dtype=HALF)
    again.load_state_dict(linear.state_dict())
    assert torch.equal(again(x), linear(x))
    layer(x).float().sum().backward()
    assert linear.weight.grad is not None


def test_epilogues_of_the_module() -> None:
    gate, up = nn.Linear(16, 6), nn.Linear(16, 6)
    layer = FlatLinear.from_gate_up(gate, up)
    x, residual = seeded(4, 16), seeded(4, 6)
    torch.testing.assert_close(layer(x, residual), F.silu(gate(x)) * up(x) + residual)
    assert (layer.in_features, layer.out_features) == (16, 6)
    out = torch.empty(4, 6)
    with torch.no_grad():
        assert layer(x, out=out) is out
    assert FlatLinear(16, 6, activation="swiglu").weight.shape == (12, 16)


@pytest.mark.parametrize("mode", MODES)
def test_quantised_state_dict_round_trip(mode: str) -> None:
    layer = FlatLinear.from_linear(nn.Linear(256, 40, dtype=HALF), quantization=mode)
    x = seeded(2, 256, dtype=HALF)
    want = layer(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = FlatLinear(256, 40, quantization=mode, dtype=HALF)
    assert not torch.equal(other(x), want)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), want)
    assert torch.equal(copy.deepcopy(other)(x), want)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


@pytest.mark.parametrize(
    ("mode", "bound"),
    # Largest error in units of a row's, block's or group's largest value: half a step of 2^-4
    # (fp8: 4 significant bits), of 1/7 (int4), of 1/15 of the range, at most twice the largest.
    [("fp8", 2**-4), ("fp8_block", 2**-4), ("int4", 0.5 / 7), ("int4_zero", 1 / 15)],
)
def test_quantised_values_are_near(mode: str, bound: float) -> None:
    weight = seeded(200, 256) * torch.exp2(torch.arange(200) % 5)[:, None]
    layer = FlatLinear.from_linear(_linear(weight), quantization=mode)
    restored = layer(torch.eye(256)).T
    width = 256 if mode == "fp8" else 128
    parts = (restored - weight).unflatten(1, (-1, width)).abs().amax(-1)
    largest = weight.unflatten(1, (-1, width)).abs().amax(-1)
    if mode == "fp8_block":
        largest[:128], largest[128:] = largest[:128].amax(0), largest[128:].amax(0)
    assert bool((parts <= largest * bound * 1.01).all())
    assert float((parts / largest).max()) > bound / 8


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight)
    return linear


def test_int4_packing_is_the_documented_one() -> None:
    values = torch.arange(32).reshape(2, 16) % 16
    packed = pack_int4(values)
    assert packed[0, 0] == 0 + (1 << 4)
    assert packed[0, 3] == 6 + (7 << 4)
    assert torch.equal(unpack_int4(packed), values)


def test_scales_map_the_largest_value_to_the_largest_code() -> None:
    weight = seeded(150, 256)
    weight[3, 7] = -9.0
    per_row, per_block = quantize_fp8(weight), quantize_fp8(weight, per_block=True)
    assert bool((per_row.weight.float().abs().amax(1) == 448).all())
    assert float(per_block.weight.float()[3, 7]) == -448
    assert per_block.scale is not None
    assert per_block.scale.shape == (2, 2)
    assert float(per_block.scale[0, 0]) == pytest.approx(9 / 448)
    codes = unpack_int4(quantize_int4(weight).weight)
    assert int(codes[3, 7]) == 1
    assert bool((codes.view(150, 2, 128).int() - 8).abs().amax(-1).eq(7).all())
    ranged = quantize_int4(weight, zero_point=True)
    codes = unpack_int4(ranged.weight).view(150, 2, 128)
    assert bool((codes.amax(-1) - codes.amin(-1) >= 14).all())


def test_zero_weights_and_bad_arguments_of_quantising() -> None:
    for mode in MODES:
        stored = quantize(torch.zeros(3, 128), mode)
        assert bool(torch.isfinite(stored.scale).all())
        layer = FlatLinear.from_linear(_linear(torch.zeros(3, 128)), quantization=mode)
        assert not layer(torch.ones(1, 128)).any()
    with pytest.raises(ValueError, match="mode is 'int3'; allowed: 'fp8'"):
        quantize(torch.zeros(3, 128), "int3")
    with pytest.raises(ValueError, match="group is 32; allowed: 64 or 128"):
        quantize_int4(torch.zeros(3, 128), group=32)
    with pytest.raises(
        ValueError, match=re.escape("K a multiple of group = 128. Nearest supported")
    ):
        quantize_int4(torch.zeros(3, 64))
    with pytest.raises(TypeError, match=r"weight.dtype is torch.int8; allowed: float16"):
        quantize_fp8(torch.zeros(3, 64, dtype=torch.int8))


def test_moving_keeps_the_format() -> None:
    layer = FlatLinear.from_linear(nn.Linear(128, 8), quantization="fp8").to(HALF)
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert layer.weight_scale is not None
    assert layer.weight_scale.dtype == torch.float32
    assert layer.bias is not None
    assert layer.bias.dtype == HALF
    assert layer(seeded(2, 128, dtype=HALF)).dtype == HALF
    assert layer.to("meta").weight.device.type == "meta"
    four = FlatLinear.from_linear(nn.Linear(128, 8), quantization="int4_zero").to(HALF)
    assert four(seeded(2, 128, dtype=HALF)).dtype == HALF


def test_loading_never_casts_a_weight() -> None:
    plain, layer = nn.Linear(128, 8), FlatLinear(128, 8, quantization="fp8")
    with pytest.raises(TypeError, match=r"weight.dtype is torch.float32; allowed: torch.float8"):
        layer.load_state_dict(plain.state_dict(), strict=False)
    with pytest.raises(TypeError, match=r"weight.dtype is torch.float8_e4m3fn; allowed: torch"):
        FlatLinear(128, 8).load_state_dict(layer.state_dict(), strict=False)


def test_a_written_weight_is_not_static_in_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def flat_linear(*arguments: Any, static_weight: bool, **options: Any) -> None:
        seen.append(static_weight)

    monkeypatch.setattr("limelight.linear.flat_linear", flat_linear)

    def calls(layer: FlatLinear) -> list[bool]:
        seen.clear()
        for _ in range(3):
            layer(torch.zeros(1, 128))
        return list(seen)

    for mode in (None, "int4_zero"):
        layer = FlatLinear(128, 8, quantization=mode, dtype=HALF)
        assert calls(layer) == [False] * 3  # gradients are recorded: an optimiser may write
        with torch.no_grad():
            assert calls(layer) == [False, True, True]
            layer.load_state_dict(FlatLinear(128, 8, quantization=mode, dtype=HALF).state_dict())
            assert calls(layer) == [False, True, True]
            (layer.weight_scale if mode else layer.weight).mul_(2)
            assert calls(layer) == [False, True, True]
            layer.to(torch.float32)
            assert calls(layer) == [False, True, True]
            layer.weight = torch.nn.Parameter(layer.weight) if mode is None else layer.weight
            assert calls(layer) == [False, True, True]
    with torch.inference_mode():
        assert calls(FlatLinear(128, 8)) == [False] * 3


def test_parametrised_and_compiled() -> None:
    layer = FlatLinear(128, 8)
    x = seeded(2, 128)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x))
    doubled = nn.Module()
    doubled.forward = lambda t: 2 * t  # type: ignore[method-assign]
    want = 2 * layer(x)
    for name in ("weight", "bias"):
        register_parametrization(layer, name, doubled)
    torch.testing.assert_close(layer(x), want)


def test_made_on_the_meta_device_and_filled() -> None:
    for mode in (None, "fp8", "int4_zero"):
        made = FlatLinear.from_linear(nn.Linear(128, 8, dtype=HALF), quantization=mode)
        with torch.device("meta"):
            empty = FlatLinear(128, 8, quantization=mode, dtype=HALF)
        empty.to_empty(device="cpu").load_state_dict(made.state_dict())
        x = seeded(2, 128, dtype=HALF)
        assert torch.equal(empty(x), made(x))


def test_repr() -> None:
    layer = FlatLinear(128, 8, False, "silu", quantization="int4", batch_invariant=True)
    assert repr(layer) == (
        "FlatLinear(in_features=128, out_features=8, bias=False, activation='silu', "
        "quantization='int4', batch_invariant=True)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "relu"}, "activation is 'relu'; allowed: None, 'gelu'"),
        ({"quantization": "int3"}, "quantization is 'int3'; allowed: None, 'fp8'"),
    ],
)
def test_bad_modes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FlatLinear(8, 8, **arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        FlatLinear.from_linear(nn.Linear(8, 8), **arguments)


def test_what_cannot_be_taken_over() -> None:
    quantised = FlatLinear(128, 8, quantization="fp8")
    with pytest.raises(ValueError, match=re.escape("linear.quantization is 'fp8'; allowed: None")):
        FlatLinear.from_linear(quantised)
    with pytest.raises(ValueError, match=re.escape("linear.out_features is 7; allowed: even")):
        FlatLinear.from_linear(nn.Linear(8, 7), "swiglu")
    with pytest.raises(ValueError, match=re.escape("up.weight.shape is (7, 8); allowed: (6, 8)")):
        FlatLinear.from_gate_up(nn.Linear(8, 6), nn.Linear(8, 7))
