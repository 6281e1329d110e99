"""The matrix state with a complex gate per key channel (GateLoop, Katsch 2023).

    S_t = diag(alpha_t e^(i theta_t)) S_{t-1} + k_t v_t',   o_t = Re(S_t' q_t)

The angles add up along the sequence, phi_t = theta_1 + ... + theta_t, so that the state seen from a
frame that turns with them, e^(-i phi_t) S_t, has real gates alone. With real q and k its real and
imaginary part are two states of twice the keys: of (k cos phi, k sin phi), read by (q cos phi,
q sin phi), a cumulative rotation of queries and keys as rotary position embeddings are one.
"""

import math

import torch
from torch import Tensor

from nas.kernels.gated_linear_attention.cpu import LOG_GATE_FLOOR
from nas.kernels.gated_linear_attention.operator import gated_linear_attention


def complex_gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    angle: Tensor,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a matrix state whose gates are alpha_t e^(i theta_t) over a sequence.

    Differentiable once in every tensor, through both results. States are those of the definition,
    not turned, so that a sequence may be run in parts. The gradient of an angle is a sum over all
    that follows: where q and k are bfloat16 it is right to a few hundredths only.

    Args:
        q: queries [B, L, H, K], real.
        k: keys [B, L, H, K], real.
        v: values [B, L, H, V].
        log_gate: log(alpha) <= 0, the gates' size: None (1), [B, L, H] or [B, L, H, K], floored at
            LOG_GATE_FLOOR.
        angle: theta in radians, [B, L, H] or [B, L, H, K].
        initial_state: real and imaginary part of S before the first step [B, H, 2, K, V]; None
            means zero.
        scale: factor of the output.
        backend: "reference", "cpu" or "triton" (which takes K <= 128 here); None chooses by
            NAS_KERNEL_BACKEND or the device.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and real and imaginary part of S after
        the last step [B, H, 2, K, V], at least float32.

    Raises:
        ValueError: shapes that do not belong together, or keys too wide for the backend.
        TypeError: tensors that are not of a real floating-point type.
    """
    batch, _, heads, keys = q.shape
    if angle.shape not in (q.shape[:3], q.shape):
        raise ValueError(
            f"angle must be [B, L, H] = {list(q.shape[:3])} or [B, L, H, K] = {list(q.shape)}, "
            f"and is {list(angle.shape)}"
        )
    expected = (batch, heads, 2, keys, v.shape[-1])
    if initial_state is not None and initial_state.shape != expected:
        raise ValueError(
            f"initial_state must be [B, H, 2, K, V] = {list(expected)}, "
            f"and is {list(initial_state.shape)}"
        )
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    number = torch.promote_types(out_dtype, torch.float32)
    if angle.dim() == 3:
        angle = angle.unsqueeze(-1)
    # In float64: a sum of thousands of angles has no digits left in float32 for its sine.
    turned = angle.double().cumsum(1).remainder(2 * math.pi).to(number)
    cos, sin = turned.cos(), turned.sin()
    if log_gate is not None and log_gate.dim() == 4:
        log_gate = torch.cat([log_gate, log_gate], dim=-1)
    start = None
    if initial_state is not None:
        start = torch.cat([initial_state[:, :, 0], -initial_state[:, :, 1]], dim=2)
    o, final = gated_linear_attention(
        torch.cat([q * cos, q * sin], dim=-1).to(q.dtype),
        torch.cat([k * cos, k * sin], dim=-1).to(k.dtype),
        v,
        log_gate,
        start,
        scale=scale,
        backend=backend,
    )
    # Back from the frame that has turned by the last angle.
    cos, sin = cos[:, -1].unsqueeze(-1), sin[:, -1].unsqueeze(-1)
    real, minus_imaginary = final.chunk(2, dim=2)
    parts = (
        cos * real + sin * minus_imaginary,
        sin * real - cos * minus_imaginary,
    )
    return o, torch.stack(parts, dim=2)


def complex_gated_linear_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    angle: Tensor,
    state: Tensor,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Take one step of `complex_gated_linear_attention`.

    Args:
        q: query of this step [B, H, K].
        k: key of this step [B, H, K].
        v: value of this step [B, H, V].
        log_gate: log(alpha) of this step: None, [B, H] or [B, H, K].
        angle: theta of this step [B, H] or [B, H, K].
        state: real and imaginary part of S of the step before [B, H, 2, K, V], float32 at least.
        scale: factor of the output.

    Returns:
        o [B, H, V] in the promoted type of q, k and v, and the state of the next step.
    """
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    q, k, v, angle = (x.to(state.dtype) for x in (q, k, v, angle))
    cos, sin = (_column(x) for x in (angle.cos(), angle.sin()))
    real, imaginary = state.unbind(2)
    real, imaginary = cos * real - sin * imaginary, sin * real + cos * imaginary
    if log_gate is not None:
        size = _column(log_gate.to(state.dtype).clamp(min=LOG_GATE_FLOOR).exp())
        real, imaginary = size * real, size * imaginary
    real = real + k.unsqueeze(-1) * v.unsqueeze(-2)
    o = torch.matmul(q.unsqueeze(-2), real).squeeze(-2)
    return (scale * o).to(out_dtype), torch.stack([real, imaginary], dim=2)


def _column(x: Tensor) -> Tensor:
    """Give [B, H] or [B, H, K] the dimensions of a state [B, H, K, V]."""
    return x[..., None] if x.dim() == 3 else x[..., None, None]
