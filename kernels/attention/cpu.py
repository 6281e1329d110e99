"""Attention in plain torch, tile by tile of queries, and a gradient written by hand.

Everything here needs torch and plain modules of this folder (`work`, `part`, `pattern`, `visible`)
alone, so that a model which uses attention can carry these definitions with it. It runs on any
device; on a CPU it is the default.

The scores of a tile of queries are computed against the keys that some query of the tile sees, and
no others, used, and forgotten: the gradient computes them again. So neither time nor memory has a
part for what a pattern hides. Where torch's own scaled_dot_product_attention computes the same
(softmax, all keys or those before), it is used.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.attention.pattern import Causal, Full, Landmark, Pattern, Prefix
from nas.kernels.attention.work import Work, folded, unfolded, ungroup


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
) -> Tensor:
    """Compute attention, o_i = sum_j p_ij v_j over the keys j that query i sees.

    With "softmax" p_i is the softmax of the scores scale * q_i.k_j, with "sigmoid"
    p_ij = sigmoid(scale * q_i.k_j + bias) (Ramapuram et al. 2024, "Theory, Analysis, and Best
    Practices for Sigmoid Self-Attention": bias = -log L). A query that sees nothing gets 0.
    Differentiable once in q, k, v and bias.

    Args:
        q: queries [B, L, H, d].
        k: keys [B, M, Hkv, d]; query head h reads the head h // (H // Hkv).
        v: values [B, M, Hkv, d].
        score: "softmax" or "sigmoid".
        pattern: which keys a query sees.
        scale: of the scores; None means d ** -0.5.
        bias: of the sigmoid: a number, or a tensor with one for each head [H].
        slopes: what a score loses for each step of distance, for each head [H], without a gradient
            (Press et al. 2022, "ALiBi").

    Returns:
        [B, L, H, d] in the promoted type of q, k and v.
    """
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if in_library(q, k, score, pattern, scale, slopes):
        return library_attention(q, k, v, pattern, scale)
    lengths = None
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        lengths = pattern.length
    if bias is not None and not isinstance(bias, Tensor):
        bias = q.new_full((q.shape[2],), bias, dtype=torch.float32)
    out: Tensor = _Attention.apply(q, k, v, bias, slopes, lengths, pattern, score, scale)
    return out


def attention_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    score: str = "softmax",
    pattern: Pattern = Full(),  # noqa: B008 (it cannot change)
    scale: float | None = None,
    bias: float | Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Compute attention of the last query, over the keys so far; autograd differentiates it.

    Args:
        q: the query [B, H, d] of the position M - 1.
        k_cache: all keys up to its own [B, M, Hkv, d]. Where the pattern is a window, the last ones
            that it sees are enough.
        v_cache: their values [B, M, Hkv, d].
        score: "softmax" or "sigmoid".
        pattern: which keys a query sees. Where it looks back only, the result is that of the whole
            sequence; otherwise keys to come are missing.
        scale: of the scores; None means d ** -0.5.
        bias: of the sigmoid: a number, or a tensor with one for each head [H].
        slopes: what a score loses for each step of distance, for each head [H].

    Returns:
        [B, H, d] in the promoted type of the tensors.
    """
    lengths = None
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        lengths = pattern.length
    if bias is not None and not isinstance(bias, Tensor):
        bias = q.new_full((q.shape[1],), bias, dtype=torch.float32)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    out, _ = attention_forward(
        q.unsqueeze(1), k_cache, v_cache, bias, slopes, lengths, pattern, score, scale
    )
    return out.squeeze(1)


def in_library(
    q: Tensor, k: Tensor, score: str, pattern: Pattern, scale: float, slopes: Tensor | None
) -> bool:
    """Whether torch's scaled_dot_product_attention computes the same."""
    # Its causal mask begins at the first key, and not so that the last query is at the last.
    square = isinstance(pattern, Causal) and q.shape[1] == k.shape[1]
    simple = score == "softmax" and slopes is None and (isinstance(pattern, Full) or square)
    # It masks before it scales: with 0 or less, -inf becomes NaN or inf.
    return simple and scale > 0


def library_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
    """Let torch compute what is `in_library`."""
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2).to(dtype),
        k.transpose(1, 2).to(dtype),
        v.transpose(1, 2).to(dtype),
        is_causal=isinstance(pattern, Causal),
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        slopes: Tensor | None,
        lengths: Tensor | None,
        pattern: Pattern,
        score: str,
        scale: float,
    ) -> Tensor:
        out, lse = attention_forward(q, k, v, bias, slopes, lengths, pattern, score, scale)
        ctx.save_for_backward(q, k, v, bias, slopes, lengths, out, lse)
        ctx.how = pattern, score, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "attention can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        q, k, v, bias, slopes, lengths, out, lse = ctx.saved_tensors
        *grads, grad_bias = attention_backward(
            q, k, v, bias, slopes, lengths, out, lse, grad_out, *ctx.how
        )
        return *grads, None if bias is None else grad_bias.to(bias.dtype), *[None] * 5


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
    """Compute attention without a gradient.

    Args:
        q: [B, L, H, d].
        k: [B, M, Hkv, d].
        v: [B, M, Hkv, d].
        bias: of the sigmoid [H].
        slopes: [H].
        lengths: of the prefixes [B], where they are a tensor.
        pattern: which keys a query sees.
        score: "softmax" or "sigmoid".
        scale: of the scores.

    Returns:
        The output [B, L, H, d] in the promoted type of q, k and v, and [0]: other implementations
        keep something of a softmax for its gradient.
    """
    work = Work(q, k, v, bias, slopes, lengths, pattern, score, scale)
    out = torch.zeros_like(work.q)
    with _without_autocast(q):
        for part in work.parts():
            part.store(out, work.weights(part) @ part.of_keys(work.v))
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    return unfolded(out, q, work.shared).to(dtype), out.new_empty(0)


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
    """Compute the gradients of q, k, v in their types, and of the bias [H], at least float32.

    With P the weights and dP = grad_out v' their gradients, those of the scores are
    P (dP - rowsum(grad_out * out)) for a softmax and P (1 - P) dP for a sigmoid.
    """
    work = Work(q, k, v, bias, slopes, lengths, pattern, score, scale)
    grad = folded(grad_out, work.shared, work.q.dtype)
    grad_q, grad_k, grad_v = (torch.zeros_like(x) for x in (work.q, work.k, work.v))
    grad_bias = work.q.new_zeros(work.q.shape[0], work.shared)
    mean = (grad * folded(out, work.shared, work.q.dtype)).sum(-1, keepdim=True)
    with _without_autocast(q):
        for part in work.parts():
            weights, incoming = work.weights(part), part.of_rows(grad)
            part.add_to_keys(grad_v, weights.mT @ incoming)
            grad_scores = incoming @ part.of_keys(work.v).mT
            if score == "sigmoid":
                grad_scores.mul_(torch.addcmul(weights, weights, weights, value=-1))
                of_stack = part.by_head(grad_scores).sum((1, 3)).unflatten(0, (-1, part.stack))
                grad_bias[part.heads] += of_stack.sum(1)
            else:
                grad_scores.sub_(part.of_rows(mean)).mul_(weights)
                if isinstance(pattern, Landmark):
                    ungroup(grad_scores, weights, part, pattern.block)
            part.store(grad_q, grad_scores @ part.of_keys(work.k))
            part.add_to_keys(grad_k, grad_scores.mT @ part.of_rows(work.q))
    # work.q already has the scale that the gradient of k needs.
    grad_q = unfolded(grad_q.mul_(scale), q, work.shared).to(q.dtype)
    grad_k, grad_v = (unfolded(x, k, 1) for x in (grad_k, grad_v))
    grads = grad_bias.unflatten(0, (q.shape[0], k.shape[2])).sum(0).flatten()
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grads


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Keep autocast off: it would take products in another type than what they are added to."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
