"""Attention's Triton kernels: the output, the gradient of q, and the gradients of k and v.

Each works as FlashAttention does (Dao 2023, "FlashAttention-2"): a program keeps a tile of the
result and walks over the tiles of the other side that its pattern can see, scores are computed
again in the gradients, and nothing is added to by two programs. Programs of all heads and sequences
lie on one axis of the grid.
"""

# Kernels are Triton's language, whose arguments have no Python types.
# mypy: allow-untyped-defs

import triton
import triton.language as tl

from nas.kernels.attention.triton_tiles import (
    is_visible,
    key_at,
    key_range,
    load_rows,
    load_turned,
    row_range,
    row_tile,
    row_tiles,
    store_rows,
    tile_gradient,
    tile_scores,
)
from nas.kernels.autotune import autotune
from nas.kernels.dispatch import interpreting

_LEAST = 16 if interpreting() else 32
_CONFIGS = [
    triton.Config({"BLOCK_M": _LEAST}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 64}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 64}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 128}, num_warps=8, num_stages=3),
]
_KEY = ["KIND", "A", "SIGMOID", "BLOCK_D"]
_SIZES = ["queries", "keys"]


@triton.jit
def _of_head(ptr, HAS: tl.constexpr, head):
    if HAS:
        return tl.load(ptr + head).to(tl.float32)
    return 0.0


@triton.jit
def _length(ptr, batch, KIND: tl.constexpr):
    if KIND == "prefix":
        return tl.minimum(tl.load(ptr + batch), 2**30).to(tl.int32)
    return 0


