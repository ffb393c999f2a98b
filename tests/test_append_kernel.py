# SPDX-License-Identifier: BSD-3-Clause
"""The append kernel against the torch path, bit by bit: caches, turned queries, lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import limelight
import pytest
import torch
from limelight import runtime
from limelight.cache_append import Places, Rotary, append_slots, append_tokens, run_kernel
from limelight.kvcache import _turn
from torch import Tensor

FP8 = torch.float8_e4m3fn


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@dataclass(frozen=True)
class Call:
    """One append. rotary: "" or interleaved or halves; angles: features of a head that turn."""

    name: str
    kind: str = "dense"  # dense | rows | paged
    dtype: torch.dtype = torch.bfloat16
    cache_dtype: torch.dtype | None = None
    heads: tuple[int, int] = (4, 2)
    headdim: int = 64
    headdim_v: int = 64
    seqlen_new: int = 3
    packed: bool = False  # cu_seqlens_k_new and cu_seqlens_q, with tokens of no sequence
    page_size: int = 5
    joint: bool = False  # K and V are views of one tensor
    rotary: str = ""
    angles: int = 64
    table: torch.dtype = torch.float32
    by_row: bool = True

    def __str__(self) -> str:
        return self.name


BASE = Call("base")
CALLS = [
    BASE,
    replace(BASE, name="rows", kind="rows", rotary="halves"),
    replace(BASE, name="paged", kind="paged", joint=True, rotary="interleaved"),
    replace(BASE, name="page-1", kind="paged", page_size=1, dtype=torch.float16, seqlen_new=1),
    replace(BASE, name="headdims", kind="paged", headdim=40, headdim_v=16, packed=True),
    replace(BASE, name="odd", headdim=31, headdim_v=7, rotary="halves", angles=30),
    replace(BASE, name="odd-partial", headdim=18, rotary="interleaved", angles=6, packed=True),
    replace(BASE, name="partial", kind="paged", rotary="interleaved", angles=20, by_row=False),
    replace(BASE, name="partial-halves", rotary="halves", angles=32, table=torch.bfloat16),
    replace(BASE, name="narrow-halves", rotary="halves", angles=36, table=torch.float16),
    replace(BASE, name="varlen", kind="paged", packed=True, rotary="halves", dtype=torch.float16),
    replace(BASE, name="many-heads", heads=(40, 8), headdim=128, headdim_v=128, rotary="halves"),
    replace(BASE, name="fp8", kind="paged", cache_dtype=FP8, rotary="interleaved", joint=True),
    replace(BASE, name="fp8-half", cache_dtype=FP8, dtype=torch.float16, rotary="halves"),
    replace(BASE, name="fp8-odd", kind="rows", cache_dtype=FP8, headdim=9, headdim_v=5, angles=8),
    replace(BASE, name="fp8-bits", kind="paged", dtype=FP8, cache_dtype=FP8),
]


class Tensors:
    """The tensors of a call, equal for equal calls."""

    def __init__(self, call: Call, device: torch.device) -> None:
        self.generator = torch.Generator().manual_seed(7)
        batch, capacity = 3, 20
        self.lengths = ints(4, 0, 13)
        heads, heads_kv = call.heads
        counts = [2, 0, 3] if call.packed else [call.seqlen_new] * batch
        self.ends = ints(0, 2, 2, 5) if call.packed else None
        lead = (8,) if call.packed else (batch, call.seqlen_new)
        self.counts = counts
        self.q = self.draw(*lead, heads, call.headdim, dtype=call.dtype)
        self.k = self.draw(*lead, heads_kv, call.headdim, dtype=call.dtype)
        self.v = self.draw(*lead, heads_kv, call.headdim_v, dtype=call.dtype)
        self.v.view(torch.uint8)[..., -1] = 0xFF  # a NaN with its own bits, kept or quantised
        rows = batch
        table = index = None
        if call.kind == "paged":
            capacity = call.page_size
            pages = -(-20 // call.page_size)
            rows = batch * pages + 1
            table = torch.randperm(rows, generator=self.generator)[:-1].view(batch, pages).int()
        elif call.kind == "rows":
            rows, index = batch + 1, ints(3, 0, 2)
        cache_dtype = call.cache_dtype or call.dtype
        dims = (call.headdim, call.headdim_v)
        if call.joint:
            both = self.draw(rows, capacity, heads_kv, sum(dims), dtype=cache_dtype).to(device)
            self.caches = list(both.split(dims, -1))
        else:
            self.caches = [
                self.draw(rows, capacity, heads_kv, d, dtype=cache_dtype).to(device) for d in dims
            ]
        angle = self.draw(26, call.angles // 2, dtype=torch.float32)
        self.tables = (angle.cos().to(call.table), angle.sin().to(call.table))
        scale = 0.02 + torch.rand(batch, heads_kv, generator=self.generator)
        self.scales = (scale, scale.t().contiguous().t()) if call.cache_dtype else (None, None)
        for name in ("lengths", "ends", "q", "k", "v"):
            x = getattr(self, name)
            setattr(self, name, None if x is None else x.to(device))
        self.tables = tuple(x.to(device) for x in self.tables)
        self.scales = tuple(None if x is None else x.to(device) for x in self.scales)
        table, index = (None if x is None else x.to(device) for x in (table, index))
        self.places = Places(self.lengths, self.ends, index, table)
        self.rotary: Rotary | None = None
        if call.rotary:
            how = (call.rotary == "interleaved", self.q, self.ends, call.by_row)
            self.rotary = Rotary(*self.tables, *how)

    def draw(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return (3 * torch.randn(*shape, generator=self.generator)).to(dtype)


def bits(x: Tensor) -> Tensor:
    """Integers of x's size; every NaN of e4m3 as one."""
    found = x.view(torch.uint8 if x.element_size() == 1 else torch.int16)
    return torch.where(found == 0xFF, 0x7F, found) if x.element_size() == 1 else found


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_the_same_bits_as_the_torch_path(call: Call, kernels: torch.device) -> None:
    ours, torchs = Tensors(call, kernels), Tensors(call, kernels)
    found = torch.full_like(ours.lengths, -1)
    turned = run_kernel(
        *ours.caches, ours.k, ours.v, ours.places, None, ours.scales, ours.rotary, found
    )
    with runtime.override(backend="torch"):
        q, k = torchs.q, torchs.k
        if torchs.rotary is not None:
            q, k = _turn(torchs.rotary, k, torchs.caches[0], torchs.lengths, torchs.ends)
        append_tokens(*torchs.caches, k, torchs.v, *torchs.places, *torchs.scales)
    for a, b in zip(ours.caches, torchs.caches, strict=True):
        assert torch.equal(bits(a), bits(b))
    before = Tensors(call, kernels).caches[1]
    rows = (bits(before) != bits(ours.caches[1])).flatten(2).any(-1)
    assert int(rows.sum()) == sum(ours.counts)
    assert found.tolist() == [n + c for n, c in zip([4, 0, 13], ours.counts, strict=True)]
    if call.rotary:
        assert turned is not None
        used = slice(None) if ours.ends is None else slice(int(ours.ends[-1]))
        assert torch.equal(bits(turned[used]), bits(q[used]))


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("backend", ["kernels", "torch"])
def test_slots(quantised: bool, backend: str, kernels: torch.device) -> None:
    """Tokens go to their slots; -1 and padding are skipped, whatever comes first."""
    generator = torch.Generator().manual_seed(3)
    key, value = (torch.randn(6, 2, 16, generator=generator).half() for _ in range(2))
    key[3, 0, 0], key[3, 0, 1] = 1000.0, -1000.0
    cache = torch.zeros(3, 4, 2, 32).to(FP8 if quantised else torch.float16)
    k_cache, v_cache = cache.to(kernels).split(16, -1)
    slots = torch.tensor([-1, 0, 7, 11], device=kernels)
    scales = (torch.full((2,), 0.5, device=kernels), torch.tensor([2.0], device=kernels))
    with runtime.override(backend="torch" if backend == "torch" else runtime.settings.backend):
        limelight.append_kv(
            key.to(kernels), value.to(kernels), k_cache, v_cache, slots, "auto", *scales
        )
    for stored, new, scale in ((k_cache, key, 0.5), (v_cache, value, 2.0)):
        want = torch.zeros(12, 2, 16).to(stored.dtype)
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0 and quantised:
                want.view(torch.uint8)[slot] = (
                    (new[token].float() / scale).clamp(-448, 448).to(FP8).view(torch.uint8)
                )
            elif slot >= 0:
                want[slot] = new[token]
        assert torch.equal(bits(stored.cpu().flatten(0, 1)), bits(want))


