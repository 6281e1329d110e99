"""The selective scan in plain torch: tiles of chunks, and a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses the scan
can carry these definitions with it. It runs on any device; on a CPU it is the default.

The states of all steps, [B, L, D, N], are N times as large as the inputs. They are never there at
once: the channels are cut into tiles and time into segments, such that the states of a segment of
a tile fit into a cache. A segment is made of chunks of CHUNK steps, which step together: one pass
over a chunk gives its effect on a state (its last local state; the product of its gates is
exp(A * its time), at no cost), a short loop over the chunks gives the state that enters each, and a
second pass from those states gives all states. Only the entering states are kept, and the gradient
computes the others from them again, a segment at a time, from the last to the first.

Inside, tensors are [steps, chunks, batch, groups, ...], so that what happens at one step lies side
by side, and states end with [N, channels], as loops over 16 numbers would be too short. What the
last chunk lacks is filled up with steps of no duration, which change nothing.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Steps between two states that are kept: with N = 16, half as many numbers as in u.
CHUNK = 32
# States that a step of a tile works on, 4 MiB for each of three tensors. Fewer, and launches cost
# more than arithmetic; more, and the states of a segment leave the cache.
TILE = 32768

_LOG2_E = math.log2(math.e)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    delta_softplus: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute Mamba's S6 over a sequence.

    For a channel d with N states, h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t and
    y_t = C_t . h_t + D u_t, times silu(z_t) (Gu and Dao 2023, Algorithm 2). Differentiable once in
    every argument, through both results.

    Args:
        u: inputs [B, L, D].
        delta: step sizes [B, L, D].
        A: rates [D, N], real and by convention negative.
        B: input projections [B, L, N], or [B, L, G, N] with channels in G equal groups.
        C: output projections, shaped as `B`.
        D: weights of the inputs in the outputs [D]; None means zero.
        z: output gates [B, L, D]; None means that there are none.
        delta_bias: added to the step sizes [D]; None means zero.
        initial_state: h before the first step [B, D, N]; None means zero.
        delta_softplus: apply softplus to the step sizes, after the bias.
        reverse: run from the last step to the first.

    Returns:
        y [B, L, D] in u's type, and the state after the last step taken [B, D, N], at least
        float32 (half types are accumulated in float32).
    """
    if B.dim() == 3:
        B, C = B.unsqueeze(2), C.unsqueeze(2)
    y, final_state = _SelectiveScan.apply(
        u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse
    )
    return y, final_state


