"""The gated matrix state in plain torch: matrix products over chunks, a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses it can
carry these definitions with it. It runs on any device; on a CPU it is the default.

The sequence is cut into chunks of C steps (the chunked form of GLA, Yang et al. 2024, and of
Mamba-2's SSD, Dao and Gu 2024). With G_t the sum of log gates from the chunk's start to step t, a
chunk that begins at state S has

    O  = (Q e^G) S + tril((Q e^G)(K e^-G)') V
    S' = e^(G_C) S + (K e^(G_C - G))' V

so that only S goes through a loop. The factors of the scores are taken apart in three ways:
- without gates there are none;
- a gate per head is a matrix of its own, e^(G_t - G_s) where t >= s, at most 1;
- a gate per key channel must stand in the factors Q and K. They are anchored at the middle of the
  chunk, e^(G_t - G_mid) and e^(G_mid - G_s): one of them is as large as e^-(sum of half a chunk's
  log gates). Where that may overflow, chunks are shorter; with 8 steps it cannot, because of the
  floor of log gates.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Log gates below it count as this. e^-18 = 1.5e-8 is a quarter of float32's relative rounding
# (2^-24), so that a state of the size of what is added to it is forgotten; and four gates, half of
# the shortest chunk, have a product e^-72 whose inverse is far from overflow in float32 (e^88).
LOG_GATE_FLOOR = -18.0

CHUNKS = (32, 16, 8)
"""Lengths of a chunk, from the usual one to that which no gates make overflow."""

HALF_CHUNK_FLOOR = 4 * LOG_GATE_FLOOR
"""Of the sum of one channel's log gates over half a chunk; below it chunks must be shorter."""

SEGMENT_ELEMENTS = 2**17
"""Of a tensor of a segment: sequences go through in segments whose tensors stay in a core's cache
and reuse each other's memory. In one piece they take up to twice as long."""


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute S_t = diag(alpha_t) S_{t-1} + k_t v_t' and o_t = scale * S_t' q_t over a sequence.

    Differentiable once in every tensor, through both results.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K].
        v: values [B, L, H, V].
        log_gate: log(alpha) <= 0: None (alpha = 1), one per head [B, L, H] or one per key channel
            [B, L, H, K]. What is below LOG_GATE_FLOOR, such as -inf, counts as that.
        initial_state: S before the first step [B, H, K, V]; None means zero.
        scale: factor of the output.
        reverse: run from the last step to the first, S_t = diag(alpha_t) S_{t+1} + k_t v_t'.
        backend: not used. It is the public function's, which this one stands for where the forms
            that are written on it (`mlstm`, ...) leave with a model.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and the state after the last step taken
        [B, H, K, V], at least float32 (half types are accumulated in float32).
    """
    o, final_state = _GatedLinearAttention.apply(q, k, v, log_gate, initial_state, scale, reverse)
    return o, final_state


def gated_linear_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    state: Tensor,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Take one step: S = diag(alpha) S + k v', o = scale * S' q.

    Args:
        q: query of this step [B, H, K].
        k: key of this step [B, H, K].
        v: value of this step [B, H, V].
        log_gate: log(alpha) of this step: None, [B, H] or [B, H, K].
        state: S of the step before [B, H, K, V], float32 at least.
        scale: factor of the output.

    Returns:
        o [B, H, V] in the promoted type of q, k and v, and the state of the next step in the
        state's own type.
    """
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    q, k, v = (x.to(state.dtype) for x in (q, k, v))
    if log_gate is not None:
        gate = log_gate.to(state.dtype).clamp(min=LOG_GATE_FLOOR).exp()
        state = state * (gate[..., None] if log_gate.dim() == 3 else gate[..., None, None])
    state = torch.addcmul(state, k.unsqueeze(-1), v.unsqueeze(-2))
    o = torch.matmul(q.unsqueeze(-2), state).squeeze(-2)
    return (scale * o).to(out_dtype), state


