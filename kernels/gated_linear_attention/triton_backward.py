"""The Triton kernel of the gated matrix state's gradient within each chunk, all chunks at once.

It finds the entering state S of each chunk and the gradient dS of the leaving one written by
`_states_kernel`, and follows `cpu.attention_backward` with its names. Scores and their gradient are
computed both ways round: a product of a transposed accumulator is what a compiler got wrong once.
"""

# Kernels are Triton's language, whose arguments have no Python types.
# mypy: allow-untyped-defs

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.gated_linear_attention.triton_tiles import (
    anchor_rows,
    key_factor,
    levels,
    load_rows,
    place,
    query_factor,
    store_rows,
    sums_at,
    sums_rows,
    tokens,
)

GRADIENT_CONFIGS = [
    triton.Config({"BV": 32}, num_warps=8, num_stages=1),
    triton.Config({"BV": 32}, num_warps=4, num_stages=2),
    triton.Config({"BV": 64}, num_warps=8, num_stages=2),
]


@triton.jit
def _block_scores(
    q, k, sums, sums_ptr, chunk, keys, index,
    K: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Compute the scores [keys, queries] of the pairs that meet in blocks of one length."""
    anchors = anchor_rows(sums_ptr, chunk, index, keys, K, CHUNK, block)
    left = (k * key_factor(sums, anchors, index[:, None], block)).to(DOT)
    right = (q * query_factor(sums, anchors, index[:, None], block)).to(DOT)
    scores = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    same = index[:, None] // block == index[None, :] // block
    return tl.where(same & (index[:, None] <= index[None, :]), scores, 0.0)


@triton.jit
def _block_gradients(
    q, k, grad_down, grad_across, sums, sums_ptr, chunk, keys, index,
    K: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Compute what q and k gain from such pairs, but those of a step with itself."""
    anchors = anchor_rows(sums_ptr, chunk, index, keys, K, CHUNK, block)
    of_keys = key_factor(sums, anchors, index[:, None], block)
    of_queries = query_factor(sums, anchors, index[:, None], block)
    same = index[:, None] // block == index[None, :] // block
    down = tl.where(same & (index[:, None] > index[None, :]), grad_down, 0.0).to(DOT)
    across = tl.where(same & (index[:, None] < index[None, :]), grad_across, 0.0).to(DOT)
    to_q = tl.dot(down, (k * of_keys).to(DOT), input_precision=PRECISION)
    to_k = tl.dot(across, (q * of_queries).to(DOT), input_precision=PRECISION)
    return to_q * of_queries, to_k * of_keys


@autotune(GRADIENT_CONFIGS, key=["K", "V", "GATE"])
@triton.jit(do_not_specialize=["length", "chunks"])
def _gradient_kernel(
    q_ptr, k_ptr, v_ptr, gate_ptr, sums_ptr, states_ptr, grad_states_ptr, grad_o_ptr,
    grad_q_ptr, grad_k_ptr, grad_v_ptr, grad_gate_ptr,
    length, heads, chunks, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, gate_b, gate_t, gate_h, o_b, o_t, o_h,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
    GATE: tl.constexpr, FLOOR: tl.constexpr, REVERSE: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    chunk = program % chunks
    sequence, head, start = place(heads, chunks, CHUNK, program // chunks)
    keys = tl.arange(0, BK)
    index = tl.arange(0, CHUNK)
    rows, inside = tokens(chunk, length, CHUNK, REVERSE)
    # Of a pair of steps, the query is later: rows first in `down`, columns first in `across`.
    down = index[:, None] >= index[None, :]
    across = index[:, None] <= index[None, :]
    strictly_down = index[:, None] > index[None, :]
    strictly_across = index[:, None] < index[None, :]
    v_ptr += sequence * v_b + head * v_h
    grad_o_ptr += sequence * o_b + head * o_h
    sums_ptr += start * (K if GATE == 2 else 1)
    states_at = program.to(tl.int64) * K * V
    own_at = sequence * length * heads + head

    q = load_rows(q_ptr + sequence * q_b + head * q_h, rows, q_t, inside, keys, K)
    k = load_rows(k_ptr + sequence * k_b + head * k_h, rows, k_t, inside, keys, K)
    if GATE == 2:
        q, k = q.to(tl.float32), k.to(tl.float32)
        sums = sums_rows(sums_ptr, chunk, index, keys, K, CHUNK)
        last = sums_at(sums_ptr, chunk, CHUNK - 1, keys, K, CHUNK)[None, :]
        scores = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
        for level in tl.static_range(levels(CHUNK)):
            scores += _block_scores(
                q, k, sums, sums_ptr, chunk, keys, index,
                K, DOT, PRECISION, CHUNK, CHUNK >> level,
            )  # fmt: skip
        read_decay, write_decay = tl.exp(sums), tl.exp(last - sums)
        writing = (k * write_decay).to(DOT)
    else:
        scores = tl.dot(k.to(DOT), tl.trans(q.to(DOT)), input_precision=PRECISION)
        writing = k.to(DOT)
        if GATE == 1:
            sums = tl.load(sums_ptr + chunk * CHUNK + index)
            last = tl.load(sums_ptr + chunk * CHUNK + CHUNK - 1)
            between = sums[:, None] - sums[None, :]
            weights_down = tl.exp(tl.where(down, between, float("-inf")))
            weights_across = tl.exp(tl.where(across, -between, float("-inf")))
            scores *= weights_across
            read_decay, write_decay = tl.exp(sums)[:, None], tl.exp(last - sums)[:, None]
            writing = (k.to(tl.float32) * write_decay).to(DOT)
        else:
            scores = tl.where(across, scores, 0.0)
    scores = (scores * scale).to(DOT)

    grad_down = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    grad_across = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    grad_q = tl.zeros([CHUNK, BK], dtype=tl.float32)
    grad_k = tl.zeros([CHUNK, BK], dtype=tl.float32)
    own = tl.zeros([CHUNK], dtype=tl.float32)
    beyond = tl.zeros([BK], dtype=tl.float32)
    for first in range(0, V, BV):
        values = first + tl.arange(0, BV)
        v = load_rows(v_ptr, rows, v_t, inside, values, V).to(DOT)
        grad_o = load_rows(grad_o_ptr, rows, o_t, inside, values, V).to(DOT)
        at = states_at + keys[:, None] * V + values[None, :]
        mask = (keys < K)[:, None] & (values < V)[None, :]
        state = tl.load(states_ptr + at, mask=mask, other=0)
        grad_state = tl.load(grad_states_ptr + at, mask=mask, other=0)
        grad_down = tl.dot(grad_o, tl.trans(v), acc=grad_down, input_precision=PRECISION)
        grad_across = tl.dot(v, tl.trans(grad_o), acc=grad_across, input_precision=PRECISION)
        grad_q = tl.dot(grad_o, tl.trans(state), acc=grad_q, input_precision=PRECISION)
        grad_k = tl.dot(v, tl.trans(grad_state), acc=grad_k, input_precision=PRECISION)
        if GATE != 0:
            own += tl.sum(grad_o.to(tl.float32) * v.to(tl.float32), axis=1)
            beyond += tl.sum(state.to(tl.float32) * grad_state.to(tl.float32), axis=1)
        grad_v = tl.dot(writing, grad_state, input_precision=PRECISION)
        grad_v = tl.dot(scores, grad_o, acc=grad_v, input_precision=PRECISION)
        store_rows(grad_v_ptr + own_at * V, grad_v, rows, heads * V, inside, values, V)

    grad_q *= scale
    grad_down *= scale
    grad_across *= scale
    if GATE == 0:
        grad_down = tl.where(down, grad_down, 0.0).to(DOT)
        grad_across = tl.where(across, grad_across, 0.0).to(DOT)
        grad_q = tl.dot(grad_down, k.to(DOT), acc=grad_q, input_precision=PRECISION)
        grad_k = tl.dot(grad_across, q.to(DOT), acc=grad_k, input_precision=PRECISION)
    else:
        grad_q *= read_decay
        grad_k *= write_decay
        leaving = k.to(tl.float32) * grad_k
        if GATE == 1:
            grad_down = tl.where(strictly_down, grad_down * weights_down, 0.0).to(DOT)
            grad_across = tl.where(strictly_across, grad_across * weights_across, 0.0).to(DOT)
            grad_q = tl.dot(grad_down, k.to(DOT), acc=grad_q, input_precision=PRECISION)
            within = tl.dot(grad_across, q.to(DOT), input_precision=PRECISION)
        else:
            within = tl.zeros([CHUNK, BK], dtype=tl.float32)
            for level in tl.static_range(levels(CHUNK)):
                to_q, to_k = _block_gradients(
                    q, k, grad_down, grad_across, sums, sums_ptr, chunk, keys, index,
                    K, DOT, PRECISION, CHUNK, CHUNK >> level,
                )  # fmt: skip
                grad_q += to_q
                within += to_k
        q, k = q.to(tl.float32), k.to(tl.float32)
        crossing = q * grad_q - k * within
        grad_k += within
        own *= scale
        grad_q += own[:, None] * k
        grad_k += own[:, None] * q
        gate_ptr += sequence * gate_b + head * gate_h
        if GATE == 1:
            from_here = tl.where(across, tl.sum(crossing, axis=1)[None, :], 0.0)
            before = tl.where(strictly_down, tl.sum(leaving, axis=1)[None, :], 0.0)
            grad_gate = tl.sum(from_here + before, axis=1) + tl.exp(last) * tl.sum(beyond)
            gate = tl.load(gate_ptr + rows * gate_t, mask=inside, other=0).to(tl.float32)
            grad_gate = tl.where(gate >= FLOOR, grad_gate, 0.0)
            tl.store(grad_gate_ptr + own_at + rows * heads, grad_gate, mask=inside)
        else:
            # Sums over steps as products with ones: what is added never has to be taken off again.
            ones = tl.where(across, 1.0, 0.0)
            grad_gate = tl.dot(ones, crossing, input_precision=PRECISION)
            ones = tl.where(strictly_down, 1.0, 0.0)
            grad_gate = tl.dot(ones, leaving, acc=grad_gate, input_precision=PRECISION)
            grad_gate += tl.exp(last) * beyond[None, :]
            gate = load_rows(gate_ptr, rows, gate_t, inside, keys, K).to(tl.float32)
            grad_gate = tl.where(gate >= FLOOR, grad_gate, 0.0)
            store_rows(grad_gate_ptr + own_at * K, grad_gate, rows, heads * K, inside, keys, K)
    store_rows(grad_q_ptr + own_at * K, grad_q, rows, heads * K, inside, keys, K)
    store_rows(grad_k_ptr + own_at * K, grad_k, rows, heads * K, inside, keys, K)