def selective_scan_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Take one step of the scan.

    Args:
        u: inputs of this step [B, D].
        delta: step sizes [B, D].
        A: rates [D, N].
        B: input projections [B, N] or [B, G, N].
        C: output projections, shaped as `B`.
        D: weights of the inputs in the outputs [D].
        z: output gates [B, D].
        delta_bias: added to the step sizes [D].
        state: h of the step before [B, D, N], float32 at least; None means zero.
        delta_softplus: apply softplus to the step sizes, after the bias.

    Returns:
        y [B, D] in u's type, and the state of the next step [B, D, N], in the type of `state`.
    """
    dtype = _state_dtype(u, delta, A, B, C) if state is None else state.dtype
    inputs, bias = u.to(dtype), None if delta_bias is None else delta_bias.to(dtype)
    steps = _sizes(delta.to(dtype), bias, delta_softplus)
    groups = 1 if B.dim() == 2 else B.shape[1]
    ins, outs = (x.to(dtype).reshape(x.shape[0], groups, 1, -1) for x in (B, C))
    moved = (steps * inputs).unflatten(1, (groups, -1))[..., None] * ins
    moved = moved.flatten(1, 2)
    if state is not None:
        moved = torch.addcmul(moved, torch.exp(steps[..., None] * A.to(dtype)), state)
    y = torch.matmul(moved.unflatten(1, (groups, -1)), outs.mT).flatten(1)
    if D is not None:
        y = y + inputs * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), moved


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, ctx.softplus, ctx.reverse = arguments
        y, final_state, states = scan_forward(
            *tensors, softplus=ctx.softplus, reverse=ctx.reverse, keep=any(ctx.needs_input_grad)
        )
        *inputs, initial_state = tensors
        ctx.save_for_backward(*inputs, states)
        ctx.initial_dtype = None if initial_state is None else initial_state.dtype
        return y, final_state

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "selective_scan can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        saved = (*ctx.saved_tensors, grad_y, grad_final)
        *gradients, initial = scan_backward(*saved, softplus=ctx.softplus, reverse=ctx.reverse)
        kept = [None if x is None else g for g, x in zip(gradients, saved, strict=False)]
        return (
            *kept,
            None if ctx.initial_dtype is None else initial.to(ctx.initial_dtype),
            None,
            None,
        )


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    *,
    softplus: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the scan without a gradient; `B` and `C` are [B, L, G, N].

    Returns:
        y [B, L, D]; the final state [B, D, N], a fresh tensor; and the states that enter the
        chunks, in the order of the scan, [B, chunks, D, N]: no chunks unless `keep`.
    """
    batch, length, width = u.shape
    order, dtype = A.shape[1], _state_dtype(u, delta, A, B, C)
    chunks = -(-length // CHUNK) if keep else 0
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    final_state = torch.empty((batch, width, order), dtype=dtype, device=u.device)
    states = torch.empty((batch, chunks, width, order), dtype=dtype, device=u.device)
    if initial_state is None:
        final_state.zero_()
    else:
        final_state.copy_(initial_state)

    for tile in _tiles(batch, B.shape[2], width, order):
        rates, carry = (tile.states(x).to(dtype).contiguous() for x in (A, final_state))
        kept = tile.states(states)
        weights, bias = (None if x is None else tile.channels(x).to(dtype) for x in (D, delta_bias))
        spans = _segments(length, carry.numel(), reverse)
        buffers = spans[0].buffers(2, carry)
        for span in spans:
            inputs, ins, outs = (span.fold(tile.steps(x), dtype) for x in (u, B, C))
            sizes = span.fold(tile.steps(delta), dtype, bias, softplus)
            decays, h = (buffer[: span.steps, : span.chunks] for buffer in buffers)
            _decays(sizes, rates, decays)
            _outer(ins, sizes * inputs, h)
            entering = _entering(decays, h, _product(sizes, rates), carry)
            _scan(decays, h, entering)
            out = _read(outs, h)
            if weights is not None:
                out.addcmul_(inputs, weights)
            if z is not None:
                out.mul_(F.silu(span.fold(tile.steps(z), dtype)))
            span.part(tile.steps(y)).copy_(span.unfold(out))
            if keep:
                kept[:, span.chunk : span.chunk + span.chunks] = entering.transpose(0, 1)
            carry = h[-1, -1].clone()
        tile.states(final_state).copy_(carry)
    return y, final_state, states


def scan_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    grad_y: Tensor,
    grad_final: Tensor,
    *,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """Compute the gradients of `scan_forward`'s arguments from those of its results.

    The gradient g of h is a scan in the other direction,
    g_t = grad_t C_t + exp(delta_{t+1} A) g_{t+1}. With q_t = g_t exp(delta_t A) h_{t-1}, the
    gradient of delta_t A, that of A is the sum of delta_t q_t, and that of delta_t is
    A . q_t + u_t (B_t . g_t).

    It takes the arguments of `scan_forward`, the states that it kept, and the gradients of y
    [B, L, D] and of the final state [B, D, N].

    Returns:
        The gradients of u, delta, A, B, C, D, z and delta_bias, each in the shape and the type of
        its argument (without an element where that is None), and that of the initial state
        [B, D, N] in the type of the final one.
    """
    batch, length, width = u.shape
    order, dtype = A.shape[1], states.dtype
    new = functools.partial(torch.empty, device=u.device)
    grad_u, grad_delta = new(u.shape, dtype=u.dtype), new(u.shape, dtype=delta.dtype)
    grad_z = new((0,), dtype=dtype) if z is None else new(u.shape, dtype=z.dtype)
    grad_A, grad_B, grad_C = (new(x.shape, dtype=dtype).zero_() for x in (A, B, C))
    grad_D, grad_bias = (new((width,), dtype=dtype).zero_() for _ in range(2))
    grad_initial = new((batch, width, order), dtype=dtype).copy_(grad_final)

    for tile in _tiles(batch, B.shape[2], width, order):
        rates, carry = (tile.states(x).to(dtype).contiguous() for x in (A, grad_initial))
        kept = tile.states(states)
        weights, bias = (None if x is None else tile.channels(x).to(dtype) for x in (D, delta_bias))
        spans = _segments(length, carry.numel(), reverse)
        buffers = spans[0].buffers(3, carry)
        for span in reversed(spans):
            inputs, ins, outs, grad = (span.fold(tile.steps(x), dtype) for x in (u, B, C, grad_y))
            sizes = span.fold(tile.steps(delta), dtype, bias, softplus)
            decays, h, g = (buffer[: span.steps, : span.chunks] for buffer in buffers)
            moved = sizes * inputs
            _decays(sizes, rates, decays)
            _outer(ins, moved, h)
            entering = kept[:, span.chunk : span.chunk + span.chunks].transpose(0, 1).contiguous()
            _scan(decays, h, entering)
            if z is not None:
                out, gate = _read(outs, h), span.fold(tile.steps(z), dtype)
                if weights is not None:
                    out.addcmul_(inputs, weights)
                grad_gate = torch.ops.aten.silu_backward(out.mul_(grad), gate)
                span.part(tile.steps(grad_z)).copy_(span.unfold(grad_gate))
                grad = grad * F.silu(gate)  # not in place: what was folded may be the argument
            span.part(tile.steps(grad_C)).add_(span.unfold(_sum_channels(h, grad)))

            _outer(outs, grad, g)
            _scan_back(decays, g, _leaving(decays, g, _product(sizes, rates), carry))
            carry = decays[0, 0] * g[0, 0]
            span.part(tile.steps(grad_B)).add_(span.unfold(_sum_channels(g, moved)))
            grad_moved = _read(ins, g)

            q = decays
            q[1:].mul_(h[:-1])
            q[0].mul_(entering)
            q.mul_(g)
            grad_sizes = torch.mul(q, rates, out=g).sum(-2).addcmul_(grad_moved, inputs)
            tile.states(grad_A).add_(q.mul_(sizes.unsqueeze(-2)).sum((0, 1, 2)))
            if softplus:
                # Its derivative is sigmoid(x) = 1 - exp(-softplus(x)).
                grad_sizes.mul_(torch.expm1(-sizes).neg_())
            grad_sizes = span.unfold(grad_sizes)
            tile.channels(grad_bias).add_(grad_sizes.sum((0, 1)))
            span.part(tile.steps(grad_delta)).copy_(grad_sizes)
            tile.channels(grad_D).add_((grad * inputs).sum((0, 1, 2)))
            grad_inputs = grad_moved.mul_(sizes)
            if weights is not None:
                grad_inputs.addcmul_(grad, weights)
            span.part(tile.steps(grad_u)).copy_(span.unfold(grad_inputs))
        tile.states(grad_initial).copy_(carry)
    return (
        grad_u, grad_delta, _typed(grad_A, A), _typed(grad_B, B), _typed(grad_C, C),
        _typed(grad_D, D), grad_z, _typed(grad_bias, delta_bias), grad_initial,
    )  # fmt: skip


def _typed(grad: Tensor, argument: Tensor | None) -> Tensor:
    """Give a gradient its argument's type; where there is none, it has no element."""
    return grad.new_empty(0) if argument is None else grad.to(argument.dtype)


def _state_dtype(*tensors: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)


class _Tile(NamedTuple):
    """Some sequences, groups, and channels of each group."""

    groups: int
    sequence: slice
    group: slice
    channel: slice

    def steps(self, x: Tensor) -> Tensor:
        """See the part of x [B, L, D] as [b, L, g, w], or that of [B, L, G, N] as [b, L, g, N]."""
        if x.dim() == 4:
            return x[self.sequence, :, self.group]
        return x.unflatten(2, (self.groups, -1))[self.sequence, :, self.group, self.channel]

    def channels(self, x: Tensor) -> Tensor:
        """See the tile's part of x [D] as [g, w]."""
        return x.unflatten(0, (self.groups, -1))[self.group, self.channel]

    def states(self, x: Tensor) -> Tensor:
        """See the tile's part of x [..., D, N] as [..., g, N, w]; the first of 3 or 4 is B."""
        x = x.unflatten(-2, (self.groups, -1))[..., self.group, self.channel, :].mT
        return x[self.sequence] if x.dim() > 3 else x


def _tiles(batch: int, groups: int, width: int, order: int) -> Iterator[_Tile]:
    """Cut the states [B, D, N] into tiles of about TILE numbers."""
    width //= groups
    w = min(width, max(TILE // order, 64))
    w = -(-width // -(-width // w))
    g = min(groups, max(1, TILE // (order * w)))
    b = max(1, min(batch, TILE // (order * w * g)))
    for i in range(0, batch, b):
        for j in range(0, groups, g):
            for k in range(0, width, w):
                yield _Tile(groups, slice(i, i + b), slice(j, j + g), slice(k, k + w))


class _Segment(NamedTuple):
    """Some whole chunks of the sequence (the last may be filled up), in the order of the scan."""

    start: int
    stop: int
    length: int
    reverse: bool

    @property
    def chunk(self) -> int:
        """The number of its first chunk."""
        return self.start // CHUNK

    @property
    def chunks(self) -> int:
        return -(-(self.stop - self.start) // CHUNK)

    @property
    def steps(self) -> int:
        return min(CHUNK, self.stop - self.start)

    def buffers(self, count: int, state: Tensor) -> Tensor:
        """Memory for states of all steps, as often as that: new memory every time costs more."""
        return state.new_empty(count, self.steps, self.chunks, *state.shape)

    def part(self, x: Tensor) -> Tensor:
        """See the segment's part of x [b, L, ...]."""
        if self.reverse:
            return x[:, self.length - self.stop : self.length - self.start]
        return x[:, self.start : self.stop]

    def fold(
        self,
        x: Tensor,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        softplus: bool = False,
    ) -> Tensor:
        """Bring the segment's part of x [b, L, g, ...] into the shape [steps, chunks, b, g, ...].

        What is missing is zero, also of step sizes, to which `bias` and `softplus` belong.
        """
        x = _sizes(self.part(x).to(dtype), bias, softplus)
        missing = self.chunks * self.steps - (self.stop - self.start)
        if self.reverse:
            x = x.flip(1)
        if missing:
            x = F.pad(x, (0, 0, 0, 0, 0, missing))
        return x.unflatten(1, (self.chunks, self.steps)).permute(2, 1, 0, 3, 4).contiguous()

    def unfold(self, x: Tensor) -> Tensor:
        """Bring x [steps, chunks, b, g, ...] into the shape [b, steps of the segment, g, ...]."""
        x = x.permute(2, 1, 0, 3, 4).flatten(1, 2)[:, : self.stop - self.start]
        return x.flip(1) if self.reverse else x


def _segments(length: int, states: int, reverse: bool) -> list[_Segment]:
    """Cut a sequence into segments whose chunks have about TILE states together at a step."""
    chunks = TILE // states
    # Two chunks that step together take as long as one after the other: they are met twice.
    steps = CHUNK * (chunks if chunks > 2 else 1)
    return [
        _Segment(start, min(start + steps, length), length, reverse)
        for start in range(0, length, steps)
    ]


def _sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    if bias is not None:
        delta = delta + bias
    return F.softplus(delta) if softplus else delta


def _decays(sizes: Tensor, rates: Tensor, out: Tensor) -> None:
    """exp(delta A), [..., g, w] and [g, N, w] to [..., g, N, w]."""
    # exp2: torch's exp takes three times as long.
    torch.exp2(torch.mul(sizes.unsqueeze(-2), rates * _LOG2_E, out=out), out=out)


def _product(sizes: Tensor, rates: Tensor) -> Tensor | None:
    """The product of a chunk's decays [chunks, b, g, N, w]; None where there is but one chunk."""
    if sizes.shape[1] == 1:
        return None
    exponent = sizes.sum(0).unsqueeze(-2) * (rates * _LOG2_E)
    # Not infinite: however much a state of zero grows, it is zero.
    return exponent.clamp_(max=math.log2(torch.finfo(sizes.dtype).max) - 1).exp2_()


def _outer(projections: Tensor, channels: Tensor, out: Tensor) -> None:
    """[..., N] and [..., w] to [..., N, w]."""
    torch.mul(projections.unsqueeze(-1), channels.unsqueeze(-2), out=out)


def _read(projections: Tensor, states: Tensor) -> Tensor:
    """Sum over N: [..., N] and [..., N, w] to [..., w]."""
    return torch.matmul(projections.unsqueeze(-2), states).squeeze(-2)


def _sum_channels(states: Tensor, channels: Tensor) -> Tensor:
    """Sum over channels: [..., N, w] and [..., w] to [..., N]."""
    # Row times matrix: the libraries' matrix times column is several times slower.
    return torch.matmul(channels.unsqueeze(-2), states.mT).squeeze(-2)


def _entering(decays: Tensor, moved: Tensor, product: Tensor | None, state: Tensor) -> Tensor:
    """Compute the state that enters each chunk, [chunks, b, g, N, w]."""
    if product is None:
        return state.clone().unsqueeze(0)
    local = moved[0].clone()
    for decay, value in zip(decays.unbind()[1:], moved.unbind()[1:], strict=True):
        torch.addcmul(value, decay, local, out=local)
    entering = torch.empty_like(local)
    entering[0] = state
    for s in range(len(entering) - 1):
        torch.addcmul(local[s], product[s], entering[s], out=entering[s + 1])
    return entering


def _scan(decays: Tensor, moved: Tensor, entering: Tensor) -> None:
    """Turn what each step moves into the states, into the states."""
    state = entering
    for decay, value in zip(decays.unbind(), moved.unbind(), strict=True):
        state = torch.addcmul(value, decay, state, out=value)


def _leaving(decays: Tensor, grads: Tensor, product: Tensor | None, carry: Tensor) -> Tensor:
    """Compute the gradient of each chunk's last state due to later chunks, as `_entering` does."""
    if product is None:
        return carry.clone().unsqueeze(0)
    local = grads[-1].clone()
    for decay, value in zip(decays.unbind()[:0:-1], grads.unbind()[-2::-1], strict=True):
        torch.addcmul(value, decay, local, out=local)
    local.mul_(decays[0])
    leaving = torch.empty_like(local)
    leaving[-1] = carry
    for s in range(len(leaving) - 1, 0, -1):
        torch.addcmul(local[s], product[s], leaving[s], out=leaving[s - 1])
    return leaving


def _scan_back(decays: Tensor, grads: Tensor, leaving: Tensor) -> None:
    """Turn the gradients of the states of which the outputs know into those of the states."""
    grad = grads[-1].add_(leaving)
    for decay, value in zip(decays.unbind()[:0:-1], grads.unbind()[-2::-1], strict=True):
        grad = torch.addcmul(value, decay, grad, out=value)
