"""The gated delta rule's public functions: one signature, whichever implementation runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. Which implementation an operator
runs is an argument, decided before: an operator must not look at the environment.

One operator serves both functions: the gated delta rule is a product of one step a token.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.dispatch import choose_backend
from nas.kernels.gated_delta_rule import cpu, reference
from nas.kernels.gated_delta_rule.cpu import (
    LOG_GATE_FLOOR,
    gated_delta_product_step,
    gated_delta_rule_step,
)

__all__ = [
    "LOG_GATE_FLOOR",
    "gated_delta_product",
    "gated_delta_product_step",
    "gated_delta_rule",
    "gated_delta_rule_step",
]

TRITON_WIDTH = 256
"""Widest key of the Triton kernels: they hold a state's K rows on the chip, whole."""
TRITON_SUBSTEPS = 32
"""Most sub-steps a token of the Triton kernels: a chunk holds one token at least."""


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute o_t = scale * S_t' q_t over a sequence, where the state learns by the delta rule.

    S_t = alpha_t (I - beta_t k_t k_t') S_{t-1} + beta_t k_t v_t' with alpha = exp(log_gate):
    DeltaNet without a gate (Yang et al., 2024), Gated DeltaNet with one (Yang et al., 2025).
    Differentiable once in every argument, through both results.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K], taken as they are. Normalise them before: the state stays bounded
            where beta |k|^2 is between 0 and 2.
        v: values [B, L, H, V].
        beta: strengths of the updates [B, L, H].
        log_gate: log alpha [B, L, H], not above 0, and floored at `LOG_GATE_FLOOR` (with no
            gradient below it; minus infinity is allowed); None means 0.
        initial_state: S before the first step [B, H, K, V]; None means zero.
        scale: of the outputs, such as K ** -0.5.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device,
            and plain torch where the Triton kernels have no such shape or type (K above 256, more
            than 32 sub-steps a token, float64).

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and the state after the last step
        [B, H, K, V], a fresh tensor, at least float32 (half types are accumulated in float32).

    Raises:
        ValueError: shapes or devices that do not belong together, an unknown backend, or Triton
            asked for where it has no kernel.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(q, k, v, beta, log_gate, initial_state, substeps="")
    k, v, beta = k.unsqueeze(2), v.unsqueeze(2), beta.unsqueeze(2)
    return _call(q, k, v, beta, log_gate, initial_state, scale, backend)


def gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule with n sub-steps a token (Siems et al., "DeltaProduct", 2025).

    A token multiplies the state by alpha once, then takes the n steps S <- S - beta_j k_j k_j' S +
    beta_j k_j v_j', and reads with q after the last.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, n, H, K], taken as they are: normalise them before.
        v: values [B, L, n, H, V].
        beta: strengths of the updates [B, L, n, H].
        log_gate: as in `gated_delta_rule`, one for a token.
        initial_state: as in `gated_delta_rule`.
        scale: as in `gated_delta_rule`.
        backend: as in `gated_delta_rule`.

    Returns:
        As `gated_delta_rule`.

    Raises:
        ValueError: as `gated_delta_rule`.
        TypeError: as `gated_delta_rule`.
    """
    _check(q, k, v, beta, log_gate, initial_state, substeps="n, ")
    return _call(q, k, v, beta, log_gate, initial_state, scale, backend)


def _call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    chosen = choose_backend(q.device, backend)
    if chosen == "reference":
        return reference.gated_delta_product(q, k, v, beta, log_gate, initial_state, scale=scale)
    if chosen == "triton":
        missing = _missing_in_triton(q, k, v)
        if missing and backend == "triton":
            raise ValueError(f"the Triton kernels have no {missing}: choose backend 'cpu'")
        chosen = "cpu" if missing else chosen
    o, final_state, _ = _forward(q, k, v, beta, log_gate, initial_state, scale, chosen)
    return o, final_state


def _missing_in_triton(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Say why the Triton kernels cannot take these tensors, if so."""
    if q.shape[-1] > TRITON_WIDTH:
        return f"keys wider than {TRITON_WIDTH} (K = {q.shape[-1]})"
    if k.shape[2] > TRITON_SUBSTEPS:
        return f"more than {TRITON_SUBSTEPS} sub-steps a token (n = {k.shape[2]})"
    if torch.float64 in (q.dtype, k.dtype, v.dtype):
        return "float64"
    return None


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    substeps: str,
) -> None:
    rank = 5 if substeps else 4
    if q.dim() != 4 or k.dim() != rank or v.dim() != rank or 0 in q.shape or 0 in v.shape:
        raise ValueError(
            f"q must be [B, L, H, K], k [B, L, {substeps}H, K] and v [B, L, {substeps}H, V], all "
            f"of sizes >= 1, and they are {list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        )
    batch, length, heads, width = q.shape
    steps = (batch, length, *v.shape[2:-2], heads)
    expected = {
        "k": (k, f"[B, L, {substeps}H, K]", (*steps, width)),
        "v": (v, f"[B, L, {substeps}H, V]", (*steps, v.shape[-1])),
        "beta": (beta, f"[B, L, {substeps}H]", steps),
        "log_gate": (log_gate, "[B, L, H]", (batch, length, heads)),
        "initial_state": (initial_state, "[B, H, K, V]", (batch, heads, width, v.shape[-1])),
    }
    for name, (tensor, letters, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{name} must be {letters} = {list(shape)} beside q {list(q.shape)}, "
                f"and is {list(tensor.shape)}"
            )
    for name, tensor in {"q": q, **{name: x for name, (x, _, _) in expected.items()}}.items():
        if tensor is None:
            continue
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"q is on {q.device} and {name} on {tensor.device}: move one of them")


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.gated_delta_rule import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::gated_delta_rule", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    o, final_state, kept = _implementation(backend).rule_forward(
        q, k, v, beta, log_gate, initial_state, scale
    )
    return o, final_state, kept


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, width = q.shape
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    o = q.new_empty(batch, length, heads, v.shape[-1], dtype=dtype)
    state_dtype = torch.promote_types(dtype, torch.float32)
    final_state = q.new_empty(batch, heads, width, v.shape[-1], dtype=state_dtype)
    kept = cpu.segments(length, k.shape[2]) + 1 if backend == "cpu" else 0
    return o, final_state, final_state.new_empty(kept, *final_state.shape)


@torch.library.custom_op("nas::gated_delta_rule_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    kept: Tensor,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v, grad_beta, grad_log_gate, grad_initial = _implementation(
        backend
    ).rule_backward(q, k, v, beta, log_gate, initial_state, kept, grad_o, grad_final, scale)
    return grad_q, grad_k, grad_v, grad_beta, grad_log_gate, grad_initial


@_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    kept: Tensor,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    state = grad_final if initial_state is None else initial_state
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        beta.new_empty(beta.shape),
        beta.new_empty(0) if log_gate is None else log_gate.new_empty(log_gate.shape),
        state.new_empty(state.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(
    ctx: Any, grad_o: Tensor, grad_final: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *inputs, kept = ctx.saved_tensors
    gradients = _backward(*inputs, kept, grad_o, grad_final, ctx.scale, ctx.backend)
    # Neither the gate nor the initial state need be there.
    given = (None if x is None else g for x, g in zip(inputs, gradients, strict=True))
    return *given, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
