"""What the kernels of the gated delta rule share: where a chunk is, its rows, its gates.

A chunk has up to ROWS sub-steps: those of TOKENS whole tokens, SUBSTEPS each. Rows beyond hold
zeros, which leave a state as it is (beta = 0, log gate 0); queries have rows of their own, one for
a token. Tensors that go from one kernel to another lie chunk by chunk, [B * H * chunks, ROWS, D].
"""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"

import triton
import triton.language as tl


@triton.jit
def find_chunk(chunk, chunks, heads, length, TOKENS: tl.constexpr, SUBSTEPS: tl.constexpr):
    """Find a chunk's first token and its first sub-step, and how many of each it has.

    The places are rows of [B, L, H, D] and [B, L * SUBSTEPS, H, D], from which the next ones are
    `heads` rows away.
    """
    sequence = chunk // chunks
    first = chunk % chunks * TOKENS
    head = sequence % heads
    start = ((sequence // heads).to(tl.int64) * length + first) * heads
    tokens = tl.minimum(length - first, TOKENS)
    return start + head, start * SUBSTEPS + head, tokens, tokens * SUBSTEPS


@triton.jit
def load_rows(ptr, start, rows, step, count, columns, WIDTH: tl.constexpr):
    """Load rows [rows, columns] of a matrix of WIDTH columns: zeros where there are none."""
    at = (start + rows.to(tl.int64) * step)[:, None] * WIDTH + columns[None, :]
    return tl.load(ptr + at, mask=(rows < count)[:, None] & (columns < WIDTH)[None, :], other=0)


@triton.jit
def load_columns(ptr, start, rows, step, count, columns, WIDTH: tl.constexpr):
    """Load what `load_rows` does, transposed: [columns, rows]."""
    at = (start + rows.to(tl.int64) * step)[None, :] * WIDTH + columns[:, None]
    return tl.load(ptr + at, mask=(rows < count)[None, :] & (columns < WIDTH)[:, None], other=0)


@triton.jit
def store_rows(ptr, values, start, rows, step, count, columns, WIDTH: tl.constexpr):
    """Store what `load_rows` loads."""
    at = (start + rows.to(tl.int64) * step)[:, None] * WIDTH + columns[None, :]
    tl.store(ptr + at, values, mask=(rows < count)[:, None] & (columns < WIDTH)[None, :])


@triton.jit
def store_columns(ptr, values, start, rows, step, count, columns, WIDTH: tl.constexpr):
    """Store what `load_columns` loads."""
    at = (start + rows.to(tl.int64) * step)[None, :] * WIDTH + columns[:, None]
    tl.store(ptr + at, values, mask=(rows < count)[None, :] & (columns < WIDTH)[:, None])


@triton.jit
def load_gates(ptr, start, rows, heads, tokens, FLOOR: tl.constexpr, SUBSTEPS: tl.constexpr):
    """Load the log gates of sub-steps: 0 where there is none, as after a token's first one."""
    there = (rows % SUBSTEPS == 0) & (rows // SUBSTEPS < tokens)
    at = start + (rows // SUBSTEPS).to(tl.int64) * heads
    gate = tl.load(ptr + at, mask=there, other=0).to(tl.float32)
    return tl.where(gate < FLOOR, FLOOR, gate)


@triton.jit
def decays(gates, rows, reads, HAS_GATE: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Compute Gamma [reads, rows]: the decay of what each row writes until it is read.

    Args:
        gates: log gates of the rows; unused without HAS_GATE, where Gamma is 1.
        rows: 0, 1, ...
        reads: the last row before each read; Gamma is 0 for rows after it.
        HAS_GATE: whether there are gates.
        TRANSPOSED: return [rows, reads].

    The sum of the log gates after a write is a difference of sums from the chunk's start, in which
    those after a strong gate would drown in its rounding. So each is split into a multiple of 1/256
    and a rest: sums of the former are exact in float32, those of the latter as small as they are.
    """
    if TRANSPOSED:
        causal = rows[:, None] <= reads[None, :]
    else:
        causal = reads[:, None] >= rows[None, :]
    if not HAS_GATE:
        return causal.to(tl.float32)
    whole = tl.floor(gates * 256) / 256
    between = _between(whole, rows, reads, TRANSPOSED)
    between += _between(gates - whole, rows, reads, TRANSPOSED)
    return tl.exp(tl.where(causal, between, float("-inf")))


@triton.jit
def _between(gates, rows, reads, TRANSPOSED: tl.constexpr):
    """Subtract the sum of the gates up to each write from that up to each read."""
    at_read = tl.sum(tl.where(reads[:, None] >= rows[None, :], gates[None, :], 0.0), axis=1)
    at_write = tl.sum(tl.where(rows[:, None] >= rows[None, :], gates[None, :], 0.0), axis=1)
    if TRANSPOSED:
        between = at_read[None, :] - at_write[:, None]
    else:
        between = at_read[:, None] - at_write[None, :]
    return between
