"""The block scan's public functions: one signature, whichever implementation runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. Which implementation an operator
runs is an argument, decided before: an operator must not look at the environment.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.block_scan import cpu, reference
from nas.kernels.block_scan.cpu import block_scan_step
from nas.kernels.dispatch import choose_backend

__all__ = ["block_scan", "block_scan_step"]


def block_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = A_t h_{t-1} + b_t over a sequence, with a 2x2 matrix in each channel.

    Differentiable once in every argument, through both results.

    Args:
        a: matrices [B, L, D, 2, 2], any real numbers.
        b: inputs [B, L, D, 2].
        initial_state: h before the first step [B, D, 2]; None means zero.
        reverse: run from the last step to the first, h_t = A_t h_{t+1} + b_t.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.

    Returns:
        h [B, L, D, 2] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D, 2], a fresh tensor, at least float32 (half types are accumulated in float32).

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(a, b, initial_state)
    chosen = choose_backend(a.device, backend)
    if chosen == "reference":
        return reference.block_scan(a, b, initial_state, reverse=reverse)
    h, final_state = _forward(a, b, initial_state, reverse, chosen)
    return h, final_state


def _check(a: Tensor, b: Tensor, initial_state: Tensor | None) -> None:
    if b.dim() != 4 or b.shape[1] == 0 or b.shape[3] != 2 or a.shape != (*b.shape, 2):
        raise ValueError(
            "a must be [B, L, D, 2, 2] and b [B, L, D, 2] with L >= 1, "
            f"and they are {list(a.shape)} and {list(b.shape)}"
        )
    tensors = {"a": a, "b": b}
    if initial_state is not None:
        tensors["initial_state"] = initial_state
        expected = (b.shape[0], b.shape[2], 2)
        if initial_state.shape != expected:
            raise ValueError(
                f"initial_state must be [B, D, 2] = {list(expected)}, "
                f"and is {list(initial_state.shape)}"
            )
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != a.device:
            raise ValueError(f"a is on {a.device} and {name} on {tensor.device}: move one of them")


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.block_scan import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::block_scan", mutates_args=())
def _forward(
    a: Tensor, b: Tensor, initial_state: Tensor | None, reverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    h, final_state = _implementation(backend).scan_forward(a, b, initial_state, reverse)
    return h, final_state


@_forward.register_fake
def _(
    a: Tensor, b: Tensor, initial_state: Tensor | None, reverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    h = b.new_empty(b.shape, dtype=torch.promote_types(a.dtype, b.dtype))
    return h, _new_state(h)


@torch.library.custom_op("nas::block_scan_backward", mutates_args=())
def _backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_a, grad_b, grad_initial = _implementation(backend).scan_backward(
        a, h, initial_state, grad_h, grad_final, reverse
    )
    return grad_a, grad_b, grad_initial


@_backward.register_fake
def _(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), h.new_empty(h.shape), _new_state(h)


def _new_state(h: Tensor) -> Tensor:
    batch, _, width, _ = h.shape
    return h.new_empty(batch, width, 2, dtype=torch.promote_types(h.dtype, torch.float32))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a, b, initial_state, ctx.reverse, ctx.backend = inputs
    ctx.b_dtype = b.dtype
    ctx.save_for_backward(a, output[0], initial_state)


def _differentiate(ctx: Any, grad_h: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    a, h, initial_state = ctx.saved_tensors
    grad_a, grad_b, grad_initial = _backward(
        a, h, initial_state, grad_h, grad_final, ctx.reverse, ctx.backend
    )
    if initial_state is not None:
        return grad_a, grad_b.to(ctx.b_dtype), grad_initial.to(initial_state.dtype), None, None
    return grad_a, grad_b.to(ctx.b_dtype), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
