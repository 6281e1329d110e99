"""Mixtures of experts in plain torch: sort tokens by expert, one matrix product an expert, sum.

Everything here needs torch alone and nothing of this package, so that a model with experts can
carry these definitions with it. It runs on any device; on a CPU it is the default.

Every assignment of a token to an expert is a row. Sorted by expert, the rows of one expert lie
together, so that each expert is one dense product of just its rows (Gale et al. 2023,
"MegaBlocks"). Both ways between tokens and rows are gathers, and so are their gradients: nothing is
added up by atomic operations, and the result is the same in every run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Routing(NamedTuple):
    """Which row is which token's, for T tokens that meet k of E experts.

    Attributes:
        order: for each row, sorted by expert, its assignment t * k + j [T * k].
        place: for each assignment its row [T, k].
        ends: one past each expert's last row [E].
    """

    order: Tensor
    place: Tensor
    ends: Tensor


def route(experts: Tensor, count: int) -> Routing:
    """Sort assignments by expert; those of one expert remain in the order of their tokens.

    Args:
        experts: which experts each token meets [T, k], integers in 0 .. count - 1. They are not
            looked at: on a GPU that would wait for it.
        count: number of experts E.

    Returns:
        The routing, of int64 tensors. A shape depends on no number in `experts`.
    """
    ids, order = experts.flatten().sort(stable=True)
    rows = torch.arange(order.shape[0], device=order.device)
    place = torch.empty_like(order).scatter_(0, order, rows)
    every = torch.arange(count, device=ids.device, dtype=ids.dtype)
    # Not bincount, which waits for the device to learn how many experts there are.
    ends = torch.searchsorted(ids, every, right=True)
    return Routing(order, place.view(experts.shape), ends)


def dispatch(x: Tensor, routing: Routing) -> Tensor:
    """Bring tokens [T, D] into rows sorted by expert [T * k, D]. Differentiable once in x."""
    rows: Tensor = _Dispatch.apply(x, routing.order, routing.place)
    return rows


def combine(y: Tensor, weights: Tensor, routing: Routing) -> Tensor:
    """Sum the rows of each token by its weights. Differentiable once in y and weights.

    Args:
        y: the experts' outputs [T * k, F], sorted by expert.
        weights: [T, k].
        routing: of the T tokens.

    Returns:
        [T, F] in y's type; sums are in the promoted type of y, weights and float32.
    """
    sums: Tensor = _Combine.apply(y, weights, routing.order, routing.place)
    return sums


def grouped_mm(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Multiply each row of x by the matrix of its group. Differentiable once in x and w.

    Args:
        x: rows [N, D], group after group.
        w: a matrix for each group [E, D, F], in x's type.
        ends: one past each group's last row [E]; the last is N.

    Returns:
        [N, F] in x's type, accumulated in float32 at least.
    """
    y: Tensor = _GroupedMM.apply(x, w, ends)
    return y


def moe(x: Tensor, experts: Tensor, weights: Tensor, w: Tensor) -> Tensor:
    """Compute y_t = sum_j weights_tj x_t w[experts_tj]: [T, F] (shapes as in the parts)."""
    routing = route(experts, w.shape[0])
    return combine(grouped_mm(dispatch(x, routing), w, routing.ends), weights, routing)


def expert_mlp(
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute y_t = sum_j weights_tj act(x_t w_in[e]) w_out[e] with e = experts_tj: [T, G]."""
    routing = route(experts, w_in.shape[0])
    hidden = activation(grouped_mm(dispatch(x, routing), w_in, routing.ends))
    return combine(grouped_mm(hidden, w_out, routing.ends), weights, routing)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, order // place.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        _refuse_a_second_derivative()
        (place,) = ctx.saved_tensors
        return _rows_of(grad, place).sum(1), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(y, weights, order, place)
        number = _accumulator(y, weights)
        shares = weights.to(number).unsqueeze(2).unbind(1)
        of_token = place.unbind(1)
        # One row of every token after another: a sum in a fixed order, without a [T, k, F].
        sums = y.index_select(0, of_token[0]).to(number) * shares[0]
        for rows, share in zip(of_token[1:], shares[1:], strict=True):
            sums.addcmul_(y.index_select(0, rows).to(number), share)
        return sums.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        _refuse_a_second_derivative()
        y, weights, order, place = ctx.saved_tensors
        number = _accumulator(y, weights)
        grad = grad.to(number)
        grad_y = grad_weights = None
        if ctx.needs_input_grad[0]:
            shares = weights.to(number).flatten().index_select(0, order)
            rows = grad.index_select(0, order // place.shape[1])
            grad_y = rows.mul_(shares.unsqueeze(1)).to(y.dtype)
        if ctx.needs_input_grad[1]:
            products = _rows_of(y, place).to(number).mul_(grad.unsqueeze(1))
            grad_weights = products.sum(2).to(weights.dtype)
        return grad_y, grad_weights, None, None


class _GroupedMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(x, w, ends)
        return grouped_mm_forward(x, w, ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        _refuse_a_second_derivative()
        x, w, ends = ctx.saved_tensors
        grad_x, grad_w = grouped_mm_backward(x, w, ends, grad)
        return grad_x, grad_w, None


def grouped_mm_forward(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Compute the grouped product [N, F], a fresh tensor, without a gradient."""
    y = torch.empty(x.shape[0], w.shape[2], dtype=x.dtype, device=x.device)
    sizes = _sizes(ends)
    for rows, matrix, place in zip(x.split(sizes), w.unbind(0), y.split(sizes), strict=True):
        torch.mm(rows, matrix, out=place)
    return y


def grouped_mm_backward(x: Tensor, w: Tensor, ends: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of x [N, D] and w [E, D, F]; that of an expert without rows is zero."""
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_w = torch.empty(w.shape, dtype=w.dtype, device=w.device)
    sizes = _sizes(ends)
    of_rows = zip(grad.split(sizes), w.mT.unbind(0), grad_x.split(sizes), strict=True)
    of_matrices = zip(x.T.split(sizes, 1), grad.split(sizes), grad_w.unbind(0), strict=True)
    for left, right, place in (*of_rows, *of_matrices):
        torch.mm(left, right, out=place)
    return grad_x, grad_w


def _sizes(ends: Tensor) -> list[int]:
    """How many rows each group has."""
    last = ends.tolist()
    return [end - start for start, end in zip([0, *last], last, strict=False)]


def _rows_of(y: Tensor, place: Tensor) -> Tensor:
    """Gather the k rows of each token: [T, k, F]."""
    return y.index_select(0, place.flatten()).unflatten(0, place.shape)


def _accumulator(y: Tensor, weights: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(y.dtype, weights.dtype), torch.float32)


def _refuse_a_second_derivative() -> None:
    if torch.is_grad_enabled():
        # Not once_differentiable: that takes the gradient for a constant without a word.
        raise RuntimeError(
            "a mixture of experts can be differentiated only once: call backward or grad without "
            "create_graph=True"
        )