class _GatedLinearAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_gate: Tensor | None,
        initial_state: Tensor | None,
        scale: float,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, log_gate, initial_state)
        ctx.scale, ctx.reverse = scale, reverse
        return attention_forward(q, k, v, log_gate, initial_state, scale, reverse)

    @staticmethod
    def backward(ctx: Any, grad_o: Tensor, grad_final: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "gated_linear_attention can be differentiated only once: call backward or grad "
                "without create_graph=True"
            )
        q, k, v, log_gate, initial_state = ctx.saved_tensors
        grad_q, grad_k, grad_v, grad_gate, grad_initial = attention_backward(
            q, k, v, log_gate, initial_state, grad_o, grad_final, ctx.scale, ctx.reverse
        )
        return (
            grad_q,
            grad_k,
            grad_v,
            None if log_gate is None else grad_gate,
            None if initial_state is None else grad_initial.to(initial_state.dtype),
            None,
            None,
        )


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Compute o [B, L, H, V] and the final state [B, H, K, V], fresh tensors, no gradient."""
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    gate, _ = _floored(log_gate)
    state = _initial(q, k, v, initial_state)
    o = torch.empty(v.shape, dtype=out_dtype, device=v.device)
    with _without_autocast(q):
        for part in _segments(q, v, reverse):
            parts = _take_apart(q[:, part], k[:, part], v[:, part], _cut(gate, part), reverse)
            states = _states(parts.writing, parts.v, parts.decay, state)
            out = torch.bmm(parts.scores, parts.v)
            out.baddbmm_(parts.reading, states[:-1].flatten(0, 1), beta=scale, alpha=scale)
            _put_back(out, o[:, part], reverse)
            state = states[-1]
    return o, state.clone().unflatten(0, (q.shape[0], q.shape[2]))


def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of `attention_forward`'s arguments from those of its results.

    The state's gradient goes through the chunks in the other direction, dS = e^(G_C) dS' +
    (Q e^G)' dO; the rest is local. A gate's gradient is the sum of all that passes through it on
    its way from a key to a query, each path's part being q_k dq_k = k_k dk_k:

        dlog(alpha_t) = sum over s >= t of (q_s dq_s - k_s dk_s)     from before t to after it
                      + sum over s < t of k_s dk'_s                  from before t out of the chunk
                      + rowsum(e^(G_C) S dS')                        from before the chunk beyond it

    with s in the chunk of t, dk' the part of dk that comes from the leaving state and dk here only
    the other; without what a step reads of itself, which meets no gate; summed over the key
    channels too where they share one. (That it is sum over s >= t of (q_s dq_s - k_s dk_s) to the
    sequence's end, with all of dk, is shorter and true, but there large numbers cancel.)

    Returns:
        The gradients of q, k, v and log_gate in their shapes and types (of log_gate an empty
        tensor where that is None), and of the initial state [B, H, K, V] in the type of the final.
    """
    gate, below = _floored(log_gate)
    segments = _segments(q, v, reverse)
    # The states that enter the segments; within each they are computed again.
    entering = [_initial(q, k, v, initial_state)]
    with _without_autocast(q):
        for part in segments[:-1]:
            state = _leaving_state(k[:, part], v[:, part], _cut(gate, part), entering[-1], reverse)
            entering.append(state)
    grad_q, grad_k, grad_v = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)
    )
    grad_gate = q.new_empty(0)
    if gate is not None:
        grad_gate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    grad_state = grad_final.to(entering[0].dtype).flatten(0, 1)
    with _without_autocast(q):
        for part, state in zip(reversed(segments), reversed(entering), strict=True):
            parts = _take_apart(q[:, part], k[:, part], v[:, part], _cut(gate, part), reverse)
            grads = _gradients(parts, state, grad_o[:, part], grad_state, scale, reverse)
            for x, target in zip(grads[:3], (grad_q, grad_k, grad_v), strict=True):
                _put_back(x, target[:, part], reverse)
            if gate is not None and grads[3] is not None:
                _put_back(grads[3], grad_gate[:, part], reverse)
            grad_state = grads[4]
    if log_gate is not None:
        grad_gate = grad_gate.view(log_gate.shape)
    if below is not None:
        grad_gate.masked_fill_(below, 0)
    grad_initial = grad_state.clone().unflatten(0, (q.shape[0], q.shape[2]))
    return grad_q, grad_k, grad_v, grad_gate, grad_initial


