"""A nonlinear recurrence step by step: what the parallel solver has to find."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[..., Tensor]


def newton_scan(
    step: Step, inputs: Sequence[Tensor], initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute h_t = step(h_{t-1}, x_t) by a loop over time; gradients come from autograd alone.

    Args:
        step: the recurrence, as the parallel solver takes it: of states [B, L, ...] before some
            steps and the inputs at these steps; here it is called with L = 1.
        inputs: tensors [B, L, ...].
        initial_state: h before the first step [B, ...].

    Returns:
        The states [B, L, ...], and the last one [B, ...].
    """
    state = initial_state.unsqueeze(1)
    outputs = []
    # unbind, not x[:, t]: the gradient of a slice is a whole tensor, at every step.
    for parts in zip(*(x.unbind(1) for x in inputs), strict=True):
        state = step(state, *(part.unsqueeze(1) for part in parts))
        outputs.append(state)
    return torch.cat(outputs, dim=1), state.squeeze(1)
