"""The gated matrix state as its definition reads: the oracle of every other implementation."""

import torch
from torch import Tensor

from nas.kernels.gated_linear_attention.cpu import LOG_GATE_FLOOR


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute S_t = diag(alpha_t) S_{t-1} + k_t v_t', o_t = scale * S_t' q_t by a loop over time.

    Gradients come from autograd alone.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K].
        v: values [B, L, H, V].
        log_gate: log(alpha): None (alpha = 1), one per head [B, L, H] or one per key channel
            [B, L, H, K]. What is below LOG_GATE_FLOOR counts as that.
        initial_state: S before the first step [B, H, K, V]; None means zero.
        scale: factor of the output.
        reverse: run from the last step to the first, S_t = diag(alpha_t) S_{t+1} + k_t v_t'.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and the state after the last step taken
        [B, H, K, V], at least float32. Everything is accumulated in that second type.
    """
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    number = torch.promote_types(out_dtype, torch.float32)
    # unbind, not q[:, t]: the gradient of a slice is a whole [B, L, H, K] tensor, at every step.
    queries, keys, values = (x.to(number).unbind(1) for x in (q, k, v))
    if log_gate is None:
        gates: tuple[Tensor, ...] | None = None
    else:
        per_channel = log_gate if log_gate.dim() == 4 else log_gate.unsqueeze(-1)
        gates = per_channel.to(number).clamp(min=LOG_GATE_FLOOR).exp().unbind(1)
    if initial_state is None:
        state = torch.zeros_like(keys[0].unsqueeze(-1) * values[0].unsqueeze(-2))
    else:
        state = initial_state.to(number)
    steps = range(len(queries))
    outputs: dict[int, Tensor] = {}
    for t in reversed(steps) if reverse else steps:
        if gates is not None:
            state = gates[t].unsqueeze(-1) * state
        state = state + keys[t].unsqueeze(-1) * values[t].unsqueeze(-2)
        outputs[t] = scale * (state * queries[t].unsqueeze(-1)).sum(-2)
    return torch.stack([outputs[t] for t in steps], dim=1).to(out_dtype), state
