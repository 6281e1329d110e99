"""A mixture of experts as its definition reads, a token and an expert at a time: the oracle."""

from collections.abc import Callable

import torch
from torch import Tensor


def moe(x: Tensor, experts: Tensor, weights: Tensor, w: Tensor) -> Tensor:
    """Compute y_t = sum_j weights_tj x_t w[experts_tj]; gradients come from autograd alone.

    Args:
        x: tokens [T, D].
        experts: which k experts each token meets [T, k], integers in 0 .. E - 1.
        weights: of their outputs [T, k].
        w: a matrix for each expert [E, D, F].

    Returns:
        y [T, F] in x's type. Sums are in the promoted type of x, weights and float32.
    """
    number = _accumulator(x, weights)
    matrices = w.to(number).unbind(0)
    outputs = []
    for token, chosen, shares in zip(
        x.to(number).unbind(0), experts.tolist(), weights.to(number).unbind(0), strict=True
    ):
        y = token.new_zeros(w.shape[2])
        for expert, share in zip(chosen, shares.unbind(0), strict=True):
            y = y + share * (token @ matrices[expert])
        outputs.append(y)
    return torch.stack(outputs).to(x.dtype) if outputs else x.new_zeros(0, w.shape[2])


def expert_mlp(
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute y_t = sum_j weights_tj act(x_t w_in[e]) w_out[e] with e = experts_tj.

    Args:
        x: tokens [T, D].
        experts: which k experts each token meets [T, k], integers in 0 .. E - 1.
        weights: of their outputs [T, k].
        w_in: [E, D, F].
        w_out: [E, F, G].
        activation: act, elementwise.

    Returns:
        y [T, G] in x's type. Sums are in the promoted type of x, weights and float32.
    """
    number = _accumulator(x, weights)
    first, second = w_in.to(number).unbind(0), w_out.to(number).unbind(0)
    outputs = []
    for token, chosen, shares in zip(
        x.to(number).unbind(0), experts.tolist(), weights.to(number).unbind(0), strict=True
    ):
        y = token.new_zeros(w_out.shape[2])
        for expert, share in zip(chosen, shares.unbind(0), strict=True):
            y = y + share * (activation(token @ first[expert]) @ second[expert])
        outputs.append(y)
    return torch.stack(outputs).to(x.dtype) if outputs else x.new_zeros(0, w_out.shape[2])


def grouped_mm(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Multiply each row of x by the matrix of its group.

    Args:
        x: rows [N, D], group after group.
        w: a matrix for each group [E, D, F].
        ends: one past each group's last row [E].

    Returns:
        [N, F] in x's type. Sums are in float32 at least.
    """
    number = _accumulator(x, w)
    matrices, rows = w.to(number).unbind(0), x.to(number).unbind(0)
    outputs, start = [], 0
    for matrix, end in zip(matrices, ends.tolist(), strict=True):
        outputs += [row @ matrix for row in rows[start:end]]
        start = end
    return torch.stack(outputs).to(x.dtype) if outputs else x.new_zeros(0, w.shape[2])


def _accumulator(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
