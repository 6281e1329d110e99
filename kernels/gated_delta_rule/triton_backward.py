"""The backward kernels of the gated delta rule.

One program for a head and a block of V walks along the chunks from the last to the first with the
gradient of the state on the chip; then each chunk has the gradients of its own inputs, all sums
over V and none between programs. Formulas and letters are those of `cpu.py`; T is (I + A)^-1.

No matrix product takes a transposed result of another for its left operand: what is needed so is
loaded or multiplied out transposed. Compilers for Hopper have got that one wrong.
"""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.gated_delta_rule.triton_chunk import (
    decays,
    find_chunk,
    load_columns,
    load_gates,
    load_rows,
    store_columns,
    store_rows,
)
from nas.kernels.gated_delta_rule.triton_forward import CHUNKS, WALKS

GRADIENTS = [
    triton.Config({"BLOCK_V": 32}, num_warps=8, num_stages=1),
    triton.Config({"BLOCK_V": 32}, num_warps=4, num_stages=1),
    triton.Config({"BLOCK_V": 64}, num_warps=8, num_stages=1),
]


@autotune(CHUNKS, key=["WIDTH", "VALUES", "SUBSTEPS"])
@triton.jit(do_not_specialize=["length", "chunks"])
def local_kernel(
    q_ptr, k_ptr, gate_ptr, grad_o_ptr, local_ptr,
    scale, length, chunks, heads,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, SUBSTEPS: tl.constexpr, TOKENS: tl.constexpr,
    HAS_GATE: tl.constexpr, FLOOR: tl.constexpr, NUMBER: tl.constexpr,
    ROWS: tl.constexpr, READS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Compute what a chunk's own outputs add to dV': (Q K' Gamma)' dO."""
    blocks: tl.constexpr = tl.cdiv(VALUES, BLOCK_V)
    chunk = tl.program_id(0) // blocks
    values = tl.program_id(0) % blocks * BLOCK_V + tl.arange(0, BLOCK_V)
    token, step, tokens, steps = find_chunk(chunk, chunks, heads, length, TOKENS, SUBSTEPS)
    rows = tl.arange(0, ROWS)
    reads = tl.arange(0, READS)
    last = reads * SUBSTEPS + SUBSTEPS - 1
    keys = tl.arange(0, BLOCK_K)
    k = load_rows(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
    q = load_columns(q_ptr, token, reads, heads, tokens, keys, WIDTH).to(NUMBER)
    gates = rows.to(tl.float32)
    if HAS_GATE:
        gates = load_gates(gate_ptr, token, rows, heads, tokens, FLOOR, SUBSTEPS)
    scores = tl.dot(k, q, input_precision="ieee") * decays(gates, rows, last, HAS_GATE, True)
    grad = load_rows(grad_o_ptr, token, reads, heads, tokens, values, VALUES).to(NUMBER)
    local = tl.dot((scores * scale).to(NUMBER), grad, input_precision="ieee")
    at = chunk.to(tl.int64) * ROWS
    store_rows(local_ptr, local, at, rows, 1, ROWS, values, VALUES)


@autotune(WALKS, key=["WIDTH", "VALUES", "SUBSTEPS"])
@triton.jit(do_not_specialize=["length", "chunks"])
def grad_states_kernel(
    q_ptr, k_ptr, w_ptr, start_ptr, end_ptr, grad_o_ptr, local_ptr, grad_final_ptr,
    grad_states_ptr, grad_v_new_ptr, grad_initial_ptr,
    scale, length, chunks, heads,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, SUBSTEPS: tl.constexpr, TOKENS: tl.constexpr,
    HAS_GATE: tl.constexpr, NUMBER: tl.constexpr,
    ROWS: tl.constexpr, READS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Walk back along the chunks: the gradient of the state that leaves each, and that of V'."""
    blocks: tl.constexpr = tl.cdiv(VALUES, BLOCK_V)
    sequence = tl.program_id(0) // blocks
    values = tl.program_id(0) % blocks * BLOCK_V + tl.arange(0, BLOCK_V)
    rows = tl.arange(0, ROWS)
    reads = tl.arange(0, READS)
    last = reads * SUBSTEPS + SUBSTEPS - 1
    keys = tl.arange(0, BLOCK_K)
    state_at = sequence.to(tl.int64) * WIDTH
    state = load_rows(grad_final_ptr, state_at, keys, 1, WIDTH, values, VALUES).to(tl.float32)
    for i in range(chunks):
        chunk = sequence * chunks + chunks - 1 - i
        token, step, tokens, steps = find_chunk(chunk, chunks, heads, length, TOKENS, SUBSTEPS)
        at = chunk.to(tl.int64) * ROWS
        rounded = state.to(NUMBER)
        leaving = chunk.to(tl.int64) * WIDTH
        store_rows(grad_states_ptr, rounded, leaving, keys, 1, WIDTH, values, VALUES)
        k = load_rows(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
        q = load_columns(q_ptr, token, reads, heads, tokens, keys, WIDTH).to(NUMBER)
        if HAS_GATE:
            end = tl.load(end_ptr + at + rows)
            k = (k.to(tl.float32) * end[:, None]).to(NUMBER)
            start = tl.load(start_ptr + at + last, mask=reads < tokens, other=0)
            q = (q.to(tl.float32) * start[None, :]).to(NUMBER)
            state *= tl.load(start_ptr + at + ROWS - 1)
        grad_v_new = load_rows(local_ptr, at, rows, 1, ROWS, values, VALUES).to(tl.float32)
        grad_v_new += tl.dot(k, rounded, input_precision="ieee")
        store_rows(grad_v_new_ptr, grad_v_new, at, rows, 1, ROWS, values, VALUES)
        grad = load_rows(grad_o_ptr, token, reads, heads, tokens, values, VALUES)
        grad = (grad.to(tl.float32) * scale).to(NUMBER)
        w = load_columns(w_ptr, at, rows, 1, ROWS, keys, WIDTH).to(NUMBER)
        state += tl.dot(q, grad, input_precision="ieee")
        state -= tl.dot(w, grad_v_new.to(NUMBER), input_precision="ieee")
    store_rows(grad_initial_ptr, state, state_at, keys, 1, WIDTH, values, VALUES)


@autotune(GRADIENTS, key=["WIDTH", "VALUES", "SUBSTEPS"])
@triton.jit(do_not_specialize=["length", "chunks"])
def gradient_kernel(
    q_ptr, k_ptr, v_ptr, beta_ptr, gate_ptr, grad_o_ptr,
    inverse_ptr, start_ptr, end_ptr, states_ptr, v_new_ptr, grad_states_ptr, grad_v_new_ptr,
    grad_q_ptr, grad_k_ptr, grad_v_ptr, grad_beta_ptr, grad_gate_ptr,
    scale, length, chunks, heads,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, SUBSTEPS: tl.constexpr, TOKENS: tl.constexpr,
    HAS_GATE: tl.constexpr, FLOOR: tl.constexpr, NUMBER: tl.constexpr,
    ROWS: tl.constexpr, READS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Compute a chunk's gradients of q, k, v, beta and the log gates.

    Everything stands transposed, [K, ROWS]: K is large enough for all warps, which 32 rows are not.
    """
    chunk = tl.program_id(0)
    token, step, tokens, steps = find_chunk(chunk, chunks, heads, length, TOKENS, SUBSTEPS)
    rows = tl.arange(0, ROWS)
    reads = tl.arange(0, READS)
    last = reads * SUBSTEPS + SUBSTEPS - 1
    keys = tl.arange(0, BLOCK_K)
    at = chunk.to(tl.int64) * ROWS
    state_at = chunk.to(tl.int64) * WIDTH
    places = step + rows.to(tl.int64) * heads
    beta = tl.load(beta_ptr + places, mask=rows < steps, other=0).to(tl.float32)
    inverse = load_rows(inverse_ptr, at, rows, 1, ROWS, rows, ROWS).to(NUMBER)

    # Sums over V. `read` is what of a chunk's values reads the state before it, `written` and
    # `queried` what writes into the state after it and what queries the one before.
    read = tl.zeros([BLOCK_K, ROWS], dtype=tl.float32)
    written = tl.zeros([BLOCK_K, ROWS], dtype=tl.float32)
    queried = tl.zeros([BLOCK_K, READS], dtype=tl.float32)
    grad_kk = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    grad_kq = tl.zeros([ROWS, READS], dtype=tl.float32)
    grad_qk = tl.zeros([READS, ROWS], dtype=tl.float32)
    grad_beta = tl.zeros([ROWS], dtype=tl.float32)
    through = tl.zeros([BLOCK_K], dtype=tl.float32)
    for first in range(0, VALUES, BLOCK_V):
        values = first + tl.arange(0, BLOCK_V)
        grad_v_new = load_columns(grad_v_new_ptr, at, rows, 1, ROWS, values, VALUES).to(NUMBER)
        v = load_columns(v_ptr, step, rows, heads, steps, values, VALUES).to(tl.float32)
        solved = tl.dot(grad_v_new, inverse, input_precision="ieee")
        grad_v = solved * beta[None, :]
        store_columns(grad_v_ptr, grad_v, step, rows, heads, steps, values, VALUES)
        grad_beta += tl.sum(solved * v, axis=0)
        solved = solved.to(NUMBER)
        state = load_rows(states_ptr, state_at, keys, 1, WIDTH, values, VALUES).to(NUMBER)
        read += tl.dot(state, solved, input_precision="ieee")
        grad = load_columns(grad_o_ptr, token, reads, heads, tokens, values, VALUES)
        grad = (grad.to(tl.float32) * scale).to(NUMBER)
        queried += tl.dot(state, grad, input_precision="ieee")
        v_new = load_rows(v_new_ptr, at, rows, 1, ROWS, values, VALUES).to(NUMBER)
        grad_kk -= tl.dot(v_new, solved, input_precision="ieee")
        grad_kq += tl.dot(v_new, grad, input_precision="ieee")
        grad_state = load_rows(grad_states_ptr, state_at, keys, 1, WIDTH, values, VALUES)
        grad_state = grad_state.to(NUMBER)
        v_new = load_columns(v_new_ptr, at, rows, 1, ROWS, values, VALUES).to(NUMBER)
        written += tl.dot(grad_state, v_new, input_precision="ieee")
        grad = load_rows(grad_o_ptr, token, reads, heads, tokens, values, VALUES)
        grad = (grad.to(tl.float32) * scale).to(NUMBER)
        grad_qk += tl.dot(grad, v_new, input_precision="ieee")
        if HAS_GATE:
            through += tl.sum(state.to(tl.float32) * grad_state.to(tl.float32), axis=1)

    k = load_columns(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
    k_rows = load_rows(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
    q = load_columns(q_ptr, token, reads, heads, tokens, keys, WIDTH).to(NUMBER)
    gates = beta
    if HAS_GATE:
        gates = load_gates(gate_ptr, token, rows, heads, tokens, FLOOR, SUBSTEPS)
        start = tl.load(start_ptr + at + rows)
        end = tl.load(end_ptr + at + rows)
        read *= start[None, :]
        written *= end[None, :]
        queried *= tl.load(start_ptr + at + last, mask=reads < tokens, other=0)[None, :]
    seen = tl.sum(read * k.to(tl.float32), axis=0)
    grad_beta -= seen

    strict = rows[:, None] < rows[None, :]
    grad_kk = tl.where(strict, grad_kk * decays(gates, rows, rows, HAS_GATE, True), 0.0)
    kk = tl.dot(k_rows, k, input_precision="ieee")
    grad_beta += tl.sum(grad_kk * kk, axis=0)
    tl.store(grad_beta_ptr + places, grad_beta, mask=rows < steps)
    grad_kk *= beta[None, :]
    grad_kq *= decays(gates, rows, last, HAS_GATE, True)
    grad_qk *= decays(gates, rows, last, HAS_GATE, False)

    grad_q = queried + tl.dot(k, grad_kq.to(NUMBER), input_precision="ieee")
    store_columns(grad_q_ptr, grad_q, token, reads, heads, tokens, keys, WIDTH)
    grad_k = written - read * beta[None, :]
    grad_k += tl.dot(k, (grad_kk + tl.trans(grad_kk)).to(NUMBER), input_precision="ieee")
    grad_k += tl.dot(q, grad_qk.to(NUMBER), input_precision="ieee")
    store_columns(grad_k_ptr, grad_k, step, rows, heads, steps, keys, WIDTH)

    if HAS_GATE:
        # The log gate of row r counts in Gamma from s to t if s < r <= t; in a decay from the start
        # if r <= t, in one to the end if s < r, and in all of it always. The products are [r, t].
        earlier = (rows[None, :] < rows[:, None]).to(tl.float32)
        kq = tl.dot(k_rows, q, input_precision="ieee")
        by_read = tl.dot(earlier, grad_kk * kk, input_precision="tf32x3") - (seen * beta)[None, :]
        by_query = tl.dot(earlier, grad_kq * kq, input_precision="tf32x3")
        by_query += tl.sum(queried * q.to(tl.float32), axis=0)[None, :]
        ends = tl.sum(written * k.to(tl.float32), axis=0)
        grad_gate = tl.sum(tl.where(rows[:, None] <= rows[None, :], by_read, 0.0), axis=1)
        grad_gate += tl.sum(tl.where(rows[:, None] <= last[None, :], by_query, 0.0), axis=1)
        grad_gate += tl.sum(earlier * ends[None, :], axis=1)
        grad_gate += tl.sum(through, axis=0) * tl.load(start_ptr + at + ROWS - 1)
        places = token + (rows // SUBSTEPS).to(tl.int64) * heads
        there = (rows % SUBSTEPS == 0) & (rows < steps)
        # Below the floor a log gate has no effect.
        below = tl.load(gate_ptr + places, mask=there, other=0).to(tl.float32) < FLOOR
        tl.store(grad_gate_ptr + places, tl.where(below, 0.0, grad_gate), mask=there)