@autotune(_CONFIGS, key=_KEY)
@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, slopes_ptr, lengths_ptr, out_ptr, lse_ptr,
    queries, keys, heads, shared, scale,
    qb, ql, qh, kb, kl, kh, vb, vl, vh,
    KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    SIGMOID: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SLOPES: tl.constexpr,
    width: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    NUMBER: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Compute the output of a tile of queries, and log2 of the sum of its powers."""
    program = tl.program_id(0)
    tiles = row_tiles(queries, KIND, C, BLOCK_M)
    tile = program % tiles
    head = program // tiles % heads
    batch = (program // tiles // heads).to(tl.int64)
    q_ptr += batch * qb + head.to(tl.int64) * qh
    k_ptr += batch * kb + (head // shared).to(tl.int64) * kh
    v_ptr += batch * vb + (head // shared).to(tl.int64) * vh
    slope = _of_head(slopes_ptr, HAS_SLOPES, head)
    bias = _of_head(bias_ptr, HAS_BIAS, head)
    length = _length(lengths_ptr, batch, KIND)

    rows = row_tile(tile, KIND, C, BLOCK_M)
    inside = rows < queries
    i = rows + (keys - queries)
    first = tl.min(i, 0)
    last = tl.minimum(tl.max(i, 0), keys - 1)
    q = load_rows(q_ptr, rows, ql, inside, width, BLOCK_D).to(NUMBER)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    low, high, base, summaries = key_range(first, last, keys, length, KIND, A, B, C, BLOCK_N)
    for start in range(low, high, BLOCK_N):
        t = start + tl.arange(0, BLOCK_N)
        j = key_at(t, base, summaries, KIND, A, B, C, BLOCK_N)
        there = (t < high) & (j < keys)
        if KIND == "landmark":
            there = there & (t % BLOCK_N < A)
        k = load_turned(k_ptr, j, kl, there, width, BLOCK_D).to(NUMBER)
        v = load_rows(v_ptr, j, vl, there, width, BLOCK_D).to(NUMBER)
        products = tl.dot(q, k, input_precision=PRECISION)
        seen = is_visible(i[:, None], j[None, :], length, KIND, A, B) & there[None, :]
        scores = tile_scores(
            products, i[:, None], j[None, :], seen, slope, bias, scale,
            KIND, A, SIGMOID, HAS_SLOPES, 1,
        )  # fmt: skip
        if SIGMOID:
            weights = scores
        else:
            largest = tl.maximum(peak, tl.max(scores, 1))
            # While nothing was seen, -inf - -inf would be no number.
            known = tl.where(largest == float("-inf"), 0.0, largest)
            weights = tl.exp2(scores - known[:, None])
            keep = tl.exp2(peak - known)
            total = total * keep + tl.sum(weights, 1)
            out = out * keep[:, None]
            peak = largest
        out = tl.dot(weights.to(NUMBER), v, out, input_precision=PRECISION)
    row_at = (batch * heads + head) * queries + rows
    if not SIGMOID:
        nothing = total == 0
        total = tl.where(nothing, 1.0, total)
        out = out / total[:, None]
        tl.store(lse_ptr + row_at, tl.where(nothing, 0.0, peak + tl.log2(total)), mask=inside)
    out_ptr += (batch * queries * heads + head) * width
    store_rows(out_ptr, out, rows, heads * width, inside, width, BLOCK_D)


@autotune(_CONFIGS, key=_KEY)
@triton.jit(do_not_specialize=_SIZES)
def grad_q_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, slopes_ptr, lengths_ptr, out_ptr, lse_ptr, grad_ptr,
    grad_q_ptr, mean_ptr, grad_bias_ptr,
    queries, keys, heads, shared, scale,
    qb, ql, qh, kb, kl, kh, vb, vl, vh, gb, gl, gh,
    KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    SIGMOID: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SLOPES: tl.constexpr,
    width: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    NUMBER: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Compute a tile of the gradient of q, and rowsum(grad * out) for the other kernel."""
    program = tl.program_id(0)
    tiles = row_tiles(queries, KIND, C, BLOCK_M)
    tile = program % tiles
    head = program // tiles % heads
    batch = (program // tiles // heads).to(tl.int64)
    q_ptr += batch * qb + head.to(tl.int64) * qh
    k_ptr += batch * kb + (head // shared).to(tl.int64) * kh
    v_ptr += batch * vb + (head // shared).to(tl.int64) * vh
    grad_ptr += batch * gb + head.to(tl.int64) * gh
    own = (batch * queries * heads + head) * width  # in what is contiguous
    slope = _of_head(slopes_ptr, HAS_SLOPES, head)
    bias = _of_head(bias_ptr, HAS_BIAS, head)
    length = _length(lengths_ptr, batch, KIND)

    rows = row_tile(tile, KIND, C, BLOCK_M)
    inside = rows < queries
    i = rows + (keys - queries)
    first = tl.min(i, 0)
    last = tl.minimum(tl.max(i, 0), keys - 1)
    q = load_rows(q_ptr, rows, ql, inside, width, BLOCK_D).to(NUMBER)
    grad = load_rows(grad_ptr, rows, gl, inside, width, BLOCK_D)
    row_at = (batch * heads + head) * queries + rows
    if SIGMOID:
        mean = tl.zeros([BLOCK_M], tl.float32)
        lse = mean
    else:
        out = load_rows(out_ptr + own, rows, heads * width, inside, width, BLOCK_D)
        mean = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
        tl.store(mean_ptr + row_at, mean, mask=inside)
        lse = tl.load(lse_ptr + row_at, mask=inside, other=0.0)
    grad = grad.to(NUMBER)
    grad_bias = tl.zeros([BLOCK_M], tl.float32)
    grad_q = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    low, high, base, summaries = key_range(first, last, keys, length, KIND, A, B, C, BLOCK_N)
    for start in range(low, high, BLOCK_N):
        t = start + tl.arange(0, BLOCK_N)
        j = key_at(t, base, summaries, KIND, A, B, C, BLOCK_N)
        there = (t < high) & (j < keys)
        if KIND == "landmark":
            there = there & (t % BLOCK_N < A)
        turned_k = load_turned(k_ptr, j, kl, there, width, BLOCK_D).to(NUMBER)
        turned_v = load_turned(v_ptr, j, vl, there, width, BLOCK_D).to(NUMBER)
        products = tl.dot(q, turned_k, input_precision=PRECISION)
        seen = is_visible(i[:, None], j[None, :], length, KIND, A, B) & there[None, :]
        scores = tile_scores(
            products, i[:, None], j[None, :], seen, slope, bias, scale,
            KIND, A, SIGMOID, HAS_SLOPES, 1,
        )  # fmt: skip
        weights = scores if SIGMOID else tl.exp2(scores - lse[:, None])
        grad_weights = tl.dot(grad, turned_v, input_precision=PRECISION)
        grad_scores = tile_gradient(
            weights, grad_weights, mean[:, None], i[:, None], j[None, :], seen, KIND, A, SIGMOID, 1
        )
        grad_bias += tl.sum(grad_scores, 1)
        k = load_rows(k_ptr, j, kl, there, width, BLOCK_D).to(NUMBER)
        grad_q = tl.dot(grad_scores.to(NUMBER), k, grad_q, input_precision=PRECISION)
    if HAS_BIAS:
        tl.store(grad_bias_ptr + row_at, grad_bias, mask=inside)
    store_rows(grad_q_ptr + own, grad_q * scale, rows, heads * width, inside, width, BLOCK_D)


@autotune(_CONFIGS, key=_KEY)
@triton.jit(do_not_specialize=[*_SIZES, "tiles"])
def grad_kv_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, slopes_ptr, lengths_ptr, lse_ptr, grad_ptr, mean_ptr,
    grad_k_ptr, grad_v_ptr,
    queries, keys, tiles, heads, shared, scale,
    qb, ql, qh, kb, kl, kh, vb, vl, vh, gb, gl, gh,
    KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    SIGMOID: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SLOPES: tl.constexpr,
    width: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    NUMBER: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Compute a tile of the gradients of k and v, from all query heads that read them."""
    program = tl.program_id(0)
    tile = program % tiles
    kv_heads = heads // shared
    kv_head = program // tiles % kv_heads
    batch = (program // tiles // kv_heads).to(tl.int64)
    k_ptr += batch * kb + kv_head.to(tl.int64) * kh
    v_ptr += batch * vb + kv_head.to(tl.int64) * vh
    length = _length(lengths_ptr, batch, KIND)

    # Which keys; `kept` are those whose gradients this program stores.
    lanes = tl.arange(0, BLOCK_N)
    is_summary = False
    j = row_tile(tile, KIND, C, BLOCK_N)
    if KIND == "landmark":
        j = tile * A + lanes
    if KIND == "fixed":
        # A tile of neighbours knows the queries of their own blocks alone. All later queries see
        # the summaries, which are gathered into tiles of their own.
        neighbours = (keys + BLOCK_N - 1) // BLOCK_N
        is_summary = tile >= neighbours
        number = (tile - neighbours) * BLOCK_N + lanes
        j = tl.where(number >= 0, number // B * A + A - B + number % B, j)
    there = j < keys
    if KIND == "landmark":
        there = there & (lanes < A)
    kept = there
    if KIND == "fixed":
        kept = there & ((number >= 0) | (j % A < A - B))
    first = tl.min(j, 0)
    last = tl.minimum(tl.max(j, 0), keys - 1)
    k = load_rows(k_ptr, j, kl, there, width, BLOCK_D).to(NUMBER)
    v = load_rows(v_ptr, j, vl, there, width, BLOCK_D).to(NUMBER)
    grad_k = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    low, high, base = row_range(first, last, is_summary, queries, keys, length, KIND, A, B, C)
    for member in range(shared):
        head = kv_head * shared + member
        head_q = q_ptr + batch * qb + head.to(tl.int64) * qh
        head_grad = grad_ptr + batch * gb + head.to(tl.int64) * gh
        row_ptr = (batch * heads + head) * queries
        slope = _of_head(slopes_ptr, HAS_SLOPES, head)
        bias = _of_head(bias_ptr, HAS_BIAS, head)
        for start in range(low, high, BLOCK_M):
            u = start + tl.arange(0, BLOCK_M)
            rows = u
            if KIND == "band":
                rows = base + C * u
            inside = (u < high) & (rows < queries)
            i = rows + (keys - queries)
            turned_q = load_turned(head_q, rows, ql, inside, width, BLOCK_D).to(NUMBER)
            products = tl.dot(k, turned_q, input_precision=PRECISION)
            seen = is_visible(i[None, :], j[:, None], length, KIND, A, B)
            seen = seen & there[:, None] & inside[None, :]
            scores = tile_scores(
                products, i[None, :], j[:, None], seen, slope, bias, scale,
                KIND, A, SIGMOID, HAS_SLOPES, 0,
            )  # fmt: skip
            mean = tl.zeros([BLOCK_M], tl.float32)
            weights = scores
            if not SIGMOID:
                mean = tl.load(mean_ptr + row_ptr + rows, mask=inside, other=0.0)
                lse = tl.load(lse_ptr + row_ptr + rows, mask=inside, other=0.0)
                weights = tl.exp2(scores - lse[None, :])
            grad = load_rows(head_grad, rows, gl, inside, width, BLOCK_D).to(NUMBER)
            grad_v = tl.dot(weights.to(NUMBER), grad, grad_v, input_precision=PRECISION)
            turned_grad = load_turned(head_grad, rows, gl, inside, width, BLOCK_D).to(NUMBER)
            grad_weights = tl.dot(v, turned_grad, input_precision=PRECISION)
            grad_scores = tile_gradient(
                weights, grad_weights, mean[None, :], i[None, :], j[:, None], seen,
                KIND, A, SIGMOID, 0,
            )  # fmt: skip
            q = load_rows(head_q, rows, ql, inside, width, BLOCK_D).to(NUMBER)
            grad_k = tl.dot(grad_scores.to(NUMBER), q, grad_k, input_precision=PRECISION)
    own = (batch * keys * kv_heads + kv_head) * width
    stride = kv_heads * width
    store_rows(grad_k_ptr + own, grad_k * scale, j, stride, kept, width, BLOCK_D)
    store_rows(grad_v_ptr + own, grad_v, j, stride, kept, width, BLOCK_D)
