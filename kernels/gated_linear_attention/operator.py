"""The gated matrix state's public functions: one signature, whichever implementation runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. Which implementation an operator
runs is an argument, decided before: an operator must not look at the environment.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.dispatch import choose_backend
from nas.kernels.gated_linear_attention import cpu, reference
from nas.kernels.gated_linear_attention.cpu import LOG_GATE_FLOOR, gated_linear_attention_step

__all__ = ["LOG_GATE_FLOOR", "gated_linear_attention", "gated_linear_attention_step"]

TRITON_KEY_WIDTH = 256
"""The widest keys that the Triton kernels hold on the chip; values may have any width."""


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute S_t = diag(alpha_t) S_{t-1} + k_t v_t' and o_t = scale * S_t' q_t over a sequence.

    Differentiable once in every tensor, through both results. It serves linear attention and
    RetNet (no gate, a fixed one per head), Mamba-2 (a gate per head; q and k of a group of heads
    may be repeated with `expand`, which copies nothing in Triton), GLA, HGRN2 and LightNet (a gate
    per key channel); mLSTM and GateLoop are written on it (`mlstm`, `complex_gate`).

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K].
        v: values [B, L, H, V].
        log_gate: log(alpha) <= 0: None (alpha = 1), one per head [B, L, H] or one per key channel
            [B, L, H, K]. What is below LOG_GATE_FLOOR, such as -inf, counts as that. Best in
            float32 whatever the type of the others.
        initial_state: S before the first step [B, H, K, V]; None means zero.
        scale: factor of the output.
        reverse: run from the last step to the first, S_t = diag(alpha_t) S_{t+1} + k_t v_t'.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.
            Triton takes K <= 256 and no float64: for those the default is the slower "cpu", which
            runs on any device.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and the state after the last step taken
        [B, H, K, V], a fresh tensor, at least float32 (half types are accumulated in float32).

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend, or keys
            too wide for the backend asked for.
        TypeError: tensors that are not of a real floating-point type, or float64 for Triton.
    """
    _check(q, k, v, log_gate, initial_state)
    chosen = choose_backend(q.device, backend)
    if chosen == "triton":
        chosen = _triton_or_cpu(q, k, v, asked=backend == "triton")
    if chosen == "reference":
        return reference.gated_linear_attention(
            q, k, v, log_gate, initial_state, scale=scale, reverse=reverse
        )
    o, final_state = _forward(q, k, v, log_gate, initial_state, scale, reverse, chosen)
    return o, final_state


def _check(
    q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor | None, initial_state: Tensor | None
) -> None:
    if q.dim() != 4 or q.shape != k.shape or 0 in q.shape:
        raise ValueError(
            "q and k must both be [B, L, H, K], all of sizes >= 1, "
            f"and are {list(q.shape)} and {list(k.shape)}"
        )
    batch, length, heads, width = q.shape
    if v.dim() != 4 or v.shape[:3] != q.shape[:3] or v.shape[3] == 0:
        raise ValueError(
            f"v must be [B, L, H, V] = {[batch, length, heads]} and a width, and is {list(v.shape)}"
        )
    tensors = {"q": q, "k": k, "v": v}
    if log_gate is not None:
        tensors["log_gate"] = log_gate
        if log_gate.shape not in (q.shape[:3], q.shape):
            raise ValueError(
                f"log_gate must be [B, L, H] = {[batch, length, heads]} or [B, L, H, K] = "
                f"{list(q.shape)}, and is {list(log_gate.shape)}"
            )
    if initial_state is not None:
        tensors["initial_state"] = initial_state
        expected = (batch, heads, width, v.shape[3])
        if initial_state.shape != expected:
            raise ValueError(
                f"initial_state must be [B, H, K, V] = {list(expected)}, "
                f"and is {list(initial_state.shape)}"
            )
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"q is on {q.device} and {name} on {tensor.device}: move one of them")


def _triton_or_cpu(q: Tensor, k: Tensor, v: Tensor, *, asked: bool) -> str:
    """Fall back to plain torch where Triton cannot take the tensors and was not `asked` for."""
    double = torch.float64 in (q.dtype, k.dtype, v.dtype)
    if not double and q.shape[3] <= TRITON_KEY_WIDTH:
        return "triton"
    if not asked:
        return "cpu"
    if double:
        raise TypeError("backend 'triton' has no float64: use float32, or backend 'cpu'")
    raise ValueError(
        f"backend 'triton' takes keys of at most {TRITON_KEY_WIDTH} channels, and q has "
        f"{q.shape[3]}: use more heads, or backend 'cpu'"
    )


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.gated_linear_attention import triton  # only where it runs

        return triton
    return cpu


@torch.library.custom_op("nas::gated_linear_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    o, final_state = _implementation(backend).attention_forward(
        q, k, v, log_gate, initial_state, scale, reverse
    )
    return o, final_state


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    return v.new_empty(v.shape, dtype=out_dtype), _new_state(q, k, v)


@torch.library.custom_op("nas::gated_linear_attention_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v, grad_gate, grad_initial = _implementation(backend).attention_backward(
        q, k, v, log_gate, initial_state, grad_o, grad_final, scale, reverse
    )
    return grad_q, grad_k, grad_v, grad_gate, grad_initial


@_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    # No operator returns None: the gradient of no gate is a tensor without elements.
    gate = q.new_empty(0) if log_gate is None else log_gate.new_empty(log_gate.shape)
    gradients = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    return *gradients, gate, _new_state(q, k, v)


def _new_state(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, _, heads, width = q.shape
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    number = torch.promote_types(out_dtype, torch.float32)
    return q.new_empty(batch, heads, width, v.shape[3], dtype=number)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, log_gate, initial_state, ctx.scale, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(q, k, v, log_gate, initial_state)


def _differentiate(ctx: Any, grad_o: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, log_gate, initial_state = ctx.saved_tensors
    grad_q, grad_k, grad_v, grad_gate, grad_initial = _backward(
        q, k, v, log_gate, initial_state, grad_o, grad_final, ctx.scale, ctx.reverse, ctx.backend
    )
    return (
        grad_q,
        grad_k,
        grad_v,
        None if log_gate is None else grad_gate,
        None if initial_state is None else grad_initial.to(initial_state.dtype),
        None,
        None,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_save)
