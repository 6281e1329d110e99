"""The causal depthwise convolution's public functions: one signature, whichever code runs.

The fast implementations are registered with torch as operators, the gradient as one of its own, so
that compiling, exporting and tracing see one node of known shapes. Which implementation an operator
runs is an argument, decided before: an operator must not look at the environment.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nas.kernels.causal_conv1d import cpu, reference
from nas.kernels.causal_conv1d.cpu import causal_conv1d_step
from nas.kernels.dispatch import choose_backend

__all__ = ["causal_conv1d", "causal_conv1d_step"]

TRITON_TAPS = 8
"""A Triton program keeps its window of inputs in registers: more taps run in plain torch."""


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    dilation: int = 1,
    activation: str | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute y_t = act(bias + sum_j weight_j x_{t - (k-1-j) dilation}) for every channel.

    The short convolution of Mamba (Gu and Dao 2023) and Griffin (De et al. 2024), with the taps in
    the order of Dao's causal_conv1d package, and with a dilation that of a temporal convolutional
    network (Bai et al. 2018). Differentiable once in every argument, through both results.

    Args:
        x: inputs [B, L, D].
        weight: taps [D, k]; the last one is the token's own.
        bias: [D]; None means zero.
        initial_state: the inputs before the first [B, (k-1) * dilation, D], oldest first; None
            means zeros. It holds inputs, so that it is taken in x's type.
        dilation: distance of the taps in tokens.
        activation: "silu", or None for none.
        backend: "reference", "cpu" or "triton"; None chooses by NAS_KERNEL_BACKEND or the device.
            With more than 8 taps "triton" runs "cpu", plain torch on any device.

    Returns:
        y [B, L, D], and the last (k-1) * dilation inputs, a fresh tensor: the initial state of what
        follows. Both in x's type; sums are in the promoted type of x, weight and float32.

    Raises:
        ValueError: shapes or devices that do not belong together, a dilation below 1, an unknown
            activation or backend.
        TypeError: tensors that are not of a real floating-point type.
    """
    _check(x, weight, bias, initial_state, dilation, activation)
    chosen = choose_backend(x.device, backend)
    if chosen == "reference":
        return reference.causal_conv1d(
            x, weight, bias, initial_state, dilation=dilation, activation=activation
        )
    if weight.shape[1] > TRITON_TAPS:
        chosen = "cpu"
    y, final_state = _forward(x, weight, bias, initial_state, dilation, activation, chosen)
    return y, final_state


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    dilation: int,
    activation: str | None,
) -> None:
    if x.dim() != 3 or x.shape[1] == 0:
        raise ValueError(f"x must be [B, L, D] with L >= 1, and is {list(x.shape)}")
    batch, _, width = x.shape
    if weight.dim() != 2 or weight.shape[0] != width or weight.shape[1] == 0:
        raise ValueError(
            f"weight must be [D, k] with D = {width} and k >= 1, and is {list(weight.shape)}"
        )
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, and is {dilation}")
    if activation not in (None, "silu"):
        raise ValueError(f'activation is "silu" or None, not {activation!r}')
    reach = (weight.shape[1] - 1) * dilation
    tensors = {"x": x, "weight": weight}
    for name, tensor, letters, expected in (
        ("bias", bias, "[D]", (width,)),
        ("initial_state", initial_state, "[B, (k-1) * dilation, D]", (batch, reach, width)),
    ):
        if tensor is None:
            continue
        tensors[name] = tensor
        if tensor.shape != expected:
            raise ValueError(
                f"{name} must be {letters} = {list(expected)}, and is {list(tensor.shape)}"
            )
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be of a real floating-point type, and is {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"x is on {x.device} and {name} on {tensor.device}: move one of them")


def _implementation(backend: str) -> ModuleType:
    if backend == "triton":
        from nas.kernels.causal_conv1d import triton  # only where it runs: it imports Triton

        return triton
    return cpu


@torch.library.custom_op("nas::causal_conv1d", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    dilation: int,
    activation: str | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    y, final_state = _implementation(backend).conv_forward(
        x, weight, bias, initial_state, dilation, activation
    )
    return y, final_state


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    dilation: int,
    activation: str | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    batch, _, width = x.shape
    return x.new_empty(x.shape), x.new_empty(batch, (weight.shape[1] - 1) * dilation, width)


@torch.library.custom_op("nas::causal_conv1d_backward", mutates_args=())
def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    grad_y: Tensor,
    grad_final: Tensor,
    dilation: int,
    activation: str | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x, grad_weight, grad_bias, grad_initial = _implementation(backend).conv_backward(
        x, weight, bias, initial_state, grad_y, grad_final, dilation, activation
    )
    return grad_x, grad_weight, grad_bias, grad_initial


@_backward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    grad_y: Tensor,
    grad_final: Tensor,
    dilation: int,
    activation: str | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # An operator may not return None: the gradient of what is not given has size 0.
    batch, _, width = x.shape
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(width)
    if initial_state is None:
        grad_initial = x.new_empty(batch, 0, width)
    else:
        grad_initial = initial_state.new_empty(initial_state.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), grad_bias, grad_initial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, initial_state, ctx.dilation, ctx.activation, ctx.backend = inputs
    ctx.save_for_backward(x, weight, bias, initial_state)


def _differentiate(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial_state = ctx.saved_tensors
    grad_x, grad_weight, grad_bias, grad_initial = _backward(
        x,
        weight,
        bias,
        initial_state,
        grad_y,
        grad_final,
        ctx.dilation,
        ctx.activation,
        ctx.backend,
    )
    return (
        grad_x,
        grad_weight,
        None if bias is None else grad_bias,
        None if initial_state is None else grad_initial,
        None,
        None,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_save)
