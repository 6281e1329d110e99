"""The backward kernels of the gated delta rule.

One program for a head and a block of V walks along the chunks from the last to the first with the
gradient of the state on the chip; then each chunk has the gradients of its own inputs, all sums
over V and none between programs. Formulas and letters are those of `cpu.py`; T is (I + A)^-1.

No matrix product takes a transposed result of other arithmetic for its left operand: what is needed
so is loaded or multiplied out transposed. Compilers for Hopper have got that one wrong.
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
    """Compute a chunk's gradients of q, k, v, beta and the log gates."""
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
    inverse = load_columns(inverse_ptr, at, rows, 1, ROWS, rows, ROWS).to(NUMBER)

    # Sums over V. `read` is what of a chunk's values reads the state before it, `written` and
    # `queried` what writes into the state after it and what queries the one before.
    read = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    written = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    queried = tl.zeros([READS, BLOCK_K], dtype=tl.float32)
    grad_kk = tl.zeros([ROWS, ROWS], dtype=tl.float32)
    grad_qk = tl.zeros([READS, ROWS], dtype=tl.float32)
    grad_kq = tl.zeros([ROWS, READS], dtype=tl.float32)
    grad_beta = tl.zeros([ROWS], dtype=tl.float32)
    through = tl.zeros([BLOCK_K], dtype=tl.float32)
    for first in range(0, VALUES, BLOCK_V):
        values = first + tl.arange(0, BLOCK_V)
        grad_v_new = load_rows(grad_v_new_ptr, at, rows, 1, ROWS, values, VALUES).to(NUMBER)
        v = load_rows(v_ptr, step, rows, heads, steps, values, VALUES).to(tl.float32)
        solved = tl.dot(inverse, grad_v_new, input_precision="ieee")
        grad_v = solved * beta[:, None]
        store_rows(grad_v_ptr, grad_v, step, rows, heads, steps, values, VALUES)
        grad_beta += tl.sum(solved * v, axis=1)
        solved = solved.to(NUMBER)
        grad = load_rows(grad_o_ptr, token, reads, heads, tokens, values, VALUES)
        grad = (grad.to(tl.float32) * scale).to(NUMBER)
        state = load_columns(states_ptr, state_at, keys, 1, WIDTH, values, VALUES).to(NUMBER)
        grad_state = load_columns(grad_states_ptr, state_at, keys, 1, WIDTH, values, VALUES)
        grad_state = grad_state.to(NUMBER)
        v_new = load_rows(v_new_ptr, at, rows, 1, ROWS, values, VALUES).to(NUMBER)
        v_new_columns = load_columns(v_new_ptr, at, rows, 1, ROWS, values, VALUES).to(NUMBER)
        grad_columns = load_columns(grad_o_ptr, token, reads, heads, tokens, values, VALUES)
        grad_columns = (grad_columns.to(tl.float32) * scale).to(NUMBER)
        read += tl.dot(solved, state, input_precision="ieee")
        written += tl.dot(v_new, grad_state, input_precision="ieee")
        queried += tl.dot(grad, state, input_precision="ieee")
        grad_kk -= tl.dot(solved, v_new_columns, input_precision="ieee")
        grad_qk += tl.dot(grad, v_new_columns, input_precision="ieee")
        grad_kq += tl.dot(v_new, grad_columns, input_precision="ieee")
        if HAS_GATE:
            through += tl.sum(state.to(tl.float32) * grad_state.to(tl.float32), axis=0)

    k = load_rows(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
    q = load_rows(q_ptr, token, reads, heads, tokens, keys, WIDTH).to(NUMBER)
    wide_k = k.to(tl.float32)
    gates = beta
    if HAS_GATE:
        gates = load_gates(gate_ptr, token, rows, heads, tokens, FLOOR, SUBSTEPS)
        start = tl.load(start_ptr + at + rows)
        end = tl.load(end_ptr + at + rows)
        read *= start[:, None]
        written *= end[:, None]
        queried *= tl.load(start_ptr + at + last, mask=reads < tokens, other=0)[:, None]
    seen = tl.sum(read * wide_k, axis=1)
    grad_beta -= seen

    strict = rows[:, None] > rows[None, :]
    grad_kk = tl.where(strict, grad_kk * decays(gates, rows, rows, HAS_GATE, False), 0.0)
    kk = tl.dot(k, tl.trans(k), input_precision="ieee")
    grad_beta += tl.sum(grad_kk * kk, axis=1)
    tl.store(grad_beta_ptr + places, grad_beta, mask=rows < steps)
    grad_kk *= beta[:, None]
    grad_qk *= decays(gates, rows, last, HAS_GATE, False)
    grad_kq *= decays(gates, rows, last, HAS_GATE, True)

    grad_q = queried + tl.dot(grad_qk.to(NUMBER), k, input_precision="ieee")
    store_rows(grad_q_ptr, grad_q, token, reads, heads, tokens, keys, WIDTH)
    grad_k = written - read * beta[:, None]
    grad_k += tl.dot((grad_kk + tl.trans(grad_kk)).to(NUMBER), k, input_precision="ieee")
    grad_k += tl.dot(grad_kq.to(NUMBER), q, input_precision="ieee")
    store_rows(grad_k_ptr, grad_k, step, rows, heads, steps, keys, WIDTH)

    if HAS_GATE:
        # A log gate counts in Gamma from s to t if it comes after s and not after t; in a decay
        # from the start if not after t, in one to the end if after s; in all of it always.
        after = (rows[:, None] < rows[None, :]).to(tl.float32)
        before = rows[:, None] >= rows[None, :]
        before_read = last[:, None] >= rows[None, :]
        grad_kk = tl.dot(grad_kk * kk, after, input_precision="tf32x3") - (seen * beta)[:, None]
        grad_qk *= tl.dot(q, tl.trans(k), input_precision="ieee")
        grad_qk = tl.dot(grad_qk, after, input_precision="tf32x3")
        grad_qk += tl.sum(queried * q.to(tl.float32), axis=1)[:, None]
        ends = tl.sum(written * wide_k, axis=1)
        grad_gate = tl.sum(tl.where(before, grad_kk, 0.0), axis=0)
        grad_gate += tl.sum(tl.where(before_read, grad_qk, 0.0), axis=0)
        grad_gate += tl.sum(after * ends[:, None], axis=0)
        grad_gate += tl.sum(through, axis=0) * tl.load(start_ptr + at + ROWS - 1)
        of_token = token + (rows // SUBSTEPS).to(tl.int64) * heads
        there = (rows % SUBSTEPS == 0) & (rows < steps)
        # Below the floor a log gate has no effect.
        floored = tl.load(gate_ptr + of_token, mask=there, other=0).to(tl.float32) < FLOOR
        grad_gate = tl.where(floored, 0.0, grad_gate)
        tl.store(grad_gate_ptr + of_token, grad_gate, mask=there)
