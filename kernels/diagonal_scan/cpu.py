"""The diagonal scan in plain torch: two levels of loops, and a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses the scan
can carry these definitions with it. It runs on any device; on a CPU it is the default.

A loop over L steps costs L launches of a few microseconds each. Cut into n chunks of C steps, all
chunks can step together: one pass over the chunks gives each chunk's effect on a state (its last
local state and the product of its gates), a loop over the n chunks gives the state that enters
each, and a second pass from those states gives the outputs. That is 2C + n launches instead of L.
Nothing is divided by and no logarithm is taken: gates may be negative, tiny or exactly zero.
"""

import math
from typing import Any

import torch
from torch import Tensor

# From this many channels (B * D) on, a step's arithmetic costs more than its launch, and the plain
# loop, which reads its operands once and not twice, is as fast.
LOOP_CHANNELS = 4096


def diagonal_scan(
    a: Tensor, b: Tensor, initial_state: Tensor | None = None, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t h_{t-1} + b_t over a sequence.

    Differentiable once in every argument, through both results.

    Args:
        a: gates [B, L, D], any real numbers.
        b: inputs [B, L, D].
        initial_state: h before the first step [B, D]; None means zero.
        reverse: run from the last step to the first, h_t = a_t h_{t+1} + b_t.

    Returns:
        h [B, L, D] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D], at least float32 (half types are accumulated in float32).
    """
    h, final_state = _DiagonalScan.apply(a, b, initial_state, reverse)
    return h, final_state


def diagonal_scan_step(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of the scan, h = a * state + b.

    Args:
        a: gates of this step [B, D].
        b: inputs of this step [B, D].
        state: h of the step before [B, D], float32 at least.

    Returns:
        h [B, D] in the promoted type of `a` and `b`, and the same in the state's own type: the
        state of the next step.
    """
    state = torch.addcmul(b.to(state.dtype), a.to(state.dtype), state)
    return state.to(torch.promote_types(a.dtype, b.dtype)), state


class _DiagonalScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, initial_state: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        h, final_state = scan_forward(a, b, initial_state, reverse)
        ctx.save_for_backward(a, h, initial_state)
        ctx.b_dtype, ctx.reverse = b.dtype, reverse
        return h, final_state

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_final: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "diagonal_scan can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        a, h, initial_state = ctx.saved_tensors
        grad_a, grad_b, grad_initial = scan_backward(
            a, h, initial_state, grad_h, grad_final, ctx.reverse
        )
        if initial_state is not None:
            return grad_a, grad_b.to(ctx.b_dtype), grad_initial.to(initial_state.dtype), None
        return grad_a, grad_b.to(ctx.b_dtype), None, None


def scan_forward(
    a: Tensor, b: Tensor, initial_state: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Compute h [B, L, D] and the final state [B, D], a fresh tensor, without a gradient."""
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    if initial_state is None:
        state = a.new_zeros(a.shape[0], a.shape[2], dtype=state_dtype)
    else:
        state = initial_state.to(state_dtype)
    h = _scan(a.to(state_dtype), b.to(state_dtype), state, reverse)
    final_state = h[:, 0 if reverse else -1].clone(memory_format=torch.contiguous_format)
    return h.to(out_dtype), final_state


def scan_backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `scan_forward`'s arguments from those of its results.

    The gradient of b is a scan of its own in the other direction, whose gate is the one of the
    step that follows: g_t = grad_h_t + a_{t+1} g_{t+1}; the gradient of a is g_t h_{t-1}, that of
    the initial state a_1 g_1.

    Returns:
        The gradients of a [B, L, D] in a's type, of b [B, L, D] in h's type, and of the initial
        state [B, D] in the type of the final one.
    """
    dtype = torch.promote_types(h.dtype, torch.float32)
    gates, outputs = a.to(dtype), h.to(dtype)
    length = a.shape[1]
    first, last = (length - 1, 0) if reverse else (0, length - 1)
    # The steps that have one after them, and the steps that have one before them.
    early, late = slice(None, -1), slice(1, None)
    if reverse:
        early, late = late, early

    grad_b = torch.empty(a.shape, dtype=dtype, device=a.device)
    grad_a = torch.empty_like(grad_b)
    torch.add(grad_h[:, last].to(dtype), grad_final, out=grad_b[:, last])
    if length > 1:
        incoming = grad_h[:, early].to(dtype)
        _scan(gates[:, late], incoming, grad_b[:, last], not reverse, out=grad_b[:, early])
        torch.mul(grad_b[:, late], outputs[:, early], out=grad_a[:, late])
    if initial_state is None:
        grad_a[:, first] = 0
    else:
        torch.mul(grad_b[:, first], initial_state.to(dtype), out=grad_a[:, first])
    grad_initial = gates[:, first] * grad_b[:, first]
    return grad_a.to(a.dtype), grad_b.to(h.dtype), grad_initial


def _scan(a: Tensor, b: Tensor, state: Tensor, reverse: bool, out: Tensor | None = None) -> Tensor:
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
