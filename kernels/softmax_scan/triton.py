"""The softmax scan and its gradient in Triton: every value is read or written once a pass.

A first kernel scans the scores alone, which are few, for what the steps need to be linear: with
the largest score m_t and the denominator u_t of every prefix,

    w_t = kept_t w_{t-1} + added_t v_t,    o_t = scale_t w_t,
    kept_t = e^(m_{t-1} - m_t),  added_t = e^(s_t - m_t),  scale_t = 1 / u_t (0 where u_t is 0).

No exponent is positive. A second kernel then walks along the values as that of the diagonal scan
does, whose gate is kept_t, and a third walks back with the gradients of the numerators,

    dw_t = scale_t do_t + kept_{t+1} dw_{t+1},   dv_t = added_t dw_t,
    ds_t = added_t (v_t . dw_t - dz_t),   dz_t = scale_t (do_t . o_t) + kept_{t+1} dz_{t+1}:

dz is the same for values that are 1, whose numerator is the denominator.
"""

# Kernels are Triton's language, whose arguments have no Python types and whose tuples no unpacking.
# mypy: allow-untyped-defs, disable-error-code="assignment"

import torch
import triton
import triton.language as tl
from torch import Tensor

from nas.kernels.autotune import autotune
from nas.kernels.diagonal_scan.triton_rows import load_rows, place

LARGEST_BLOCK = 64
"""Channels of a program; of a wider head each part is a program's."""
LARGEST_RUN = 1024
"""Scores that are scanned at once."""

_CONFIGS = [
    triton.Config({"ROWS": 8}, num_warps=1),
    triton.Config({"ROWS": 16}, num_warps=1),
    triton.Config({"ROWS": 8}, num_warps=2),
]