def test_slots_as_vllm_calls_it(kernels: torch.device) -> None:
    """A uint8 cache with kv_cache_dtype "fp8" and scales on the device; a number as the scale."""
    key = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)).bfloat16().to(kernels)
    caches = [torch.zeros(1, 4, 1, 8, dtype=torch.uint8, device=kernels) for _ in range(4)]
    slots = torch.tensor([2, 1], device=kernels)
    one = torch.tensor(0.25, device=kernels)
    limelight.append_kv(key, key, caches[0], caches[1], slots, "fp8", one, one)
    limelight.append_kv(key, key, caches[2], caches[3], slots, "fp8_e4m3", 0.25, 0.25)
    assert all(torch.equal(caches[0], x) for x in caches[1:])
    assert torch.equal(caches[0][0, [2, 1]], (key.float() / 0.25).to(FP8).view(torch.uint8))


@pytest.mark.parametrize("backend", ["kernels", "torch"])
def test_tokens_outside_of_the_cache_are_not_stored(backend: str, kernels: torch.device) -> None:
    """What the host cannot read is guarded: lengths, page ids, rows and slots."""

    def store(cache: list[Tensor], new: Tensor, places: Places) -> None:
        if backend == "kernels":
            run_kernel(*cache, new, new, places)
        else:
            with runtime.override(backend="torch"):
                append_tokens(*cache, new, new, *places, None, None)

    new = torch.ones(3, 2, 1, 8, dtype=torch.half, device=kernels)
    lengths = ints(7, 100, -1).to(kernels)
    cache = [torch.zeros(4, 4, 1, 8, dtype=torch.half, device=kernels) for _ in range(2)]
    table = torch.tensor([[0, 1], [2, 3], [4, -7]], dtype=torch.int32, device=kernels)
    store(cache, new, Places(lengths, None, None, table))
    stored = cache[0][..., 0, 0].nonzero().tolist()
    assert stored == [[1, 3]]  # token 0 of sequence 0; sequence 2's place 0 has page 4 of 4
    rows = [torch.zeros(2, 4, 1, 8, dtype=torch.half, device=kernels) for _ in range(2)]
    index = ints(1, 0, 2).to(kernels)
    store(rows, new, Places(ints(0, 3, 0).to(kernels), None, index, None))
    assert rows[1][..., 0, 0].nonzero().tolist() == [[0, 3], [1, 0], [1, 1]]
    slots = torch.tensor([8, 7, 1 << 40], device=kernels)
    packed = torch.ones(3, 1, 8, dtype=torch.half, device=kernels)
    if backend == "kernels":
        run_kernel(*rows, packed, packed, None, slots)
    else:
        with runtime.override(backend="torch"):
            append_slots(*rows, packed, packed, slots, None, None)
    assert rows[0][..., 0, 0].nonzero().tolist() == [[0, 3], [1, 0], [1, 1], [1, 3]]


