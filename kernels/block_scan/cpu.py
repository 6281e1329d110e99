"""The block scan in plain torch: two levels of loops, and a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses the scan
can carry these definitions with it. It runs on any device; on a CPU it is the default.

Cut into n chunks of C steps, all chunks can step together: one pass over the chunks gives each
chunk's effect on a state (the product of its matrices and its last local state), a loop over the n
chunks gives the state that enters each, and a second pass from those states gives the outputs.
That is some 5 C + 2 n launches instead of 2 L.

Inside, what belongs to a step lies together, and in it the channels of one component side by side,
[C, j, i, B, n, D] for the matrices A_ij: a product of 2x2 matrices with vectors is then two
multiply-adds of long rows.
"""

import math
from typing import Any

import torch
from torch import Tensor

# From this many channels (B * D) on, a step's arithmetic costs more than its launch, and a plain
# loop, which reads its operands once and multiplies no matrices, is as fast.
LOOP_CHANNELS = 16384


def block_scan(
    a: Tensor, b: Tensor, initial_state: Tensor | None = None, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute h_t = A_t h_{t-1} + b_t over a sequence, with a 2x2 matrix in each channel.

    Differentiable once in every argument, through both results.

    Args:
        a: matrices [B, L, D, 2, 2], any real numbers.
        b: inputs [B, L, D, 2].
        initial_state: h before the first step [B, D, 2]; None means zero.
        reverse: run from the last step to the first, h_t = A_t h_{t+1} + b_t.

    Returns:
        h [B, L, D, 2] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D, 2], at least float32 (half types are accumulated in float32).
    """
    h, final_state = _BlockScan.apply(a, b, initial_state, reverse)
    return h, final_state


def block_scan_step(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of the scan, h = A state + b.

    Args:
        a: matrices of this step [B, D, 2, 2].
        b: inputs of this step [B, D, 2].
        state: h of the step before [B, D, 2], float32 at least.

    Returns:
        h [B, D, 2] in the promoted type of `a` and `b`, and the same in the state's own type: the
        state of the next step.
    """
    state = (a.to(state.dtype) * state.unsqueeze(-2)).sum(-1) + b.to(state.dtype)
    return state.to(torch.promote_types(a.dtype, b.dtype)), state


