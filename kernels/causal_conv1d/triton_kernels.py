"""The walks along time of the causal depthwise convolution and its gradient (see triton.py)."""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from nas.kernels.autotune import autotune

_FAR = tl.constexpr(2**30)
"""Number of a token beyond every sequence."""

_CONFIGS = [
    triton.Config({"BLOCK": 64, "ROWS": 8}, num_warps=1),
    triton.Config({"BLOCK": 32, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 64, "ROWS": 16}, num_warps=1),
    triton.Config({"BLOCK": 128, "ROWS": 8}, num_warps=2),
]


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
def forward_kernel(
    x_ptr, weight_ptr, bias_ptr, state_ptr, y_ptr,
    length, span, sequence_x,
    width: tl.constexpr, taps: tl.constexpr, dilation: tl.constexpr, stride_x: tl.constexpr,
    NUMBER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, SILU: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Walk along a span of a class and write its y."""
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
def backward_kernel(
    x_ptr, weight_ptr, bias_ptr, state_ptr, grad_y_ptr, grad_final_ptr,
    grad_x_ptr, grad_initial_ptr, sums_ptr,
    length, span, sequence_x, sequence_g,
    width: tl.constexpr, taps: tl.constexpr, dilation: tl.constexpr,
    stride_x: tl.constexpr, stride_g: tl.constexpr,
    NUMBER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, SILU: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Walk along a span of a class: gradients of its inputs, and its part of the weights'."""
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
