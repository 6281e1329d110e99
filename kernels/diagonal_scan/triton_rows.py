"""What all kernels of the diagonal scan do alike: find their sequence, load rows ahead.

A program holds the state of BLOCK channels of one sequence, a channel to a lane, and walks along
the whole sequence. The scan does no more arithmetic than one multiply-add for three numbers moved,
so that all that matters is how many loads are on their way: the ROWS steps that come next are
loaded into registers while the present ROWS steps are worked on. B * D channels are plentiful, so
that the sequence is not split and no state is spilled.

Strides along time are compile-time constants, because sixteen rows then share one address; the
length is not, as a sequence of another length must not compile again.
"""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl


@triton.jit
def place(width: tl.constexpr, BLOCK: tl.constexpr):
    """Tell a program its sequence and channels: on one axis, as the other two end at 65535."""
    blocks: tl.constexpr = tl.cdiv(width, BLOCK)
    program = tl.program_id(0)
    channels = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), channels


@triton.jit
def span(cu_ptr, sequence, length, PACKED: tl.constexpr):
    """Find where a sequence begins, in units of its tensors' `start_` strides, and its length."""
    start = sequence
    if PACKED:
        start = tl.load(cu_ptr + sequence).to(tl.int64)
        length = (tl.load(cu_ptr + sequence + 1) - start).to(tl.int32)
    return start, length


@triton.jit
def first_row(ptr, start, start_stride, stride, length, REVERSE: tl.constexpr):
    """Point at the row from which the walk along a sequence starts."""
    ptr += start * start_stride
    if REVERSE:
        ptr += (length - 1).to(tl.int64) * stride
    return ptr


@triton.jit
def load_rows(ptr, stride, left, ROWS: tl.constexpr):
    """Load the next rows as a tuple: zeros beyond the number that each lane has `left`.

    They keep the type in which they are stored: to convert one is to wait for it.
    """
    rows = ()
    for i in tl.static_range(ROWS):
        rows = rows + (tl.load(ptr + i * stride, mask=left > i, other=0),)
    return rows
