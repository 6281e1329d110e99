"""The selective scan's public functions: one signature, whichever implementation runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. Which implementation an operator
runs is an argument, decided before: an operator must not look at the environment.
"""

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.dispatch import choose_backend
from nas.kernels.selective_scan import cpu, reference
from nas.kernels.selective_scan.cpu import selective_scan_step

__all__ = ["selective_scan", "selective_scan_step"]

LARGEST_ORDER = 256
"""States of a channel that the Triton kernels can hold."""

# Steps between two states that are kept for the gradient.
_CHUNK = {"cpu": cpu.CHUNK, "triton": 8}


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
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute Mamba's S6 over a sequence.

    For a channel d with N states, h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t and
    y_t = C_t . h_t + D u_t, times silu(z_t) (Gu and Dao 2023, Algorithm 2). Differentiable once in
    every argument, through both results.

    Args:
        u: inputs [B, L, D].
        delta: step sizes [B, L, D].
        A: rates [D, N], real and by convention negative, float32 or float64.
        B: input projections [B, L, N], or [B, L, G, N] with channels in G equal groups.
        C: output projections, shaped as `B`.
        D: weights of the inputs in the outputs [D]; None means zero.
        z: output gates [B, L, D]; None means that there are none.
        delta_bias: added to the step sizes [D]; None means zero.
        initial_state: h before the first step [B, D, N]; None means zero.
        delta_softplus: apply softplus to the step sizes, after the bias.
        reverse: run from the last step to the first.
        backend: "reference", "cpu" or "triton" (N up to 256); None chooses by NAS_KERNEL_BACKEND
            or the device.

    Returns:
        y [B, L, D] in u's type, and the state after the last step taken [B, D, N], a fresh tensor,
        at least float32 (half types are accumulated in float32).

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors that are not of a real floating-point type, or A of a half type.
    """
    tensors = {"delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    _check(u, tensors | {"initial_state": initial_state})
    chosen = choose_backend(u.device, backend)
    if chosen == "triton" and A.shape[1] > LARGEST_ORDER:
        raise ValueError(
            f"the Triton kernels take N up to {LARGEST_ORDER}, and it is {A.shape[1]}: "
            "choose backend='cpu', which runs on any device"
        )
    if chosen == "reference":
        return reference.selective_scan(
            u, delta, A, B, C, D, z, delta_bias, initial_state,
            delta_softplus=delta_softplus, reverse=reverse,
        )  # fmt: skip
    if B.dim() == 3:
        B, C = B.unsqueeze(2), C.unsqueeze(2)
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    y, final_state, _ = _forward(*inputs, delta_softplus, reverse, keep, chosen)
    return y, final_state


def _check(u: Tensor, others: dict[str, Tensor | None]) -> None:
    if u.dim() != 3 or 0 in u.shape[1:]:
        raise ValueError(f"u must be [B, L, D] with L, D >= 1, and is {list(u.shape)}")
    tensors = {"u": u} | {name: x for name, x in others.items() if x is not None}
    A, B, C = tensors["A"], tensors["B"], tensors["C"]
    batch, length, width = u.shape
    if A.dim() != 2 or A.shape[0] != width or A.shape[1] == 0:
        raise ValueError(f"A must be [D, N] with D = {width} and N >= 1, and is {list(A.shape)}")
    order = A.shape[1]
    ends = (B.shape[0], B.shape[1], B.shape[-1]) if B.dim() in (3, 4) else ()
    if ends != (batch, length, order) or B.shape != C.shape:
        raise ValueError(
            f"B and C must both be [B, L, N] = {[batch, length, order]} or [B, L, G, N], "
            f"and are {list(B.shape)} and {list(C.shape)}"
        )
    if B.dim() == 4 and (B.shape[2] == 0 or width % B.shape[2]):
        raise ValueError(f"the groups of B and C must divide D = {width}, and are {B.shape[2]}")
    expected = {
        "delta": ("[B, L, D]", (batch, length, width)),
        "z": ("[B, L, D]", (batch, length, width)),
        "D": ("[D]", (width,)),
        "delta_bias": ("[D]", (width,)),
        "initial_state": ("[B, D, N]", (batch, width, order)),
    }
    for name, tensor in tensors.items():
        letters, shape = expected.get(name, ("", tensor.shape))
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must be {letters} = {list(shape)}, and is {list(tensor.shape)}"
            )
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != u.device:
            raise ValueError(f"u is on {u.device} and {name} on {tensor.device}: move one of them")
    if A.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"A must be float32 or float64, and is {A.dtype}: call A.float(), as errors of the "
            "rates grow with the length of what is remembered"
        )


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.selective_scan import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::selective_scan", mutates_args=())
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    softplus: bool,
    reverse: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    y, final_state, states = _implementation(backend).scan_forward(
        u, delta, A, B, C, D, z, delta_bias, initial_state,
        softplus=softplus, reverse=reverse, keep=keep,
    )  # fmt: skip
    return y, final_state, states


@_forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    softplus: bool,
    reverse: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, width = u.shape
    types = (x.dtype for x in (u, delta, A, B, C))
    dtype = functools.reduce(torch.promote_types, types, torch.float32)
    chunks = (length + _CHUNK[backend] - 1) // _CHUNK[backend] if keep else 0
    state = u.new_empty(batch, width, A.shape[1], dtype=dtype)
    states = u.new_empty(batch, chunks, width, A.shape[1], dtype=dtype)
    return u.new_empty(u.shape), state, states


@torch.library.custom_op("nas::selective_scan_backward", mutates_args=())
def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    grad_y: Tensor,
    grad_final: Tensor,
    softplus: bool,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gradients = _implementation(backend).scan_backward(
        u, delta, A, B, C, D, z, delta_bias, states, grad_y, grad_final,
        softplus=softplus, reverse=reverse,
    )  # fmt: skip
    return tuple(gradients)


@_backward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    grad_y: Tensor,
    grad_final: Tensor,
    softplus: bool,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(x: Tensor | None) -> Tensor:
        return states.new_empty(0) if x is None else x.new_empty(x.shape)

    initial = states.new_empty(u.shape[0], *A.shape)
    return (
        like(u), like(delta), like(A), like(B), like(C), like(D), like(z), like(delta_bias), initial
    )  # fmt: skip


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, initial_state, ctx.softplus, ctx.reverse, ctx.keep, ctx.backend = inputs
    ctx.initial_dtype = None if initial_state is None else initial_state.dtype
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(
    ctx: Any, grad_y: Tensor, grad_final: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    if not ctx.keep:
        raise RuntimeError("nas::selective_scan was called with keep=False: it has no gradient")
    *tensors, states = ctx.saved_tensors
    *gradients, initial = _backward(
        *tensors, states, grad_y, grad_final, ctx.softplus, ctx.reverse, ctx.backend
    )
    kept = [None if x is None else g for g, x in zip(gradients, tensors, strict=True)]
    return *kept, None if ctx.initial_dtype is None else initial.to(ctx.initial_dtype), *[None] * 4


_forward.register_autograd(_differentiate, setup_context=_save)
