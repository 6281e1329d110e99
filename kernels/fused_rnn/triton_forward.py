"""The forward kernel: a program walks all steps of a block of sequences in one head."""

# mypy: allow-untyped-defs, disable-error-code="assignment, misc"
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

CONFIGS = [triton.Config({}, num_warps=warps) for warps in (8, 4, 16)]


@autotune(CONFIGS, key=["WIDTH", "CELL"])
@triton.jit(do_not_specialize=["length", "batch", "heads"])
def forward_kernel(
    gates_ptr, recurrent_ptr, bias_ptr, initial_ptr, h_ptr, trace_ptr, final_ptr,
    length, batch, heads, gates_b, gates_l, gates_g, gates_h,
    CELL: tl.constexpr, G: tl.constexpr, WIDTH: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write h [B, L, H, d], the other states after every step, and the final states."""
    head, rows, columns, inside = place(batch, heads, WIDTH, BLOCK_B, BLOCK_D)
    matrices = load_matrices(recurrent_ptr, head, WIDTH, G, BLOCK_D, DOT, True)
    bias = load_bias(bias_ptr, head, heads, columns, WIDTH, G, HAS_BIAS)

    count = batch.to(tl.int64) * heads * WIDTH
    state_at = (rows * heads + head) * WIDTH + columns
    h = load_state(initial_ptr, 0, state_at, count, inside, HAS_INITIAL, 0.0)
    if CELL != "gru":
        c = load_state(initial_ptr, 1, state_at, count, inside, HAS_INITIAL, 0.0)
    if CELL == "slstm":
        n = load_state(initial_ptr, 2, state_at, count, inside, HAS_INITIAL, 0.0)
        m = load_state(initial_ptr, 3, state_at, count, inside, HAS_INITIAL, float("-inf"))

    gates_ptr += rows * gates_b + head * gates_h + columns
    h_ptr += (rows * length * heads + head) * WIDTH + columns
    trace_ptr += state_at
    left = tl.where(inside, length, 0)
    following = load_gates(gates_ptr, 0, gates_g, inside, G)
    for t in range(length):
        x = following
        # The next step's are on their way while this one is computed.
        gates_ptr += gates_l
        following = load_gates(gates_ptr, 0, gates_g, left > t + 1, G)
        carried = ()
        for g in tl.static_range(G):
            u = tl.dot(h.to(DOT), matrices[g], input_precision=PRECISION)
            carried = carried + (u + bias[g],)
        if CELL == "gru":
            reset = tl.sigmoid(x[0].to(tl.float32) + carried[0])
            update = tl.sigmoid(x[1].to(tl.float32) + carried[1])
            new = tanh(x[2].to(tl.float32) + reset * carried[2])
            h = new + update * (h - new)
        else:
            first = x[0].to(tl.float32) + carried[0]
            second = x[1].to(tl.float32) + carried[1]
            new = tanh(x[2].to(tl.float32) + carried[2])
            shown = tl.sigmoid(x[3].to(tl.float32) + carried[3])
            if CELL == "lstm":
                c = tl.sigmoid(second) * c + tl.sigmoid(first) * new
                h = shown * tanh(c)
            else:
                kept = log_sigmoid(second) + m
                m = tl.maximum(kept, first)
                forget = tl.exp(kept - m)
                take = tl.exp(first - m)
                c = forget * c + take * new
                n = tl.maximum(forget * n + take, 1.0)
                h = shown * c / n
                tl.store(trace_ptr + length * count, n, mask=inside)
                tl.store(trace_ptr + 2 * length * count, m, mask=inside)
            tl.store(trace_ptr, c, mask=inside)
        tl.store(h_ptr, h, mask=inside)
        h_ptr += heads * WIDTH
        trace_ptr += count

    tl.store(final_ptr + state_at, h, mask=inside)
    if CELL != "gru":
        tl.store(final_ptr + count + state_at, c, mask=inside)
    if CELL == "slstm":
        tl.store(final_ptr + 2 * count + state_at, n, mask=inside)
        tl.store(final_ptr + 3 * count + state_at, m, mask=inside)
