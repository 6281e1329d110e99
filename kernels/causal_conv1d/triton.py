"""The causal depthwise convolution and its gradient in Triton: every tensor is moved once.

Tokens `dilation` apart are a sequence of their own, a "class", in which the convolution has no
dilation: class r holds the tokens r, r + dilation, ... A program walks along a span of one class of
one sequence, BLOCK channels at a time, a channel to a lane, with the last k - 1 inputs in
registers. Lanes never exchange anything. The backward walk computes what stands under the
activation again, keeps the last k - 1 of its gradients as well, and goes k - 1 tokens beyond its
span, since that far the inputs of the span reach. The gradients of weight and bias are sums over
all tokens: each program leaves those of its span, which are added up afterwards, in a fixed order.

Strides and dilation are compile-time constants, because ROWS rows then share one address; the
length is not, as a sequence of another length must not compile again.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.causal_conv1d.cpu import last_inputs
from nas.kernels.causal_conv1d.triton_kernels import backward_kernel, forward_kernel

SPAN = 128
"""Tokens of a class that a program answers for: long against k - 1, which it reads twice."""


def conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    dilation: int,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """Compute y [B, L, D] and the final state as `cpu.conv_forward` does."""
    x, weight = _unit_stride(x), weight.contiguous()
    batch, length, width = x.shape
    taps = weight.shape[1]
    final_state = last_inputs(x, initial_state, (taps - 1) * dilation)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        forward_kernel[_grid(batch, length, width, dilation)](
            x, weight, weight if bias is None else bias.contiguous(), _state(initial_state, x), y,
            length, SPAN, x.stride(0),
            width=width, taps=taps, dilation=dilation, stride_x=x.stride(1),
            NUMBER=_accumulator(x, weight), HAS_BIAS=bias is not None,
            HAS_INITIAL=initial_state is not None, SILU=activation == "silu", enable_fp_fusion=True,
        )  # fmt: skip
    return y, final_state


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
    """Compute the gradients of `conv_forward`'s arguments as `cpu.conv_backward` does."""
    x, grad_y, taps_first = _unit_stride(x), _unit_stride(grad_y), weight.contiguous()
    batch, length, width = x.shape
    taps = weight.shape[1]
    number = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    walks = batch * dilation * _spans(length, dilation)
    # The last of the k + 1 rows is the bias's.
    sums = torch.empty(walks, taps + 1, width, dtype=number, device=x.device)
    reach = 0 if initial_state is None else (taps - 1) * dilation
    grad_initial = torch.empty(
        (batch, reach, width),
        dtype=x.dtype if initial_state is None else initial_state.dtype,
        device=x.device,
    )
    with torch.cuda.device_of(x):
        backward_kernel[_grid(batch, length, width, dilation)](
            x, taps_first, weight if bias is None else bias.contiguous(), _state(initial_state, x),
            grad_y, grad_final.contiguous(), grad_x, grad_initial, sums,
            length, SPAN, x.stride(0), grad_y.stride(0),
            width=width, taps=taps, dilation=dilation,
            stride_x=x.stride(1), stride_g=grad_y.stride(1),
            NUMBER=_accumulator(x, weight), HAS_BIAS=bias is not None,
            HAS_INITIAL=initial_state is not None, SILU=activation == "silu", enable_fp_fusion=True,
        )  # fmt: skip
    total = sums.sum(0)
    grad_weight = total[:taps].T.to(weight.dtype, copy=True, memory_format=torch.contiguous_format)
    grad_bias = weight.new_empty(0) if bias is None else total[taps].to(bias.dtype, copy=True)
    return grad_x, grad_weight, grad_bias, grad_initial


def _accumulator(x: Tensor, weight: Tensor) -> tl.dtype:
    double = torch.float64 in (x.dtype, weight.dtype)
    return tl.float64 if double else tl.float32


def _unit_stride(tensor: Tensor) -> Tensor:
    """Keep any layout whose channels lie side by side, such as halves of a projection."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _state(initial_state: Tensor | None, x: Tensor) -> Tensor:
    """The state as inputs, which it holds; anything where there is none."""
    return x if initial_state is None else initial_state.to(x.dtype).contiguous()


def _spans(length: int, dilation: int) -> int:
    return triton.cdiv(triton.cdiv(length, dilation), SPAN)


def _grid(
    batch: int, length: int, width: int, dilation: int
) -> Callable[[dict[str, int]], tuple[int]]:
    walks = batch * dilation * _spans(length, dilation)
    return lambda config: (walks * triton.cdiv(width, config["BLOCK"]),)
