"""The selective scan and its gradient in Triton: the states stay in registers.

A program holds the states of BLOCK channels of one sequence, [BLOCK, ORDER] numbers with ORDER the
power of two from N on, and walks along the whole sequence. The arithmetic (an exponential for every
state and step) costs more than the traffic, and B * D channels are plentiful, so that the sequence
is not split. Forwards, the state is stored at the start of every chunk of CHUNK steps. Backwards, a
program walks the chunks from the last to the first; of each it computes the states again, which
stay in registers too, and then the gradients.

The gradients of B and C are sums over all channels: every block of channels stores its own part,
and the parts are summed afterwards, always in the same order, as sums by atomic additions are not.

For every number of u, N / CHUNK of kept states and 2 N / BLOCK of parts are in memory: little at
Mamba's N = 16 (2 and 1), and much beyond N = 64.
"""

import torch
import triton
from torch import Tensor

from nas.kernels.selective_scan.triton_backward import backward_kernel
from nas.kernels.selective_scan.triton_forward import forward_kernel

CHUNK = 8
"""Steps between two states that are kept: their gates and states must fit into registers."""

# States that a program holds. Backwards more: fewer blocks have fewer parts of gradients.
_FORWARD_TILE = 256
_BACKWARD_TILE = 512


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    *,
    softplus: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y, the final state and the kept states as `cpu.scan_forward` does."""
    batch, length, width = u.shape
    groups, order = B.shape[2:]
    dtype = torch.promote_types(torch.float32, A.dtype)
    for x in (u, delta, B, C):
        dtype = torch.promote_types(dtype, x.dtype)
    chunks = triton.cdiv(length, CHUNK) if keep else 0
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    final_state = torch.empty((batch, width, order), dtype=dtype, device=u.device)
    states = torch.empty((batch, chunks, width, order), dtype=dtype, device=u.device)

    tensors, strides = _arguments(u, delta, A, B, C, D, z, delta_bias)
    initial = final_state if initial_state is None else initial_state.contiguous()
    block, padded = _block(width // groups, order, _FORWARD_TILE)
    grid = (batch * groups * triton.cdiv(width // groups, block),)
    with torch.cuda.device_of(u):
        forward_kernel[grid](
            *tensors, initial, y, final_state, states, length, chunks, *strides,
            width=width // groups, groups=groups, order=order,
            HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=delta_bias is not None,
            HAS_INITIAL=initial_state is not None, SOFTPLUS=softplus, REVERSE=reverse, KEEP=keep,
            CHUNK=CHUNK, ORDER=padded, BLOCK=block, enable_fp_fusion=True,
        )  # fmt: skip
    return y, final_state, states


def scan_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    grad_y: Tensor,
    grad_final: Tensor,
    *,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """Compute the gradients of all arguments as `cpu.scan_backward` does."""
    batch, length, width = u.shape
    groups, order = B.shape[2:]
    dtype, device = states.dtype, u.device
    block, padded = _block(width // groups, order, _BACKWARD_TILE)
    blocks = triton.cdiv(width // groups, block)
    grad_u = torch.empty(u.shape, dtype=u.dtype, device=device)
    grad_delta = torch.empty(u.shape, dtype=delta.dtype, device=device)
    grad_z = torch.empty((0,) if z is None else u.shape, dtype=_dtype(z, dtype), device=device)
    grad_initial = torch.empty((batch, width, order), dtype=dtype, device=device)
    part_A = torch.empty((batch, width, order), dtype=dtype, device=device)
    part_B, part_C = (torch.empty((blocks, *B.shape), dtype=dtype, device=device) for _ in range(2))
    part_D, part_bias = (torch.empty((batch, width), dtype=dtype, device=device) for _ in range(2))

    tensors, strides = _arguments(u, delta, A, B, C, D, z, delta_bias)
    grad_y = _unit_stride(grad_y)
    with torch.cuda.device_of(u):
        backward_kernel[(batch * groups * blocks,)](
            *tensors, states, grad_y, grad_final.contiguous(),
            grad_u, grad_delta, grad_z, grad_initial, part_A, part_B, part_C, part_D, part_bias,
            length, states.shape[1], B.numel(), *strides, *grad_y.stride()[:2],
            width=width // groups, groups=groups, order=order,
            HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=delta_bias is not None,
            SOFTPLUS=softplus, REVERSE=reverse,
            CHUNK=CHUNK, ORDER=padded, BLOCK=block, enable_fp_fusion=True,
        )  # fmt: skip
    return (
        grad_u, grad_delta, _summed(part_A, A), _summed(part_B, B), _summed(part_C, C),
        _summed(part_D, D), grad_z, _summed(part_bias, delta_bias), grad_initial,
    )  # fmt: skip


def _arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The tensors as the kernels read them (some other one for a missing one), and strides."""
    u, delta, B, C = (_unit_stride(x) for x in (u, delta, B, C))
    gates = u if z is None else _unit_stride(z)
    parameters = (A if x is None else x.contiguous() for x in (D, delta_bias))
    weights, bias = parameters
    strides = (x.stride()[:-1] for x in (u, delta, gates, B, C))
    tensors = (u, delta, A.contiguous(), B, C, weights, gates, bias)
    return tensors, tuple(n for stride in strides for n in stride)


def _unit_stride(tensor: Tensor) -> Tensor:
    """Keep any layout whose last dimension lies side by side, such as parts of a projection."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _block(width: int, order: int, tile: int) -> tuple[int, int]:
    """How many channels a program takes, and the power of two from N on."""
    padded = triton.next_power_of_2(order)
    return min(triton.next_power_of_2(width), max(4, min(64, tile // padded))), padded


def _summed(parts: Tensor, argument: Tensor | None) -> Tensor:
    """Sum the parts of a gradient; where there is no argument, it has no element."""
    return parts.new_empty(0) if argument is None else parts.sum(0).to(argument.dtype)


def _dtype(tensor: Tensor | None, otherwise: torch.dtype) -> torch.dtype:
    return otherwise if tensor is None else tensor.dtype
