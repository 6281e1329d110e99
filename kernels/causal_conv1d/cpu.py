"""The causal depthwise convolution in plain torch, and a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses the
convolution can carry these definitions with it. It runs on any device; on a CPU it is the default.

A short convolution is k multiply-adds of a whole tensor, each with one shifted view of the input:
nothing is transposed and, as a view that starts later also stops later, nothing is padded. Kept for
the gradient are the arguments alone; what stands under the activation is computed again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    dilation: int = 1,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute y_t = act(bias + sum_j weight_j x_{t - (k-1-j) dilation}) for every channel.

    Differentiable once in every argument, through both results.

    Args:
        x: inputs [B, L, D].
        weight: taps [D, k]; the last one is the token's own.
        bias: [D]; None means zero.
        initial_state: the inputs before the first [B, (k-1) * dilation, D], oldest first; None
            means zeros.
        dilation: distance of the taps in tokens.
        activation: "silu", or None for none.

    Returns:
        y [B, L, D] and the last (k-1) * dilation inputs, both in x's type.
    """
    y, final_state = _CausalConv1d.apply(x, weight, bias, initial_state, dilation, activation)
    return y, final_state


def causal_conv1d_step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    *,
    dilation: int = 1,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve one token.

    Args:
        x: inputs of this step [B, D].
        weight: taps [D, k].
        bias: [D] or None.
        state: the inputs before [B, (k-1) * dilation, D], oldest first.
        dilation: distance of the taps in tokens.
        activation: "silu", or None for none.

    Returns:
        y [B, D] in x's type, and the next step's state.
    """
    number = _accumulator(x, weight)
    tokens = torch.cat([state.to(x.dtype), x.unsqueeze(1)], dim=1)
    y = (tokens[:, ::dilation].to(number) * weight.to(number).T).sum(1)
    if bias is not None:
        y = y + bias.to(number)
    return _activate(y, activation).to(x.dtype), tokens[:, 1:]


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        initial_state: Tensor | None,
        dilation: int,
        activation: str | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight, bias, initial_state)
        ctx.dilation, ctx.activation = dilation, activation
        return conv_forward(x, weight, bias, initial_state, dilation, activation)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "causal_conv1d can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        x, weight, bias, initial_state = ctx.saved_tensors
        grad_x, grad_weight, grad_bias, grad_initial = conv_backward(
            x, weight, bias, initial_state, grad_y, grad_final, ctx.dilation, ctx.activation
        )
        return (
            grad_x,
            grad_weight,
            None if bias is None else grad_bias,
            None if initial_state is None else grad_initial,
            None,
            None,
        )


def conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    dilation: int,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """Compute y [B, L, D] and the final state, a fresh tensor, without a gradient."""
    number = _accumulator(x, weight)
    state = None if initial_state is None else initial_state.to(x.dtype).to(number)
    y = _convolve(x.to(number), weight.to(number).T.contiguous(), bias, state, dilation)
    y = _activate(y, activation).to(x.dtype)
    return y, last_inputs(x, initial_state, (weight.shape[1] - 1) * dilation)


def last_inputs(x: Tensor, initial_state: Tensor | None, reach: int) -> Tensor:
    """The last `reach` inputs of a sequence and what came before it: [B, reach, D], fresh."""
    length = x.shape[1]
    if length >= reach:
        return x[:, length - reach :].clone(memory_format=torch.contiguous_format)
    if initial_state is None:
        return F.pad(x, (0, 0, reach - length, 0))
    return torch.cat([initial_state[:, length:].to(x.dtype), x], dim=1)


def conv_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    grad_y: Tensor,
    grad_final: Tensor,
    dilation: int,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of `conv_forward`'s arguments from those of its results.

    With g the gradient of what stands under the activation: that of x_t is
    sum_j weight_j g_{t + (k-1-j) dilation}, that of weight_j is sum_t g_t x_{t - (k-1-j) dilation}.

    Returns:
        The gradients of x, weight, bias and the initial state, each in its argument's type. Where
        there is no bias or no initial state: a tensor of size 0.
    """
    number = _accumulator(x, weight)
    width, taps = weight.shape
    reach, length = (taps - 1) * dilation, x.shape[1]
    # Contiguous, as the channels of a tap lie k numbers apart in weight.
    inputs, filters = x.to(number), weight.to(number).T.contiguous()
    state = None if initial_state is None else initial_state.to(x.dtype).to(number)
    g = grad_y.to(number)
    if activation == "silu":
        z = _convolve(inputs, filters, bias, state, dilation)
        g = torch.ops.aten.silu_backward(g, z)

    grad_x = torch.mul(g, filters[-1], out=torch.empty(x.shape, dtype=number, device=x.device))
    grad_state = x.new_zeros(x.shape[0], 0 if state is None else reach, width, dtype=number)
    for j, lag in _earlier_taps(taps, dilation):
        if lag < length:
            grad_x[:, : length - lag].addcmul_(g[:, lag:], filters[j])
        if state is not None:
            reached = grad_state[:, reach - lag : reach - lag + length]
            reached.addcmul_(g[:, :lag], filters[j])
    kept = min(reach, length)
    if kept > 0:
        grad_x[:, length - kept :] += grad_final[:, reach - kept :]
    if state is not None and length < reach:
        grad_state[:, length:] += grad_final[:, : reach - length]

    grad_weight = _weight_gradient(inputs, g, state, taps, dilation)
    grad_bias = weight.new_empty(0) if bias is None else g.sum((0, 1)).to(bias.dtype)
    grad_state = grad_state.to(x.dtype if initial_state is None else initial_state.dtype)
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias, grad_state