def _gradients(
    parts: "_Parts", state: Tensor, grad_o: Tensor, grad_state: Tensor, scale: float, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Compute the gradients of a segment's q, k, v and gate, in chunks, and of its first state."""
    states = _states(parts.writing, parts.v, parts.decay, state)
    grad_o = _chunked(grad_o.to(parts.v.dtype), parts.scores.shape[-1], reverse)
    if scale != 1:
        grad_o = grad_o * scale
    grad_states = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    torch.bmm(parts.reading.mT, grad_o, out=grad_states[:-1].flatten(0, 1))
    grad_states[-1] = grad_state
    _accumulate(grad_states, parts.decay, backwards=True)
    leaving_grad = grad_states[1:].flatten(0, 1)

    grad_v = torch.bmm(parts.scores.mT, grad_o)
    grad_v.baddbmm_(parts.writing, leaving_grad)
    grad_scores = torch.bmm(grad_o, parts.v.mT)
    # Of the factors of the scores first: a factor times its gradient is q dq, or k dk.
    grad_q = torch.bmm(grad_o, states[:-1].flatten(0, 1).mT)
    grad_k = torch.bmm(parts.v, leaving_grad.mT)
    if parts.decay is None or parts.read_decay is None or parts.write_decay is None:
        grad_scores.tril_()
        grad_q.baddbmm_(grad_scores, parts.left)
        grad_k.baddbmm_(grad_scores.mT, parts.right)
        return grad_q, grad_k, grad_v, None, grad_states[0]

    # What a step reads of itself goes by the plain q and k, at the end.
    own = grad_scores.diagonal(dim1=1, dim2=2).unsqueeze(-1).clone()
    grad_scores.tril_(-1)
    if parts.weights is not None:
        grad_scores.mul_(parts.weights)
    grad_q.mul_(parts.read_decay).baddbmm_(grad_scores, parts.left)
    grad_k.mul_(parts.write_decay)
    within = torch.bmm(grad_scores.mT, parts.right)
    crossing = torch.mul(parts.right, grad_q).addcmul_(parts.left, within, value=-1)
    leaving = parts.left * grad_k
    beyond = (states[:-1] * grad_states[1:]).sum(-1, keepdim=True).mul_(parts.decay)
    beyond = beyond.flatten(0, 1).mT
    if parts.weights is not None:
        # One gate for all key channels.
        crossing, leaving, beyond = (x.sum(-1, keepdim=True) for x in (crossing, leaving, beyond))
    lower = torch.ones_like(parts.scores[0]).tril_()
    upper, lower = (x.expand(parts.scores.shape) for x in (lower.mT, lower.tril(-1)))
    grad_gate = torch.baddbmm(beyond, upper, crossing).baddbmm_(lower, leaving)
    grad_k += within
    if parts.right_factor is not None and parts.left_factor is not None:
        grad_q.mul_(parts.right_factor)
        grad_k.mul_(parts.left_factor)
    grad_q.addcmul_(own, parts.k)
    grad_k.addcmul_(own, parts.q)
    return grad_q, grad_k, grad_v, grad_gate, grad_states[0]


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Keep autocast off: it would take products in another type than what they are added to."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class _Parts(NamedTuple):
    """The operands of all matrix products; n chunks of C steps, N = n * B * H of them in all.

    Attributes:
        q: queries [N, C, K].
        k: keys [N, C, K].
        v: values [N, C, V].
        right: the factor of the scores that queries are, anchored [N, C, K].
        left: the factor that keys are [N, C, K].
        right_factor: of `right` over `q` [N, C, K], where that is not 1; so `left_factor`.
        weights: e^(G_t - G_s) of a gate per head [N, C, C].
        scores: lower triangular [N, C, C].
        reading: queries that read the entering state, Q e^G [N, C, K].
        writing: keys that write the leaving one, K e^(G_C - G) [N, C, K].
        read_decay: of `reading` over `right`, [N, 1, K] or [N, C, 1]; so `write_decay`.
        decay: e^(G_C), what is left of a state after each chunk [n, B * H, K or 1, 1].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    right: Tensor
    left: Tensor
    right_factor: Tensor | None
    left_factor: Tensor | None
    weights: Tensor | None
    scores: Tensor
    reading: Tensor
    writing: Tensor
    read_decay: Tensor | None
    write_decay: Tensor | None
    decay: Tensor | None


def _take_apart(q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, reverse: bool) -> _Parts:
    """Cut a segment into chunks and compute their factors; gate is [B, L, H, 1 or K]."""
    number = _number(q, k, v)
    chunk, sums = _chunk_length(q), None
    if gate is not None:
        chunk, sums = _gate_sums(gate.to(number), chunk, reverse)
    outer = q.shape[0] * q.shape[2]
    q, k, v = (_chunked(x.to(number), chunk, reverse) for x in (q, k, v))
    if sums is None:
        scores = torch.bmm(q, k.mT).tril_()
        return _Parts(q, k, v, q, k, None, None, None, scores, q, k, None, None, None)
    last = sums[:, -1:]
    decay = _decay(last, outer)
    if sums.shape[-1] == 1:
        # Above the diagonal it may overflow, and is replaced.
        weights = (sums - sums.mT).exp_().tril_()
        scores = torch.bmm(q, k.mT).mul_(weights)
        read_decay, write_decay = sums.exp(), (last - sums).exp_()
        return _Parts(
            q, k, v, q, k, None, None, weights, scores,
            q * read_decay, k * write_decay, read_decay, write_decay, decay,
        )  # fmt: skip
    middle = sums[:, chunk // 2 - 1 : chunk // 2]
    right_factor = (sums - middle).exp_()
    left_factor = right_factor.reciprocal()
    right, left = q * right_factor, k * left_factor
    # Above the diagonal it may overflow.
    scores = torch.bmm(right, left.mT).tril_()
    read_decay, write_decay = middle.exp(), (last - middle).exp_()
    return _Parts(
        q, k, v, right, left, right_factor, left_factor, None, scores,
        right * read_decay, left * write_decay, read_decay, write_decay, decay,
    )  # fmt: skip


def _gate_sums(gate: Tensor, chunk: int, reverse: bool) -> tuple[int, Tensor]:
    """Choose the length of a chunk, and sum its log gates from its start [N, C, 1 or K]."""
    for shorter in [chunk, *(c for c in CHUNKS if c < chunk)]:
        sums = _chunked(gate, shorter, reverse).cumsum(1)
        middle, last = sums[:, shorter // 2 - 1], sums[:, -1]
        if gate.shape[-1] == 1 or shorter <= CHUNKS[-1]:
            break
        if torch.minimum(middle, last - middle).amin() >= HALF_CHUNK_FLOOR:
            break
    return shorter, sums


def _leaving_state(
    k: Tensor, v: Tensor, gate: Tensor | None, state: Tensor, reverse: bool
) -> Tensor:
    """Compute the state after a segment alone [B * H, K, V]."""
    number, chunk = state.dtype, _chunk_length(k)
    outer = k.shape[0] * k.shape[2]
    writing, v = (_chunked(x.to(number), chunk, reverse) for x in (k, v))
    decay = None
    if gate is not None:
        sums = _chunked(gate.to(number), chunk, reverse).cumsum(1)
        last = sums[:, -1:]
        writing, decay = (last - sums).exp_() * writing, _decay(last, outer)
    # A copy, as the other chunks' states need not be kept.
    return _states(writing, v, decay, state)[-1].clone()


def _decay(last: Tensor, outer: int) -> Tensor:
    return last.exp().mT.unflatten(0, (-1, outer))


def _states(writing: Tensor, v: Tensor, decay: Tensor | None, state: Tensor) -> Tensor:
    """Compute the states before each chunk and after the last [n + 1, B * H, K, V]."""
    count, _, keys = writing.shape
    outer = state.shape[0]
    shape = (count // outer + 1, outer, keys, v.shape[-1])
    states = torch.empty(shape, dtype=v.dtype, device=v.device)
    torch.bmm(writing.mT, v, out=states[1:].flatten(0, 1))
    states[0] = state
    _accumulate(states, decay, backwards=False)
    return states


def _accumulate(states: Tensor, decay: Tensor | None, backwards: bool) -> None:
    """Add to each state, in place, what is left of the one before it in the direction."""
    each = states.unbind(0)
    factors = None if decay is None else decay.unbind(0)
    chunks = range(len(each) - 1)
    for i in reversed(chunks) if backwards else chunks:
        source, target = (each[i + 1], each[i]) if backwards else (each[i], each[i + 1])
        if factors is None:
            target.add_(source)
        else:
            target.addcmul_(factors[i], source)


def _segments(q: Tensor, v: Tensor, reverse: bool) -> list[slice]:
    """Cut the sequence into segments of whole chunks (but the last), in the order of the steps."""
    batch, length, heads, keys = q.shape
    chunk = CHUNKS[0]
    elements = batch * heads * chunk * max(keys, v.shape[3])
    steps = chunk * max(1, SEGMENT_ELEMENTS // elements)
    starts = range(0, length, steps)
    if not reverse:
        return [slice(start, min(start + steps, length)) for start in starts]
    return [slice(max(0, length - start - steps), length - start) for start in starts]


def _cut(gate: Tensor | None, part: slice) -> Tensor | None:
    return None if gate is None else gate[:, part]


def _number(q: Tensor, k: Tensor, v: Tensor) -> torch.dtype:
    """The type of all arithmetic."""
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    return torch.promote_types(out_dtype, torch.float32)


def _initial(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
    number = _number(q, k, v)
    if state is not None:
        return state.to(number).flatten(0, 1)
    batch, _, heads, keys = q.shape
    return torch.zeros(batch * heads, keys, v.shape[3], dtype=number, device=q.device)


def _floored(log_gate: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Apply the floor, where there is need: log gates [B, L, H, 1 or K], and those below it."""
    if log_gate is None:
        return None, None
    gate = log_gate if log_gate.dim() == 4 else log_gate.unsqueeze(-1)
    if gate.amin() >= LOG_GATE_FLOOR:
        return gate, None
    return gate.clamp(min=LOG_GATE_FLOOR), log_gate < LOG_GATE_FLOOR


def _chunk_length(q: Tensor) -> int:
    """Choose the length of a chunk: a sequence shorter than one is not filled up to it."""
    return min(CHUNKS[0], max(2, 1 << (q.shape[1] - 1).bit_length()))


def _chunked(x: Tensor, chunk: int, reverse: bool) -> Tensor:
    """Cut [B, L, H, D] into [n * B * H, C, D], filled up with zeros, in the order of the steps."""
    if reverse:
        x = x.flip(1)
    missing = -x.shape[1] % chunk
    if missing:
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, missing))
    return x.unflatten(1, (-1, chunk)).permute(1, 0, 3, 2, 4).contiguous().flatten(0, 2)


def _put_back(x: Tensor, target: Tensor, reverse: bool) -> None:
    """Undo `_chunked` into a target [B, L, H, D] of any type."""
    batch, length, heads, width = target.shape
    chunk = x.shape[1]
    x = x.view(-1, batch, heads, chunk, width).permute(1, 0, 3, 2, 4)
    if length % chunk == 0 and not reverse:
        target.unflatten(1, (-1, chunk)).copy_(x)
        return
    x = x.flatten(1, 2)[:, :length]
    target.copy_(x.flip(1) if reverse else x)
