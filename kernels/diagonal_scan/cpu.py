"""The diagonal scan in plain torch, with a gradient written by hand.

Everything here needs torch alone, so that a model which uses the scan can carry these definitions
with it. It runs on any device; on a CPU it is the default.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nas.kernels.diagonal_scan.chunked import scan


def diagonal_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t h_{t-1} + b_t over a sequence.

    Differentiable once in every argument, through both results.

    Args:
        a: gates [B, L, D], any real or complex numbers.
        b: inputs [B, L, D].
        initial_state: h before the first step [B, D] ([N, D] with `cu_seqlens`); None means zero.
        cu_seqlens: integers [N + 1]: B is 1, and sequence n is the steps from cu_seqlens[n] to
            before cu_seqlens[n + 1].
        reverse: run from the last step to the first, h_t = a_t h_{t+1} + b_t.

    Returns:
        h [B, L, D] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D] or [N, D], at least float32 (half types are accumulated in float32).
    """
    h, final_state = _DiagonalScan.apply(a, b, initial_state, cu_seqlens, reverse)
    return h, final_state


def diagonal_scan_step(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of the scan, h = a * state + b.

    Args:
        a: gates of this step [B, D].
        b: inputs of this step [B, D].
        state: h of the step before [B, D], float32 at least; complex where `a` or `b` is.

    Returns:
        h [B, D] in the promoted type of `a` and `b`, and the same in the state's own type: the
        state of the next step.
    """
    state = torch.addcmul(b.to(state.dtype), a.to(state.dtype), state)
    return state.to(torch.promote_types(a.dtype, b.dtype)), state


class _DiagonalScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        h, final_state = scan_forward(a, b, initial_state, cu_seqlens, reverse)
        ctx.save_for_backward(a, h, initial_state, cu_seqlens)
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
        a, h, initial_state, cu_seqlens = ctx.saved_tensors
        grad_a, grad_b, grad_initial = scan_backward(
            a, h, initial_state, cu_seqlens, grad_h, grad_final, ctx.reverse
        )
        grad_b = gradient_in(ctx.b_dtype, grad_b)
        if initial_state is not None:
            return grad_a, grad_b, gradient_in(initial_state.dtype, grad_initial), None, None
        return grad_a, grad_b, None, None, None


def scan_forward(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Compute h [B, L, D] and the final state [B, D], a fresh tensor, without a gradient."""
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    gates, inputs = a.to(state_dtype), b.to(state_dtype)
    sequences = a.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if initial_state is None:
        state = gates.new_zeros(sequences, a.shape[2])
    else:
        state = initial_state.to(state_dtype)
    if cu_seqlens is None:
        h = scan(gates, inputs, state, reverse)
        final_state = h[:, 0 if reverse else -1].clone(memory_format=torch.contiguous_format)
    else:
        spans, filled, first, last = _ends(cu_seqlens, a.shape[1], reverse)
        # No state crosses from one sequence to the next where the gate is 0; what a sequence's own
        # state adds to its first step is added there.
        inputs = inputs.index_add(1, first, gates[:, first] * state[filled])
        h = _packed_scan(gates.index_fill(1, first, 0), inputs, spans, last, reverse)
        final_state = state.index_copy(0, filled, h[0, last])
    return h.to(out_dtype), final_state


def scan_backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `scan_forward`'s arguments from those of its results.

    The gradient of b is a scan of its own in the other direction, whose gate is the one of the
    step that follows: g_t = grad_h_t + conj(a_{t+1}) g_{t+1}; the gradient of a is
    g_t conj(h_{t-1}), that of the initial state conj(a_1) g_1.

    Returns:
        The gradients of a [B, L, D] in a's type, of b [B, L, D] in h's type, and of the initial
        state [B, D] in the type of the final one.
    """
    dtype = torch.promote_types(h.dtype, torch.float32)
    gates, outputs = _conjugate(a.to(dtype)), h.to(dtype)
    initial = None if initial_state is None else _conjugate(initial_state.to(dtype))
    # The steps that have one after them, and the steps that have one before them.
    early, late = slice(None, -1), slice(1, None)
    if reverse:
        early, late = late, early

    if cu_seqlens is None:
        first, last = (-1, 0) if reverse else (0, -1)
        grad_b = torch.empty(a.shape, dtype=dtype, device=a.device)
        grad_a = torch.empty_like(grad_b)
        torch.add(grad_h[:, last].to(dtype), grad_final, out=grad_b[:, last])
        if a.shape[1] > 1:
            incoming = grad_h[:, early].to(dtype)
            scan(gates[:, late], incoming, grad_b[:, last], not reverse, out=grad_b[:, early])
            torch.mul(grad_b[:, late], _conjugate(outputs[:, early]), out=grad_a[:, late])
        if initial is None:
            grad_a[:, first] = 0
        else:
            torch.mul(grad_b[:, first], initial, out=grad_a[:, first])
        grad_initial = gates[:, first] * grad_b[:, first]
    else:
        spans, filled, firsts, lasts = _ends(cu_seqlens, a.shape[1], reverse)
        following = torch.empty(a.shape, dtype=dtype, device=a.device)
        following[:, early] = gates[:, late]
        following.index_fill_(1, lasts, 0)
        incoming = grad_h.to(dtype).index_add(1, lasts, grad_final[None, filled])
        grad_b = _packed_scan(following, incoming, spans, firsts, not reverse)
        grad_a = torch.empty_like(grad_b)
        torch.mul(grad_b[:, late], _conjugate(outputs[:, early]), out=grad_a[:, late])
        if initial is None:
            grad_a.index_fill_(1, firsts, 0)
        else:
            grad_a[:, firsts] = grad_b[:, firsts] * initial[filled]
        grad_initial = grad_final.index_copy(0, filled, (gates[:, firsts] * grad_b[:, firsts])[0])
    return gradient_in(a.dtype, grad_a), grad_b.to(h.dtype), grad_initial


def gradient_in(dtype: torch.dtype, gradient: Tensor) -> Tensor:
    """Cast a gradient to its argument's type: a real number among complex ones has a real one."""
    if gradient.is_complex() and not dtype.is_complex:
        gradient = gradient.real.contiguous()
    return gradient.to(dtype)


def check_spans(cu_seqlens: Tensor, length: int) -> list[tuple[int, int]]:
    """Read where each packed sequence begins and ends.

    Raises:
        ValueError: the sequences do not follow each other from step 0 to step `length`.
    """
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != length or ends != sorted(ends):
        raise ValueError(f"cu_seqlens must rise from 0 to the length {length}, and is {ends}")
    return list(pairwise(ends))


def _ends(
    cu_seqlens: Tensor, length: int, reverse: bool
) -> tuple[list[tuple[int, int]], Tensor, Tensor, Tensor]:
    """Find the sequences, which of them have a step, and the first and last step of those."""
    spans = check_spans(cu_seqlens, length)
    filled = [n for n, (start, end) in enumerate(spans) if end > start]
    first, last = [spans[n][0] for n in filled], [spans[n][1] - 1 for n in filled]
    if reverse:
        first, last = last, first
    indices = [torch.tensor(x, device=cu_seqlens.device) for x in (filled, first, last)]
    return spans, indices[0], indices[1], indices[2]


def _packed_scan(
    a: Tensor, b: Tensor, spans: list[tuple[int, int]], last: Tensor, reverse: bool
) -> Tensor:
    """Scan sequences [1, L, D] that follow each other; the gate of their first steps is 0."""
    state = a.new_zeros(1, a.shape[2])
    h = scan(a, b, state, reverse)
    if not h[:, last].isfinite().all():
        # 0 times what is not finite is not 0: keep it in its own sequence.
        for start, end in spans:
            if end > start:
                part = slice(start, end)
                scan(a[:, part], b[:, part], state, reverse, out=h[:, part])
    return h


def _conjugate(a: Tensor) -> Tensor:
    """Conjugate numbers, and those that stand for many steps or sequences only once."""
    if not a.is_complex():
        return a
    # In memory: within an operator that is being traced, the mark that `conj` sets goes unseen.
    once = tuple(slice(1) if stride == 0 else slice(None) for stride in a.stride())
    return a[once].conj_physical().expand(a.shape)
