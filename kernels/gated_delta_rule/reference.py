"""The gated delta rule as its definition reads: the oracle of every other implementation."""

import torch
from torch import Tensor

from nas.kernels.gated_delta_rule.cpu import LOG_GATE_FLOOR


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute o_t = scale * S_t' q_t by a loop over time; gradients come from autograd alone.

    S_t = alpha_t (I - beta_t k_t k_t') S_{t-1} + beta_t k_t v_t' with alpha = exp(log_gate).

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K], taken as they are: normalise them before.
        v: values [B, L, H, V].
        beta: strengths of the updates [B, L, H].
        log_gate: log alpha [B, L, H], not above 0, and floored at `LOG_GATE_FLOOR`; None means 0.
        initial_state: S before the first step [B, H, K, V]; None means zero.
        scale: of the outputs.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and the state after the last step
        [B, H, K, V], at least float32. Everything is accumulated in that second type.
    """
    k, v, beta = k.unsqueeze(2), v.unsqueeze(2), beta.unsqueeze(2)
    return gated_delta_product(q, k, v, beta, log_gate, initial_state, scale=scale)


def gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule with n sub-steps a token by a loop over time.

    A token multiplies the state by alpha once, then takes the n steps S <- S - beta_j k_j k_j' S +
    beta_j k_j v_j', and reads with q after the last.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, n, H, K].
        v: values [B, L, n, H, V].
        beta: strengths of the updates [B, L, n, H].
        log_gate: as in `gated_delta_rule`, one for a token.
        initial_state: as in `gated_delta_rule`.
        scale: as in `gated_delta_rule`.

    Returns:
        As `gated_delta_rule`.
    """
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    dtype = torch.promote_types(out_dtype, torch.float32)
    batch, length, heads, width = q.shape
    if initial_state is None:
        state = q.new_zeros(batch, heads, width, v.shape[-1], dtype=dtype)
    else:
        state = initial_state.to(dtype)
    # unbind, not k[:, t]: the gradient of a slice is a whole tensor of all steps, at every step.
    # Keys and queries are rows [B, H, 1, K], strengths and gates [B, H, 1, 1].
    queries = q.to(dtype).unsqueeze(-2).unbind(1)
    keys = k.to(dtype).unsqueeze(-2).flatten(1, 2).unbind(1)
    values = v.to(dtype).unsqueeze(-2).flatten(1, 2).unbind(1)
    strengths = beta.to(dtype)[..., None, None].flatten(1, 2).unbind(1)
    gates = None
    if log_gate is not None:
        gates = log_gate.to(dtype).clamp(min=LOG_GATE_FLOOR).exp()[..., None, None].unbind(1)
    substeps = k.shape[2]
    outputs = []
    for t in range(length):
        if gates is not None:
            state = gates[t] * state
        for j in range(substeps * t, substeps * (t + 1)):
            error = values[j] - keys[j] @ state
            state = state + keys[j].mT @ (strengths[j] * error)
        outputs.append((scale * (queries[t] @ state)).squeeze(-2))
    return torch.stack(outputs, dim=1).to(out_dtype), state
