"""The nonlinear recurrences' public functions: one signature, whichever implementation runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. An operator has as many tensors
for every cell: the states are stacked to one. Which implementation it runs is an argument, decided
before: an operator must not look at the environment.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.dispatch import choose_backend
from nas.kernels.fused_rnn import cpu, reference
from nas.kernels.fused_rnn.cpu import GATES, STATES, States, fused_rnn_step, initial_states

__all__ = ["GATES", "STATES", "fused_rnn", "fused_rnn_step", "initial_states"]

LARGEST_WIDTH = {torch.bfloat16: 128, torch.float16: 128, torch.float32: 64}
"""Of a head in Triton: its gates' matrices stay on the chip, 136 KiB of it at these widths."""


def fused_rnn(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    initial_state: States | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, States]:
    """Run a gru, lstm or slstm cell with a block-diagonal recurrent matrix over a sequence.

    What the inputs contribute (W x, with its bias) is computed outside, for all steps at once. The
    state contributes u = R h + b in each of H heads of width d. The gates, in their order:

    - "gru", r z n as torch.nn.GRU: h' = (1 - z) n + z h, n = tanh(x_n + r u_n); `bias` is its
      bias_hh, which counts: it stands inside the reset gate.
    - "lstm", i f g o as torch.nn.LSTM.
    - "slstm", i f z o, xLSTM's scalar memory with exponential gating (Beck et al. 2024).

    With H = 1, `recurrent` is torch's weight_hh.view(1, G, d, d). Differentiable once in every
    tensor, through h and the final states. Only the stabiliser m of slstm is a constant to the
    gradient: it is the unit in which c and n are measured, and only c e^m and n e^m mean anything.

    Args:
        cell: "gru", "lstm" or "slstm".
        gates: what the inputs contribute to each gate [B, L, G, H, d].
        recurrent: matrices from the state to each gate [H, G, d, d], its last dimension h's.
        bias: of what the state contributes [G, H, d]; None means zero.
        initial_state: the cell's states before the first step, (h,), (h, c) or (h, c, n, m), each
            [B, H, d]; None means `initial_states`.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device,
            and plain torch on a GPU where Triton's kernels cannot (`LARGEST_WIDTH`): d > 128 in
            half types, d > 64 in float32, and float64.

    Returns:
        h [B, L, H, d] in the type of `gates`, and the states after the last step, fresh tensors
        [B, H, d], at least float32. Triton multiplies in the type of `gates` (float32 as
        three products of tf32), plain torch in float32 at least.

    Raises:
        ValueError: no such cell or backend, shapes or devices that do not belong together, or
            Triton asked for what its kernels cannot.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(cell, gates, recurrent, bias, initial_state)
    chosen = choose_backend(gates.device, backend)
    if chosen == "reference":
        return reference.fused_rnn(cell, gates, recurrent, bias, initial_state)
    refusal = _refusal(gates) if chosen == "triton" else None
    if refusal is not None:
        if backend is not None:
            raise ValueError(f"{refusal}: choose 'cpu', which runs on any device")
        chosen = "cpu"
    stacked = None
    if initial_state is not None:
        dtype = torch.promote_types(gates.dtype, torch.float32)
        stacked = torch.stack([state.to(dtype) for state in initial_state])
    h, final_state, _ = _forward(cell, gates, recurrent, bias, stacked, chosen)
    return h, final_state.unbind(0)


def _refusal(gates: Tensor) -> str | None:
    """Say why Triton's kernels cannot run on these; None if they can."""
    if gates.dtype not in LARGEST_WIDTH:
        return f"Triton's kernels compute in float32, and gates are {gates.dtype}"
    largest, width = LARGEST_WIDTH[gates.dtype], gates.shape[-1]
    if width > largest:
        return f"Triton's kernels hold {gates.dtype} heads of d <= {largest}, and d is {width}"
    return None


