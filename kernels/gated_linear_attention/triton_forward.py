"""Triton kernels of the gated matrix state that go forward: sums of gates, outputs, states.

The forward pass is one kernel: a program walks along the chunks of one head with the state's BV
value channels on the chip, so that no state is written. The backward pass needs the state that
enters each chunk and the gradient of the one that leaves it: one kernel computes either and writes
them, in the type in which they will be multiplied.
"""

# Kernels are Triton's language, whose arguments have no Python types.
# mypy: allow-untyped-defs

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.gated_linear_attention.triton_tiles import (
    anchor_columns,
    anchor_rows,
    key_factor,
    levels,
    load_columns,
    load_rows,
    place,
    query_factor,
    store_rows,
    sums_at,
    sums_columns,
    sums_rows,
    tokens,
)

FORWARD_CONFIGS = [
    # Loads one step ahead fill the chip's memory at wide keys in float32.
    triton.Config({"BV": 32}, num_warps=4, num_stages=1),
    triton.Config({"BV": 64}, num_warps=4, num_stages=2),
    triton.Config({"BV": 64}, num_warps=8, num_stages=2),
]
STATE_CONFIGS = [
    triton.Config({"BK": 32, "BV": 32}, num_warps=4, num_stages=2),
    triton.Config({"BK": 64, "BV": 64}, num_warps=4, num_stages=3),
]


