"""What the selective scan's forward and backward kernels do alike."""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(width: tl.constexpr, groups: tl.constexpr, BLOCK: tl.constexpr):
    """Tell a program its sequence, group, block of the group's channels, and these channels.

    All on one axis of the grid, as the other two end at 65535. `width` is that of a group; the
    channels are those of the group.
    """
    blocks: tl.constexpr = tl.cdiv(width, BLOCK)
    program = tl.program_id(0)
    block = program % blocks
    sequence = (program // (blocks * groups)).to(tl.int64)
    return sequence, program // blocks % groups, block, block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def first_row(ptr, sequence, sequence_stride, stride, length, REVERSE: tl.constexpr):
    """Point at the row of a sequence from which the scan starts."""
    ptr += sequence * sequence_stride
    if REVERSE:
        ptr += (length - 1).to(tl.int64) * stride
    return ptr


@triton.jit
def load_rows(ptr, step, columns, left, ROWS: tl.constexpr, number: tl.constexpr):
    """Load the next rows as a tuple: zeros beyond the number that each column has `left`."""
    rows = ()
    for i in tl.static_range(ROWS):
        rows = rows + (tl.load(ptr + i * step + columns, mask=left > i, other=0).to(number),)
    return rows


@triton.jit
def softplus(x):
    """log(1 + exp(x)), also where that is small: log(1 + e) = e * log(y) / (y - 1), y = 1 + e."""
    e = tl.exp(-tl.abs(x))
    y = 1 + e
    tiny = y == 1
    return tl.maximum(x, 0.0) + tl.where(tiny, e, tl.log(y) * (e / tl.where(tiny, 1.0, y - 1)))


@triton.jit
def slope_of_softplus(y):
    """The derivative of softplus from its value, 1 - exp(-y), also where that is small."""
    series = y * (1 - y / 2 * (1 - y / 3 * (1 - y / 4 * (1 - y / 5 * (1 - y / 6)))))
    largest: tl.constexpr = 0.01 if y.dtype == tl.float64 else 0.1
    return tl.where(y < largest, series, 1 - tl.exp(-y))
