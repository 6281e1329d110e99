"""The block scan and its gradient in Triton: every tensor is read or written once.

As in the diagonal scan, a program holds the state of BLOCK channels of one sequence, a channel to a
lane, and walks along the whole sequence; the ROWS steps that come next are loaded into registers
while the present ones are worked on. A step of a lane is four numbers of the matrix and two of the
input, that lie side by side in memory.
"""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.autotune import autotune

_CONFIGS = [
    triton.Config({"BLOCK": 32, "ROWS": 4}, num_warps=1),
    triton.Config({"BLOCK": 32, "ROWS": 8}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 4}, num_warps=2),
]


def scan_forward(
    a: Tensor, b: Tensor, initial_state: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Compute h [B, L, D, 2] and the final state [B, D, 2] as `cpu.scan_forward` does."""
    batch, length, width, _ = b.shape
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    h = torch.empty(b.shape, dtype=out_dtype, device=b.device)
    final_state = torch.empty((batch, width, 2), dtype=state_dtype, device=b.device)
    initial = final_state if initial_state is None else initial_state.contiguous()
    with torch.cuda.device_of(a):
        _forward_kernel[_grid(batch, width)](
            a.contiguous(), b.contiguous(), initial, h, final_state, length,
            width=width, HAS_INITIAL=initial_state is not None, REVERSE=reverse,
        )  # fmt: skip
    return h, final_state


def scan_backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of a, b and the initial state as `cpu.scan_backward` does."""
    batch, length, width, _ = h.shape
    state_dtype = torch.promote_types(h.dtype, torch.float32)
    grad_a = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    grad_b = torch.empty(h.shape, dtype=h.dtype, device=a.device)
    grad_initial = torch.empty((batch, width, 2), dtype=state_dtype, device=a.device)
    initial = grad_initial if initial_state is None else initial_state.contiguous()
    with torch.cuda.device_of(a):
        _backward_kernel[_grid(batch, width)](
            a.contiguous(), h.contiguous(), initial, grad_h.contiguous(), grad_final.contiguous(),
            grad_a, grad_b, grad_initial, length,
            width=width, HAS_INITIAL=initial_state is not None, REVERSE=not reverse,
        )  # fmt: skip
    return grad_a, grad_b, grad_initial


def _grid(batch: int, width: int) -> Callable[[dict[str, int]], tuple[int]]:
    return lambda config: (batch * triton.cdiv(width, config["BLOCK"]),)


@triton.jit
def _place(width: tl.constexpr, BLOCK: tl.constexpr):
    """Tell a program its sequence and channels: on one axis, as the other two end at 65535."""
    blocks: tl.constexpr = tl.cdiv(width, BLOCK)
    program = tl.program_id(0)
    channels = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), channels


@triton.jit
def _first_row(sequence, length, width: tl.constexpr, REVERSE: tl.constexpr):
    """Number the row of channels from which the walk along a sequence starts."""
    row = sequence * length * width
    if REVERSE:
        row += (length - 1).to(tl.int64) * width
    return row


@triton.jit
def _load_rows(ptr, step, left, ROWS: tl.constexpr, PARTS: tl.constexpr):
    """Load the next rows as a tuple, the PARTS numbers of a channel in turn.

    They keep the type in which they are stored: to convert one is to wait for it.
    """
    rows = ()
    for i in tl.static_range(ROWS):
        for k in tl.static_range(PARTS):
            rows = rows + (tl.load(ptr + i * step + k, mask=left > i, other=0),)
    return rows


@triton.jit
def _load_pair(ptr, at, inside, number: tl.constexpr):
    first = tl.load(ptr + at, mask=inside, other=0).to(number)
    return first, tl.load(ptr + at + 1, mask=inside, other=0).to(number)


