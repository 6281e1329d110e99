"""The diagonal scan and its gradient in Triton: every tensor is read or written once.

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

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.autotune import autotune

_CONFIGS = [
    triton.Config({"BLOCK": 32, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 32, "ROWS": 32}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 16}, num_warps=2),
]


def scan_forward(
    a: Tensor, b: Tensor, initial_state: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Compute h [B, L, D] and the final state [B, D] as `cpu.scan_forward` does."""
    a, b = _unit_stride(a), _unit_stride(b)
    batch, length, width = a.shape
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    h = torch.empty(a.shape, dtype=out_dtype, device=a.device)
    final_state = torch.empty(batch, width, dtype=state_dtype, device=a.device)
    initial = final_state if initial_state is None else initial_state.contiguous()
    with torch.cuda.device_of(a):
        _forward_kernel[_grid(batch, width)](
            a, b, initial, h, final_state,
            length, a.stride(0), b.stride(0),
            width=width, stride_a=a.stride(1), stride_b=b.stride(1),
            HAS_INITIAL=initial_state is not None, REVERSE=reverse, enable_fp_fusion=True,
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
    a, grad_h, h = _unit_stride(a), _unit_stride(grad_h), h.contiguous()
    batch, length, width = a.shape
    state_dtype = torch.promote_types(h.dtype, torch.float32)
    grad_a = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    grad_b = torch.empty(h.shape, dtype=h.dtype, device=a.device)
    grad_initial = torch.empty(batch, width, dtype=state_dtype, device=a.device)
    initial = grad_initial if initial_state is None else initial_state.contiguous()
    with torch.cuda.device_of(a):
        _backward_kernel[_grid(batch, width)](
            a, h, initial, grad_h, grad_final.contiguous(), grad_a, grad_b, grad_initial,
            length, a.stride(0), grad_h.stride(0),
            width=width, stride_a=a.stride(1), stride_g=grad_h.stride(1),
            HAS_INITIAL=initial_state is not None, REVERSE=not reverse, enable_fp_fusion=True,
        )  # fmt: skip
    return grad_a, grad_b, grad_initial


def _unit_stride(tensor: Tensor) -> Tensor:
    """Keep any layout whose channels lie side by side: halves of a projection, repeated gates."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


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
def _first_row(ptr, sequence, sequence_stride, stride, length, REVERSE: tl.constexpr):
    """Point at the row from which the walk along a sequence starts."""
    ptr += sequence * sequence_stride
    if REVERSE:
        ptr += (length - 1).to(tl.int64) * stride
    return ptr


@triton.jit
def _load_rows(ptr, stride, left, ROWS: tl.constexpr):
    """Load the next rows as a tuple: zeros beyond the number that each lane has `left`.

    They keep the type in which they are stored: to convert one is to wait for it.
    """
    rows = ()
    for i in tl.static_range(ROWS):
        rows = rows + (tl.load(ptr + i * stride, mask=left > i, other=0),)
    return rows


@autotune(_CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def _forward_kernel(
    a_ptr, b_ptr, initial_ptr, h_ptr, final_ptr,
    length, sequence_a, sequence_b,
    width: tl.constexpr, stride_a: tl.constexpr, stride_b: tl.constexpr,
    HAS_INITIAL: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    direction: tl.constexpr = -1 if REVERSE else 1
    step_a: tl.constexpr = direction * stride_a
    step_b: tl.constexpr = direction * stride_b
    step_h: tl.constexpr = direction * width
    number: tl.constexpr = final_ptr.dtype.element_ty

    sequence, channels = _place(width, BLOCK)
    inside = channels < width
    state_at = sequence * width + channels
    sequence_h = length.to(tl.int64) * width
    a_ptr = _first_row(a_ptr, sequence, sequence_a, stride_a, length, REVERSE) + channels
    b_ptr = _first_row(b_ptr, sequence, sequence_b, stride_b, length, REVERSE) + channels
    h_ptr = _first_row(h_ptr, sequence, sequence_h, width, length, REVERSE) + channels

    if HAS_INITIAL:
        state = tl.load(initial_ptr + state_at, mask=inside, other=0).to(number)
    else:
        state = tl.zeros([BLOCK], dtype=number)
    left = tl.where(inside, length, 0)
    a = _load_rows(a_ptr, step_a, left, ROWS)
    b = _load_rows(b_ptr, step_b, left, ROWS)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * step_a
        b_ptr += ROWS * step_b
        next_a = _load_rows(a_ptr, step_a, left - ROWS, ROWS)
        next_b = _load_rows(b_ptr, step_b, left - ROWS, ROWS)
        for i in tl.static_range(ROWS):
            following = a[i].to(number) * state + b[i].to(number)
            state = tl.where(left > i, following, state)
            tl.store(h_ptr + i * step_h, state, mask=left > i)
        h_ptr += ROWS * step_h
        left -= ROWS
        a, b = next_a, next_b
    tl.store(final_ptr + state_at, state, mask=inside)


@autotune(_CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def _backward_kernel(
    a_ptr, h_ptr, initial_ptr, grad_h_ptr, grad_final_ptr, grad_a_ptr, grad_b_ptr, grad_initial_ptr,
    length, sequence_a, sequence_g,
    width: tl.constexpr, stride_a: tl.constexpr, stride_g: tl.constexpr,
    HAS_INITIAL: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # The walk goes against the scan, so that REVERSE here is the opposite of the scan's. What
    # arrives at a step from the one that followed it is `carry`, a_{t+1} g_{t+1}.
    direction: tl.constexpr = -1 if REVERSE else 1
    step_a: tl.constexpr = direction * stride_a
    step_g: tl.constexpr = direction * stride_g
    step: tl.constexpr = direction * width
    number: tl.constexpr = grad_initial_ptr.dtype.element_ty

    sequence, channels = _place(width, BLOCK)
    inside = channels < width
    state_at = sequence * width + channels
    sequence_h = length.to(tl.int64) * width
    a_ptr = _first_row(a_ptr, sequence, sequence_a, stride_a, length, REVERSE) + channels
    g_ptr = _first_row(grad_h_ptr, sequence, sequence_g, stride_g, length, REVERSE) + channels
    # The state before a step is one row further along the walk; the last row has the initial one.
    h_ptr = _first_row(h_ptr, sequence, sequence_h, width, length, REVERSE) + step + channels
    grad_a_ptr = _first_row(grad_a_ptr, sequence, sequence_h, width, length, REVERSE) + channels
    grad_b_ptr = _first_row(grad_b_ptr, sequence, sequence_h, width, length, REVERSE) + channels

    if HAS_INITIAL:
        initial = tl.load(initial_ptr + state_at, mask=inside, other=0).to(number)
    else:
        initial = tl.zeros([BLOCK], dtype=number)
    carry = tl.load(grad_final_ptr + state_at, mask=inside, other=0).to(number)
    left = tl.where(inside, length, 0)
    a = _load_rows(a_ptr, step_a, left, ROWS)
    g = _load_rows(g_ptr, step_g, left, ROWS)
    h = _load_rows(h_ptr, step, left - 1, ROWS)
    for _ in range(0, length, ROWS):
        a_ptr += ROWS * step_a
        g_ptr += ROWS * step_g
        h_ptr += ROWS * step
        next_a = _load_rows(a_ptr, step_a, left - ROWS, ROWS)
        next_g = _load_rows(g_ptr, step_g, left - ROWS, ROWS)
        next_h = _load_rows(h_ptr, step, left - ROWS - 1, ROWS)
        for i in tl.static_range(ROWS):
            gradient = g[i].to(number) + carry
            before = tl.where(left == i + 1, initial, h[i].to(number))
            tl.store(grad_a_ptr + i * step, gradient * before, mask=left > i)
            tl.store(grad_b_ptr + i * step, gradient, mask=left > i)
            carry = tl.where(left > i, a[i].to(number) * gradient, carry)
        grad_a_ptr += ROWS * step
        grad_b_ptr += ROWS * step
        left -= ROWS
        a, g, h = next_a, next_g, next_h
    tl.store(grad_initial_ptr + state_at, carry, mask=inside)
