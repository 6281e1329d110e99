"""The nonlinear recurrences as their definitions read: the oracle of every other implementation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

States = tuple[Tensor, ...]


def fused_rnn(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    initial_state: States | None = None,
) -> tuple[Tensor, States]:
    """Run a cell by a loop over time; gradients come from autograd alone.

    Args:
        cell: "gru", "lstm" or "slstm".
        gates: what the inputs contribute to each gate [B, L, G, H, d].
        recurrent: matrices from the state to each gate [H, G, d, d], its last dimension h's.
        bias: of what the state contributes [G, H, d].
        initial_state: the cell's states before the first step, each [B, H, d].

    Returns:
        h [B, L, H, d] in the type of `gates`, and the states after the last step, each [B, H, d],
        at least float32. Everything is computed in that second type.
    """
    dtype = torch.promote_types(gates.dtype, torch.float32)
    batch, _, _, heads, width = gates.shape
    matrices = recurrent.to(dtype)
    if initial_state is None:
        states = begin(cell, gates.new_zeros(batch, heads, width, dtype=dtype))
    else:
        states = tuple(state.to(dtype) for state in initial_state)
    outputs = []
    # unbind, not gates[:, t]: the gradient of a slice is a whole tensor, at every step.
    for inputs in gates.to(dtype).unbind(1):
        carried = torch.einsum("hgij,bhj->bghi", matrices, states[0])
        if bias is not None:
            carried = carried + bias.to(dtype)
        states = STEPS[cell](inputs.unbind(1), carried.unbind(1), states)
        outputs.append(states[0])
    return torch.stack(outputs, dim=1).to(gates.dtype), states


def begin(cell: str, zero: Tensor) -> States:
    """The states before a sequence: nothing seen, and a stabiliser that any input exceeds."""
    if cell == "slstm":
        return zero, zero, zero, torch.full_like(zero, float("-inf"))
    return (zero,) if cell == "gru" else (zero, zero)


def gru(inputs: States, carried: States, states: States) -> States:
    """Cho et al. 2014 in the form of torch.nn.GRU, whose reset gate is outside the product.

    r = sigma(x_r + u_r), z = sigma(x_z + u_z), n = tanh(x_n + r u_n), h' = (1 - z) n + z h, where
    u = R h + b.
    """
    (h,) = states
    reset = torch.sigmoid(inputs[0] + carried[0])
    update = torch.sigmoid(inputs[1] + carried[1])
    new = torch.tanh(inputs[2] + reset * carried[2])
    return ((1 - update) * new + update * h,)


def lstm(inputs: States, carried: States, states: States) -> States:
    """Hochreiter and Schmidhuber 1997, as torch.nn.LSTM: c' = f c + i g, h' = o tanh(c')."""
    _, c = states
    raw = [x + u for x, u in zip(inputs, carried, strict=True)]
    c = torch.sigmoid(raw[1]) * c + torch.sigmoid(raw[0]) * torch.tanh(raw[2])
    return torch.sigmoid(raw[3]) * torch.tanh(c), c


def slstm(inputs: States, carried: States, states: States) -> States:
    """Beck et al. 2024 (xLSTM), eq. 8 to 17: exponential input gate, sigmoid forget gate.

    m' = max(log sigma(f) + m, i), f' = exp(log sigma(f) + m - m'), i' = exp(i - m'),
    c' = f' c + i' tanh(z), n' = max(f' n + i', 1), h' = sigma(o) c' / n'.

    The stabiliser m is no more than the unit in which c and n are measured: only c e^m and n e^m
    mean anything, and h does not depend on it. So it is a constant to the gradient. Where the
    normaliser is exactly 1 (the first step), its gradient flows as it does above.
    """
    _, c, n, m = states
    raw_i, raw_f, raw_z, raw_o = (x + u for x, u in zip(inputs, carried, strict=True))
    log_forget = F.logsigmoid(raw_f)
    before, m = m.detach(), torch.maximum(log_forget + m, raw_i).detach()
    forget, take = torch.exp(log_forget + before - m), torch.exp(raw_i - m)
    c = forget * c + take * torch.tanh(raw_z)
    n = torch.clamp(forget * n + take, min=1)
    return torch.sigmoid(raw_o) * c / n, c, n, m


STEPS: dict[str, Callable[[States, States, States], States]] = {
    "gru": gru,
    "lstm": lstm,
    "slstm": slstm,
}
