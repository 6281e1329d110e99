"""The kernels of the diagonal scan of complex numbers, forward and backward.

They walk as those of real numbers do, over tensors whose numbers are pairs: `_r` is a real part and
`_i` the imaginary part behind it in memory. Strides count real numbers.
"""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.diagonal_scan.triton_rows import first_row, load_rows, place, span

# A number takes two registers: half as many rows are under way as of real ones.
CONFIGS = [
    triton.Config({"BLOCK": 32, "ROWS": 8}, num_warps=1),
    triton.Config({"BLOCK": 32, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 8}, num_warps=2),
]


@triton.jit
def _load_pair(ptr, inside, number: tl.constexpr):
    real = tl.load(ptr, mask=inside, other=0).to(number)
    return real, tl.load(ptr + 1, mask=inside, other=0).to(number)


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
    stride_h: tl.constexpr = 2 * width
    step_a: tl.constexpr = direction * stride_a
    step_b: tl.constexpr = direction * stride_b
    step_h: tl.constexpr = direction * stride_h
    number: tl.constexpr = final_ptr.dtype.element_ty

    sequence, channels = place(width, BLOCK)
    inside = channels < width
    state_at = 2 * (sequence * width + channels)
    start, length = span(cu_ptr, sequence, length, PACKED)
    a_ptr = first_row(a_ptr, start, start_a, stride_a, length, REVERSE) + 2 * channels
    b_ptr = first_row(b_ptr, start, start_b, stride_b, length, REVERSE) + 2 * channels
    h_ptr = first_row(h_ptr, start, start_h, stride_h, length, REVERSE) + 2 * channels

    state_r = tl.zeros([BLOCK], dtype=number)
    state_i = tl.zeros([BLOCK], dtype=number)
    if HAS_INITIAL:
        state_r, state_i = _load_pair(initial_ptr + state_at, inside, number)
    left = tl.where(inside, length, 0)
    a_r, a_i = load_rows(a_ptr, step_a, left, ROWS), load_rows(a_ptr + 1, step_a, left, ROWS)
    b_r, b_i = load_rows(b_ptr, step_b, left, ROWS), load_rows(b_ptr + 1, step_b, left, ROWS)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * step_a
        b_ptr += ROWS * step_b
        next_a_r = load_rows(a_ptr, step_a, left - ROWS, ROWS)
        next_a_i = load_rows(a_ptr + 1, step_a, left - ROWS, ROWS)
        next_b_r = load_rows(b_ptr, step_b, left - ROWS, ROWS)
        next_b_i = load_rows(b_ptr + 1, step_b, left - ROWS, ROWS)
        for i in tl.static_range(ROWS):
            following_r = a_r[i] * state_r - a_i[i] * state_i + b_r[i]
            following_i = a_r[i] * state_i + a_i[i] * state_r + b_i[i]
            state_r = tl.where(left > i, following_r, state_r)
            state_i = tl.where(left > i, following_i, state_i)
            tl.store(h_ptr + i * step_h, state_r, mask=left > i)
            tl.store(h_ptr + i * step_h + 1, state_i, mask=left > i)
        h_ptr += ROWS * step_h
        left -= ROWS
        a_r, a_i, b_r, b_i = next_a_r, next_a_i, next_b_r, next_b_i
    tl.store(final_ptr + state_at, state_r, mask=inside)
    tl.store(final_ptr + state_at + 1, state_i, mask=inside)


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
    # arrives at a step from the one that followed it is `carry`, conj(a_{t+1}) g_{t+1}.
    direction: tl.constexpr = -1 if REVERSE else 1
    stride_h: tl.constexpr = 2 * width
    step_a: tl.constexpr = direction * stride_a
    step_g: tl.constexpr = direction * stride_g
    step: tl.constexpr = direction * stride_h
    number: tl.constexpr = grad_initial_ptr.dtype.element_ty

    sequence, channels = place(width, BLOCK)
    inside = channels < width
    state_at = 2 * (sequence * width + channels)
    start, length = span(cu_ptr, sequence, length, PACKED)
    a_ptr = first_row(a_ptr, start, start_a, stride_a, length, REVERSE) + 2 * channels
    g_ptr = first_row(grad_h_ptr, start, start_g, stride_g, length, REVERSE) + 2 * channels
    # The state before a step is one row further along the walk; the last row has the initial one.
    h_ptr = first_row(h_ptr, start, start_h, stride_h, length, REVERSE) + step + 2 * channels
    grad_at = first_row(0, start, start_h, stride_h, length, REVERSE) + 2 * channels
    grad_a_ptr += grad_at
    grad_b_ptr += grad_at

    initial_r = tl.zeros([BLOCK], dtype=number)
    initial_i = tl.zeros([BLOCK], dtype=number)
    if HAS_INITIAL:
        initial_r, initial_i = _load_pair(initial_ptr + state_at, inside, number)
    carry_r, carry_i = _load_pair(grad_final_ptr + state_at, inside, number)
    left = tl.where(inside, length, 0)
    a_r, a_i = load_rows(a_ptr, step_a, left, ROWS), load_rows(a_ptr + 1, step_a, left, ROWS)
    g_r, g_i = load_rows(g_ptr, step_g, left, ROWS), load_rows(g_ptr + 1, step_g, left, ROWS)
    h_r, h_i = load_rows(h_ptr, step, left - 1, ROWS), load_rows(h_ptr + 1, step, left - 1, ROWS)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * step_a
        g_ptr += ROWS * step_g
        h_ptr += ROWS * step
        next_a_r = load_rows(a_ptr, step_a, left - ROWS, ROWS)
        next_a_i = load_rows(a_ptr + 1, step_a, left - ROWS, ROWS)
        next_g_r = load_rows(g_ptr, step_g, left - ROWS, ROWS)
        next_g_i = load_rows(g_ptr + 1, step_g, left - ROWS, ROWS)
        next_h_r = load_rows(h_ptr, step, left - ROWS - 1, ROWS)
        next_h_i = load_rows(h_ptr + 1, step, left - ROWS - 1, ROWS)
        for i in tl.static_range(ROWS):
            there = left > i
            gradient_r, gradient_i = g_r[i] + carry_r, g_i[i] + carry_i
            before_r = tl.where(left == i + 1, initial_r, h_r[i])
            before_i = tl.where(left == i + 1, initial_i, h_i[i])
            # gradient * conj(before), and the same with the gate for the carry.
            grad_r = gradient_r * before_r + gradient_i * before_i
            grad_i = gradient_i * before_r - gradient_r * before_i
            tl.store(grad_a_ptr + i * step, grad_r, mask=there)
            tl.store(grad_a_ptr + i * step + 1, grad_i, mask=there)
            tl.store(grad_b_ptr + i * step, gradient_r, mask=there)
            tl.store(grad_b_ptr + i * step + 1, gradient_i, mask=there)
            following_r = gradient_r * a_r[i] + gradient_i * a_i[i]
            following_i = gradient_i * a_r[i] - gradient_r * a_i[i]
            carry_r = tl.where(there, following_r, carry_r)
            carry_i = tl.where(there, following_i, carry_i)
        grad_a_ptr += ROWS * step
        grad_b_ptr += ROWS * step
        left -= ROWS
        a_r, a_i, g_r, g_i = next_a_r, next_a_i, next_g_r, next_g_i
        h_r, h_i = next_h_r, next_h_i
    tl.store(grad_initial_ptr + state_at, carry_r, mask=inside)
    tl.store(grad_initial_ptr + state_at + 1, carry_i, mask=inside)
