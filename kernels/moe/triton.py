"""The grouped matrix product and its gradients in Triton, with no look at the groups from the host.

A group's rows are cut into tiles of BLOCK_M rows, the last one short. How many there are is known
on the device alone, so that as many programs start as there can be at most, one more a group than
the rows fill, and each finds its tile by the running sum of the groups' tiles; those beyond the
last have nothing to do. The gradient of the matrices has a program for each tile of each matrix,
which walks along that group's rows: sums are in a fixed order, and nothing is added atomically.
"""

# Kernels are Triton's language, whose arguments have no Python types.
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.autotune import autotune
from nas.kernels.dispatch import interpreting

_CONFIGS = [
    triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)
    for m, n, k, warps, stages in (
        (32, 32, 32, 4, 2),
        (64, 64, 32, 4, 3),
        (64, 128, 64, 4, 3),
        (128, 128, 32, 8, 3),
        (128, 128, 64, 8, 3),
        (128, 256, 64, 8, 3),
    )
]


def grouped_mm_forward(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Compute the grouped product [N, F] as `cpu.grouped_mm_forward` does."""
    return _rows(x, w, ends.contiguous())


def grouped_mm_backward(x: Tensor, w: Tensor, ends: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of x [N, D] and w [E, D, F] as `cpu.grouped_mm_backward` does."""
    ends = ends.contiguous()
    # One more grouped product, with each matrix the other way round.
    return _rows(grad, w.mT, ends), _matrices(x, grad, ends)


def _rows(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Multiply rows [N, D] by the matrices [E, D, F] of their groups: [N, F]."""
    x, w = _within_reach(x), _within_reach(w)
    rows, inner = x.shape
    groups, _, width = w.shape
    y = torch.empty(rows, width, dtype=x.dtype, device=x.device)

    def grid(config: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(rows, config["BLOCK_M"]) + groups
        return (tiles * triton.cdiv(width, config["BLOCK_N"]),)

    with torch.cuda.device_of(x):
        _rows_kernel[grid](
            x, w, ends, y, *x.stride(), *w.stride(),
            inner=inner, width=width, groups=groups, GROUPS=triton.next_power_of_2(groups),
            DOT=_dot_type(x), PRECISION=_precision(x),
        )  # fmt: skip
    return y


def _matrices(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    """Sum the outer products of each group's rows [N, D] and [N, F]: [E, D, F]."""
    x, grad = _within_reach(x), _within_reach(grad)
    groups, inner, width = ends.shape[0], x.shape[1], grad.shape[1]
    grad_w = torch.empty(groups, inner, width, dtype=x.dtype, device=x.device)

    def grid(config: dict[str, int]) -> tuple[int]:
        down = triton.cdiv(inner, config["BLOCK_M"])
        return (groups * down * triton.cdiv(width, config["BLOCK_N"]),)

    with torch.cuda.device_of(x):
        _matrices_kernel[grid](
            x, grad, ends, grad_w, *x.stride(), *grad.stride(),
            inner=inner, width=width, groups=groups, DOT=_dot_type(x), PRECISION=_precision(x),
        )  # fmt: skip
    return grad_w


def _within_reach(x: Tensor) -> Tensor:
    """Copy what is so large and lies so that the kernels' 32 bits do not count its last channel."""
    return x.contiguous() if (x.shape[-1] - 1) * x.stride(-1) >= 2**31 else x


def _dot_type(x: Tensor) -> tl.dtype:
    """The type in which numbers are multiplied: the interpreter has no arithmetic in bfloat16."""
    if interpreting():
        return tl.float32
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(x.dtype, tl.float32)


def _precision(x: Tensor) -> str:
    """Float32 is multiplied as it is: the ten bits of "tf32" are those of a half type."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


@autotune(_CONFIGS, key=["inner", "width", "groups"])
@triton.jit
def _rows_kernel(
    x_ptr, w_ptr, ends_ptr, y_ptr,
    stride_x, channel_x, group_w, stride_w, channel_w,
    inner: tl.constexpr, width: tl.constexpr, groups: tl.constexpr, GROUPS: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = tl.cdiv(width, BLOCK_N)
    tile = tl.program_id(0) // across
    columns = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)

    ids = tl.arange(0, GROUPS)
    ends = tl.load(ends_ptr + ids, mask=ids < groups, other=0)
    starts = tl.load(ends_ptr + ids - 1, mask=(ids > 0) & (ids < groups), other=0)
    tiles = tl.cdiv(ends - starts, BLOCK_M)
    after = tl.cumsum(tiles, 0)
    # All groups whose tiles are before this one; beyond the last tile these are all.
    group = tl.sum((after <= tile).to(tl.int32), 0)
    if group >= groups:
        return
    mine = ids == group
    first = tl.sum(tl.where(mine, starts + (tile - after + tiles) * BLOCK_M, 0), 0)
    end = tl.sum(tl.where(mine, ends, 0), 0)
    rows = first + tl.arange(0, BLOCK_M)

    steps = tl.arange(0, BLOCK_K)
    x_ptr += rows[:, None] * stride_x + steps[None, :] * channel_x
    w_ptr += group.to(tl.int64) * group_w
    w_ptr += steps[:, None] * stride_w + columns[None, :] * channel_w
    inside_x = (rows < end)[:, None]
    inside_w = (columns < width)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for k in range(0, inner, BLOCK_K):
        there = steps + k < inner
        x = tl.load(x_ptr, mask=inside_x & there[None, :], other=0)
        w = tl.load(w_ptr, mask=inside_w & there[:, None], other=0)
        total = tl.dot(x.to(DOT), w.to(DOT), total, input_precision=PRECISION)
        x_ptr += BLOCK_K * channel_x
        w_ptr += BLOCK_K * stride_w
    tl.store(y_ptr + rows[:, None] * width + columns[None, :], total, mask=inside_x & inside_w)


@autotune(_CONFIGS, key=["inner", "width", "groups"])
@triton.jit
def _matrices_kernel(
    x_ptr, g_ptr, ends_ptr, grad_ptr,
    stride_x, channel_x, stride_g, channel_g,
    inner: tl.constexpr, width: tl.constexpr, groups: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = tl.cdiv(width, BLOCK_N)
    down: tl.constexpr = tl.cdiv(inner, BLOCK_M)
    group = tl.program_id(0) // across // down
    channels = tl.program_id(0) // across % down * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)
    start = tl.load(ends_ptr + group - 1, mask=group > 0, other=0)
    end = tl.load(ends_ptr + group)

    # x is read with its rows lying across, not turned after it was read.
    steps = tl.arange(0, BLOCK_K)
    rows = start + steps
    x_ptr += channels[:, None] * channel_x + rows[None, :] * stride_x
    g_ptr += rows[:, None] * stride_g + columns[None, :] * channel_g
    inside_x = (channels < inner)[:, None]
    inside_g = (columns < width)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(start, end, BLOCK_K):
        there = steps < end - first
        x = tl.load(x_ptr, mask=inside_x & there[None, :], other=0)
        g = tl.load(g_ptr, mask=inside_g & there[:, None], other=0)
        total = tl.dot(x.to(DOT), g.to(DOT), total, input_precision=PRECISION)
        x_ptr += BLOCK_K * stride_x
        g_ptr += BLOCK_K * stride_g
    grad_ptr += group.to(tl.int64) * inner * width
    grad_ptr += channels[:, None] * width + columns[None, :]
    tl.store(grad_ptr, total, mask=inside_x & inside_g)
