"""The forward kernels of the gated delta rule.

Each chunk's triangular system is solved by itself; one program for a head and a block of V then
walks along the chunks with the state on the chip; each chunk's outputs follow from the state that
enters it. Formulas and letters are those of `cpu.py`; T is (I + A)^-1.
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

WALKS = [
    triton.Config({"BLOCK_V": 32}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_V": 16}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_V": 32}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_V": 64}, num_warps=4, num_stages=1),
]
CHUNKS = [
    triton.Config({"BLOCK_V": 32}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_V": 64}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_V": 64}, num_warps=8, num_stages=2),
]


@triton.jit
def _inverse(a, rows, ROWS: tl.constexpr):
    """Invert I + a, for a strictly lower triangular a [ROWS, ROWS], ROWS being 16 or 32.

    By forward substitution within blocks of 16, all of them at a time; two blocks then have the
    inverse T - T B T, where B is the part of `a` below the blocks. (A series in powers of `a` would
    need no substitution, and is wrong: they grow like binomial coefficients.)
    """
    same = rows[:, None] // 16 == rows[None, :] // 16
    within = tl.where(same, a, 0.0)
    inverse = (rows[:, None] == rows[None, :]).to(tl.float32)
    for j in range(15):
        # Row j of each block is final, and is taken from the rows below it.
        taken = tl.sum(tl.where((rows % 16 == j)[None, :], within, 0.0), axis=1)
        row = tl.sum(tl.where((rows % 16 == j)[:, None], inverse, 0.0), axis=0)
        inverse -= tl.where(same, taken[:, None] * row[None, :], 0.0)
    if ROWS > 16:
        below = tl.where(same, 0.0, a)
        product = tl.dot(below, inverse, input_precision="ieee")
        inverse -= tl.dot(inverse, product, input_precision="ieee")
    return inverse


@autotune(CHUNKS, key=["WIDTH", "VALUES", "SUBSTEPS"])
@triton.jit(do_not_specialize=["length", "chunks"])
def solve_kernel(
    k_ptr, v_ptr, beta_ptr, gate_ptr, w_ptr, u_ptr, inverse_ptr, start_ptr, end_ptr,
    length, chunks, heads,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, SUBSTEPS: tl.constexpr, TOKENS: tl.constexpr,
    HAS_GATE: tl.constexpr, FLOOR: tl.constexpr, NUMBER: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Compute a chunk's T, W = T beta e^G K, U = T beta V, and its decays from start and to end."""
    chunk = tl.program_id(0)
    token, step, tokens, steps = find_chunk(chunk, chunks, heads, length, TOKENS, SUBSTEPS)
    rows = tl.arange(0, ROWS)
    keys = tl.arange(0, BLOCK_K)
    at = chunk.to(tl.int64) * ROWS
    k = load_rows(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
    beta = tl.load(beta_ptr + step + rows.to(tl.int64) * heads, mask=rows < steps, other=0)
    beta = beta.to(tl.float32)
    gates = beta
    decayed = k.to(tl.float32)
    if HAS_GATE:
        gates = load_gates(gate_ptr, token, rows, heads, tokens, FLOOR, SUBSTEPS)
        upto = (rows[:, None] >= rows[None, :]).to(tl.float32)
        start = tl.exp(tl.sum(upto * gates[None, :], axis=1))
        end = tl.exp(tl.sum((1 - upto) * gates[None, :], axis=1))
        tl.store(start_ptr + at + rows, start)
        tl.store(end_ptr + at + rows, end)
        decayed = decayed * start[:, None]
    system = tl.dot(k, tl.trans(k), input_precision="ieee") * beta[:, None]
    system *= decays(gates, rows, rows, HAS_GATE, False)
    inverse = _inverse(tl.where(rows[:, None] > rows[None, :], system, 0.0), rows, ROWS)
    store_rows(inverse_ptr, inverse, at, rows, 1, ROWS, rows, ROWS)
    inverse = inverse.to(NUMBER)
    decayed = (decayed * beta[:, None]).to(NUMBER)
    w = tl.dot(inverse, decayed, input_precision="ieee")
    store_rows(w_ptr, w, at, rows, 1, ROWS, keys, WIDTH)
    for first in range(0, VALUES, BLOCK_V):
        values = first + tl.arange(0, BLOCK_V)
        v = load_rows(v_ptr, step, rows, heads, steps, values, VALUES).to(NUMBER)
        u = tl.dot(inverse, (v.to(tl.float32) * beta[:, None]).to(NUMBER), input_precision="ieee")
        store_rows(u_ptr, u, at, rows, 1, ROWS, values, VALUES)


@autotune(WALKS, key=["WIDTH", "VALUES", "SUBSTEPS"])
@triton.jit(do_not_specialize=["length", "chunks"])
def states_kernel(
    k_ptr, w_ptr, u_ptr, start_ptr, end_ptr, initial_ptr, states_ptr, v_new_ptr, final_ptr,
    length, chunks, heads,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, SUBSTEPS: tl.constexpr, TOKENS: tl.constexpr,
    HAS_GATE: tl.constexpr, HAS_INITIAL: tl.constexpr, NUMBER: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Walk along the chunks: the state that enters each, V' = U - W S, and the final state."""
    blocks: tl.constexpr = tl.cdiv(VALUES, BLOCK_V)
    sequence = tl.program_id(0) // blocks
    values = tl.program_id(0) % blocks * BLOCK_V + tl.arange(0, BLOCK_V)
    rows = tl.arange(0, ROWS)
    keys = tl.arange(0, BLOCK_K)
    state_at = sequence.to(tl.int64) * WIDTH
    if HAS_INITIAL:
        state = load_rows(initial_ptr, state_at, keys, 1, WIDTH, values, VALUES).to(tl.float32)
    else:
        state = tl.zeros([BLOCK_K, BLOCK_V], dtype=tl.float32)
    for i in range(chunks):
        chunk = sequence * chunks + i
        _, step, _, steps = find_chunk(chunk, chunks, heads, length, TOKENS, SUBSTEPS)
        at = chunk.to(tl.int64) * ROWS
        rounded = state.to(NUMBER)
        store_rows(states_ptr, rounded, chunk.to(tl.int64) * WIDTH, keys, 1, WIDTH, values, VALUES)
        w = load_rows(w_ptr, at, rows, 1, ROWS, keys, WIDTH).to(NUMBER)
        v_new = load_rows(u_ptr, at, rows, 1, ROWS, values, VALUES).to(tl.float32)
        v_new -= tl.dot(w, rounded, input_precision="ieee")
        store_rows(v_new_ptr, v_new, at, rows, 1, ROWS, values, VALUES)
        k = load_columns(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
        if HAS_GATE:
            end = tl.load(end_ptr + at + rows)
            k = (k.to(tl.float32) * end[None, :]).to(NUMBER)
            state *= tl.load(start_ptr + at + ROWS - 1)
        state += tl.dot(k, v_new.to(NUMBER), input_precision="ieee")
    store_rows(final_ptr, state, state_at, keys, 1, WIDTH, values, VALUES)


@autotune(CHUNKS, key=["WIDTH", "VALUES", "SUBSTEPS"])
@triton.jit(do_not_specialize=["length", "chunks"])
def output_kernel(
    q_ptr, k_ptr, gate_ptr, start_ptr, states_ptr, v_new_ptr, o_ptr,
    scale, length, chunks, heads,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, SUBSTEPS: tl.constexpr, TOKENS: tl.constexpr,
    HAS_GATE: tl.constexpr, FLOOR: tl.constexpr, NUMBER: tl.constexpr,
    ROWS: tl.constexpr, READS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Compute O = scale (e^G Q S + (Q K' Gamma) V') of a chunk and a block of V."""
    blocks: tl.constexpr = tl.cdiv(VALUES, BLOCK_V)
    chunk = tl.program_id(0) // blocks
    values = tl.program_id(0) % blocks * BLOCK_V + tl.arange(0, BLOCK_V)
    token, step, tokens, steps = find_chunk(chunk, chunks, heads, length, TOKENS, SUBSTEPS)
    rows = tl.arange(0, ROWS)
    reads = tl.arange(0, READS)
    last = reads * SUBSTEPS + SUBSTEPS - 1
    keys = tl.arange(0, BLOCK_K)
    at = chunk.to(tl.int64) * ROWS
    q = load_rows(q_ptr, token, reads, heads, tokens, keys, WIDTH).to(NUMBER)
    k = load_columns(k_ptr, step, rows, heads, steps, keys, WIDTH).to(NUMBER)
    scores = tl.dot(q, k, input_precision="ieee")
    gates = rows.to(tl.float32)
    if HAS_GATE:
        gates = load_gates(gate_ptr, token, rows, heads, tokens, FLOOR, SUBSTEPS)
        start = tl.load(start_ptr + at + last, mask=reads < tokens, other=0)
        q = (q.to(tl.float32) * start[:, None]).to(NUMBER)
    scores *= decays(gates, rows, last, HAS_GATE, False)
    state_at = chunk.to(tl.int64) * WIDTH
    state = load_rows(states_ptr, state_at, keys, 1, WIDTH, values, VALUES).to(NUMBER)
    v_new = load_rows(v_new_ptr, at, rows, 1, ROWS, values, VALUES).to(NUMBER)
    o = tl.dot(q, state, input_precision="ieee")
    o += tl.dot(scores.to(NUMBER), v_new, input_precision="ieee")
    store_rows(o_ptr, o * scale, token, reads, heads, tokens, values, VALUES)
