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
    leftpad_k: Tensor | None,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
    alibi_slopes: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    rng_state: Tensor | None,
    q_descale: Tensor | None,
    k_descale: Tensor | None,
    v_descale: Tensor | None,
    workspace: Tensor | None,
    softmax_scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    attention_chunk: int,
    softcap: float,
    dropout_p: float,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_splits: int,
    batch_invariant: bool,
    stream: int,
    /,
) -> None:
    """Launch the forward kernel of the current device on ``stream`` (a cudaStream_t).

    q (batch, seqlen_q, heads_q, headdim) or (total_q, heads_q, headdim) with cu_seqlens_q; k, v
    likewise with heads_kv; out like q with headdim_v; lse (batch, heads_q, seqlen_q) or (heads_q,
    total_q) float32; rng_state (2,) int64, needed when dropout_p > 0; descales (batch, heads_kv)
    float32, of float8 q, k and v, whose out has 16 bits. ValueError for arguments that contradict
    each other, RuntimeError for what the kernel or the CUDA runtime refuses.
    """

def attention_forward_workspace(
    fp8: bool,
    batch: int,
    heads_q: int,
    heads_kv: int,
    headdim: int,
    headdim_v: int,
    total_q: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scores_by_head: bool,
    softmax_scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    softcap: float,
    dropout_p: float,
    num_splits: int,
    batch_invariant: bool,
    /,
) -> int:
    """Bytes of attention_forward's workspace on the current device; 0 where keys are not split.

    total_q: rows of packed sequences, 0 of dense q. scores_by_head: ALiBi slopes or a bias.
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
    attention_chunk: int,
    softcap: float,
    dropout_p: float,
    max_seqlen_q: int,
    max_seqlen_k: int,
    stream: int,
    /,
) -> None:
    """Launch the backward kernels of the current device on ``stream``.

    Writes dq, dk and dv, the gradients of sum(dout * out) + sum(dlse * lse), with the shapes of q,
    k and v, and dbias, unless it is None; out and lse are what attention_forward wrote. dbias has
    bias's shape, or a full extent where bias has 1: then it holds parts of the sum. dlse is a
    contiguous lse. workspace is (2, *lse.shape) float32 and contiguous: afterwards delta =
    rowsum(dout * out) - dlse and lse * log2(e), 0 and +inf for rows that saw no key. Errors as
    attention_forward's.
    """

def append_kv(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | None,
    cu_seqlens_k_new: Tensor | None,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
    slot_mapping: Tensor | None,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    rotary_cos: Tensor | None,
    rotary_sin: Tensor | None,
    q: Tensor | None,
    q_out: Tensor | None,
    cu_seqlens_q: Tensor | None,
    seqlens_out: Tensor | None,
    rotary_interleaved: bool,
    rotate_q_by_row: bool,
    stream: int,
    /,
) -> None:
    """Launch the append kernel: new tokens into caches, rotary embedding of k and q.

    k, v (batch, seqlen_new, heads_kv, headdim), or (total, heads_kv, headdim) with cu_seqlens_k_new
    or slot_mapping (int64, at most total), float16 or bfloat16; caches (rows or pages, row size,
    heads_kv, headdim) of k's dtype or float8_e4m3fn, which takes k / k_scale. k_scale, v_scale
    (batch, heads_kv) float32, (1, heads_kv) with slot_mapping. q_out receives q turned, seqlens_out
    (batch,) int32 the lengths after the call. Errors as attention_forward's.
    """

def flat_gemm(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight_scale: Tensor | None,
    weight_zero: Tensor | None,
    out_scale: Tensor | None,
    workspace: Tensor | None,
    tickets: Tensor | None,
    kernel: int,
    splits: int,
    activation: int,
    batch_invariant: bool,
    stream: int,
    programmatic: bool = False,
) -> None:
    """out (M, N) = activation(x (M, K) @ weight (N, K).T + bias (N,)) + residual (M, N).

    activation: 0 none, 1 gelu (erf), 2 gelu (tanh), 3 silu, 4 silu(gate) * up, where weight and
    bias have 2N rows, gate first. kernel: 0 gemv (M <= 8), 1 flat (M <= 128). splits: 0 for the
    library's choice, else pieces of K. weight has the dtype of x, or float8_e4m3fn with
    weight_scale float32 (N,) or (ceil(N / 128), ceil(K / 128)), or is uint8 (N, K / 2) of INT4
    pairs, low nibble first, with weight_scale (N, K / group) in the dtype of x and weight_zero
    uint8 (N, K / group) of 0 to 127 or None for 8. out has the dtype of x, or is float8_e4m3fn
    with out_scale float32 of one element. workspace: uint8, flat_gemm_workspace bytes.
    tickets: int32 (flat_gemm_tickets(),), zeros before and after every call, of one stream at a
    time; with workspace None where that has no bytes. programmatic: the kernel may read weight
    before the previous kernel on the stream has ended. Errors as attention_forward's.
    """

def flat_gemm_workspace(
    m: int,
    n: int,
    k: int,
    weight_format: int,
    kernel: int,
    splits: int,
    activation: int,
    /,
) -> int:
    """Bytes of workspace on the current device; weight_format: 0 16-bit, 1 FP8, 2 INT4."""

def flat_gemm_tickets() -> int: ...
def attention_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seqused_q: Tensor | None,
    seqused_k: Tensor | None,
    leftpad_k: Tensor | None,
    cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
    alibi_slopes: Tensor | None,
    sink: Tensor | None,
    k_descale: Tensor | None,
    v_descale: Tensor | None,
    tree_mask: Tensor | None,
    workspace: Tensor | None,
    schedule: Tensor | None,
    softmax_scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    attention_chunk: int,
    softcap: float,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_splits: int,
    batch_invariant: bool,
    unified_max: float | None,
    stream: int,
    /,
) -> None:
    """Launch the decode kernels on ``stream``: split-KV attention, any cache layout.

    q, out, lse as in attention_forward. k, v dense (batch, seqlen_k, heads_kv, headdim), ragged
    (total_k, heads_kv, headdim) with cu_seqlens_k, rows of a cache with cache_batch_idx (batch,),
    or pages (num_pages, page_size, heads_kv, headdim) with block_table (batch, max_pages); the
    dtype of q or float8_e4m3fn. Strides are multiples of 8 elements (float8: 16). k_descale,
    v_descale (batch, heads_kv) float32, any strides. tree_mask (batch, max_seqlen_q,
    ceil(max_seqlen_q / 32)) int32: bit j of row i says that new token i sees new token j.

    workspace: uint8, attention_decode_workspace bytes, may be uninitialised. schedule: None, or
    what attention_schedule wrote for the same lengths and options; used by one stream at a time.
    """

def attention_decode_workspace(
    batch: int,
    heads_q: int,
    heads_kv: int,
    headdim: int,
    headdim_v: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_splits: int,
    batch_invariant: bool,
    /,
) -> int:
    """Bytes of workspace of a decode call, with room for its schedule; touches no device memory.

    max_seqlen_q: q's seqlen where dense. max_seqlen_k: k's seqlen where dense, max_pages *
    page_size where paged.
    """

def attention_schedule_size(
    batch: int,
    heads_q: int,
    heads_kv: int,
    headdim: int,
    headdim_v: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_splits: int,
    batch_invariant: bool,
    /,
) -> int:
    """Elements of the int32 schedule of a decode call; arguments as in the workspace query."""

def attention_schedule(
    schedule: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seqused_q: Tensor | None,
    seqused_k: Tensor | None,
    leftpad_k: Tensor | None,
    batch: int,
    heads_q: int,
    heads_kv: int,
    headdim: int,
    headdim_v: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
    window_left: int,
    window_right: int,
    attention_chunk: int,
    num_splits: int,
    batch_invariant: bool,
    stream: int,
    /,
) -> None:
    """Write the schedule (attention_schedule_size elements of int32) of a decode call on stream.

    It depends on lengths, extents, mask bounds, num_splits and batch_invariant: the calls that use
    it must have the same.
    """

def attention_combine(
    partial_out: Tensor, partial_lse: Tensor, out: Tensor, lse: Tensor, stream: int, /
) -> None:
    """Merge partial results over disjoint keys by their log-sum-exp, in the order of the splits.

    partial_out (splits, batch, seqlen, heads, headdim), float32 or the dtype of out; partial_lse
    (splits, batch, heads, seqlen) float32; out (batch, seqlen, heads, headdim) 16 bits or float32;
    lse (batch, heads, seqlen) float32. Any strides with out's and partial_out's last dimension
    contiguous. A split with lse = -inf (or +inf) counts for nothing, whatever its out holds.
    """

def kernels() -> list[KernelInfo]: ...
def device(index: int) -> DeviceInfo: ...
def build_info() -> BuildInfo: ...
