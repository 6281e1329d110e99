"""The loops under the diagonal scan in plain torch: two levels of them, and no gradient.

A loop over L steps costs L launches of a few microseconds each. Cut into n chunks of C steps, all
chunks can step together: one pass over the chunks gives each chunk's effect on a state (its last
local state and the product of its gates), a loop over the n chunks gives the state that enters
each, and a second pass from those states gives the outputs. That is 2C + n launches instead of L.
Nothing is divided by and no logarithm is taken: gates may be negative, complex, tiny or exactly
zero.
"""

import math

import torch
from torch import Tensor

# From this many channels (B * D) on, a step's arithmetic costs more than its launch, and the plain
# loop, which reads its operands once and not twice, is as fast.
LOOP_CHANNELS = 4096


def scan(a: Tensor, b: Tensor, state: Tensor, reverse: bool, out: Tensor | None = None) -> Tensor:
    """Scan tensors of one type from `state` [B, D], into `out` [B, L, D] if given."""
    batch, length, width = a.shape
    if out is None:
        out = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    if batch * width >= LOOP_CHANNELS or length < 16:
        _loop(a, b, state, reverse, out, dim=1)
        return out

    chunk = 2 ** round(math.log2(length) / 2)
    chunks = length // chunk
    # What does not fill a chunk is left to the end, in the direction of the scan.
    left = length - chunks * chunk
    body, rest = (slice(left, None), slice(left)) if reverse else (slice(-left), slice(-left, None))
    if left == 0:
        body = slice(None)
    chunked_a, chunked_b, chunked_out = (
        tensor[:, body].unflatten(1, (chunks, chunk)) for tensor in (a, b, out)
    )
    entering = _entering_states(chunked_a, chunked_b, state, reverse)
    if entering is None:
        _loop(a, b, state, reverse, out, dim=1)
        return out
    _loop(chunked_a, chunked_b, entering, reverse, chunked_out, dim=2)
    if left > 0:
        state = out[:, left if reverse else length - left - 1]
        _loop(a[:, rest], b[:, rest], state, reverse, out[:, rest], dim=1)
    return out


def _loop(a: Tensor, b: Tensor, state: Tensor, reverse: bool, out: Tensor, dim: int) -> None:
    """Write the scan along `dim` into `out`, one step at a time."""
    for gate, value, place in zip(*(_steps(x, dim, reverse) for x in (a, b, out)), strict=True):
        torch.addcmul(value, gate, state, out=place)
        state = place


def _entering_states(a: Tensor, b: Tensor, state: Tensor, reverse: bool) -> Tensor | None:
    """Compute the state that enters each chunk of a, b [B, chunks, steps, D]: [B, chunks, D].

    Returns None where a product of gates is beyond the number range. The state may still be within
    it (it may be zero), so that only the plain loop can tell.
    """
    gates, values = _steps(a, 2, reverse), _steps(b, 2, reverse)
    product = a.prod(2)
    local = torch.addcmul(values[1], gates[1], values[0])
    for gate, value in zip(gates[2:], values[2:], strict=True):
        torch.addcmul(value, gate, local, out=local)
    if not (product.sum() + local.sum()).isfinite():
        return None
    entering = torch.empty_like(local)
    places = _steps(entering, 1, reverse)
    places[0].copy_(state)
    gates, values = _steps(product, 1, reverse)[:-1], _steps(local, 1, reverse)[:-1]
    for gate, value, before, after in zip(gates, values, places[:-1], places[1:], strict=True):
        torch.addcmul(value, gate, before, out=after)
    return entering


def _steps(tensor: Tensor, dim: int, reverse: bool) -> tuple[Tensor, ...]:
    """Take a tensor apart along `dim`, in the order in which a scan meets the parts."""
    parts = tensor.unbind(dim)
    return parts[::-1] if reverse else parts
