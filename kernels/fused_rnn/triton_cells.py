"""What the forward and the backward kernel of a recurrence share: places, loads, functions."""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Hyperbolic tangent, without a NaN at large numbers."""
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def log_sigmoid(x):
    """Logarithm of the logistic function."""
    return tl.minimum(x, 0.0) - tl.log(1 + tl.exp(-tl.abs(x)))


@triton.jit
def place(batch, heads, WIDTH: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr):
    """Tell a program its head, the rows (sequences) and columns of its block, which exist."""
    program = tl.program_id(0)
    head = (program % heads).to(tl.int64)
    rows = (program // heads * BLOCK_B + tl.arange(0, BLOCK_B))[:, None]
    columns = tl.arange(0, BLOCK_D)[None, :]
    inside = (rows < batch) & (columns < WIDTH)
    return head, rows.to(tl.int64), columns, inside


@triton.jit
def load_matrices(
    ptr, head, WIDTH: tl.constexpr, G: tl.constexpr, BLOCK_D: tl.constexpr, DOT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Load the matrices [G, d, d] of a head, or their transposes, as a tuple."""
    first = tl.arange(0, BLOCK_D)[:, None]
    second = tl.arange(0, BLOCK_D)[None, :]
    inside = (first < WIDTH) & (second < WIDTH)
    at = second * WIDTH + first if TRANSPOSED else first * WIDTH + second
    matrices = ()
    for g in tl.static_range(G):
        tile = tl.load(ptr + (head * G + g) * WIDTH * WIDTH + at, mask=inside, other=0)
        matrices = matrices + (tile.to(DOT),)
    return matrices


@triton.jit
def load_bias(
    ptr, head, heads, columns, WIDTH: tl.constexpr, G: tl.constexpr, HAS_BIAS: tl.constexpr
):
    """Load the bias [G, H, d] of a head as a tuple of rows [1, d]."""
    rows = ()
    for g in tl.static_range(G):
        if HAS_BIAS:
            at = (g * heads + head) * WIDTH + columns
            rows = rows + (tl.load(ptr + at, mask=columns < WIDTH, other=0).to(tl.float32),)
        else:
            rows = rows + (tl.zeros(columns.shape, tl.float32),)
    return rows


@triton.jit
def load_state(
    ptr, index: tl.constexpr, at, count, inside, HAS_INITIAL: tl.constexpr, EMPTY: tl.constexpr
):
    """Load a state of [S, B, H, d], of `count` numbers each; if there is none, what is empty."""
    if HAS_INITIAL:
        state = tl.load(ptr + index * count + at, mask=inside, other=0).to(tl.float32)
    else:
        state = tl.full(inside.shape, EMPTY, tl.float32)
    return state


@triton.jit
def load_gates(ptr, at, stride, inside, G: tl.constexpr):
    """Load the gates of a step as a tuple, in the type in which they are stored."""
    gates = ()
    for g in tl.static_range(G):
        gates = gates + (tl.load(ptr + at + g * stride, mask=inside, other=0),)
    return gates
