"""What the Triton kernels of the gated matrix state share: places, tiles, factors of gates.

Gates come as sums: G [B * H, chunks, CHUNK, K or 1] in float32, of each chunk's log gates from its
start, floored, in the order of the steps (from the end where the sequence runs in reverse), the
last chunk filled up with gates of 1. So the last row of a chunk is always the gate of all of it.

A gate per key channel must stand in the factors of the scores, e^(G_t - G_a) for queries and
e^(G_a - G_s) for keys with some anchor a (GLA's secondary chunking). Where t is in the second half
of a block of steps, s in the first, and a the last of the first, both are at most 1. Every pair
t >= s is such a pair in just one block of CHUNK, CHUNK / 2, ... steps, or both are in the same
block of 8; these have their middle for an anchor, from which the floor keeps e^72 at most. So
nothing overflows under any gates, without a branch, at the price of one more small product for
each halving.
"""

# Kernels are Triton's language, whose arguments have no Python types.
# mypy: allow-untyped-defs

import triton
import triton.language as tl

SMALLEST_BLOCK = tl.constexpr(8)


@triton.jit
def place(heads, chunks, CHUNK: tl.constexpr, program):
    """Tell sequence, head and first element of the sums (per channel) of a program of one head."""
    sequence = (program // heads).to(tl.int64)
    head = (program % heads).to(tl.int64)
    return sequence, head, program.to(tl.int64) * chunks * CHUNK


@triton.jit
def tokens(chunk, length, CHUNK: tl.constexpr, REVERSE: tl.constexpr):
    """Find the tokens of a chunk in the order of the steps, and which of them there are."""
    rows = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = rows < length
    if REVERSE:
        rows = length - 1 - rows
    return rows.to(tl.int64), inside


@triton.jit
def load_rows(ptr, rows, stride, inside, columns, width: tl.constexpr):
    """Load a tile [rows, columns], 0 outside."""
    mask = inside[:, None] & (columns < width)[None, :]
    return tl.load(ptr + rows[:, None] * stride + columns[None, :], mask=mask, other=0)


@triton.jit
def load_columns(ptr, rows, stride, inside, columns, width: tl.constexpr):
    """Load the same tile transposed, [columns, rows]."""
    mask = (columns < width)[:, None] & inside[None, :]
    return tl.load(ptr + columns[:, None] + rows[None, :] * stride, mask=mask, other=0)


@triton.jit
def store_rows(ptr, values, rows, stride, inside, columns, width: tl.constexpr):
    """Store a tile [rows, columns]."""
    mask = inside[:, None] & (columns < width)[None, :]
    tl.store(ptr + rows[:, None] * stride + columns[None, :], values, mask=mask)


@triton.jit
def sums_rows(ptr, chunk, index, columns, width: tl.constexpr, CHUNK: tl.constexpr):
    """Load the sums of a chunk [steps, columns]."""
    at = (chunk * CHUNK + index).to(tl.int64)
    return tl.load(
        ptr + at[:, None] * width + columns[None, :], mask=(columns < width)[None, :], other=0
    )


@triton.jit
def sums_columns(ptr, chunk, index, columns, width: tl.constexpr, CHUNK: tl.constexpr):
    """Load the same transposed, [columns, steps]."""
    at = (chunk * CHUNK + index).to(tl.int64)
    return tl.load(
        ptr + columns[:, None] + at[None, :] * width, mask=(columns < width)[:, None], other=0
    )


@triton.jit
def sums_at(ptr, chunk, step: tl.constexpr, columns, width: tl.constexpr, CHUNK: tl.constexpr):
    """Load the sums up to one step of a chunk [columns]."""
    at = (chunk * CHUNK + step + 0 * columns).to(tl.int64)
    return tl.load(ptr + at * width + columns, mask=columns < width, other=0)


@triton.jit
def anchor_rows(
    ptr, chunk, index, columns, width: tl.constexpr, CHUNK: tl.constexpr, block: tl.constexpr
):
    """Load the sums up to the last step of the first half of each step's block [steps, columns]."""
    anchors = sums_at(ptr, chunk, block // 2 - 1, columns, width, CHUNK)[None, :]
    for i in tl.static_range(1, CHUNK // block):
        row = sums_at(ptr, chunk, i * block + block // 2 - 1, columns, width, CHUNK)
        anchors = tl.where(index[:, None] >= i * block, row[None, :], anchors)
    return anchors


@triton.jit
def anchor_columns(
    ptr, chunk, index, columns, width: tl.constexpr, CHUNK: tl.constexpr, block: tl.constexpr
):
    """Load the same transposed, [columns, steps]."""
    anchors = sums_at(ptr, chunk, block // 2 - 1, columns, width, CHUNK)[:, None]
    for i in tl.static_range(1, CHUNK // block):
        row = sums_at(ptr, chunk, i * block + block // 2 - 1, columns, width, CHUNK)
        anchors = tl.where(index[None, :] >= i * block, row[:, None], anchors)
    return anchors


@triton.constexpr_function
def levels(chunk):
    """Count the lengths of blocks from a chunk down to the smallest."""
    return (chunk // SMALLEST_BLOCK.value).bit_length()


@triton.jit
def query_factor(sums, anchors, index, block: tl.constexpr):
    """Compute e^(G_t - G_a); 0 in the first half of a block larger than the smallest."""
    if block == SMALLEST_BLOCK:
        return tl.exp(sums - anchors)
    return tl.where(index % block >= block // 2, tl.exp(tl.minimum(sums - anchors, 0)), 0.0)


@triton.jit
def key_factor(sums, anchors, index, block: tl.constexpr):
    """Compute e^(G_a - G_s); 0 in the second half of a block larger than the smallest."""
    if block == SMALLEST_BLOCK:
        return tl.exp(anchors - sums)
    return tl.where(index % block < block // 2, tl.exp(tl.minimum(anchors - sums, 0)), 0.0)
