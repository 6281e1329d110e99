"""The softmax scan's public functions: one signature, whichever implementation runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. Which implementation an operator
runs is an argument, decided before: an operator must not look at the environment.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.dispatch import choose_backend
from nas.kernels.softmax_scan import cpu, reference
from nas.kernels.softmax_scan.cpu import State, softmax_scan_step

__all__ = ["softmax_scan", "softmax_scan_step"]


def softmax_scan(
    scores: Tensor,
    values: Tensor,
    initial_state: State | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, State]:
    """Compute o_t = sum_{s<=t} exp(s_s) v_s / sum_{s<=t} exp(s_s) for every t, in linear time.

    It is softmax attention of one query to every prefix of the sequence, whose scores are those of
    the query and the keys (Feng et al. 2024, "Attention as an RNN", Aaren). Scores may be of any
    size: no exponential exceeds 1.

    The state is a triple: the largest score m, the denominator u = sum exp(s_s - m) and the
    numerator w = sum exp(s_s - m) v_s. What it stands for, e^m u and e^m w, does not depend on m,
    so that m is treated as a constant: the m that is returned has no gradient, and those of u and w
    are taken at this m. Passed on as a later call's initial state, they carry all of the gradient.
    An initial m does have one, that of e^m u and e^m w.

    Differentiable once in every argument, through o, u and w.

    Args:
        scores: [B, L, H], finite or -inf (a masked token).
        values: [B, L, H, D].
        initial_state: m [B, H], u [B, H] and w [B, H, D] of the tokens before; None means that
            there are none: -inf, 0, 0.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.

    Returns:
        o [B, L, H, D] in the type of `values`, 0 where there is no token yet that is not masked,
        and the state of all tokens, fresh tensors, at least float32.

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(scores, values, initial_state)
    chosen = choose_backend(values.device, backend)
    if chosen == "reference":
        return reference.softmax_scan(scores, values, initial_state)
    m, u, w = (None, None, None) if initial_state is None else initial_state
    o, m, u, w = _forward(scores, values, m, u, w, chosen)
    return o, (m.detach(), u, w)


def _check(scores: Tensor, values: Tensor, initial_state: State | None) -> None:
    if values.dim() != 4 or scores.shape != values.shape[:3] or values.shape[1] == 0:
        raise ValueError(
            "scores must be [B, L, H] and values [B, L, H, D] with L >= 1, "
            f"and they are {list(scores.shape)} and {list(values.shape)}"
        )
    tensors = {"scores": scores, "values": values}
    if initial_state is not None:
        if len(initial_state) != 3:
            raise ValueError(f"initial_state must be (m, u, w), and has {len(initial_state)} parts")
        batch, _, heads, width = values.shape
        shapes = {"m": (batch, heads), "u": (batch, heads), "w": (batch, heads, width)}
        for (name, shape), tensor in zip(shapes.items(), initial_state, strict=True):
            if tensor.shape != shape:
                raise ValueError(
                    f"{name} of initial_state must be {list(shape)}, and is {list(tensor.shape)}"
                )
            tensors[name] = tensor
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != values.device:
            raise ValueError(
                f"values are on {values.device} and {name} on {tensor.device}: move one of them"
            )


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.softmax_scan import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::softmax_scan", mutates_args=())
def _forward(
    scores: Tensor,
    values: Tensor,
    m: Tensor | None,
    u: Tensor | None,
    w: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    o, m_last, u_last, w_last = _implementation(backend).scan_forward(scores, values, m, u, w)
    return o, m_last, u_last, w_last


@_forward.register_fake
def _(
    scores: Tensor,
    values: Tensor,
    m: Tensor | None,
    u: Tensor | None,
    w: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return values.new_empty(values.shape), *_new_state(scores, values)


@torch.library.custom_op("nas::softmax_scan_backward", mutates_args=())
def _backward(
    scores: Tensor,
    values: Tensor,
    m: Tensor | None,
    u: Tensor | None,
    w: Tensor | None,
    o: Tensor,
    grad_o: Tensor,
    grad_u: Tensor,
    grad_w: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_scores, grad_values, grad_m, grad_first_u, grad_first_w = _implementation(
        backend
    ).scan_backward(scores, values, m, u, w, o, grad_o, grad_u, grad_w)
    return grad_scores, grad_values, grad_m, grad_first_u, grad_first_w


@_backward.register_fake
def _(
    scores: Tensor,
    values: Tensor,
    m: Tensor | None,
    u: Tensor | None,
    w: Tensor | None,
    o: Tensor,
    grad_o: Tensor,
    grad_u: Tensor,
    grad_w: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    state = _new_state(scores, values)
    return scores.new_empty(scores.shape), values.new_empty(values.shape), *state


def _new_state(scores: Tensor, values: Tensor) -> State:
    batch, _, heads, width = values.shape
    dtype = torch.promote_types(torch.promote_types(scores.dtype, values.dtype), torch.float32)
    m, u = (values.new_empty(batch, heads, dtype=dtype) for _ in range(2))
    return m, u, values.new_empty(batch, heads, width, dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[0])


def _differentiate(
    ctx: Any, grad_o: Tensor, grad_m: Tensor, grad_u: Tensor, grad_w: Tensor
) -> tuple[Tensor | None, ...]:
    *gradients, grad_m, grad_first_u, grad_first_w = _backward(
        *ctx.saved_tensors, grad_o, grad_u, grad_w, ctx.backend
    )
    m, u, w = ctx.saved_tensors[2:5]
    if m is None:
        return *gradients, None, None, None, None
    state = (grad_m.to(m.dtype), grad_first_u.to(u.dtype), grad_first_w.to(w.dtype))
    return *gradients, *state, None


_forward.register_autograd(_differentiate, setup_context=_save)
