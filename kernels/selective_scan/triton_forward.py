"""The selective scan's forward kernel."""

# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: SIM102

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.selective_scan.triton_common import LOG2_E, first_row, load_rows, place, softplus

_CONFIGS = [
    triton.Config({"ROWS": rows}, num_warps=warps) for rows, warps in ((4, 2), (4, 1), (8, 2))
]


@autotune(_CONFIGS, key=["width", "ORDER"])
@triton.jit(do_not_specialize=["length", "chunks"])
def forward_kernel(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, initial_ptr,
    y_ptr, final_ptr, states_ptr,
    length, chunks, sequence_u, stride_u, sequence_delta, stride_delta, sequence_z, stride_z,
    sequence_B, stride_B, group_B, sequence_C, stride_C, group_C,
    width: tl.constexpr, groups: tl.constexpr, order: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, KEEP: tl.constexpr, CHUNK: tl.constexpr,
    ORDER: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Walk along the sequence, ROWS steps at a time."""
    tl.static_assert(CHUNK % ROWS == 0)
    direction: tl.constexpr = -1 if REVERSE else 1
    number: tl.constexpr = final_ptr.dtype.element_ty
    total: tl.constexpr = width * groups

    sequence, group, _, channels = place(width, groups, BLOCK)
    inside = channels < width
    channels += group * width
    n = tl.arange(0, ORDER)
    exists = n < order
    both = inside[:, None] & exists[None, :]
    matrix = channels[:, None] * order + n[None, :]

    sequence_y = length.to(tl.int64) * total
    u_ptr = first_row(u_ptr, sequence, sequence_u, stride_u, length, REVERSE)
    delta_ptr = first_row(delta_ptr, sequence, sequence_delta, stride_delta, length, REVERSE)
    z_ptr = first_row(z_ptr, sequence, sequence_z, stride_z, length, REVERSE)
    B_ptr = first_row(B_ptr, sequence, sequence_B, stride_B, length, REVERSE) + group * group_B
    C_ptr = first_row(C_ptr, sequence, sequence_C, stride_C, length, REVERSE) + group * group_C
    y_ptr = first_row(y_ptr, sequence, sequence_y, total, length, REVERSE)
    state_at = sequence * total * order + matrix
    states_ptr += sequence * chunks * total * order

    # exp2 is the machine's own: exp(delta A) = exp2(delta (A log2 e)).
    rates = tl.load(A_ptr + matrix, mask=both, other=0).to(number) * LOG2_E
    if HAS_D:
        weights = tl.load(D_ptr + channels, mask=inside, other=0).to(number)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channels, mask=inside, other=0).to(number)
    if HAS_INITIAL:
        state = tl.load(initial_ptr + state_at, mask=both, other=0).to(number)
    else:
        state = tl.zeros([BLOCK, ORDER], dtype=number)

    for start in range(0, length, ROWS):
        left = tl.where(inside, length - start, 0)
        left_n = tl.where(exists, length - start, 0)
        if KEEP:
            if start % CHUNK == 0:
                tl.store(states_ptr + matrix, state, mask=both)
                states_ptr += total * order
        # All loads of some rows before the first of them is needed.
        delta = load_rows(delta_ptr, direction * stride_delta, channels, left, ROWS, number)
        u = load_rows(u_ptr, direction * stride_u, channels, left, ROWS, number)
        B = load_rows(B_ptr, direction * stride_B, n, left_n, ROWS, number)
        C = load_rows(C_ptr, direction * stride_C, n, left_n, ROWS, number)
        if HAS_Z:
            z = load_rows(z_ptr, direction * stride_z, channels, left, ROWS, number)
        for i in tl.static_range(ROWS):
            size = delta[i]
            if HAS_BIAS:
                size += bias
            if SOFTPLUS:
                size = softplus(size)
            # A step past the end has no duration: the state stays.
            size = tl.where(left > i, size, 0.0)
            decay = tl.exp2(size[:, None] * rates)
            state = decay * state + (size * u[i])[:, None] * B[i][None, :]
            y = tl.sum(state * C[i][None, :], axis=1)
            if HAS_D:
                y += weights * u[i]
            if HAS_Z:
                y *= z[i] * tl.sigmoid(z[i])
            tl.store(y_ptr + i * direction * total + channels, y, mask=left > i)
        u_ptr += ROWS * direction * stride_u
        delta_ptr += ROWS * direction * stride_delta
        z_ptr += ROWS * direction * stride_z
        B_ptr += ROWS * direction * stride_B
        C_ptr += ROWS * direction * stride_C
        y_ptr += ROWS * direction * total
    tl.store(final_ptr + state_at, state, mask=both)
