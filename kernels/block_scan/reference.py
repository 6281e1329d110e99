"""The block scan as its definition reads: the oracle of every other implementation."""

import torch
from torch import Tensor


def block_scan(
    a: Tensor, b: Tensor, initial_state: Tensor | None = None, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute h_t = A_t h_{t-1} + b_t by a loop over time; gradients come from autograd alone.

    Args:
        a: matrices [B, L, D, 2, 2].
        b: inputs [B, L, D, 2].
        initial_state: h before the first step [B, D, 2]; None means zero.
        reverse: run from the last step to the first, h_t = A_t h_{t+1} + b_t.

    Returns:
        h [B, L, D, 2] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D, 2], at least float32. Everything is accumulated in that second type.
    """
    out_dtype = torch.promote_types(a.dtype, b.dtype)
    state_dtype = torch.promote_types(out_dtype, torch.float32)
    # unbind, not a[:, t]: the gradient of a slice is a whole tensor, at every step.
    matrices, inputs = a.to(state_dtype).unbind(1), b.to(state_dtype).unbind(1)
    if initial_state is None:
        state = torch.zeros_like(inputs[0])
    else:
        state = initial_state.to(state_dtype)
    steps = range(len(inputs))
    outputs: dict[int, Tensor] = {}
    for t in reversed(steps) if reverse else steps:
        state = (matrices[t] @ state.unsqueeze(-1)).squeeze(-1) + inputs[t]
        outputs[t] = state
    h = torch.stack([outputs[t] for t in steps], dim=1)
    return h.to(out_dtype), state
