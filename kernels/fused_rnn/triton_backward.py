"""The backward kernel: the same walk in the other direction, gates computed anew."""

# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.fused_rnn.triton_cells import (
    load_bias,
    load_gates,
    load_matrices,
    load_state,
    log_sigmoid,
    place,
    tanh,
)
from nas.kernels.fused_rnn.triton_forward import CONFIGS


@triton.jit
def _load_before(ptr, stride, inside, COUNT: tl.constexpr):
    """Load the states before a step that its gradient needs, as a tuple."""
    states = ()
    for i in tl.static_range(COUNT):
        states = states + (tl.load(ptr + i * stride, mask=inside, other=0).to(tl.float32),)
    return states


@autotune(CONFIGS, key=["WIDTH", "CELL"])
@triton.jit(do_not_specialize=["length", "batch", "heads"])
def backward_kernel(
    gates_ptr, carried_ptr, recurrent_ptr, bias_ptr, initial_ptr, before_ptr,
    grad_h_ptr, grad_final_ptr, grad_gates_ptr, grad_new_ptr, grad_initial_ptr,
    length, batch, heads, gates_b, gates_l, gates_g, gates_h, grad_b, grad_l, grad_h,
    CELL: tl.constexpr, G: tl.constexpr, WIDTH: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk back: gradients of the gates, of the state's share in gru's third, of initial states."""
    # before_ptr: for gru the states h before each step [B, L, H, d]; for the others the states
    # after each [S - 1, L, B, H, d]. carried_ptr: R h of each step [H, B, L, G, d], without bias.
    STATES: tl.constexpr = 3 if CELL == "slstm" else 1
    head, rows, columns, inside = place(batch, heads, WIDTH, BLOCK_B, BLOCK_D)
    matrices = load_matrices(recurrent_ptr, head, WIDTH, G, BLOCK_D, DOT, False)
    bias = load_bias(bias_ptr, head, heads, columns, WIDTH, G, HAS_BIAS)

    count = batch.to(tl.int64) * heads * WIDTH
    state_at = (rows * heads + head) * WIDTH + columns
    carry_h = load_state(grad_final_ptr, 0, state_at, count, inside, True, 0.0)
    if CELL != "gru":
        carry_c = load_state(grad_final_ptr, 1, state_at, count, inside, True, 0.0)
        first_c = load_state(initial_ptr, 1, state_at, count, inside, HAS_INITIAL, 0.0)
    if CELL == "slstm":
        carry_n = load_state(grad_final_ptr, 2, state_at, count, inside, True, 0.0)
        first_n = load_state(initial_ptr, 2, state_at, count, inside, HAS_INITIAL, 0.0)
        first_m = load_state(initial_ptr, 3, state_at, count, inside, HAS_INITIAL, float("-inf"))

    last = (length - 1).to(tl.int64)
    gates_ptr += rows * gates_b + last * gates_l + head * gates_h + columns
    carried_ptr += ((head * batch + rows) * length + last) * (G * WIDTH) + columns
    grad_h_ptr += rows * grad_b + last * grad_l + head * grad_h + columns
    grad_gates_ptr += (((rows * length + last) * G) * heads + head) * WIDTH + columns
    grad_new_ptr += ((rows * length + last) * heads + head) * WIDTH + columns
    if CELL == "gru":
        before_ptr += ((rows * length + last) * heads + head) * WIDTH + columns
        before_step = heads.to(tl.int64) * WIDTH
    else:
        before_ptr += (last - 1) * count + state_at
        before_step = count
    # Where the states before a step are those after the one before it, the first step has none.
    none_before: tl.constexpr = 0 if CELL == "gru" else 1

    left = tl.where(inside, length, 0)
    next_x = load_gates(gates_ptr, 0, gates_g, inside, G)
    next_u = load_gates(carried_ptr, 0, WIDTH, inside, G)
    next_grad = tl.load(grad_h_ptr, mask=inside, other=0)
    next_before = _load_before(before_ptr, length * count, left > none_before, STATES)
    for back in range(length):
        more = left > back + 1
        x, u, grad, before = next_x, next_u, next_grad, next_before
        gates_ptr -= gates_l
        carried_ptr -= G * WIDTH
        grad_h_ptr -= grad_l
        before_ptr -= before_step
        next_x = load_gates(gates_ptr, 0, gates_g, more, G)
        next_u = load_gates(carried_ptr, 0, WIDTH, more, G)
        next_grad = tl.load(grad_h_ptr, mask=more, other=0)
        next_before = _load_before(
            before_ptr, length * count, left > back + 1 + none_before, STATES
        )

        grad = grad.to(tl.float32) + carry_h
        u0 = u[0].to(tl.float32) + bias[0]
        u1 = u[1].to(tl.float32) + bias[1]
        u2 = u[2].to(tl.float32) + bias[2]
        if CELL == "gru":
            reset = tl.sigmoid(x[0].to(tl.float32) + u0)
            update = tl.sigmoid(x[1].to(tl.float32) + u1)
            new = tanh(x[2].to(tl.float32) + reset * u2)
            grad_new = grad * (1 - update) * (1 - new * new)
            g2 = grad_new * reset
            g1 = grad * (before[0] - new) * update * (1 - update)
            g0 = g2 * u2 * (1 - reset)
            # What the state contributes stands inside the reset gate: its gradient is another.
            tl.store(grad_gates_ptr + 2 * heads * WIDTH, grad_new, mask=inside)
            tl.store(grad_new_ptr, g2, mask=inside)
            grad_new_ptr -= heads * WIDTH
            carry_h = grad * update
        else:
            first = x[0].to(tl.float32) + u0
            second = x[1].to(tl.float32) + u1
            new = tanh(x[2].to(tl.float32) + u2)
            shown = tl.sigmoid(x[3].to(tl.float32) + u[3].to(tl.float32) + bias[3])
            before_c = tl.where(more, before[0], first_c)
            if CELL == "lstm":
                take = tl.sigmoid(first)
                forget = tl.sigmoid(second)
                out = tanh(forget * before_c + take * new)
                carry_c += grad * shown * (1 - out * out)
                g0 = carry_c * new * take * (1 - take)
                g1 = carry_c * before_c * forget * (1 - forget)
            else:
                before_n = tl.where(more, before[1], first_n)
                before_m = tl.where(more, before[2], first_m)
                kept = log_sigmoid(second) + before_m
                m = tl.maximum(kept, first)
                forget = tl.exp(kept - m)
                take = tl.exp(first - m)
                raw_n = forget * before_n + take
                n = tl.maximum(raw_n, 1.0)
                out = (forget * before_c + take * new) / n
                carry_c += grad * shown / n
                carry_n = tl.where(raw_n >= 1.0, carry_n - grad * shown * out / n, 0.0)
                slope = forget * tl.sigmoid(-second)
                g0 = take * (carry_c * new + carry_n)
                g1 = slope * (carry_c * before_c + carry_n * before_n)
                carry_n *= forget
            g2 = carry_c * take * (1 - new * new)
            g3 = grad * out * shown * (1 - shown)
            carry_c *= forget
            tl.store(grad_gates_ptr + 2 * heads * WIDTH, g2, mask=inside)
            tl.store(grad_gates_ptr + 3 * heads * WIDTH, g3, mask=inside)
            carry_h = tl.dot(g3.to(DOT), matrices[3], input_precision=PRECISION)
        tl.store(grad_gates_ptr, g0, mask=inside)
        tl.store(grad_gates_ptr + heads * WIDTH, g1, mask=inside)
        grad_gates_ptr -= G * heads * WIDTH
        carry_h = tl.dot(g0.to(DOT), matrices[0], carry_h, input_precision=PRECISION)
        carry_h = tl.dot(g1.to(DOT), matrices[1], carry_h, input_precision=PRECISION)
        carry_h = tl.dot(g2.to(DOT), matrices[2], carry_h, input_precision=PRECISION)

    tl.store(grad_initial_ptr + state_at, carry_h, mask=inside)
    if CELL != "gru":
        tl.store(grad_initial_ptr + count + state_at, carry_c, mask=inside)
    if CELL == "slstm":
        tl.store(grad_initial_ptr + 2 * count + state_at, carry_n, mask=inside)
        # The stabiliser is a constant to the gradient.
        tl.store(grad_initial_ptr + 3 * count + state_at, tl.zeros_like(carry_n), mask=inside)
