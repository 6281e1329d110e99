"""The linear recurrence h_t = A_t h_{t-1} + b_t with a full matrix, for small states.

In chunks, as the other scans: the effect of each chunk is the product of its matrices and a local
state, all chunks at once. That multiplies matrices with matrices, N^3 a step where the loop over
time needs N^2, and is worth it as long as launches are what costs.
"""

import math
from typing import Any

import torch
from torch import Tensor

# Up to this many numbers in a state, chunks; above, a loop over time.
LARGEST_CHUNKED = 32


def dense_scan(a: Tensor, b: Tensor, initial_state: Tensor) -> Tensor:
    """Compute h_t = A_t h_{t-1} + b_t.

    Differentiable once in b and the initial state; the matrices are constants, and may not ask for
    a gradient.

    Args:
        a: matrices [B, L, N, N].
        b: inputs [B, L, N].
        initial_state: h before the first step [B, N].

    Returns:
        The states [B, L, N].
    """
    return _DenseScan.apply(a, b, initial_state)


class _DenseScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, initial_state: Tensor) -> Tensor:
        assert not ctx.needs_input_grad[0], "the matrices are constants"
        ctx.save_for_backward(a)
        return _scan(a, b, initial_state)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("dense_scan can be differentiated only once")
        (a,) = ctx.saved_tensors
        # g_t = grad_t + A_{t+1}' g_{t+1}, from the last step to the first; after the last: nothing.
        following = torch.zeros_like(a)
        following[:, :-1] = a[:, 1:].mT
        found = _scan(following.flip(1), grad.flip(1), torch.zeros_like(grad[:, 0])).flip(1)
        first = (a[:, 0].mT @ found[:, 0].unsqueeze(-1)).squeeze(-1)
        return None, found, first


def _scan(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    batch, length, width = b.shape
    chunk = 2 ** round(math.log2(length) / 2)
    if width > LARGEST_CHUNKED or length < 16:
        chunk = length
    chunks = -(-length // chunk)
    matrices = _time_major(a, chunks, chunk)
    values = _time_major(b.unsqueeze(-1), chunks, chunk)
    current = state.unsqueeze(-1)
    if chunks > 1:
        entering = _entering_states(matrices, values, current)
        if entering is None:
            return _in_one_chunk(a, b, state)
        current = entering
    for k in range(chunk):
        current = torch.baddbmm(values[k], matrices[k], current, out=values[k])
    return values.view(chunk, batch, chunks, width).permute(1, 2, 0, 3).flatten(1, 2)[:, :length]


def _in_one_chunk(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    current, outputs = state.unsqueeze(-1), []
    for matrix, value in zip(a.unbind(1), b.unsqueeze(-1).unbind(1), strict=True):
        current = torch.baddbmm(value, matrix, current)
        outputs.append(current)
    return torch.cat(outputs, dim=-1).mT


def _entering_states(matrices: Tensor, values: Tensor, state: Tensor) -> Tensor | None:
    """Compute the state [B * n, N, 1] that enters each chunk; None where a product overflows."""
    effect = torch.cat([matrices[0], values[0]], dim=-1)
    for matrix, value in zip(matrices[1:], values[1:], strict=True):
        effect = torch.bmm(matrix, effect)
        effect[..., -1:] += value
    if not effect.sum().isfinite():
        return None
    effect = effect.unflatten(0, (len(state), -1))
    states = [state]
    for part in effect.unbind(1)[:-1]:
        states.append(torch.baddbmm(part[..., -1:], part[..., :-1], states[-1]))
    return torch.stack(states, dim=1).flatten(0, 1)


def _time_major(x: Tensor, chunks: int, chunk: int) -> Tensor:
    """Copy [B, L, N, M] to [C, B * n, N, M], zeros after the end."""
    batch, length = x.shape[:2]
    out = x.new_zeros(chunk, batch, chunks, *x.shape[2:])
    view = out.permute(1, 2, 0, 3, 4)
    full = length // chunk
    view[:, :full] = x[:, : full * chunk].unflatten(1, (full, chunk))
    if full < chunks:
        view[:, full, : length - full * chunk] = x[:, full * chunk :]
    return out.flatten(1, 2)
