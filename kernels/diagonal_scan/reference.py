"""The diagonal scan as its definition reads: the oracle of every other implementation."""

import torch
from torch import Tensor


def diagonal_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t h_{t-1} + b_t by a loop over time; gradients come from autograd alone.

    Args:
        a: gates [B, L, D], real or complex.
        b: inputs [B, L, D], real or complex.
        initial_state: h before the first step [B, D] ([N, D] with `cu_seqlens`); None means zero.
        cu_seqlens: integers [N + 1]: B is 1, and sequence n is the steps from cu_seqlens[n] to
            before cu_seqlens[n + 1].
        reverse: run from the last step to the first, h_t = a_t h_{t+1} + b_t.

    Returns:
        h [B, L, D] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D] or [N, D], at least float32. Everything is accumulated in that second type.
    """
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    batch, _, width = a.shape
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if initial_state is None:
        states = torch.zeros(sequences, width, dtype=state_dtype, device=a.device)
    else:
        states = initial_state.to(state_dtype)
    gates, inputs = a.to(state_dtype), b.to(state_dtype)
    if cu_seqlens is None:
        h, final_states = _loop(gates, inputs, states, reverse)
        return h.to(out_dtype), final_states
    # split and unbind, not a[:, t]: the gradient of a slice is a whole [B, L, D] tensor.
    lengths = cu_seqlens.diff().tolist()
    parts = zip(gates.split(lengths, 1), inputs.split(lengths, 1), states.split(1), strict=True)
    found = [_loop(*part, reverse) for part in parts]
    return torch.cat([h for h, _ in found], 1).to(out_dtype), torch.cat([x for _, x in found])


def _loop(a: Tensor, b: Tensor, state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    gates, inputs = a.unbind(1), b.unbind(1)
    steps = range(len(gates))
    outputs: dict[int, Tensor] = {}
    for t in reversed(steps) if reverse else steps:
        state = gates[t] * state + inputs[t]
        outputs[t] = state
    h = torch.stack([outputs[t] for t in steps], dim=1) if outputs else b
    return h, state