@autotune(_CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def _forward_kernel(
    a_ptr, b_ptr, initial_ptr, h_ptr, final_ptr, length,
    width: tl.constexpr, HAS_INITIAL: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    step: tl.constexpr = -width if REVERSE else width
    number: tl.constexpr = final_ptr.dtype.element_ty

    sequence, channels = _place(width, BLOCK)
    inside = channels < width
    row = _first_row(sequence, length, width, REVERSE)
    a_ptr += 4 * (row + channels)
    b_ptr += 2 * (row + channels)
    h_ptr += 2 * (row + channels)
    state_at = 2 * (sequence * width + channels)
    if HAS_INITIAL:
        h0, h1 = _load_pair(initial_ptr, state_at, inside, number)
    else:
        h0 = tl.zeros([BLOCK], dtype=number)
        h1 = tl.zeros([BLOCK], dtype=number)

    left = tl.where(inside, length, 0)
    a = _load_rows(a_ptr, 4 * step, left, ROWS, 4)
    b = _load_rows(b_ptr, 2 * step, left, ROWS, 2)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * 4 * step
        b_ptr += ROWS * 2 * step
        next_a = _load_rows(a_ptr, 4 * step, left - ROWS, ROWS, 4)
        next_b = _load_rows(b_ptr, 2 * step, left - ROWS, ROWS, 2)
        for i in tl.static_range(ROWS):
            g0 = a[4 * i].to(number) * h0 + a[4 * i + 1].to(number) * h1 + b[2 * i].to(number)
            g1 = a[4 * i + 2].to(number) * h0 + a[4 * i + 3].to(number) * h1
            g1 += b[2 * i + 1].to(number)
            h0 = tl.where(left > i, g0, h0)
            h1 = tl.where(left > i, g1, h1)
            tl.store(h_ptr + i * 2 * step, h0, mask=left > i)
            tl.store(h_ptr + i * 2 * step + 1, h1, mask=left > i)
        h_ptr += ROWS * 2 * step
        left -= ROWS
        a, b = next_a, next_b
    tl.store(final_ptr + state_at, h0, mask=inside)
    tl.store(final_ptr + state_at + 1, h1, mask=inside)


@autotune(_CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def _backward_kernel(
    a_ptr, h_ptr, initial_ptr, grad_h_ptr, grad_final_ptr, grad_a_ptr, grad_b_ptr, grad_initial_ptr,
    length,
    width: tl.constexpr, HAS_INITIAL: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # The walk goes against the scan, so that REVERSE here is the opposite of the scan's. What
    # arrives at a step from the one that followed it is the carry, A_{t+1}' g_{t+1}.
    step: tl.constexpr = -width if REVERSE else width
    number: tl.constexpr = grad_initial_ptr.dtype.element_ty

    sequence, channels = _place(width, BLOCK)
    inside = channels < width
    row = _first_row(sequence, length, width, REVERSE)
    a_ptr += 4 * (row + channels)
    grad_h_ptr += 2 * (row + channels)
    # The state before a step is one row further along the walk; the last row has the initial one.
    h_ptr += 2 * (row + step + channels)
    grad_a_ptr += 4 * (row + channels)
    grad_b_ptr += 2 * (row + channels)
    state_at = 2 * (sequence * width + channels)
    if HAS_INITIAL:
        first0, first1 = _load_pair(initial_ptr, state_at, inside, number)
    else:
        first0 = tl.zeros([BLOCK], dtype=number)
        first1 = tl.zeros([BLOCK], dtype=number)
    carry0, carry1 = _load_pair(grad_final_ptr, state_at, inside, number)

    left = tl.where(inside, length, 0)
    a = _load_rows(a_ptr, 4 * step, left, ROWS, 4)
    g = _load_rows(grad_h_ptr, 2 * step, left, ROWS, 2)
    h = _load_rows(h_ptr, 2 * step, left - 1, ROWS, 2)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * 4 * step
        grad_h_ptr += ROWS * 2 * step
        h_ptr += ROWS * 2 * step
        next_a = _load_rows(a_ptr, 4 * step, left - ROWS, ROWS, 4)
        next_g = _load_rows(grad_h_ptr, 2 * step, left - ROWS, ROWS, 2)
        next_h = _load_rows(h_ptr, 2 * step, left - ROWS - 1, ROWS, 2)
        for i in tl.static_range(ROWS):
            g0 = g[2 * i].to(number) + carry0
            g1 = g[2 * i + 1].to(number) + carry1
            before0 = tl.where(left == i + 1, first0, h[2 * i].to(number))
            before1 = tl.where(left == i + 1, first1, h[2 * i + 1].to(number))
            at = grad_a_ptr + i * 4 * step
            tl.store(at, g0 * before0, mask=left > i)
            tl.store(at + 1, g0 * before1, mask=left > i)
            tl.store(at + 2, g1 * before0, mask=left > i)
            tl.store(at + 3, g1 * before1, mask=left > i)
            tl.store(grad_b_ptr + i * 2 * step, g0, mask=left > i)
            tl.store(grad_b_ptr + i * 2 * step + 1, g1, mask=left > i)
            back0 = a[4 * i].to(number) * g0 + a[4 * i + 2].to(number) * g1
            back1 = a[4 * i + 1].to(number) * g0 + a[4 * i + 3].to(number) * g1
            carry0 = tl.where(left > i, back0, carry0)
            carry1 = tl.where(left > i, back1, carry1)
        grad_a_ptr += ROWS * 4 * step
        grad_b_ptr += ROWS * 2 * step
        left -= ROWS
        a, g, h = next_a, next_g, next_h
    tl.store(grad_initial_ptr + state_at, carry0, mask=inside)
    tl.store(grad_initial_ptr + state_at + 1, carry1, mask=inside)
