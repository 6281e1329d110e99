"""Attention as its definition reads, with the whole matrix of scores: the oracle."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.attention.pattern import Full, Landmark, Pattern, Prefix


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
    """Compute attention by its definition; gradients come from autograd alone.

    Args:
        q: queries [B, L, H, d].
        k: keys [B, M, Hkv, d]; query head h reads the head h // (H // Hkv).
        v: values [B, M, Hkv, d].
        score: "softmax" or "sigmoid".
        pattern: which keys a query sees.
        scale: of q.k; None means d ** -0.5.
        bias: added to the scores of a sigmoid: a number, or one for each head [H].
        slopes: what a key loses for each step of its distance, for each head [H].

    Returns:
        [B, L, H, d] in the promoted type of q, k and v. Everything is computed in that type, at
        least float32.
    """
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    dtype = torch.promote_types(out_dtype, torch.float32)
    shared = q.shape[2] // k.shape[2]
    queries, keys, values = (x.to(dtype).transpose(1, 2) for x in (q, k, v))
    keys, values = (x.repeat_interleave(shared, dim=1) for x in (keys, values))
    scores = queries @ keys.mT * (q.shape[3] ** -0.5 if scale is None else scale)
    i = torch.arange(k.shape[1] - q.shape[1], k.shape[1], device=q.device).unsqueeze(1)
    j = torch.arange(k.shape[1], device=q.device)
    if bias is not None:
        scores = scores + (bias.to(dtype)[:, None, None] if isinstance(bias, Tensor) else bias)
    if slopes is not None:
        scores = scores - slopes.to(dtype)[:, None, None] * (i - j).abs()
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        pattern = Prefix(pattern.length[:, None, None, None])
    visible = pattern.visible(i, j)
    if score == "sigmoid":
        weights = scores.sigmoid() * visible
    elif isinstance(pattern, Landmark):
        weights = _grouped_softmax(scores, visible, i // pattern.block, pattern.block)
    else:
        weights = _softmax(scores, visible)
    return (weights @ values).transpose(1, 2).to(out_dtype)


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """The softmax over what is visible of the last dimension; zeros where nothing is."""
    masked = scores.masked_fill(~visible, float("-inf"))
    largest = masked.amax(-1, keepdim=True).detach()
    powers = (masked - largest.masked_fill(largest.isinf(), 0)).exp()
    total = powers.sum(-1, keepdim=True)
    return powers / total.masked_fill(total == 0, 1)


def _grouped_softmax(scores: Tensor, visible: Tensor, own: Tensor, block: int) -> Tensor:
    """Weights of landmark attention, where a row's own block has the number `own` [L, 1]."""
    keys = scores.shape[-1]
    whole = keys // block
    key = torch.arange(keys, device=scores.device)
    is_landmark = key % block == block - 1
    first = _softmax(scores, visible & ((key // block == own) | is_landmark))
    tokens = scores[..., : whole * block].unflatten(-1, (whole, block))[..., :-1]
    # A landmark has a part in the first softmax only where its block is before the row's own.
    landmarks = first[..., block - 1 :: block].unsqueeze(-1)
    of_blocks = F.pad(landmarks * tokens.softmax(-1), (0, 1)).flatten(-2)
    return first * ~is_landmark + F.pad(of_blocks, (0, keys - whole * block))
