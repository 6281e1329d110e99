"""What attention's Triton kernels share: the rows and keys of a tile, scores, what is seen.

A pattern is a word KIND and three numbers A, B, C, all known when a kernel is compiled:

    band      A = reach back, B = reach ahead, C = stride (full, causal, window, dilated)
    chunk     A = size, B = reach ahead
    fixed     A = stride, B = summaries
    prefix    (its length is read for each sequence)
    landmark  A = block

The keys that a tile of queries may see are numbered t = low .. high - 1, so that a loop walks over
these and no others: with a stride every C-th key, for `fixed` first all summaries before the block,
for `landmark` one block a step. The same holds for the queries of a tile of keys.
"""

# Kernels are Triton's language, whose arguments have no Python types.
# mypy: allow-untyped-defs

import triton
import triton.language as tl

from nas.kernels.attention import visible
from nas.kernels.dispatch import interpreting

# The interpreter takes them as they are, and wants `tl` in the module of what is jitted.
_jit = (lambda function: function) if interpreting() else triton.jit
_band_visible = _jit(visible.band_visible)
_chunk_visible = _jit(visible.chunk_visible)
_fixed_visible = _jit(visible.fixed_visible)
_prefix_visible = _jit(visible.prefix_visible)
_landmark_visible = _jit(visible.landmark_visible)

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def row_tiles(queries, KIND: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """Return the number of tiles of all queries."""
    if KIND == "band":
        return C * tl.cdiv(tl.cdiv(queries, C), BLOCK)
    return tl.cdiv(queries, BLOCK)


@triton.jit
def row_tile(tile, KIND: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """Return the rows of a tile of queries; all have the same residue by a band's stride."""
    lanes = tl.arange(0, BLOCK)
    if KIND == "band":
        return tile % C + C * (tile // C * BLOCK + lanes)
    return tile * BLOCK + lanes


@triton.jit
def key_range(
    first, last, keys, length,
    KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return low and high of what queries at first .. last see, and what `key_at` must know."""
    low = 0
    high = tl.minimum(last + 1, keys)
    base = 0
    summaries = 0
    if KIND == "band":
        # Of a negative number the remainder may be negative.
        base = (first % C + C) % C
        low = (tl.maximum(first - A, base) - base) // C
        high = (tl.minimum(last + B, keys - 1) - base) // C + 1
    if KIND == "chunk":
        low = tl.maximum(first, 0) // A * A
        if B > 0:
            high = tl.minimum((last // A + 1) * A, keys)
    if KIND == "fixed":
        base = tl.maximum(first, 0) // A * A
        summaries = base // A * B
        high = summaries + high - base
    if KIND == "prefix":
        high = tl.minimum(tl.maximum(last + 1, length), keys)
    if KIND == "landmark":
        high = (last // A + 1) * BLOCK
    return low, high, base, summaries


@triton.jit
def key_at(
    t, base, summaries,
    KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the key that is number t of a `key_range`."""
    if KIND == "band":
        return base + C * t
    if KIND == "fixed":
        return tl.where(t < summaries, t // B * A + A - B + t % B, base + t - summaries)
    if KIND == "landmark":
        return t // BLOCK * A + t % BLOCK
    return t


@triton.jit
def row_range(
    first, last, tile_is_summary, queries, keys, length,
    KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Return low, high and base of the rows base + C * u, low <= u < high, that see some keys."""
    offset = keys - queries
    start = first
    end = keys - 1
    if KIND == "band":
        start = first - B
        end = tl.minimum(last + A, end)
    if KIND == "chunk":
        if B > 0:
            start = first // A * A
        end = tl.minimum(last // A * A + A - 1, end)
    if KIND == "fixed":
        end = tl.where(tile_is_summary, end, tl.minimum(last // A * A + A - 1, end))
    if KIND == "prefix":
        start = tl.where(first < length, offset, first)
    start = tl.maximum(start - offset, 0)
    end = end - offset
    if KIND == "band":
        base = ((first - offset) % C + C) % C
        return (tl.maximum(start - base, 0) + C - 1) // C, (end - base) // C + 1, base
    return start, end + 1, 0


@triton.jit
def is_visible(
    i, j, length, KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Whether queries at i see keys j; of a band, keys and queries have the same residue."""
    if KIND == "band":
        return _band_visible(i, j, A, B, 1)
    if KIND == "chunk":
        return _chunk_visible(i, j, A, B)
    if KIND == "fixed":
        return _fixed_visible(i, j, A, B)
    if KIND == "prefix":
        return _prefix_visible(i, j, length)
    return _landmark_visible(i, j, A)


@triton.jit
def tile_scores(
    products, i, j, seen, slope, bias, scale,
    KIND: tl.constexpr, A: tl.constexpr, SIGMOID: tl.constexpr, HAS_SLOPES: tl.constexpr,
    KEYS: tl.constexpr,
):  # fmt: skip
    """Turn products q.k into weights of a sigmoid, or scores of a softmax by powers of 2.

    Args:
        products: [queries, keys], or turned round.
        i: positions of the queries, of a shape that broadcasts to that of the products.
        j: positions of the keys, likewise.
        seen: which of the pairs see each other.
        slope: of the head, subtracted for each step of distance.
        bias: of the head's sigmoid.
        scale: of the products.
        KIND: the pattern's.
        A: the pattern's first number.
        SIGMOID: whether weights are wanted.
        HAS_SLOPES: whether there is a slope.
        KEYS: the dimension of the keys.
    """
    scores = products * scale
    if HAS_SLOPES:
        scores -= slope * tl.abs(i - j).to(tl.float32)
    if SIGMOID:
        return tl.where(seen, tl.sigmoid(scores + bias), 0.0)
    scores = tl.where(seen, scores * LOG2E, float("-inf"))
    if KIND == "landmark":
        before = (i // A > j // A) & seen
        is_landmark = j % A == A - 1
        inside = tl.where(before & (is_landmark == 0), scores, float("-inf"))
        peak = tl.max(inside, KEYS, keep_dims=True)
        peak = tl.where(peak == float("-inf"), 0.0, peak)
        total = tl.sum(tl.exp2(inside - peak), KEYS, keep_dims=True)
        landmark = tl.sum(tl.where(before & is_landmark, scores, 0.0), KEYS, keep_dims=True)
        # A token of a block before weighs 2^landmark * 2^score / total.
        change = landmark - peak - tl.log2(tl.where(total == 0, 1.0, total))
        grouped = tl.where(is_landmark, float("-inf"), scores + change)
        scores = tl.where(before, grouped, scores)
    return scores


@triton.jit
def tile_gradient(
    weights, grad_weights, mean, i, j, seen,
    KIND: tl.constexpr, A: tl.constexpr, SIGMOID: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Turn gradients of weights into those of the scores; `mean` is rowsum(grad_out * out)."""
    if SIGMOID:
        return weights * (1 - weights) * grad_weights
    grad = weights * (grad_weights - mean)
    if KIND == "landmark":
        # The weight of a token of a block before goes to its landmark, less its part inside.
        before = (i // A > j // A) & seen
        is_landmark = j % A == A - 1
        total = tl.sum(tl.where(before, grad, 0.0), KEYS, keep_dims=True)
        share = tl.sum(tl.where(before, weights, 0.0), KEYS, keep_dims=True)
        inside = grad - weights * (total / tl.where(share == 0, 1.0, share))
        grad = tl.where(before, tl.where(is_landmark, total, inside), grad)
    return grad


@triton.jit
def load_rows(ptr, rows, stride, inside, width: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load [rows, BLOCK_D] of a matrix whose channels lie side by side, 0 where it has none."""
    channels = tl.arange(0, BLOCK_D)
    at = rows.to(tl.int64)[:, None] * stride + channels[None, :]
    mask = inside[:, None]
    if width != BLOCK_D:
        mask = mask & (channels < width)[None, :]
    return tl.load(ptr + at, mask=mask, other=0.0)


@triton.jit
def load_turned(ptr, rows, stride, inside, width: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load the same as [BLOCK_D, rows]: a product of a turned tile is not safe on every GPU."""
    channels = tl.arange(0, BLOCK_D)
    at = rows.to(tl.int64)[None, :] * stride + channels[:, None]
    mask = inside[None, :]
    if width != BLOCK_D:
        mask = mask & (channels < width)[:, None]
    return tl.load(ptr + at, mask=mask, other=0.0)


@triton.jit
def store_rows(ptr, value, rows, stride, inside, width: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store [rows, BLOCK_D]."""
    channels = tl.arange(0, BLOCK_D)
    at = rows.to(tl.int64)[:, None] * stride + channels[None, :]
    tl.store(ptr + at, value, mask=inside[:, None] & (channels < width)[None, :])
