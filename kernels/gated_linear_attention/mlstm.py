"""The mLSTM's memory (Beck et al. 2024, xLSTM, equations 19-27), in its stabilised form.

    m_t = max(log f_t + m_{t-1}, log i_t)
    S_t = exp(log f_t + m_{t-1} - m_t) S_{t-1} + exp(log i_t - m_t) k_t v_t',   n_t the same of k_t
    o_t = S_t' q_t / max(|n_t . q_t|, exp(-m_t))

Gates are exponential, so that S and n are kept divided by exp(m_t). This is the gated matrix state
with a gate per head and a normaliser. The output does not depend on m: whichever m_t are chosen,
the factors exp(-m_t) cancel, as long as the same ones stand everywhere. So m is found by a running
maximum of sums, whose rounding does no harm, and is a constant for the gradient of o; only the
state that is handed on depends on it, through its last value.
"""

import torch
from torch import Tensor

from nas.kernels.gated_linear_attention.normaliser import normalised, normalised_step

State = tuple[Tensor, Tensor, Tensor]
"""S [B, H, K, V] and n [B, H, K], both divided by exp(m), and m [B, H]. Empty: (0, 0, -inf)."""

# Below it a gate is zero in every respect, and sums of it keep their digits. Were it -inf, there
# would be no m before the first input that is not zero.
_LOG_FLOOR = -1e4


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    log_forget: Tensor,
    initial_state: State | None = None,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, State]:
    """Run the mLSTM's memory over a sequence.

    Differentiable once in every tensor, through all results. What a stronger input leaves of the
    state is floored like every gate: at e^-18 of it, LOG_GATE_FLOOR.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K].
        v: values [B, L, H, V].
        log_input: log(i_t), the raw input gate [B, L, H]; minus infinity is allowed.
        log_forget: log(f_t), of a sigmoid or of an exponential [B, L, H].
        initial_state: (S, n, m) before the first step; None means empty.
        scale: factor of the queries, as K ** -0.5 in the paper on the keys.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and (S, n, m) after the last step, at
        least float32.

    Raises:
        ValueError: shapes that do not belong together.
        TypeError: tensors that are not of a real floating-point type.
    """
    if log_input.shape != q.shape[:3] or log_forget.shape != q.shape[:3]:
        raise ValueError(
            f"log_input and log_forget must be [B, L, H] = {list(q.shape[:3])}, "
            f"and are {list(log_input.shape)} and {list(log_forget.shape)}"
        )
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    number = torch.promote_types(out_dtype, torch.float32)
    log_input = log_input.to(number).clamp(min=_LOG_FLOOR)
    log_forget = log_forget.to(number).clamp(min=_LOG_FLOOR)
    memory, start = None, None
    if initial_state is not None:
        memory = torch.cat([initial_state[0], initial_state[1].unsqueeze(-1)], dim=-1)
        start = initial_state[2].to(number).unsqueeze(1)

    sums = log_forget.cumsum(1)
    last = log_input + (sums[:, -1:] - sums)  # log of what each input weighs at the end
    with torch.no_grad():
        best = (log_input - sums).cummax(1).values
        m = sums + (best if start is None else torch.maximum(best, start))
    # An empty state has no m, and its gate no effect.
    before = torch.cat([m[:, :1] if start is None else start, m[:, :-1]], dim=1)
    o, memory = normalised(
        q,
        (k * (log_input - m).exp().unsqueeze(-1)).to(k.dtype),
        v,
        # The difference first: input gates, and so m, may be hundreds.
        log_forget + (before - m),
        memory,
        scale=scale,
        bound=(-m).exp(),
        backend=backend,
    )
    if start is not None:
        last = torch.cat([last, start + sums[:, -1:]], dim=1)
    end = last.amax(1)
    change = end - end.detach()  # zero, with the gradient of the last m
    memory = memory * (-change)[..., None, None].exp()
    return o, (memory[..., :-1], memory[..., -1], m[:, -1] + change)


def mlstm_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    log_forget: Tensor,
    state: State,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, State]:
    """Take one step of `mlstm`.

    Args:
        q: query of this step [B, H, K].
        k: key of this step [B, H, K].
        v: value of this step [B, H, V].
        log_input: log(i) of this step [B, H].
        log_forget: log(f) of this step [B, H].
        state: (S, n, m) of the step before, float32 at least.
        scale: factor of the query.

    Returns:
        o [B, H, V] in the promoted type of q, k and v, and (S, n, m) of the next step.
    """
    memory, normaliser, before = state
    log_input = log_input.to(before.dtype).clamp(min=_LOG_FLOOR)
    log_forget = log_forget.to(before.dtype).clamp(min=_LOG_FLOOR)
    m = torch.maximum(log_forget + before, log_input)
    both = torch.cat([memory, normaliser.unsqueeze(-1)], dim=-1)
    weighted = (k * (log_input - m).exp().unsqueeze(-1)).to(k.dtype)
    gate, bound = log_forget + (before - m), (-m).exp()
    o, both = normalised_step(q, weighted, v, gate, both, scale=scale, bound=bound)
    return o, (both[..., :-1], both[..., -1], m)