def _accumulator(x: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)


def _activate(y: Tensor, activation: str | None) -> Tensor:
    return F.silu(y, inplace=True) if activation == "silu" else y


def _earlier_taps(taps: int, dilation: int) -> list[tuple[int, int]]:
    """All taps but the token's own, each with how many tokens it looks back."""
    return [(j, (taps - 1 - j) * dilation) for j in range(taps - 1)]


def _convolve(
    x: Tensor, filters: Tensor, bias: Tensor | None, state: Tensor | None, dilation: int
) -> Tensor:
    """Convolve tensors of one type, `filters` [k, D]: a fresh [B, L, D]."""
    taps = filters.shape[0]
    length, reach = x.shape[1], (taps - 1) * dilation
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if bias is None:
        torch.mul(x, filters[-1], out=y)
    else:
        torch.addcmul(bias.to(x.dtype), x, filters[-1], out=y)
    for j, lag in _earlier_taps(taps, dilation):
        if lag < length:
            y[:, lag:].addcmul_(x[:, : length - lag], filters[j])
        if state is not None:
            before = state[:, reach - lag : reach - lag + length]
            y[:, :lag].addcmul_(before, filters[j])
    return y


def _weight_gradient(
    x: Tensor, g: Tensor, state: Tensor | None, taps: int, dilation: int
) -> Tensor:
    """Compute sum_{b, t} g_t x_{t - (k-1-j) dilation}: [D, k].

    It is the weight gradient of a convolution that torch has. Cut into rows of `dilation` tokens,
    tokens that far apart stand below each other: the dilated convolution over time is a plain one
    over rows, on a channels-last image, which needs no transposition.
    """
    width, length, reach = x.shape[2], x.shape[1], (taps - 1) * dilation
    fill = -length % dilation
    known = F.pad(x, (0, 0, reach, fill)) if state is None else torch.cat([state, x], dim=1)
    if state is not None and fill > 0:
        known = F.pad(known, (0, 0, 0, fill))
    grads = F.pad(g, (0, 0, 0, fill)) if fill > 0 else g
    image, grad = (
        tensor.unflatten(1, (-1, dilation)).permute(0, 3, 1, 2) for tensor in (known, grads)
    )
    return conv2d_weight(image, (width, 1, taps, 1), grad, groups=width).view(width, taps)
