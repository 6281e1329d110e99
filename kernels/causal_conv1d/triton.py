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

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.autotune import autotune
from nas.kernels.causal_conv1d.cpu import last_inputs

SPAN = 128
"""Tokens of a class that a program answers for: long against k - 1, which it reads twice."""

_FAR = tl.constexpr(2**30)
"""Number of a token beyond every sequence."""

_CONFIGS = [
    triton.Config({"BLOCK": 64, "ROWS": 8}, num_warps=1),
    triton.Config({"BLOCK": 32, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 128, "ROWS": 8}, num_warps=2),
]


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
        _forward_kernel[_grid(batch, length, width, dilation)](
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
        _backward_kernel[_grid(batch, length, width, dilation)](
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


@triton.jit
def _place(length, span, width: tl.constexpr, dilation: tl.constexpr, BLOCK: tl.constexpr):
    """Tell a program its walk, sequence, class, first token within the class, and channels.

    All programs are on one axis, as the other two end at 65535.
    """
    blocks: tl.constexpr = tl.cdiv(width, BLOCK)
    program = tl.program_id(0)
    walk = (program // blocks).to(tl.int64)
    spans = tl.cdiv(tl.cdiv(length, dilation), span)
    first = (walk % spans).to(tl.int32) * span
    offset = (walk // spans % dilation).to(tl.int32)
    sequence = walk // spans // dilation
    return walk, sequence, offset, first, program % blocks * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _input(
    x_ptr, state_ptr, token, length, inside,
    stride_x: tl.constexpr, width: tl.constexpr, reach: tl.constexpr, HAS_INITIAL: tl.constexpr,
):  # fmt: skip
    """Load token number `token` of a sequence; before the first, from its state."""
    tokens = tl.where(inside, token, length)
    there = (tokens >= 0) & (tokens < length)
    x = tl.load(x_ptr + token.to(tl.int64) * stride_x, mask=there, other=0)
    if HAS_INITIAL:
        kept = tl.load(state_ptr + (token + reach) * width, mask=tokens < 0, other=0)
        x = tl.where(tokens < 0, kept, x)
    return x


@triton.jit
def _weights(weight_ptr, channels, inside, taps: tl.constexpr, NUMBER: tl.constexpr):
    """Load the taps as a tuple."""
    weights = ()
    for j in tl.static_range(taps):
        tap = tl.load(weight_ptr + channels * taps + j, mask=inside, other=0)
        weights = weights + (tap.to(NUMBER),)
    return weights


@triton.jit
def _weighted(weights, window, first: tl.constexpr, start, taps: tl.constexpr):
    """Sum `taps` numbers of a window from `first` on, by their weights, onto `start`."""
    for j in tl.static_range(taps):
        start += weights[j] * window[first + j]
    return start


@triton.jit
def _before_first(
    x_ptr, state_ptr, offset, first, inside, length, stride_x: tl.constexpr, width: tl.constexpr,
    taps: tl.constexpr, dilation: tl.constexpr, HAS_INITIAL: tl.constexpr, NUMBER: tl.constexpr,
):  # fmt: skip
    """Load the taps - 1 inputs of a class before its token number `first`."""
    reach: tl.constexpr = (taps - 1) * dilation
    window = ()
    for j in tl.static_range(taps - 1):
        token = offset + (first - (taps - 1) + j) * dilation
        x = _input(
            x_ptr, state_ptr, token, length, inside, stride_x, width, reach, HAS_INITIAL
        )  # fmt: skip
        window = window + (x.to(NUMBER),)
    return window


@autotune(_CONFIGS, key=["width", "taps", "dilation"])
@triton.jit(do_not_specialize=["length", "span"])
def _forward_kernel(
    x_ptr, weight_ptr, bias_ptr, state_ptr, y_ptr,
    length, span, sequence_x,
    width: tl.constexpr, taps: tl.constexpr, dilation: tl.constexpr, stride_x: tl.constexpr,
    NUMBER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, SILU: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    reach: tl.constexpr = (taps - 1) * dilation
    _, sequence, offset, first, channels = _place(length, span, width, dilation, BLOCK)
    inside = channels < width
    x_ptr += sequence * sequence_x + channels
    state_ptr += sequence * reach * width + channels
    y_ptr += sequence * length * width + channels

    weights = _weights(weight_ptr, channels, inside, taps, NUMBER)
    bias = tl.zeros([BLOCK], dtype=NUMBER)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + channels, mask=inside, other=0).to(NUMBER)
    window = _before_first(
        x_ptr, state_ptr, offset, first, inside, length, stride_x, width, taps, dilation,
        HAS_INITIAL, NUMBER,
    )  # fmt: skip
    # How many tokens of the class each lane has, from here to the end of the span or the sequence.
    # (Masks are blocks throughout: the interpreter makes no mask of a block and a number.)
    number = tl.minimum(span, tl.cdiv(length - offset, dilation) - first)
    left = tl.where(inside, number, 0)
    token = offset + first * dilation
    for _ in range(0, number, ROWS):
        at = token.to(tl.int64)
        rows = ()
        for i in tl.static_range(ROWS):
            row = x_ptr + at * stride_x + i * dilation * stride_x
            rows = rows + (tl.load(row, mask=left > i, other=0),)
        for i in tl.static_range(ROWS):
            window = window + (rows[i].to(NUMBER),)
            y = _weighted(weights, window, i, bias, taps)
            if SILU:
                y *= tl.sigmoid(y)
            tl.store(y_ptr + at * width + i * dilation * width, y, mask=left > i)
        kept = ()
        for j in tl.static_range(taps - 1):
            kept = kept + (window[ROWS + j],)
        window = kept
        token += ROWS * dilation
        left -= ROWS


@autotune(_CONFIGS, key=["width", "taps", "dilation"])
@triton.jit(do_not_specialize=["length", "span"])
def _backward_kernel(
    x_ptr, weight_ptr, bias_ptr, state_ptr, grad_y_ptr, grad_final_ptr,
    grad_x_ptr, grad_initial_ptr, sums_ptr,
    length, span, sequence_x, sequence_g,
    width: tl.constexpr, taps: tl.constexpr, dilation: tl.constexpr,
    stride_x: tl.constexpr, stride_g: tl.constexpr,
    NUMBER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, SILU: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    reach: tl.constexpr = (taps - 1) * dilation
    walk, sequence, offset, first, channels = _place(length, span, width, dilation, BLOCK)
    inside = channels < width
    x_ptr += sequence * sequence_x + channels
    grad_y_ptr += sequence * sequence_g + channels
    grad_x_ptr += sequence * length * width + channels
    state_ptr += sequence * reach * width + channels
    grad_final_ptr += sequence * reach * width + channels
    grad_initial_ptr += sequence * reach * width + channels

    weights = _weights(weight_ptr, channels, inside, taps, NUMBER)
    zero = tl.zeros([BLOCK], dtype=NUMBER)
    bias = zero
    if HAS_BIAS:
        bias += tl.load(bias_ptr + channels, mask=inside, other=0).to(NUMBER)
    window = _before_first(
        x_ptr, state_ptr, offset, first, inside, length, stride_x, width, taps, dilation,
        HAS_INITIAL, NUMBER,
    )  # fmt: skip
    # The gradients under the activation of the taps - 1 tokens before: of tokens that another
    # program answers for, or of none; what is made of them here is not stored.
    grads = ()
    for _ in tl.static_range(taps - 1):
        grads = grads + (zero,)
    sums = ()
    for _ in tl.static_range(taps + 1):
        sums = sums + (zero,)

    # Tokens of the class from here to the end of the sequence, and to that of the span, for each
    # lane; one that is outside has none, and its token is far beyond the last.
    number = tl.cdiv(tl.maximum(length - offset, 0), dilation) - first
    left = tl.where(inside, number, 0)
    mine = tl.where(inside, tl.minimum(span, number), -taps)
    start = offset + first * dilation
    token = start
    tokens = tl.where(inside, start, _FAR)
    for _ in range(0, tl.maximum(tl.minimum(span, number), 0) + taps - 1, ROWS):
        at = token.to(tl.int64)
        rows = ()
        grad_rows = ()
        for i in tl.static_range(ROWS):
            row = x_ptr + at * stride_x + i * dilation * stride_x
            rows = rows + (tl.load(row, mask=left > i, other=0),)
            row = grad_y_ptr + at * stride_g + i * dilation * stride_g
            grad_rows = grad_rows + (tl.load(row, mask=left > i, other=0),)
        for i in tl.static_range(ROWS):
            window = window + (rows[i].to(NUMBER),)
            g = grad_rows[i].to(NUMBER)
            if SILU:
                z = _weighted(weights, window, i, bias, taps)
                s = tl.sigmoid(z)
                g = tl.where(left > i, g * s * (1 + z * (1 - s)), 0)
            grads = grads + (g,)
            added = ()
            for j in tl.static_range(taps):
                # Not zero times the input, which may not be finite.
                added = added + (sums[j] + tl.where(mine > i, g * window[i + j], 0),)
            sums = added + (sums[taps] + tl.where(mine > i, g, 0),)

            # With this token all gradients are known of the one taps - 1 before it.
            grad = zero
            for j in tl.static_range(taps):
                grad += weights[j] * grads[i + taps - 1 - j]
            target = token + (i - (taps - 1)) * dilation
            targets = tokens + (i - (taps - 1)) * dilation
            last = (targets >= length - reach) & (targets < length)
            final = grad_final_ptr + (target - (length - reach)) * width
            grad += tl.load(final, mask=last, other=0).to(NUMBER)
            stored = (targets >= start) & (mine > i - (taps - 1))
            tl.store(grad_x_ptr + target.to(tl.int64) * width, grad, mask=stored)
            if HAS_INITIAL:
                initial = grad_initial_ptr + (target + reach) * width
                tl.store(initial, grad, mask=targets < 0)
        kept = ()
        kept_grads = ()
        for j in tl.static_range(taps - 1):
            kept = kept + (window[ROWS + j],)
            kept_grads = kept_grads + (grads[ROWS + j],)
        window = kept
        grads = kept_grads
        token += ROWS * dilation
        tokens += ROWS * dilation
        left -= ROWS
        mine -= ROWS
    sums_ptr += walk * (taps + 1) * width + channels
    for j in tl.static_range(taps + 1):
        tl.store(sums_ptr + j * width, sums[j], mask=inside)
