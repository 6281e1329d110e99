"""Attention's public functions: one signature, whichever implementation runs.

The implementations of this package are registered with torch as operators, the gradient as one of
its own, so that compiling, exporting and tracing see one node of known shapes. Which implementation
an operator runs is an argument, decided before: an operator must not look at the environment. What
torch's own scaled_dot_product_attention computes is left to it, unless a backend is asked for.
"""

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.attention import cpu, reference
from nas.kernels.attention.cpu import attention_step
from nas.kernels.attention.pattern import Full, Landmark, Pattern, Prefix, pack, unpack
from nas.kernels.dispatch import ENVIRONMENT_VARIABLE, choose_backend

__all__ = ["attention", "attention_step"]

SCORES = ("softmax", "sigmoid")
LARGEST_HEAD = 256  # of the Triton kernels
LARGEST_BLOCK = 128  # of landmark attention
LARGEST_TILE = 2**13  # of a landmark block and its channels, each up to a power of 2


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    score: str = "softmax",
    pattern: Pattern = Full(),  # noqa: B008 (it cannot change)
    scale: float | None = None,
    bias: float | Tensor | None = None,
    slopes: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute attention, o_i = sum_j p_ij v_j over the keys j that query i sees.

    With "softmax" p_i is the softmax of the scores scale * q_i.k_j, with "sigmoid"
    p_ij = sigmoid(scale * q_i.k_j + bias) (Ramapuram et al. 2024, "Theory, Analysis, and Best
    Practices for Sigmoid Self-Attention": bias = -log L). A query that sees nothing gets 0.
    Differentiable once in q, k, v and bias.

    Args:
        q: queries [B, L, H, d].
        k: keys [B, M, Hkv, d]; query head h reads the head h // (H // Hkv). Where L is not M, the
            last query is at the last key.
        v: values [B, M, Hkv, d].
        score: "softmax" or "sigmoid".
        pattern: which keys a query sees, one of those of `nas.kernels.attention.pattern`.
        scale: of the scores; None means d ** -0.5.
        bias: of the sigmoid: a number, or a tensor with one for each head [H].
        slopes: what a score loses for each step of distance, for each head [H], without a gradient
            (Press et al. 2022, "ALiBi").
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device,
            but leaves a softmax over all keys, or those before, to torch's own attention. Triton
            takes heads of up to 256 channels, landmark blocks of up to 64 tokens of 128 channels
            (or 128 of 64) and no float64: beyond, the plain-torch path runs on its device, which
            is slower.

    Returns:
        [B, L, H, d] in the promoted type of q, k and v (scores and sums are at least float32).

    Raises:
        ValueError: shapes or devices that do not belong together, an unknown score or backend, or a
            score that its pattern or bias does not go with.
        TypeError: tensors that are not of a real floating-point type (lengths of a prefix: of an
            integer one), or something else than a pattern.
    """
    lengths = _check(q, k, v, score, pattern, bias, slopes)
    chosen = choose_backend(q.device, backend)
    if chosen == "reference":
        return reference.attention(
            q, k, v, score=score, pattern=pattern, scale=scale, bias=bias, slopes=slopes
        )
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    asked = backend is not None or bool(os.environ.get(ENVIRONMENT_VARIABLE))
    if (chosen == "cpu" or not asked) and cpu.in_library(q, k, score, pattern, scale, slopes):
        return cpu.library_attention(q, k, v, pattern, scale)
    if bias is not None and not isinstance(bias, Tensor):
        bias = q.new_full((q.shape[2],), bias, dtype=torch.float32)
    if chosen == "triton" and not _in_triton(q, k, v, pattern):
        chosen = "cpu"
    out, _ = _forward(q, k, v, bias, slopes, lengths, *pack(pattern), score, scale, chosen)
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score: str,
    pattern: Pattern,
    bias: float | Tensor | None,
    slopes: Tensor | None,
) -> Tensor | None:
    """Check the arguments; return the lengths of a pattern that has them in a tensor."""
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape or 0 in q.shape or 0 in k.shape:
        raise ValueError(
            "q must be [B, L, H, d], k and v both [B, M, Hkv, d], none of them empty; they are "
            f"{list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[2] % k.shape[2]:
        raise ValueError(
            "q and k must agree in B and d, and the heads of k divide those of q; they are "
            f"{list(q.shape)} and {list(k.shape)}"
        )
    if score not in SCORES:
        raise ValueError(f"score is {score!r}: choose one of {', '.join(SCORES)}")
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be one of nas.kernels.attention.pattern, and is {pattern!r}")
    if score == "sigmoid" and isinstance(pattern, Landmark):
        raise ValueError("landmark attention is a grouped softmax: there is none with a sigmoid")
    if score == "softmax" and bias is not None:
        raise ValueError("a bias changes nothing in a softmax: it is for score='sigmoid'")
    tensors = {"q": q, "k": k, "v": v}
    for name, tensor in {"bias": bias, "slopes": slopes}.items():
        if isinstance(tensor, Tensor):
            tensors[name] = tensor
            if tensor.shape != q.shape[2:3]:
                raise ValueError(
                    f"{name} must be [H] = [{q.shape[2]}], and is {list(tensor.shape)}"
                )
    if slopes is not None and slopes.requires_grad:
        raise ValueError("slopes have no gradient: pass slopes.detach()")
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
    lengths = None
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        lengths = tensors["lengths"] = pattern.length
        if lengths.shape != q.shape[:1]:
            raise ValueError(f"lengths must be [B] = [{q.shape[0]}], and are {list(lengths.shape)}")
        if lengths.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"lengths must be integers, and are {lengths.dtype}")
    for name, tensor in tensors.items():
        if tensor.device != q.device:
            raise ValueError(f"q is on {q.device} and {name} on {tensor.device}: move one of them")
    return lengths


def _in_triton(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> bool:
    """Whether the Triton kernels take this; otherwise the plain-torch path runs on the device."""
    width = q.shape[3]
    if width > LARGEST_HEAD or torch.float64 in (q.dtype, k.dtype, v.dtype):
        return False
    if isinstance(pattern, Landmark):
        # A block is one tile of keys.
        block = _tile(pattern.block)
        return block <= LARGEST_BLOCK and block * _tile(width) <= LARGEST_TILE
    return True


def _tile(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.attention import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    kind: str,
    numbers: Sequence[int],
    score: str,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    pattern = unpack(kind, list(numbers), lengths)
    out, lse = _implementation(backend).attention_forward(
        q, k, v, bias, slopes, lengths, pattern, score, scale
    )
    return out, lse


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    kind: str,
    numbers: Sequence[int],
    score: str,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    batch, length, heads, _ = q.shape
    shape = (batch, heads, length) if score == "softmax" and backend == "triton" else (0,)
    lse = q.new_empty(shape, dtype=torch.promote_types(dtype, torch.float32))
    return q.new_empty(q.shape, dtype=dtype), lse


@torch.library.custom_op("nas::attention_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    kind: str,
    numbers: Sequence[int],
    score: str,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pattern = unpack(kind, list(numbers), lengths)
    grad_q, grad_k, grad_v, grad_bias = _implementation(backend).attention_backward(
        q, k, v, bias, slopes, lengths, out, lse, grad_out, pattern, score, scale
    )
    return grad_q, grad_k, grad_v, grad_bias


@_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    kind: str,
    numbers: Sequence[int],
    score: str,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bias_dtype = torch.promote_types(out.dtype, torch.float32)
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        q.new_empty(q.shape[2:3], dtype=bias_dtype),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, slopes, lengths, *ctx.how = inputs
    ctx.save_for_backward(q, k, v, bias, slopes, lengths, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return (None,) * 11
    bias = ctx.saved_tensors[3]
    *grads, grad_bias = _backward(*ctx.saved_tensors, grad_out, *ctx.how)
    return *grads, None if bias is None else grad_bias.to(bias.dtype), *[None] * 7


_forward.register_autograd(_differentiate, setup_context=_save)
