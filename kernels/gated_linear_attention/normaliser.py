"""The gated matrix state with a normaliser: o divided by what the keys add up to.

The normaliser n_t = alpha_t n_{t-1} + k_t is the state of a value that is always 1, so that it is
one more column of v and of the state (Katharopoulos et al. 2020, section 3.2, as one recurrence).
"""

import torch
from torch import Tensor

from nas.kernels.gated_linear_attention.operator import (
    gated_linear_attention,
    gated_linear_attention_step,
)


def normalised(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    bound: float | Tensor = 1.0,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute o_t = S_t' q_t / max(|n_t . q_t|, bound_t), q scaled, with S_t as in the operator.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K].
        v: values [B, L, H, V].
        log_gate: None, [B, L, H] or [B, L, H, K].
        initial_state: (S, n) before the first step [B, H, K, V + 1], n its last column; None means
            zero.
        scale: factor of the queries, above and below the line.
        bound: the least divisor: a positive number, or one for each step and head [B, L, H].
        reverse: run from the last step to the first.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and (S, n) after the last step taken
        [B, H, K, V + 1], at least float32.

    Raises:
        ValueError: as `gated_linear_attention`.
        TypeError: as `gated_linear_attention`.
    """
    o, final_state = gated_linear_attention(
        q, k, _with_ones(v), log_gate, initial_state, scale=scale, reverse=reverse, backend=backend
    )
    return _divide(o, bound), final_state


def normalised_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    state: Tensor,
    *,
    scale: float = 1.0,
    bound: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """Take one step of `normalised`.

    Args:
        q: query of this step [B, H, K].
        k: key of this step [B, H, K].
        v: value of this step [B, H, V].
        log_gate: log(alpha) of this step: None, [B, H] or [B, H, K].
        state: (S, n) of the step before [B, H, K, V + 1], float32 at least.
        scale: factor of the query.
        bound: the least divisor, a number or [B, H].

    Returns:
        o [B, H, V], and the state of the next step.
    """
    o, state = gated_linear_attention_step(q, k, _with_ones(v), log_gate, state, scale=scale)
    return _divide(o, bound), state


def _with_ones(v: Tensor) -> Tensor:
    return torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)


def _divide(o: Tensor, bound: float | Tensor) -> Tensor:
    numerator, divisor = o[..., :-1], o[..., -1:].abs()
    if isinstance(bound, Tensor):
        # In the type of the bound, which may be beyond the range of o's.
        divisor = torch.maximum(divisor.to(bound.dtype), bound.unsqueeze(-1))
        return (numerator / divisor).to(o.dtype)
    return numerator / divisor.clamp(min=bound)
