"""The selective scan's backward kernel."""

# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from nas.kernels.autotune import autotune
from nas.kernels.selective_scan.triton_common import (
    LOG2_E,
    first_row,
    load_rows,
    place,
    slope_of_softplus,
    softplus,
)

_CONFIGS = [triton.Config({}, num_warps=warps) for warps in (4, 8)]


@autotune(_CONFIGS, key=["width", "ORDER"])
@triton.jit(do_not_specialize=["length", "chunks", "part"])
def backward_kernel(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, states_ptr,
    grad_y_ptr, grad_final_ptr,
    grad_u_ptr, grad_delta_ptr, grad_z_ptr, grad_initial_ptr,
    part_A_ptr, part_B_ptr, part_C_ptr, part_D_ptr, part_bias_ptr,
    length, chunks, part, sequence_u, stride_u, sequence_delta, stride_delta, sequence_z, stride_z,
    sequence_B, stride_B, group_B, sequence_C, stride_C, group_C, sequence_g, stride_g,
    width: tl.constexpr, groups: tl.constexpr, order: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, CHUNK: tl.constexpr,
    ORDER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk from the last chunk to the first, each forwards for its states and then backwards.

    The formulas stand in `cpu.scan_backward`. What arrives at a step from the one that followed it
    is `carry`, exp(delta_{t+1} A) g_{t+1}.
    """
    direction: tl.constexpr = -1 if REVERSE else 1
    number: tl.constexpr = grad_initial_ptr.dtype.element_ty
    total: tl.constexpr = width * groups

    sequence, group, block, channels = place(width, groups, BLOCK)
    inside = channels < width
    channels += group * width
    n = tl.arange(0, ORDER)
    exists = n < order
    both = inside[:, None] & exists[None, :]
    matrix = channels[:, None] * order + n[None, :]

    rows = length.to(tl.int64) * total
    u_ptr = first_row(u_ptr, sequence, sequence_u, stride_u, length, REVERSE)
    delta_ptr = first_row(delta_ptr, sequence, sequence_delta, stride_delta, length, REVERSE)
    z_ptr = first_row(z_ptr, sequence, sequence_z, stride_z, length, REVERSE)
    g_ptr = first_row(grad_y_ptr, sequence, sequence_g, stride_g, length, REVERSE)
    B_ptr = first_row(B_ptr, sequence, sequence_B, stride_B, length, REVERSE) + group * group_B
    C_ptr = first_row(C_ptr, sequence, sequence_C, stride_C, length, REVERSE) + group * group_C
    grad_u_ptr = first_row(grad_u_ptr, sequence, rows, total, length, REVERSE)
    grad_delta_ptr = first_row(grad_delta_ptr, sequence, rows, total, length, REVERSE)
    grad_z_ptr = first_row(grad_z_ptr, sequence, rows, total, length, REVERSE)
    # The parts of the gradients of B and C that this block's channels have, [blocks, B, L, G, N].
    projections: tl.constexpr = groups * order
    rows = length.to(tl.int64) * projections
    part_B_ptr += block.to(tl.int64) * part + group * order
    part_C_ptr += block.to(tl.int64) * part + group * order
    part_B_ptr = first_row(part_B_ptr, sequence, rows, projections, length, REVERSE)
    part_C_ptr = first_row(part_C_ptr, sequence, rows, projections, length, REVERSE)
    state_at = sequence * total * order + matrix
    states_ptr += sequence * chunks * total * order

    A = tl.load(A_ptr + matrix, mask=both, other=0).to(number)
    rates = A * LOG2_E
    if HAS_D:
        weights = tl.load(D_ptr + channels, mask=inside, other=0).to(number)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channels, mask=inside, other=0).to(number)
    carry = tl.load(grad_final_ptr + state_at, mask=both, other=0).to(number)
    sum_A = tl.zeros([BLOCK, ORDER], dtype=number)
    sum_D = tl.zeros([BLOCK], dtype=number)
    sum_bias = tl.zeros([BLOCK], dtype=number)

    for back in range(chunks):
        chunk = (chunks - 1 - back).to(tl.int64)
        first = chunk * CHUNK * direction
        left = tl.where(inside, length - (chunks - 1 - back) * CHUNK, 0)
        left_n = tl.where(exists, length - (chunks - 1 - back) * CHUNK, 0)

        # Forwards: the chunk's gates, and the state before each step.
        delta = load_rows(
            delta_ptr + first * stride_delta, direction * stride_delta,
            channels, left, CHUNK, number,
        )  # fmt: skip
        state = tl.load(states_ptr + chunk * total * order + matrix, mask=both, other=0)
        sizes, decays, states = (), (), (state,)
        for i in tl.static_range(CHUNK):
            B = tl.load(
                B_ptr + (first + i * direction) * stride_B + n, mask=left_n > i, other=0
            ).to(number)
            size = delta[i]
            if HAS_BIAS:
                size += bias
            if SOFTPLUS:
                size = softplus(size)
            # A step past the end has no duration: the state stays, and so does its gradient.
            size = tl.where(left > i, size, 0.0)
            decay = tl.exp2(size[:, None] * rates)
            u = tl.load(
                u_ptr + (first + i * direction) * stride_u + channels, mask=left > i, other=0
            ).to(number)
            state = decay * state + (size * u)[:, None] * B[None, :]
            sizes = sizes + (size,)
            decays = decays + (decay,)
            states = states + (state,)

        # Backwards.
        for i in tl.static_range(CHUNK - 1, -1, -1):
            row = first + i * direction
            there = left > i
            B = tl.load(B_ptr + row * stride_B + n, mask=left_n > i, other=0).to(number)
            C = tl.load(C_ptr + row * stride_C + n, mask=left_n > i, other=0).to(number)
            u = tl.load(u_ptr + row * stride_u + channels, mask=there, other=0).to(number)
            grad = tl.load(g_ptr + row * stride_g + channels, mask=there, other=0).to(number)
            if HAS_Z:
                z = tl.load(z_ptr + row * stride_z + channels, mask=there, other=0).to(number)
                sigmoid = tl.sigmoid(z)
                y = tl.sum(states[i + 1] * C[None, :], axis=1)
                if HAS_D:
                    y += weights * u
                slope = sigmoid * (1 + z * (1 - sigmoid))
                tl.store(grad_z_ptr + row * total + channels, grad * y * slope, mask=there)
                grad *= z * sigmoid
            g = carry + grad[:, None] * C[None, :]
            moved = sizes[i] * u
            part_B = tl.sum(g * moved[:, None], axis=0)
            part_C = tl.sum(states[i + 1] * grad[:, None], axis=0)
            tl.store(part_B_ptr + row * projections + n, part_B, mask=left_n > i)
            tl.store(part_C_ptr + row * projections + n, part_C, mask=left_n > i)
            carry = decays[i] * g
            q = carry * states[i]
            sum_A += q * sizes[i][:, None]
            grad_moved = tl.sum(g * B[None, :], axis=1)
            grad_size = tl.sum(q * A, axis=1) + grad_moved * u
            if SOFTPLUS:
                grad_size *= slope_of_softplus(sizes[i])
            grad_size = tl.where(there, grad_size, 0.0)
            sum_bias += grad_size
            tl.store(grad_delta_ptr + row * total + channels, grad_size, mask=there)
            grad_u = grad_moved * sizes[i]
            if HAS_D:
                grad_u += grad * weights
            sum_D += grad * u
            tl.store(grad_u_ptr + row * total + channels, grad_u, mask=there)

    tl.store(grad_initial_ptr + state_at, carry, mask=both)
    tl.store(part_A_ptr + state_at, sum_A, mask=both)
    tl.store(part_D_ptr + sequence * total + channels, sum_D, mask=inside)
    tl.store(part_bias_ptr + sequence * total + channels, sum_bias, mask=inside)