@triton.jit(do_not_specialize=["length", "chunks"])
def _sums_kernel(
    gate_ptr, sums_ptr,
    length, heads, chunks, gate_b, gate_t, gate_h,
    WIDTH: tl.constexpr, FLOOR: tl.constexpr, REVERSE: tl.constexpr,
    CHUNK: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    chunk = program % chunks
    sequence, head, start = place(heads, chunks, CHUNK, program // chunks)
    rows, inside = tokens(chunk, length, CHUNK, REVERSE)
    columns = tl.arange(0, BK)
    gate_ptr += sequence * gate_b + head * gate_h
    gate = load_rows(gate_ptr, rows, gate_t, inside, columns, WIDTH).to(tl.float32)
    sums = tl.cumsum(tl.maximum(gate, FLOOR), axis=0)
    steps = (chunk * CHUNK + tl.arange(0, CHUNK)).to(tl.int64)
    store_rows(sums_ptr + start * WIDTH, sums, steps, WIDTH, steps >= 0, columns, WIDTH)


@triton.jit
def _block_scores(
    q, k, sums, sums_k, sums_ptr, chunk, keys, index,
    K: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Compute the scores of the pairs of steps that meet in blocks of one length."""
    anchors = anchor_rows(sums_ptr, chunk, index, keys, K, CHUNK, block)
    anchors_k = anchor_columns(sums_ptr, chunk, index, keys, K, CHUNK, block)
    right = (q * query_factor(sums, anchors, index[:, None], block)).to(DOT)
    left = (k * key_factor(sums_k, anchors_k, index[None, :], block)).to(DOT)
    scores = tl.dot(right, left, input_precision=PRECISION)
    same = index[:, None] // block == index[None, :] // block
    return tl.where(same & (index[:, None] >= index[None, :]), scores, 0.0)


@autotune(FORWARD_CONFIGS, key=["K", "V", "GATE"])
@triton.jit(do_not_specialize=["length", "chunks"])
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, sums_ptr, initial_ptr, o_ptr, final_ptr,
    length, heads, chunks, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
    GATE: tl.constexpr, HAS_INITIAL: tl.constexpr, REVERSE: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    # GATE: 0 none, 1 per head, 2 per key channel.
    blocks: tl.constexpr = tl.cdiv(V, BV)
    program = tl.program_id(0)
    sequence, head, start = place(heads, chunks, CHUNK, program // blocks)
    keys = tl.arange(0, BK)
    values = program % blocks * BV + tl.arange(0, BV)
    index = tl.arange(0, CHUNK)
    q_ptr += sequence * q_b + head * q_h
    k_ptr += sequence * k_b + head * k_h
    v_ptr += sequence * v_b + head * v_h
    o_ptr += (sequence * length * heads + head) * V
    sums_ptr += start * (K if GATE == 2 else 1)
    state_at = (program // blocks).to(tl.int64) * K * V + keys[:, None] * V + values[None, :]
    state_mask = (keys < K)[:, None] & (values < V)[None, :]
    if HAS_INITIAL:
        state = tl.load(initial_ptr + state_at, mask=state_mask, other=0).to(tl.float32)
    else:
        state = tl.zeros([BK, BV], dtype=tl.float32)

    for chunk in range(chunks):
        rows, inside = tokens(chunk, length, CHUNK, REVERSE)
        q = load_rows(q_ptr, rows, q_t, inside, keys, K)
        k = load_columns(k_ptr, rows, k_t, inside, keys, K)
        v = load_rows(v_ptr, rows, v_t, inside, values, V).to(DOT)
        earlier = index[:, None] >= index[None, :]
        if GATE == 2:
            q, k = q.to(tl.float32), k.to(tl.float32)
            sums = sums_rows(sums_ptr, chunk, index, keys, K, CHUNK)
            sums_k = sums_columns(sums_ptr, chunk, index, keys, K, CHUNK)
            last = sums_at(sums_ptr, chunk, CHUNK - 1, keys, K, CHUNK)
            scores = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
            for level in tl.static_range(levels(CHUNK)):
                scores += _block_scores(
                    q, k, sums, sums_k, sums_ptr, chunk, keys, index,
                    K, DOT, PRECISION, CHUNK, CHUNK >> level,
                )  # fmt: skip
            reading = (q * tl.exp(sums)).to(DOT)
            writing = (k * tl.exp(last[:, None] - sums_k)).to(DOT)
            kept = tl.exp(last)[:, None]
        else:
            scores = tl.dot(q.to(DOT), k.to(DOT), input_precision=PRECISION)
            reading, writing, kept = q.to(DOT), k.to(DOT), 1.0
            if GATE == 1:
                sums = tl.load(sums_ptr + chunk * CHUNK + index)
                last = tl.load(sums_ptr + chunk * CHUNK + CHUNK - 1)
                between = tl.where(earlier, sums[:, None] - sums[None, :], float("-inf"))
                scores *= tl.exp(between)
                reading = (q.to(tl.float32) * tl.exp(sums)[:, None]).to(DOT)
                writing = (k.to(tl.float32) * tl.exp(last - sums)[None, :]).to(DOT)
                kept = tl.exp(last)
            else:
                scores = tl.where(earlier, scores, 0.0)
        o = tl.dot(reading, state.to(DOT), input_precision=PRECISION)
        o = tl.dot(scores.to(DOT), v, acc=o, input_precision=PRECISION)
        store_rows(o_ptr, o * scale, rows, heads * V, inside, values, V)
        state = tl.dot(writing, v, acc=state * kept, input_precision=PRECISION)
    tl.store(final_ptr + state_at, state, mask=state_mask)


@autotune(STATE_CONFIGS, key=["K", "V", "GATE", "BACKWARD"])
@triton.jit(do_not_specialize=["length", "chunks"])
def _states_kernel(
    x_ptr, y_ptr, sums_ptr, start_ptr, states_ptr, end_ptr,
    length, heads, chunks, scale, x_b, x_t, x_h, y_b, y_t, y_h,
    K: tl.constexpr, V: tl.constexpr,
    GATE: tl.constexpr, HAS_START: tl.constexpr, REVERSE: tl.constexpr, BACKWARD: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    # Forwards x is k, y is v, and written is the state that enters each chunk. Backwards x is q, y
    # the gradient of o, and written is the gradient of the state that leaves it.
    k_blocks: tl.constexpr = tl.cdiv(K, BK)
    blocks: tl.constexpr = k_blocks * tl.cdiv(V, BV)
    program = tl.program_id(0)
    sequence, head, start = place(heads, chunks, CHUNK, program // blocks)
    keys = program % k_blocks * BK + tl.arange(0, BK)
    values = program % blocks // k_blocks * BV + tl.arange(0, BV)
    index = tl.arange(0, CHUNK)
    x_ptr += sequence * x_b + head * x_h
    y_ptr += sequence * y_b + head * y_h
    sums_ptr += start * (K if GATE == 2 else 1)
    outer = (program // blocks).to(tl.int64)
    state_at = keys[:, None] * V + values[None, :]
    state_mask = (keys < K)[:, None] & (values < V)[None, :]
    states_ptr += (outer * chunks + (chunks - 1 if BACKWARD else 0)) * K * V + state_at
    if HAS_START:
        state = tl.load(start_ptr + outer * K * V + state_at, mask=state_mask, other=0)
        state = state.to(tl.float32)
    else:
        state = tl.zeros([BK, BV], dtype=tl.float32)

    for i in range(chunks):
        tl.store(states_ptr, state, mask=state_mask)
        chunk = i
        states_ptr += -K * V if BACKWARD else K * V
        if BACKWARD:
            chunk = chunks - 1 - i
        rows, inside = tokens(chunk, length, CHUNK, REVERSE)
        x = load_columns(x_ptr, rows, x_t, inside, keys, K)
        y = load_rows(y_ptr, rows, y_t, inside, values, V).to(DOT)
        if GATE == 2:
            sums = sums_columns(sums_ptr, chunk, index, keys, K, CHUNK)
            last = sums_at(sums_ptr, chunk, CHUNK - 1, keys, K, CHUNK)[:, None]
            x = x.to(tl.float32) * tl.exp(sums if BACKWARD else last - sums)
            state *= tl.exp(last)
        if GATE == 1:
            sums = tl.load(sums_ptr + chunk * CHUNK + index)
            last = tl.load(sums_ptr + chunk * CHUNK + CHUNK - 1)
            x = x.to(tl.float32) * tl.exp(sums if BACKWARD else last - sums)[None, :]
            state *= tl.exp(last)
        if BACKWARD:
            state += tl.dot(x.to(DOT), y, input_precision=PRECISION) * scale
        else:
            state = tl.dot(x.to(DOT), y, acc=state, input_precision=PRECISION)
    tl.store(end_ptr + outer * K * V + state_at, state, mask=state_mask)