class _BlockScan(torch.autograd.Function):
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
                "block_scan can be differentiated only once: call backward or grad without "
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
    """Compute h [B, L, D, 2] and the final state [B, D, 2], fresh tensors, without a gradient."""
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    batch, _, width, _ = b.shape
    if initial_state is None:
        state = b.new_zeros(batch, width, 2, dtype=state_dtype)
    else:
        state = initial_state.to(state_dtype)
    h = _scan(a, b, state, reverse)
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

    The gradient of b is a scan of its own in the other direction, with the transposed matrix of the
    step that follows: g_t = grad_h_t + A_{t+1}' g_{t+1}; the gradient of A is g_t h_{t-1}', that of
    the initial state A_1' g_1.

    Returns:
        The gradients of a [B, L, D, 2, 2] in a's type, of b [B, L, D, 2] in h's type, and of the
        initial state [B, D, 2] in the type of the final one.
    """
    dtype = torch.promote_types(h.dtype, torch.float32)
    length = a.shape[1]
    first, last = (length - 1, 0) if reverse else (0, length - 1)
    # The steps that have one after them, and the steps that have one before them.
    early, late = slice(None, -1), slice(1, None)
    if reverse:
        early, late = late, early

    grad_b = torch.empty(h.shape, dtype=dtype, device=h.device)
    torch.add(grad_h[:, last].to(dtype), grad_final, out=grad_b[:, last])
    if length > 1:
        state = grad_b[:, last].clone()
        grad_b[:, early] = _scan(a[:, late].mT, grad_h[:, early], state, not reverse)
    grad_a = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    for i in range(2):
        for j in range(2):
            # One component at a time: of all four at once, torch's inner loop would have length 2.
            grad_a[:, late, :, i, j] = grad_b[:, late, :, i] * h[:, early, :, j]
            if initial_state is None:
                grad_a[:, first, :, i, j] = 0
            else:
                grad_a[:, first, :, i, j] = grad_b[:, first, :, i] * initial_state[..., j].to(dtype)
    grad_initial = (a[:, first].to(dtype) * grad_b[:, first].unsqueeze(-1)).sum(-2)
    return grad_a, grad_b.to(h.dtype), grad_initial


def _scan(a: Tensor, b: Tensor, state: Tensor, reverse: bool) -> Tensor:
    """Scan from `state` [B, D, 2]; compute in its type and return h [B, L, D, 2] in it."""
    batch, length, width, _ = b.shape
    # As two passes do half as much again in each step, chunks are shorter than their number.
    chunk = 2 ** max(0, round(math.log2(length) / 2 - 0.5))
    if batch * width >= LOOP_CHANNELS or length < 16:
        chunk = length
    out = _in_chunks(a, b, state, reverse, chunk)
    if out is None:
        out = _in_chunks(a, b, state, reverse, length)
        assert out is not None
    return out


def _in_chunks(a: Tensor, b: Tensor, state: Tensor, reverse: bool, chunk: int) -> Tensor | None:
    """Scan in chunks; None where a product of matrices is beyond the number range.

    The state may still be within it (it may be zero), so that only the plain loop can tell.
    """
    batch, length, width, _ = b.shape
    chunks = -(-length // chunk)
    matrices = torch.empty((chunk, 2, 2, batch, chunks, width), dtype=state.dtype, device=b.device)
    values = torch.empty((chunk, 2, batch, chunks, width), dtype=state.dtype, device=b.device)
    _fill(matrices.permute(3, 4, 0, 5, 2, 1), a, reverse)
    _fill(values.permute(2, 3, 0, 4, 1), b, reverse)
    order = range(chunk)[::-1] if reverse else range(chunk)
    state = state.permute(2, 0, 1)
    if chunks == 1:
        current = state.unsqueeze(2)
    else:
        entering = _entering_states(matrices, values, state, reverse)
        if entering is None:
            return None
        current = entering
    for k in order:
        # In place of the step's inputs, which nothing needs any more.
        current = (
            values[k].addcmul_(matrices[k, 0], current[0]).addcmul_(matrices[k, 1], current[1])
        )
    out = torch.empty(b.shape, dtype=state.dtype, device=b.device)
    _pour(values.permute(2, 3, 0, 4, 1), out, reverse)
    return out


def _entering_states(
    matrices: Tensor, values: Tensor, state: Tensor, reverse: bool
) -> Tensor | None:
    """Compute the state [2, B, chunks, D] that enters each chunk; None if it overflows."""
    chunk, _, _, batch, chunks, width = matrices.shape
    shape = (2, 3, batch, chunks, width)
    # Two columns are the product of a chunk's matrices, the third is its local state.
    effect = torch.empty(shape, dtype=values.dtype, device=values.device)
    spare = torch.empty(shape, dtype=values.dtype, device=values.device)
    first, *rest = range(chunk)[::-1] if reverse else range(chunk)
    effect[:, :2] = matrices[first].transpose(0, 1)
    effect[:, 2] = values[first]
    for k in rest:
        torch.mul(matrices[k, 0].unsqueeze(1), effect[0], out=spare)
        spare.addcmul_(matrices[k, 1].unsqueeze(1), effect[1])
        spare[:, 2] += values[k]
        effect, spare = spare, effect
    if not effect.sum().isfinite():
        return None
    entering = torch.empty((2, batch, chunks, width), dtype=values.dtype, device=values.device)
    order = range(chunks)[::-1] if reverse else range(chunks)
    for n in order:
        entering[:, :, n] = state
        columns = effect[:, :, :, n]
        state = torch.addcmul(columns[:, 2], columns[:, 0], state[0])
        state.addcmul_(columns[:, 1], entering[1, :, n])
    return entering


def _fill(chunks: Tensor, sequence: Tensor, reverse: bool) -> None:
    """Copy [B, L, ...] into [B, n, C, ...]; zeros fill the chunk that a scan comes to last."""
    count, chunk = chunks.shape[1:3]
    rest = sequence.shape[1] % chunk
    if rest == 0:
        chunks.copy_(sequence.unflatten(1, (count, chunk)))
    elif reverse:
        chunks[:, 0, : chunk - rest] = 0
        chunks[:, 0, chunk - rest :] = sequence[:, :rest]
        chunks[:, 1:] = sequence[:, rest:].unflatten(1, (count - 1, chunk))
    else:
        chunks[:, -1, :rest] = sequence[:, -rest:]
        chunks[:, -1, rest:] = 0
        chunks[:, :-1] = sequence[:, :-rest].unflatten(1, (count - 1, chunk))


def _pour(chunks: Tensor, sequence: Tensor, reverse: bool) -> None:
    """Copy [B, n, C, ...] back into [B, L, ...]: what `_fill` has done, undone."""
    count, chunk = chunks.shape[1:3]
    rest = sequence.shape[1] % chunk
    if rest == 0:
        sequence.unflatten(1, (count, chunk)).copy_(chunks)
    elif reverse:
        sequence[:, :rest] = chunks[:, 0, chunk - rest :]
        sequence[:, rest:].unflatten(1, (count - 1, chunk)).copy_(chunks[:, 1:])
    else:
        sequence[:, -rest:] = chunks[:, -1, :rest]
        sequence[:, :-rest].unflatten(1, (count - 1, chunk)).copy_(chunks[:, :-1])
