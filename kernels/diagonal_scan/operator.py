"""The diagonal scan's public functions: one signature, whichever implementation runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. Which implementation an operator
runs is an argument, decided before: an operator must not look at the environment.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.diagonal_scan import cpu, reference
from nas.kernels.diagonal_scan.cpu import diagonal_scan_step
from nas.kernels.dispatch import choose_backend

__all__ = ["diagonal_scan", "diagonal_scan_step"]

_COMPLEX = (torch.complex64, torch.complex128)


def diagonal_scan(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t h_{t-1} + b_t over a sequence, elementwise.

    Differentiable once in every argument, through both results.

    Args:
        a: gates [B, L, D], any real numbers (negative, zero, one and more) or complex ones. What is
            expanded, such as a gate [D] for all steps and sequences, is not copied where it has the
            type of the result.
        b: inputs [B, L, D], real or complex.
        initial_state: h before the first step [B, D] ([N, D] with `cu_seqlens`); None means zero.
            Complex only where `a` or `b` is.
        cu_seqlens: int32 or int64 [N + 1], for N sequences of any lengths packed into one: B is 1,
            and sequence n is the steps from cu_seqlens[n] to before cu_seqlens[n + 1], of which
            there may be none. It must rise from 0 to L; Triton does not look whether it does.
        reverse: run from the last step to the first, h_t = a_t h_{t+1} + b_t.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.

    Returns:
        h [B, L, D] in the promoted type of `a` and `b`, and the state after the last step taken
        [B, D] or [N, D], a fresh tensor, at least float32 (half types are accumulated in float32).
        The gradient of a complex tensor is that of torch's convention, conjugate and not halved.

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors that are neither of a real floating-point type nor complex64 or
            complex128, a complex state of a real scan, or `cu_seqlens` not of an integer type.
    """
    _check(a, b, initial_state, cu_seqlens)
    chosen = choose_backend(a.device, backend)
    if chosen == "reference":
        if cu_seqlens is not None:
            cpu.check_spans(cu_seqlens, a.shape[1])
        return reference.diagonal_scan(a, b, initial_state, cu_seqlens=cu_seqlens, reverse=reverse)
    h, final_state = _forward(a, b, initial_state, cu_seqlens, reverse, chosen)
    return h, final_state


def _check(a: Tensor, b: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None) -> None:
    if a.dim() != 3 or a.shape != b.shape or a.shape[1] == 0:
        raise ValueError(
            "a and b must both be [B, L, D] with L >= 1, "
            f"and are {list(a.shape)} and {list(b.shape)}"
        )
    tensors = {"a": a, "b": b}
    sequences, letter = a.shape[0], "B"
    if cu_seqlens is not None:
        _check_packed(a, cu_seqlens)
        sequences, letter = cu_seqlens.shape[0] - 1, "N"
    if initial_state is not None:
        tensors["initial_state"] = initial_state
        expected = (sequences, a.shape[2])
        if initial_state.shape != expected:
            raise ValueError(
                f"initial_state must be [{letter}, D] = {list(expected)}, "
                f"and is {list(initial_state.shape)}"
            )
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point and tensor.dtype not in _COMPLEX:
            raise TypeError(
                f"{name} must be of a real floating-point type, complex64 or complex128, "
                f"and is {tensor.dtype}"
            )
        if tensor.device != a.device:
            raise ValueError(f"a is on {a.device} and {name} on {tensor.device}: move one of them")
    real = not (a.is_complex() or b.is_complex())
    if real and initial_state is not None and initial_state.is_complex():
        raise TypeError("initial_state is complex, a and b are real: make one of them complex")


def _check_packed(a: Tensor, cu_seqlens: Tensor) -> None:
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64, and is {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"cu_seqlens must be [N + 1], N >= 1, and is {list(cu_seqlens.shape)}")
    if a.shape[0] != 1:
        raise ValueError(
            f"with cu_seqlens all sequences are packed into one, [1, L, D], and a is "
            f"{list(a.shape)}"
        )
    if cu_seqlens.device != a.device:
        raise ValueError(
            f"a is on {a.device} and cu_seqlens on {cu_seqlens.device}: move one of them"
        )


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.diagonal_scan import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::diagonal_scan", mutates_args=())
def _forward(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    h, final_state = _implementation(backend).scan_forward(a, b, initial_state, cu_seqlens, reverse)
    return h, final_state


@_forward.register_fake
def _(
    a: Tensor,
    b: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    h = a.new_empty(a.shape, dtype=torch.promote_types(a.dtype, b.dtype))
    return h, _new_state(h, cu_seqlens)


@torch.library.custom_op("nas::diagonal_scan_backward", mutates_args=())
def _backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_a, grad_b, grad_initial = _implementation(backend).scan_backward(
        a, h, initial_state, cu_seqlens, grad_h, grad_final, reverse
    )
    return grad_a, grad_b, grad_initial


@_backward.register_fake
def _(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    grad_h: Tensor,
    grad_final: Tensor,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), h.new_empty(h.shape), _new_state(h, cu_seqlens)


def _new_state(h: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    sequences = h.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return h.new_empty(sequences, h.shape[2], dtype=torch.promote_types(h.dtype, torch.float32))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a, b, initial_state, cu_seqlens, ctx.reverse, ctx.backend = inputs
    ctx.b_dtype = b.dtype
    ctx.save_for_backward(a, output[0], initial_state, cu_seqlens)


def _differentiate(ctx: Any, grad_h: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    a, h, initial_state, cu_seqlens = ctx.saved_tensors
    grad_a, grad_b, grad_initial = _backward(
        a, h, initial_state, cu_seqlens, grad_h, grad_final, ctx.reverse, ctx.backend
    )
    grad_b = cpu.gradient_in(ctx.b_dtype, grad_b)
    if initial_state is None:
        return grad_a, grad_b, None, None, None, None
    grad_initial = cpu.gradient_in(initial_state.dtype, grad_initial)
    return grad_a, grad_b, grad_initial, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
