"""The selective scan as its definition reads: the oracle of every other implementation."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    delta_softplus: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute Mamba's S6 by a loop over time; gradients come from autograd alone.

    For a channel d with N states, h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t and
    y_t = C_t . h_t + D u_t, times silu(z_t) (Gu and Dao 2023, Algorithm 2).

    Args:
        u: inputs [B, L, D].
        delta: step sizes [B, L, D].
        A: rates [D, N].
        B: input projections [B, L, N], or [B, L, G, N] with channels in G equal groups.
        C: output projections, shaped as `B`.
        D: weights of the inputs in the outputs [D].
        z: output gates [B, L, D].
        delta_bias: added to the step sizes [D].
        initial_state: h before the first step [B, D, N]; None means zero.
        delta_softplus: apply softplus to the step sizes, after the bias.
        reverse: run from the last step to the first.

    Returns:
        y [B, L, D] in u's type, and the state after the last step taken [B, D, N], at least
        float32. Everything is accumulated in that second type.
    """
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in (u, delta, A, B, C)))
    dtype = torch.promote_types(dtype, torch.float32)
    width, rates = u.shape[2], A.to(dtype)
    steps = delta.to(dtype)
    if delta_bias is not None:
        steps = steps + delta_bias.to(dtype)
    if delta_softplus:
        steps = F.softplus(steps)
    if initial_state is None:
        state = rates.new_zeros(u.shape[0], *A.shape)
    else:
        state = initial_state.to(dtype)

    # unbind, not u[:, t]: the gradient of a slice is a whole [B, L, D] tensor, at every step.
    inputs, sizes = u.to(dtype).unbind(1), steps.unbind(1)
    ins, outs = (_per_channel(x.to(dtype), width) for x in (B, C))
    order = range(len(inputs))
    outputs: dict[int, Tensor] = {}
    for t in reversed(order) if reverse else order:
        decay = torch.exp(sizes[t][..., None] * rates)
        state = decay * state + (sizes[t] * inputs[t])[..., None] * ins[t]
        outputs[t] = (state * outs[t]).sum(-1)
    y = torch.stack([outputs[t] for t in order], dim=1)
    if D is not None:
        y = y + u.to(dtype) * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


def _per_channel(projections: Tensor, width: int) -> tuple[Tensor, ...]:
    """Take [B, L, N] or [B, L, G, N] apart in time, into what multiplies [B, D, N]."""
    if projections.dim() == 3:
        return tuple(x[:, None] for x in projections.unbind(1))
    repeats = width // projections.shape[2]
    return tuple(x.repeat_interleave(repeats, dim=1) for x in projections.unbind(1))
