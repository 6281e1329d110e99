"""The public functions of mixtures of experts: one signature, whichever implementation runs.

The grouped product is registered with torch as an operator, its gradient as one of its own, so that
compiling, exporting and tracing see one node of known shapes where the sizes of the groups are not
known. Routing, dispatch and combination are plain gathers, which they see through.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.dispatch import choose_backend
from nas.kernels.moe import cpu, reference
from nas.kernels.moe.cpu import Routing

__all__ = ["Routing", "combine", "dispatch", "expert_mlp", "grouped_mm", "moe", "route"]

_TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def moe(
    x: Tensor, experts: Tensor, weights: Tensor, w: Tensor, *, backend: str | None = None
) -> Tensor:
    """Compute y_t = sum_j weights_tj x_t w[experts_tj], at the cost of the chosen experts alone.

    It is `route`, `dispatch`, `grouped_mm` and `combine`, of which other mixtures may be made.
    Differentiable once in x, weights and w. The same in every run: nothing is added atomically.

    Args:
        x: tokens [T, D].
        experts: which k experts each token meets [T, k], integers in 0 .. E - 1; a token may name
            an expert twice, an expert may have no tokens or all.
        weights: of their outputs [T, k], in any floating-point type.
        w: a matrix for each expert [E, D, F], in x's type.
        backend: "reference", "cpu" or "triton" for the grouped product; None chooses by
            NAS_KERNEL_BACKEND or the device.

    Returns:
        y [T, F] in x's type.

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors of the wrong types.
    """
    _check_assignments(x, experts, weights)
    _check_matrices("x", x, "w", w)
    chosen = choose_backend(x.device, backend)
    if chosen == "reference":
        return reference.moe(x, experts, weights, w)
    routing = route(experts, w.shape[0])
    y = grouped_mm(dispatch(x, routing), w, routing.ends, backend=chosen)
    return combine(y, weights, routing)


def expert_mlp(
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    activation: Callable[[Tensor], Tensor],
    *,
    backend: str | None = None,
) -> Tensor:
    """Compute y_t = sum_j weights_tj act(x_t w_in[e]) w_out[e] with e = experts_tj.

    The feed-forward mixture of Shazeer et al. (2017) and the Switch Transformer (Fedus et al.
    2022), without a capacity: no token is dropped. Differentiable once in all tensors but experts.

    Args:
        x: tokens [T, D].
        experts: which k experts each token meets [T, k], integers in 0 .. E - 1.
        weights: of their outputs [T, k], in any floating-point type.
        w_in: [E, D, F], in x's type.
        w_out: [E, F, G], in x's type.
        activation: act, elementwise, such as `torch.nn.functional.silu`.
        backend: as of `moe`.

    Returns:
        y [T, G] in x's type.

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: tensors of the wrong types.
    """
    _check_assignments(x, experts, weights)
    _check_matrices("x", x, "w_in", w_in)
    if w_out.dim() != 3 or w_out.shape[:2] != (w_in.shape[0], w_in.shape[2]):
        raise ValueError(
            f"w_out must be [E, F, G] with E, F = {w_in.shape[0]}, {w_in.shape[2]}, "
            f"and is {list(w_out.shape)}"
        )
    chosen = choose_backend(x.device, backend)
    if chosen == "reference":
        return reference.expert_mlp(x, experts, weights, w_in, w_out, activation)
    routing = route(experts, w_in.shape[0])
    hidden = grouped_mm(dispatch(x, routing), w_in, routing.ends, backend=chosen)
    y = grouped_mm(activation(hidden), w_out, routing.ends, backend=chosen)
    return combine(y, weights, routing)


def route(experts: Tensor, count: int) -> Routing:
    """Sort assignments by expert; those of one expert remain in the order of their tokens.

    Args:
        experts: which experts each token meets [T, k], integers in 0 .. count - 1. They are not
            looked at: on a GPU that would wait for it.
        count: number of experts E.

    Returns:
        The routing: `order` [T * k], the assignment t * k + j of each row; `place` [T, k], the row
        of each assignment; `ends` [E], one past each expert's last row. All are int64.

    Raises:
        ValueError: experts is not [T, k] with k >= 1.
        TypeError: experts are not integers.
    """
    _check_experts(experts)
    return cpu.route(experts, count)


def dispatch(x: Tensor, routing: Routing) -> Tensor:
    """Bring tokens [T, D] into rows sorted by expert [T * k, D]. Differentiable once in x.

    Raises:
        ValueError: there are not as many tokens as in the routing.
    """
    if x.dim() != 2 or x.shape[0] != routing.place.shape[0]:
        raise ValueError(
            f"x must be [T, D] with T = {routing.place.shape[0]}, and is {list(x.shape)}"
        )
    return cpu.dispatch(x, routing)


def combine(y: Tensor, weights: Tensor, routing: Routing) -> Tensor:
    """Sum the rows of each token by its weights. Differentiable once in y and weights.

    Args:
        y: the experts' outputs [T * k, F], sorted by expert.
        weights: [T, k], in any floating-point type.
        routing: of the T tokens.

    Returns:
        [T, F] in y's type; sums are in the promoted type of y, weights and float32.

    Raises:
        ValueError: there are not as many rows or weights as in the routing.
    """
    if y.dim() != 2 or y.shape[0] != routing.order.shape[0]:
        raise ValueError(
            f"y must be [T * k, F] with T * k = {routing.order.shape[0]}, and is {list(y.shape)}"
        )
    if weights.shape != routing.place.shape:
        raise ValueError(
            f"weights must be [T, k] = {list(routing.place.shape)}, and is {list(weights.shape)}"
        )
    return cpu.combine(y, weights, routing)


def grouped_mm(x: Tensor, w: Tensor, ends: Tensor, *, backend: str | None = None) -> Tensor:
    """Multiply each row of x by the matrix of its group. Differentiable once in x and w.

    In Triton the sizes of the groups are read on the device alone: nothing waits for them.

    Args:
        x: rows [N, D], group after group.
        w: a matrix for each group [E, D, F], in x's type and any layout.
        ends: one past each group's last row [E], int64, not decreasing; the last is N.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.
            In float64 "triton" runs "cpu", a plain product for each group on any device.

    Returns:
        [N, F] in x's type, accumulated in float32 at least.

    Raises:
        ValueError: shapes or devices that do not belong together, or an unknown backend.
        TypeError: x and w are not of one floating-point type, or ends not int64.
    """
    _check_matrices("x", x, "w", w)
    if ends.shape != (w.shape[0],):
        raise ValueError(f"ends must be [E] = {[w.shape[0]]}, and is {list(ends.shape)}")
    if ends.dtype != torch.int64:
        raise TypeError(f"ends must be int64, and is {ends.dtype}")
    if ends.device != x.device:
        raise ValueError(f"x is on {x.device} and ends on {ends.device}: move one of them")
    chosen = choose_backend(x.device, backend)
    if chosen == "reference":
        return reference.grouped_mm(x, w, ends)
    if x.dtype not in _TRITON_TYPES:
        chosen = "cpu"
    return _forward(x, w, ends, chosen)


def _check_experts(experts: Tensor) -> None:
    if experts.dim() != 2 or experts.shape[1] == 0:
        raise ValueError(f"experts must be [T, k] with k >= 1, and is {list(experts.shape)}")
    if experts.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"experts must be int64 or int32, and is {experts.dtype}")


def _check_assignments(x: Tensor, experts: Tensor, weights: Tensor) -> None:
    _check_experts(experts)
    if x.dim() != 2 or x.shape[0] != experts.shape[0] or weights.shape != experts.shape:
        raise ValueError(
            "x must be [T, D], experts and weights [T, k], "
            f"and are {list(x.shape)}, {list(experts.shape)} and {list(weights.shape)}"
        )
    if not weights.dtype.is_floating_point:
        raise TypeError(f"weights must be of a real floating-point type, and is {weights.dtype}")
    for name, tensor in (("experts", experts), ("weights", weights)):
        if tensor.device != x.device:
            raise ValueError(f"x is on {x.device} and {name} on {tensor.device}: move one of them")


def _check_matrices(rows: str, x: Tensor, matrices: str, w: Tensor) -> None:
    if x.dim() != 2 or w.dim() != 3 or w.shape[0] == 0 or w.shape[1] != x.shape[1]:
        raise ValueError(
            f"{rows} must be [N, D] and {matrices} [E, D, F] with E >= 1, "
            f"and are {list(x.shape)} and {list(w.shape)}"
        )
    if not x.dtype.is_floating_point or w.dtype != x.dtype:
        raise TypeError(
            f"{rows} and {matrices} must be of one real floating-point type, "
            f"and are {x.dtype} and {w.dtype}: cast one of them"
        )
    if w.device != x.device:
        raise ValueError(f"{rows} is on {x.device} and {matrices} on {w.device}: move one of them")


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.moe import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::moe_grouped_mm", mutates_args=())
def _forward(x: Tensor, w: Tensor, ends: Tensor, backend: str) -> Tensor:
    y: Tensor = _implementation(backend).grouped_mm_forward(x, w, ends)
    return y


@_forward.register_fake
def _(x: Tensor, w: Tensor, ends: Tensor, backend: str) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[2])


@torch.library.custom_op("nas::moe_grouped_mm_backward", mutates_args=())
def _backward(
    x: Tensor, w: Tensor, ends: Tensor, grad: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    grad_x, grad_w = _implementation(backend).grouped_mm_backward(x, w, ends, grad)
    return grad_x, grad_w


@_backward.register_fake
def _(x: Tensor, w: Tensor, ends: Tensor, grad: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, ends, ctx.backend = inputs
    ctx.save_for_backward(x, w, ends)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_w = _backward(*ctx.saved_tensors, grad, ctx.backend)
    return grad_x, grad_w, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
