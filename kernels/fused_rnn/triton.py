"""The nonlinear recurrences in Triton: a head's matrices stay on the chip for the whole sequence.

A program holds the states of a block of 16 sequences in one head, and that head's G matrices, and
walks along the whole sequence: a step is G small matrix products, whose latency is all that
matters. So there are as many programs as heads times blocks of sequences, no state crosses from one
program to another, and wider heads, whose matrices no longer fit, are refused.

Going back, what the states contribute to the gates is needed first. All states are known, so that
it is one matrix product over all steps, outside, and each step of the walk has only the products
that carry the gradient back. The gradient of the matrices is such a product over all steps, too:
nothing is summed by atomic additions, and results are the same in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.dispatch import interpreting
from nas.kernels.fused_rnn.cpu import STATES
from nas.kernels.fused_rnn.triton_backward import backward_kernel
from nas.kernels.fused_rnn.triton_forward import forward_kernel

BLOCK_B = 16
_DOT = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def rnn_forward(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute h, the final states and the trace as `cpu.rnn_forward` does."""
    gates = _unit_stride(gates)
    batch, length, _, heads, width = gates.shape
    states, device = STATES[cell], gates.device
    h = torch.empty((batch, length, heads, width), dtype=gates.dtype, device=device)
    final = torch.empty((states, batch, heads, width), dtype=torch.float32, device=device)
    trace = torch.empty(
        (states - 1, length, batch, heads, width), dtype=torch.float32, device=device
    )
    with torch.cuda.device_of(gates):
        forward_kernel[_grid(gates)](
            gates, recurrent.to(gates.dtype).contiguous(),
            final if bias is None else bias.contiguous(),
            final if initial_state is None else initial_state.contiguous(),
            h, trace, final, length, batch, heads, *gates.stride()[:4],
            **_constants(cell, gates, bias, initial_state),
        )  # fmt: skip
    return h, final, trace


def rnn_backward(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    h: Tensor,
    trace: Tensor,
    grad_h: Tensor,
    grad_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients as `cpu.rnn_backward` does."""
    gates, grad_h = _unit_stride(gates), _unit_stride(grad_h)
    batch, length, _, heads, width = gates.shape
    matrices = recurrent.to(gates.dtype).contiguous()
    before = torch.empty(h.shape, dtype=gates.dtype, device=gates.device)
    before[:, 0] = 0 if initial_state is None else initial_state[0]
    before[:, 1:] = h[:, :-1]
    rows = before.view(batch * length, heads, width).transpose(0, 1)
    carried = torch.bmm(rows, matrices.flatten(1, 2).mT)

    grad_gates = torch.empty(gates.shape, dtype=gates.dtype, device=gates.device)
    grad_initial = torch.empty(grad_final.shape, dtype=torch.float32, device=gates.device)
    grad_new = grad_initial
    if cell == "gru":
        grad_new = torch.empty(h.shape, dtype=gates.dtype, device=gates.device)
    with torch.cuda.device_of(gates):
        backward_kernel[_grid(gates)](
            gates, carried, matrices,
            grad_initial if bias is None else bias.contiguous(),
            grad_initial if initial_state is None else initial_state.contiguous(),
            before if cell == "gru" else trace.contiguous(),
            grad_h, grad_final.contiguous(), grad_gates, grad_new, grad_initial,
            length, batch, heads, *gates.stride()[:4], *grad_h.stride()[:3],
            **_constants(cell, gates, bias, initial_state),
        )  # fmt: skip

    # The gradients of what the state contributed to each gate [B, L, H, d].
    parts = list(grad_gates.unbind(2))
    if cell == "gru":
        parts[2] = grad_new
    grad_matrices = [
        torch.bmm(part.reshape(batch * length, heads, width).permute(1, 2, 0), rows)
        for part in parts
    ]
    grad_recurrent = torch.stack(grad_matrices, dim=1).to(recurrent.dtype)
    grad_bias = torch.stack([part.sum((0, 1), dtype=torch.float32) for part in parts])
    return grad_gates, grad_recurrent, grad_bias, grad_initial


def _constants(
    cell: str, gates: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> dict[str, Any]:
    _, _, count, _, width = gates.shape
    return {
        "CELL": cell,
        "G": count,
        "WIDTH": width,
        "HAS_BIAS": bias is not None,
        "HAS_INITIAL": initial_state is not None,
        "BLOCK_B": BLOCK_B,
        "BLOCK_D": max(16, triton.next_power_of_2(width)),
        # Half types are wrong in the interpreter. Of float32, three products of tf32 are left.
        "DOT": tl.float32 if interpreting() else _DOT[gates.dtype],
        "PRECISION": "tf32x3",
        "enable_fp_fusion": True,
    }


def _grid(gates: Tensor) -> tuple[int]:
    batch, _, _, heads, _ = gates.shape
    return (triton.cdiv(batch, BLOCK_B) * heads,)


def _unit_stride(tensor: Tensor) -> Tensor:
    """Keep any layout whose channels lie side by side, as in a projection's output."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
