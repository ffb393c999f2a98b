# SPDX-License-Identifier: BSD-3-Clause
from typing import TypedDict

from torch import Tensor

class KernelInfo(TypedDict):
    name: str
    op: str
    family: str
    headdim: int
    block_q: int
    block_kv: int
    warps: int
    stages: int
    smem_bytes: int
    tiles: str

class DeviceInfo(TypedDict):
    name: str
    capability: tuple[int, int]
    sm_count: int
    smem_optin: int
    driver: int
    runtime: int
    has_image: bool
    problem: str

class BuildInfo(TypedDict):
    version: str
    architectures: str
    cuda: int

def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seqused_q: Tensor | None,
    seqused_k: Tensor | None,
    alibi_slopes: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    rng_state: Tensor | None,
    softmax_scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    softcap: float,
    dropout_p: float,
    max_seqlen_q: int,
    max_seqlen_k: int,
    stream: int,
    /,
) -> None:
    """Launch the forward kernel of the current device on ``stream`` (a cudaStream_t).

    q (batch, seqlen_q, heads_q, headdim) or (total_q, heads_q, headdim) with cu_seqlens_q; k, v
    likewise with heads_kv; out like q with headdim_v; lse (batch, heads_q, seqlen_q) or (heads_q,
    total_q) float32; rng_state (2,) int64, needed when dropout_p > 0. ValueError for arguments that
    contradict each other, RuntimeError for what the kernel or the CUDA runtime refuses.
    """

def attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    dbias: Tensor | None,
    workspace: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seqused_q: Tensor | None,
    seqused_k: Tensor | None,
    alibi_slopes: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    rng_state: Tensor | None,
    softmax_scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    softcap: float,
    dropout_p: float,
    max_seqlen_q: int,
    max_seqlen_k: int,
    stream: int,
    /,
) -> None:
    """Launch the backward kernels of the current device on ``stream``.

    Writes dq, dk and dv, the gradients of sum(dout * out) + sum(dlse * lse), with the shapes of q,
    k and v, and dbias, unless it is None, with that of bias; out and lse are what attention_forward
    wrote. dlse is a contiguous lse. workspace is (2, *lse.shape) float32 and contiguous: afterwards
    delta = rowsum(dout * out) - dlse and lse * log2(e), 0 and +inf for rows that saw no key. Errors
    as attention_forward's.
    """

def kernels() -> list[KernelInfo]: ...
def device(index: int) -> DeviceInfo: ...
def build_info() -> BuildInfo: ...