def test_slots_in_a_compiled_graph() -> None:
    key = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    slots = torch.tensor([5, -1, 0])

    def step(key: Tensor, cache: Tensor, slots: Tensor) -> Tensor:
        limelight.append_kv(key, key, cache, cache.clone(), slots)
        return cache * 2

    caches = [torch.zeros(2, 4, 2, 8) for _ in range(2)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(key, caches[0], slots), step(key, caches[1], slots))
    assert torch.equal(caches[0], caches[1])
    assert bool(caches[0][1, 1].any())


BAD = [
    ({"slot_mapping": torch.zeros(3, dtype=torch.int32)}, TypeError, "slot_mapping.dtype is"),
    ({"slot_mapping": torch.zeros(4, dtype=torch.int64)}, ValueError, "slot_mapping.shape is (4)"),
    ({"slot_mapping": torch.tensor([0, 8])}, ValueError, "slot_mapping[1] is 8; allowed: below 8"),
    ({"key": torch.zeros(3, 2, 8)}, ValueError, "key.shape is (3, 2, 8); allowed: (3, 1, 8)"),
    ({"value": torch.zeros(3, 1, 8).half()}, TypeError, "value.dtype is torch.float16"),
    ({"kv_cache_dtype": "fp8_e5m2"}, ValueError, "kv_cache_dtype is 'fp8_e5m2'; allowed: auto"),
    ({"value_cache": torch.zeros(2, 2, 1, 8)}, ValueError, "value_cache is torch.float32 (2, 2,"),
    ({"key_cache": torch.zeros(4, 1, 8)}, ValueError, "key_cache.shape is (4, 1, 8)"),
    ({"key": 3}, TypeError, "key is a int; allowed: a torch.Tensor"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=str)
def test_messages_of_append_kv(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    token, cache = torch.ones(3, 1, 8), torch.zeros(2, 4, 1, 8)
    arguments = {"key": token, "value": token, "key_cache": cache, "value_cache": cache.clone()}
    arguments |= {"slot_mapping": torch.zeros(1, dtype=torch.int64)} | change
    with pytest.raises(error) as caught:
        limelight.append_kv(**arguments)
    assert message in str(caught.value)
    assert not cache.any()


def test_scales_of_append_kv() -> None:
    token, cache = torch.ones(1, 2, 8), torch.zeros(2, 4, 2, 8).to(FP8)
    slots = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"k_scale is torch.float32 \(3,\); allowed: float32 of 1"):
        limelight.append_kv(token, token, cache, cache, slots, "auto", torch.ones(3))


def test_the_extension_refuses_what_contradicts_itself(kernels: torch.device) -> None:
    new = torch.zeros(1, 1, 1, 8, dtype=torch.half, device=kernels)
    cache = torch.zeros(1, 4, 1, 8, dtype=torch.half, device=kernels)
    places = Places(ints(0).to(kernels), None, None, None)
    with pytest.raises(ValueError, match="k_cache and v_cache must have the heads and headdims"):
        run_kernel(cache[..., :4], cache, new, new, places)
    with pytest.raises(ValueError, match="v must have the dtype of k"):
        run_kernel(cache, cache, new, new.bfloat16(), places)
    with pytest.raises(RuntimeError, match="dtype of k and v: allowed: float16, bfloat16"):
        run_kernel(cache.float(), cache.float(), new.float(), new.float(), places)
    with pytest.raises(RuntimeError, match="dtype of the caches: allowed: that of k and v"):
        run_kernel(cache.bfloat16(), cache.bfloat16(), new, new, places)