def _check(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: States | None,
) -> None:
    if cell not in GATES:
        raise ValueError(f"cell is {cell!r}: choose one of {', '.join(GATES)}")
    if gates.dim() != 5 or gates.shape[2] != GATES[cell] or min(gates.shape) == 0:
        raise ValueError(
            f"gates of {cell} must be [B, L, {GATES[cell]}, H, d] with L >= 1, "
            f"and are {list(gates.shape)}"
        )
    batch, _, count, heads, width = gates.shape
    tensors = {"gates": gates, "recurrent": recurrent}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "recurrent": ("[H, G, d, d]", (heads, count, width, width))
    }
    if bias is not None:
        tensors["bias"], shapes["bias"] = bias, ("[G, H, d]", (count, heads, width))
    if initial_state is not None:
        if isinstance(initial_state, Tensor) or len(initial_state) != STATES[cell]:
            raise ValueError(f"initial_state of {cell} must be a tuple of {STATES[cell]} tensors")
        for i, state in enumerate(initial_state):
            name = f"initial_state[{i}]"
            tensors[name], shapes[name] = state, ("[B, H, d]", (batch, heads, width))
    for name, tensor in tensors.items():
        letters, shape = shapes.get(name, ("", tuple(tensor.shape)))
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must be {letters} = {list(shape)}, and is {list(tensor.shape)}"
            )
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != gates.device:
            raise ValueError(
                f"gates are on {gates.device} and {name} on {tensor.device}: move one of them"
            )


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.fused_rnn import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::fused_rnn", mutates_args=())
def _forward(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    h, final_state, trace = _implementation(backend).rnn_forward(
        cell, gates, recurrent, bias, initial_state
    )
    return h, final_state, trace


@_forward.register_fake
def _(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _, heads, width = gates.shape
    dtype = torch.promote_types(gates.dtype, torch.float32)
    return (
        gates.new_empty(batch, length, heads, width),
        gates.new_empty(STATES[cell], batch, heads, width, dtype=dtype),
        gates.new_empty(STATES[cell] - 1, length, batch, heads, width, dtype=dtype),
    )


@torch.library.custom_op("nas::fused_rnn_backward", mutates_args=())
def _backward(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    h: Tensor,
    trace: Tensor,
    grad_h: Tensor,
    grad_final: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_gates, grad_recurrent, grad_bias, grad_initial = _implementation(backend).rnn_backward(
        cell, gates, recurrent, bias, initial_state, h, trace, grad_h, grad_final
    )
    return grad_gates, grad_recurrent, grad_bias, grad_initial


@_backward.register_fake
def _(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    h: Tensor,
    trace: Tensor,
    grad_h: Tensor,
    grad_final: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        gates.new_empty(gates.shape),
        recurrent.new_empty(recurrent.shape),
        trace.new_empty(*gates.shape[2:]),
        grad_final.new_empty(grad_final.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.cell, gates, recurrent, bias, initial_state, ctx.backend = inputs
    h, final_state, trace = output
    ctx.mark_non_differentiable(trace)
    ctx.set_materialize_grads(False)
    ctx.final_shape = final_state.shape
    ctx.save_for_backward(gates, recurrent, bias, initial_state, h, trace)


def _differentiate(
    ctx: Any, grad_h: Tensor | None, grad_final: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    gates, recurrent, bias, initial_state, h, trace = ctx.saved_tensors
    if grad_h is None:
        grad_h = torch.zeros_like(h)
    if grad_final is None:
        grad_final = trace.new_zeros(ctx.final_shape)
    grad_gates, grad_recurrent, grad_bias, grad_initial = _backward(
        ctx.cell, gates, recurrent, bias, initial_state, h, trace, grad_h, grad_final, ctx.backend
    )
    return (
        None,
        grad_gates,
        grad_recurrent,
        None if bias is None else grad_bias.to(bias.dtype),
        None if initial_state is None else grad_initial,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_save)
