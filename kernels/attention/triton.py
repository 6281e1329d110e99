"""Attention and its gradient in Triton: what `triton_kernels` computes, launched.

Scores and sums are float32, products take the inputs' common type. Nothing is written twice, so
that the gradients do not depend on the order in which programs run.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.attention.pattern import (
    UNLIMITED,
    Causal,
    Chunk,
    Dilated,
    Fixed,
    Full,
    Landmark,
    Pattern,
    Prefix,
)
from nas.kernels.attention.triton_kernels import forward_kernel, grad_kv_kernel, grad_q_kernel
from nas.kernels.dispatch import interpreting

_NUMBERS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    pattern: Pattern,
    score: str,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Compute the output as `cpu.attention_forward` does, and what a softmax keeps.

    That is log2 of the sum of a query's powers of 2, [B, H, L] in float32 (for a sigmoid [0]).
    """
    q, k, v = (_unit_stride(x) for x in (q, k, v))
    batch, queries, heads, _ = q.shape
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    out = torch.empty(q.shape, dtype=dtype, device=q.device)
    rows = (batch, heads, queries) if score == "softmax" else (0,)
    lse = torch.empty(rows, dtype=torch.float32, device=q.device)
    kind = _kind(pattern)
    with torch.cuda.device_of(q):
        forward_kernel[_row_grid(q, kind)](
            q, k, v, *_extras(q, bias, slopes, lengths, pattern), out, lse,
            queries, k.shape[1], heads, heads // k.shape[2], scale,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            **_constants(q, dtype, bias, slopes, kind, score),
        )  # fmt: skip
    return out, lse


def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    pattern: Pattern,
    score: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k, v and the bias as `cpu.attention_backward` does."""
    q, k, v, grad_out = (_unit_stride(x) for x in (q, k, v, grad_out))
    batch, queries, heads, _ = q.shape
    keys, kv_heads = k.shape[1], k.shape[2]
    grad_q, grad_k, grad_v = (
        torch.empty(x.shape, dtype=x.dtype, device=q.device) for x in (q, k, v)
    )
    rows = (batch, heads, queries)
    mean = torch.empty(rows if score == "softmax" else (0,), dtype=torch.float32, device=q.device)
    row_bias = torch.empty(rows if bias is not None else (0,), dtype=torch.float32, device=q.device)
    kind = _kind(pattern)
    extras = _extras(q, bias, slopes, lengths, pattern)
    strides = [n for x in (q, k, v, grad_out) for n in x.stride()[:3]]
    sizes = heads, heads // kv_heads, scale, *strides
    constants = _constants(q, out.dtype, bias, slopes, kind, score)
    tiles = _key_tiles(keys, kind, constants["BLOCK_N"])
    with torch.cuda.device_of(q):
        grad_q_kernel[_row_grid(q, kind)](
            q, k, v, *extras, out.contiguous(), lse, grad_out,
            grad_q, mean, row_bias,
            queries, keys, *sizes, **constants,
        )  # fmt: skip
        grad_kv_kernel[(batch * kv_heads * tiles,)](
            q, k, v, *extras, lse, grad_out, mean,
            grad_k, grad_v,
            queries, keys, tiles, *sizes, **constants,
        )  # fmt: skip
    if bias is None:
        grad_bias = torch.zeros(heads, dtype=torch.float32, device=q.device)
    else:
        grad_bias = row_bias.sum((0, 2))
    return grad_q, grad_k, grad_v, grad_bias


def _kind(pattern: Pattern) -> tuple[str, int, int, int]:
    """A pattern as the kernels know it: see `triton_tiles`."""
    if isinstance(pattern, Full):
        return "band", UNLIMITED, UNLIMITED, 1
    if isinstance(pattern, Causal):
        return "band", UNLIMITED, 0, 1
    if isinstance(pattern, Chunk):
        return "chunk", pattern.size, pattern.after, 1
    if isinstance(pattern, Fixed):
        return "fixed", pattern.stride, pattern.summary, 1
    if isinstance(pattern, Prefix):
        return "prefix", 0, 0, 1
    if isinstance(pattern, Landmark):
        return "landmark", pattern.block, 0, 1
    return "band", *pattern.reach, pattern.stride if isinstance(pattern, Dilated) else 1


def _row_grid(q: Tensor, kind: tuple[str, int, int, int]) -> Callable[[dict[str, int]], tuple[int]]:
    batch, queries, heads, _ = q.shape
    stride = kind[3]

    def grid(config: dict[str, int]) -> tuple[int]:
        tiles = stride * triton.cdiv(triton.cdiv(queries, stride), config["BLOCK_M"])
        return (batch * heads * tiles,)

    return grid


def _key_tiles(keys: int, kind: tuple[str, int, int, int], block: int) -> int:
    """How many tiles of keys `grad_kv_kernel` has."""
    word, first, second, stride = kind
    if word == "landmark":
        return triton.cdiv(keys, first)
    tiles: int = stride * triton.cdiv(triton.cdiv(keys, stride), block)
    if word == "fixed":
        tiles += triton.cdiv(triton.cdiv(keys, first) * second, block)
    return tiles


def _extras(
    q: Tensor, bias: Tensor | None, slopes: Tensor | None, lengths: Tensor | None, pattern: Pattern
) -> tuple[Tensor, Tensor, Tensor]:
    """The bias, slopes and lengths; q where there are none, and nothing is read."""
    if isinstance(pattern, Prefix) and lengths is None:
        lengths = torch.full(q.shape[:1], pattern.length, dtype=torch.int32, device=q.device)
    found = (q if x is None else x.contiguous() for x in (bias, slopes, lengths))
    first, second, third = found
    return first, second, third


def _constants(
    q: Tensor,
    dtype: torch.dtype,
    bias: Tensor | None,
    slopes: Tensor | None,
    kind: tuple[str, int, int, int],
    score: str,
) -> dict[str, Any]:
    """The kernels' compile-time arguments."""
    width = q.shape[3]
    block_d = max(16, triton.next_power_of_2(width))
    # So that a tile of keys fits into shared memory more than once.
    block_n = min(64, max(16, 64 * 128 * 2 // (block_d * dtype.itemsize)))
    if kind[0] == "landmark":
        block_n = max(16, triton.next_power_of_2(kind[1]))
    elif interpreting():
        block_n = 16
    return {
        "KIND": kind[0], "A": kind[1], "B": kind[2], "C": kind[3],
        "SIGMOID": score == "sigmoid",
        "HAS_BIAS": bias is not None,
        "HAS_SLOPES": slopes is not None,
        "width": width, "BLOCK_D": block_d, "BLOCK_N": block_n,
        # The interpreter's arithmetic of bfloat16 is wrong.
        "NUMBER": tl.float32 if interpreting() else _NUMBERS[dtype],
        "PRECISION": "tf32x3", "enable_fp_fusion": True,
    }  # fmt: skip


def _unit_stride(tensor: Tensor) -> Tensor:
    """Keep any layout whose channels lie side by side: thirds of a projection, repeated heads."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
