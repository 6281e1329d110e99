"""The kernels of the diagonal scan of real numbers, forward and backward."""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.diagonal_scan.triton_rows import first_row, load_rows, place, span

CONFIGS = [
    triton.Config({"BLOCK": 32, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 32, "ROWS": 32}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 16}, num_warps=2),
]


@autotune(CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def forward_kernel(
    a_ptr, b_ptr, initial_ptr, cu_ptr, h_ptr, final_ptr,
    length, start_a, start_b, start_h,
    width: tl.constexpr, stride_a: tl.constexpr, stride_b: tl.constexpr,
    HAS_INITIAL: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Walk along the scan and write h and the final state."""
    direction: tl.constexpr = -1 if REVERSE else 1
    step_a: tl.constexpr = direction * stride_a
    step_b: tl.constexpr = direction * stride_b
    step_h: tl.constexpr = direction * width
    number: tl.constexpr = final_ptr.dtype.element_ty

    sequence, channels = place(width, BLOCK)
    inside = channels < width
    state_at = sequence * width + channels
    start, length = span(cu_ptr, sequence, length, PACKED)
    a_ptr = first_row(a_ptr, start, start_a, stride_a, length, REVERSE) + channels
    b_ptr = first_row(b_ptr, start, start_b, stride_b, length, REVERSE) + channels
    h_ptr = first_row(h_ptr, start, start_h, width, length, REVERSE) + channels

    if HAS_INITIAL:
        state = tl.load(initial_ptr + state_at, mask=inside, other=0).to(number)
    else:
        state = tl.zeros([BLOCK], dtype=number)
    left = tl.where(inside, length, 0)
    a = load_rows(a_ptr, step_a, left, ROWS)
    b = load_rows(b_ptr, step_b, left, ROWS)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * step_a
        b_ptr += ROWS * step_b
        next_a = load_rows(a_ptr, step_a, left - ROWS, ROWS)
        next_b = load_rows(b_ptr, step_b, left - ROWS, ROWS)
        for i in tl.static_range(ROWS):
            following = a[i].to(number) * state + b[i].to(number)
            state = tl.where(left > i, following, state)
            tl.store(h_ptr + i * step_h, state, mask=left > i)
        h_ptr += ROWS * step_h
        left -= ROWS
        a, b = next_a, next_b
    tl.store(final_ptr + state_at, state, mask=inside)


@autotune(CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def backward_kernel(
    a_ptr, h_ptr, initial_ptr, cu_ptr, grad_h_ptr, grad_final_ptr,
    grad_a_ptr, grad_b_ptr, grad_initial_ptr,
    length, start_a, start_g, start_h,
    width: tl.constexpr, stride_a: tl.constexpr, stride_g: tl.constexpr,
    HAS_INITIAL: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Walk against the scan and write the gradients."""
    # The walk goes against the scan, so that REVERSE here is the opposite of the scan's. What
    # arrives at a step from the one that followed it is `carry`, a_{t+1} g_{t+1}.
    direction: tl.constexpr = -1 if REVERSE else 1
    step_a: tl.constexpr = direction * stride_a
    step_g: tl.constexpr = direction * stride_g
    step: tl.constexpr = direction * width
    number: tl.constexpr = grad_initial_ptr.dtype.element_ty

    sequence, channels = place(width, BLOCK)
    inside = channels < width
    state_at = sequence * width + channels
    start, length = span(cu_ptr, sequence, length, PACKED)
    a_ptr = first_row(a_ptr, start, start_a, stride_a, length, REVERSE) + channels
    g_ptr = first_row(grad_h_ptr, start, start_g, stride_g, length, REVERSE) + channels
    # The state before a step is one row further along the walk; the last row has the initial one.
    h_ptr = first_row(h_ptr, start, start_h, width, length, REVERSE) + step + channels
    grad_a_ptr = first_row(grad_a_ptr, start, start_h, width, length, REVERSE) + channels
    grad_b_ptr = first_row(grad_b_ptr, start, start_h, width, length, REVERSE) + channels

    if HAS_INITIAL:
        initial = tl.load(initial_ptr + state_at, mask=inside, other=0).to(number)
    else:
        initial = tl.zeros([BLOCK], dtype=number)
    carry = tl.load(grad_final_ptr + state_at, mask=inside, other=0).to(number)
    left = tl.where(inside, length, 0)
    a = load_rows(a_ptr, step_a, left, ROWS)
    g = load_rows(g_ptr, step_g, left, ROWS)
    h = load_rows(h_ptr, step, left - 1, ROWS)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * step_a
        g_ptr += ROWS * step_g
        h_ptr += ROWS * step
        next_a = load_rows(a_ptr, step_a, left - ROWS, ROWS)
        next_g = load_rows(g_ptr, step_g, left - ROWS, ROWS)
        next_h = load_rows(h_ptr, step, left - ROWS - 1, ROWS)
        for i in tl.static_range(ROWS):
            gradient = g[i].to(number) + carry
            before = tl.where(left == i + 1, initial, h[i].to(number))
            tl.store(grad_a_ptr + i * step, gradient * before, mask=left > i)
            tl.store(grad_b_ptr + i * step, gradient, mask=left > i)
            carry = tl.where(left > i, a[i].to(number) * gradient, carry)
        grad_a_ptr += ROWS * step
        grad_b_ptr += ROWS * step
        left -= ROWS
        a, g, h = next_a, next_g, next_h
    tl.store(grad_initial_ptr + state_at, carry, mask=inside)