def scan_forward(
    scores: Tensor, values: Tensor, m: Tensor | None, u: Tensor | None, w: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute o and the state m, u, w of all tokens as `cpu.scan_forward` does."""
    values = _unit_stride(values)
    batch, length, heads, width = values.shape
    coefficients, m_last, u_last = _coefficients(scores, values, m, u)
    block, blocks = _blocks(width)
    o = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    w_last = torch.empty((batch, heads, width), dtype=m_last.dtype, device=values.device)
    initial = w_last if w is None else w.contiguous()
    with torch.cuda.device_of(values):
        _forward_kernel[(batch * heads * blocks,)](
            *coefficients, values, initial, o, w_last,
            length, heads, values.stride(0), values.stride(2),
            width=width, stride_v=values.stride(1), HAS_INITIAL=w is not None, BLOCK=block,
        )  # fmt: skip
    return o, m_last, u_last, w_last


def scan_backward(
    scores: Tensor,
    values: Tensor,
    m: Tensor | None,
    u: Tensor | None,
    w: Tensor | None,
    o: Tensor,
    grad_o: Tensor,
    grad_u: Tensor,
    grad_w: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of the scores, the values, m, u and w as `cpu.scan_backward` does."""
    values, grad_o, o = _unit_stride(values), _unit_stride(grad_o), o.contiguous()
    batch, length, heads, width = values.shape
    coefficients, m_last, _ = _coefficients(scores, values, m, u)
    block, blocks = _blocks(width)
    number, device = m_last.dtype, values.device
    grad_values = torch.empty(values.shape, dtype=values.dtype, device=device)
    grad_first_w = torch.empty((batch, heads, width), dtype=number, device=device)
    # Sums over the channels of a program, of which a wide head has several.
    parts = torch.empty((blocks, batch, heads, length), dtype=number, device=device)
    first_parts = torch.empty((blocks, batch, heads), dtype=number, device=device)
    with torch.cuda.device_of(values):
        _backward_kernel[(batch * heads * blocks,)](
            *coefficients, values, o, grad_o, grad_u.contiguous(), grad_w.contiguous(),
            grad_values, parts, grad_first_w, first_parts,
            length, heads, batch * heads, values.stride(0), values.stride(2),
            grad_o.stride(0), grad_o.stride(2),
            width=width, stride_v=values.stride(1), stride_g=grad_o.stride(1), BLOCK=block,
        )  # fmt: skip
    grad_scores = parts.sum(0).mT.to(scores.dtype).contiguous()
    grad_first_u = -first_parts.sum(0)
    if u is None or w is None:
        grad_m = torch.zeros_like(grad_first_u)
    else:
        grad_m = u * grad_first_u + (w * grad_first_w).sum(-1)
    return grad_scores, grad_values, grad_m.to(number), grad_first_u, grad_first_w


def _coefficients(
    scores: Tensor, values: Tensor, m: Tensor | None, u: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Compute kept, added and scale [B, H, L], and the last m and u [B, H]."""
    batch, length, heads = scores.shape
    number = torch.promote_types(torch.promote_types(scores.dtype, values.dtype), torch.float32)
    kept, added, scale = (
        torch.empty((batch, heads, length), dtype=number, device=scores.device) for _ in range(3)
    )
    m_last, u_last = (
        torch.empty((batch, heads), dtype=number, device=scores.device) for _ in range(2)
    )
    first_m, first_u = (m_last, u_last) if m is None or u is None else (m, u)
    with torch.cuda.device_of(scores):
        _coefficients_kernel[(batch * heads,)](
            scores, first_m.contiguous(), first_u.contiguous(), kept, added, scale, m_last, u_last,
            length, heads, *scores.stride(),
            HAS_INITIAL=m is not None, BLOCK=min(LARGEST_RUN, triton.next_power_of_2(length)),
        )  # fmt: skip
    return (kept, added, scale), m_last, u_last


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _blocks(width: int) -> tuple[int, int]:
    """How many channels a program has, and how many programs a head."""
    block = min(LARGEST_BLOCK, max(16, triton.next_power_of_2(width)))
    return block, triton.cdiv(width, block)


@triton.jit
def _larger(left, right):
    return tl.maximum(left, right)


@triton.jit
def _finite(m):
    """Measure from 0 where no token has a score: -inf less -inf is not a number."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def _merge(left_m, left_u, right_m, right_u):
    """Put two runs of tokens together: associative, as equation 3 of Feng et al. 2024 is."""
    m = tl.maximum(left_m, right_m)
    anchor = _finite(m)
    return m, left_u * tl.exp(left_m - anchor) + right_u * tl.exp(right_m - anchor)


@triton.jit(do_not_specialize=["length"])
def _coefficients_kernel(
    scores_ptr, m_ptr, u_ptr, kept_ptr, added_ptr, scale_ptr, last_m_ptr, last_u_ptr,
    length, heads, stride_b, stride_l, stride_h,
    HAS_INITIAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number: tl.constexpr = last_m_ptr.dtype.element_ty
    sequence = tl.program_id(0).to(tl.int64)
    scores_ptr += sequence // heads * stride_b + sequence % heads * stride_h
    at = sequence * length
    lanes = tl.arange(0, BLOCK)
    state_at = sequence + tl.arange(0, 1)
    if HAS_INITIAL:
        before_m = tl.load(m_ptr + state_at).to(number)
        before_u = tl.load(u_ptr + state_at).to(number)
    else:
        before_m = tl.full([1], float("-inf"), dtype=number)
        before_u = tl.zeros([1], dtype=number)
    for start in range(0, length, BLOCK):
        steps = start + lanes
        inside = steps < length
        there = scores_ptr + steps.to(tl.int64) * stride_l
        score = tl.load(there, mask=inside, other=float("-inf")).to(number)
        earlier = tl.load(there - stride_l, mask=inside & (lanes > 0), other=float("-inf"))
        one = tl.where(score == float("-inf"), 0.0, 1.0).to(number)
        own_m, own_u = tl.associative_scan((score, one), 0, _merge)
        past_m = tl.maximum(tl.associative_scan(earlier.to(number), 0, _larger), before_m)
        m, u = _merge(before_m, before_u, own_m, own_u)
        anchor = _finite(m)
        tl.store(kept_ptr + at + steps, tl.exp(past_m - anchor), mask=inside)
        tl.store(added_ptr + at + steps, tl.exp(score - anchor), mask=inside)
        scale = tl.where(u == 0, 0.0, 1 / tl.where(u == 0, 1.0, u))
        tl.store(scale_ptr + at + steps, scale, mask=inside)
        before_m = tl.max(m, 0, keep_dims=True)
        before_u = tl.sum(tl.where(lanes == BLOCK - 1, u, 0.0), 0, keep_dims=True)
    tl.store(last_m_ptr + state_at, before_m)
    tl.store(last_u_ptr + state_at, before_u)


@autotune(_CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def _forward_kernel(
    kept_ptr, added_ptr, scale_ptr, v_ptr, initial_ptr, o_ptr, last_ptr,
    length, heads, batch_v, head_v,
    width: tl.constexpr, stride_v: tl.constexpr,
    HAS_INITIAL: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    number: tl.constexpr = last_ptr.dtype.element_ty
    sequence, channels = place(width, BLOCK)
    batch, head = sequence // heads, sequence % heads
    inside = channels < width
    state_at = sequence * width + channels
    stride_o = heads * width
    v_ptr += batch * batch_v + head * head_v + channels
    o_ptr += batch * length * stride_o + head * width + channels
    kept_ptr += sequence * length
    added_ptr += sequence * length
    scale_ptr += sequence * length

    if HAS_INITIAL:
        state = tl.load(initial_ptr + state_at, mask=inside, other=0).to(number)
    else:
        state = tl.zeros([BLOCK], dtype=number)
    rest = length
    left = tl.where(inside, length, 0)
    kept = load_rows(kept_ptr, 1, rest, ROWS)
    added = load_rows(added_ptr, 1, rest, ROWS)
    scale = load_rows(scale_ptr, 1, rest, ROWS)
    v = load_rows(v_ptr, stride_v, left, ROWS)
    for _ in range(0, length, ROWS):
        kept_ptr += ROWS
        added_ptr += ROWS
        scale_ptr += ROWS
        v_ptr += ROWS * stride_v
        next_kept = load_rows(kept_ptr, 1, rest - ROWS, ROWS)
        next_added = load_rows(added_ptr, 1, rest - ROWS, ROWS)
        next_scale = load_rows(scale_ptr, 1, rest - ROWS, ROWS)
        next_v = load_rows(v_ptr, stride_v, left - ROWS, ROWS)
        for i in tl.static_range(ROWS):
            following = kept[i] * state + added[i] * v[i].to(number)
            state = tl.where(left > i, following, state)
            tl.store(o_ptr, scale[i] * state, mask=left > i)
            o_ptr += stride_o
        rest -= ROWS
        left -= ROWS
        kept, added, scale, v = next_kept, next_added, next_scale, next_v
    tl.store(last_ptr + state_at, state, mask=inside)


@autotune(_CONFIGS, key=["width"])
@triton.jit(do_not_specialize=["length"])
def _backward_kernel(
    kept_ptr, added_ptr, scale_ptr, v_ptr, o_ptr, grad_o_ptr, grad_u_ptr, grad_w_ptr,
    grad_v_ptr, grad_s_ptr, grad_first_w_ptr, grad_first_u_ptr,
    length, heads, sequences, batch_v, head_v, batch_g, head_g,
    width: tl.constexpr, stride_v: tl.constexpr, stride_g: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    number: tl.constexpr = grad_first_w_ptr.dtype.element_ty
    sequence, channels = place(width, BLOCK)
    batch, head = sequence // heads, sequence % heads
    part = tl.program_id(0) % tl.cdiv(width, BLOCK)
    inside = channels < width
    state_at = sequence * width + channels
    stride_o = heads * width
    last = (length - 1).to(tl.int64)
    v_ptr += batch * batch_v + head * head_v + last * stride_v + channels
    g_ptr = grad_o_ptr + batch * batch_g + head * head_g + last * stride_g + channels
    o_at = (batch * length + last) * stride_o + head * width + channels
    o_ptr += o_at
    grad_v_ptr += o_at
    grad_s_ptr += (part * sequences + sequence) * length + last
    kept_ptr += sequence * length + last
    added_ptr += sequence * length + last
    scale_ptr += sequence * length + last

    # What arrives at a step from the one that followed it. The gradient of the last u is that of
    # one value, not of every channel's: it goes with channel 0.
    carry = tl.load(grad_w_ptr + state_at, mask=inside, other=0).to(number)
    grad_u = tl.load(grad_u_ptr + sequence).to(number)
    carry_z = tl.where(channels == 0, -grad_u, 0.0).to(number)
    rest = length
    left = tl.where(inside, length, 0)
    kept = load_rows(kept_ptr, -1, rest, ROWS)
    added = load_rows(added_ptr, -1, rest, ROWS)
    scale = load_rows(scale_ptr, -1, rest, ROWS)
    v = load_rows(v_ptr, -stride_v, left, ROWS)
    g = load_rows(g_ptr, -stride_g, left, ROWS)
    o = load_rows(o_ptr, -stride_o, left, ROWS)
    for _ in range(0, length, ROWS):
        kept_ptr -= ROWS
        added_ptr -= ROWS
        scale_ptr -= ROWS
        v_ptr -= ROWS * stride_v
        g_ptr -= ROWS * stride_g
        o_ptr -= ROWS * stride_o
        next_kept = load_rows(kept_ptr, -1, rest - ROWS, ROWS)
        next_added = load_rows(added_ptr, -1, rest - ROWS, ROWS)
        next_scale = load_rows(scale_ptr, -1, rest - ROWS, ROWS)
        next_v = load_rows(v_ptr, -stride_v, left - ROWS, ROWS)
        next_g = load_rows(g_ptr, -stride_g, left - ROWS, ROWS)
        next_o = load_rows(o_ptr, -stride_o, left - ROWS, ROWS)
        for i in tl.static_range(ROWS):
            scaled = scale[i] * g[i].to(number)
            grad_w = scaled + carry
            grad_z = scaled * o[i].to(number) + carry_z
            grad_s = added[i] * tl.sum(v[i].to(number) * grad_w - grad_z, 0)
            tl.store(grad_v_ptr, added[i] * grad_w, mask=left > i)
            tl.store(grad_s_ptr, grad_s, mask=rest > i)
            grad_v_ptr -= stride_o
            grad_s_ptr -= 1
            carry = tl.where(left > i, kept[i] * grad_w, carry)
            carry_z = tl.where(left > i, kept[i] * grad_z, carry_z)
        rest -= ROWS
        left -= ROWS
        kept, added, scale = next_kept, next_added, next_scale
        v, g, o = next_v, next_g, next_o
    tl.store(grad_first_w_ptr + state_at, carry, mask=inside)
    tl.store(grad_first_u_ptr + part * sequences + sequence, tl.sum(carry_z, 0))
