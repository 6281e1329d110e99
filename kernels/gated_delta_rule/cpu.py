"""The gated delta rule in plain torch, chunk by chunk, with a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses the rule
can carry these definitions with it. It runs on any device; on a CPU it is the default.

A token multiplies the state by its gate once and then takes n sub-steps (n = 1: the gated delta
rule; more: DeltaProduct). A sub-step adds k_t v'_t' with v'_t = beta_t (v_t - S' k_t) to the state,
so that within a chunk of C sub-steps that begins with state S, and with Gamma_ts the product of the
gates after s up to t, and e^G that from the chunk's start,

    (I + A) V' = beta (V - e^G K S),   A = tril(beta K K' Gamma, -1)
    O = scale (e^G Q S + tril(Q K' Gamma) V'),   S_next = e^G_C S + (K e^(G_C - G))' V'.

One triangular solve for W and U with V' = U - W S leaves two matrix products per chunk to the loop
over chunks (Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence
Length", 2024, section 3.2; with gates, "Gated Delta Networks", 2025, section 3.3; sub-steps:
Siems et al., "DeltaProduct", 2025). The triangular matrix is never inverted by a series: with
beta = 2 and repeated keys its powers grow like binomial coefficients, its inverse does not.
The logarithm of Gamma is summed over the gates in question alone, and not a difference of two sums
from the chunk's start, in which a strong gate would drown the weak ones after it.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

LOG_GATE_FLOOR = -18.0
"""Log gates below are taken for this, as in gated linear attention. exp(-18) is 1.5e-8, a quarter
of float32's rounding; and as no sum of log gates is infinite, none of them is NaN."""

CHUNK = 32
"""Sub-steps in a chunk (a multiple of those of a token, and of one token at least)."""

SEGMENT = 8
"""Chunks that are worked on at a time. What a segment needs fits into a processor's cache at the
usual sizes; and of all states, the forward pass keeps those between segments alone."""


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute o_t = scale * S_t' q_t over a sequence, where the state learns by the delta rule.

    S_t = alpha_t (I - beta_t k_t k_t') S_{t-1} + beta_t k_t v_t' with alpha = exp(log_gate).
    Differentiable once in every argument, through both results.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, H, K], taken as they are: normalise them before.
        v: values [B, L, H, V].
        beta: strengths of the updates [B, L, H].
        log_gate: log alpha [B, L, H], not above 0, and floored at `LOG_GATE_FLOOR`; None means 0.
        initial_state: S before the first step [B, H, K, V]; None means zero.
        scale: of the outputs.

    Returns:
        o [B, L, H, V] in the promoted type of q, k and v, and the state after the last step
        [B, H, K, V], at least float32 (half types are accumulated in float32).
    """
    k, v, beta = k.unsqueeze(2), v.unsqueeze(2), beta.unsqueeze(2)
    return gated_delta_product(q, k, v, beta, log_gate, initial_state, scale=scale)


def gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule with n sub-steps a token.

    A token multiplies the state by alpha once, then takes the n steps S <- S - beta_j k_j k_j' S +
    beta_j k_j v_j', and reads with q after the last.

    Args:
        q: queries [B, L, H, K].
        k: keys [B, L, n, H, K].
        v: values [B, L, n, H, V].
        beta: strengths of the updates [B, L, n, H].
        log_gate: as in `gated_delta_rule`, one for a token.
        initial_state: as in `gated_delta_rule`.
        scale: as in `gated_delta_rule`.

    Returns:
        As `gated_delta_rule`.
    """
    o, final_state = _GatedDeltaRule.apply(q, k, v, beta, log_gate, initial_state, scale)
    return o, final_state


def gated_delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    state: Tensor,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Take one step of the rule.

    Args:
        q: query of this step [B, H, K].
        k: key [B, H, K].
        v: value [B, H, V].
        beta: strength [B, H].
        log_gate: log alpha [B, H]; None means 0.
        state: S of the step before [B, H, K, V], float32 at least.
        scale: of the output.

    Returns:
        o [B, H, V] in the promoted type of q, k and v, and the state of the next step, a fresh
        tensor in the state's own type.
    """
    k, v, beta = k.unsqueeze(1), v.unsqueeze(1), beta.unsqueeze(1)
    return gated_delta_product_step(q, k, v, beta, log_gate, state, scale=scale)


def gated_delta_product_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    state: Tensor,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Take one token's n sub-steps of the rule.

    Args:
        q: query of this token [B, H, K].
        k: keys [B, n, H, K].
        v: values [B, n, H, V].
        beta: strengths [B, n, H].
        log_gate: log alpha [B, H]; None means 0.
        state: S of the token before [B, H, K, V], float32 at least.
        scale: of the output.

    Returns:
        As `gated_delta_rule_step`.
    """
    dtype = state.dtype
    if log_gate is not None:
        gate = log_gate.to(dtype).clamp(min=LOG_GATE_FLOOR).exp()
        state = gate[..., None, None] * state
    strengths = beta.to(dtype)[..., None]
    for key, value, strength in zip(
        k.to(dtype).unbind(1), v.to(dtype).unbind(1), strengths.unbind(1), strict=True
    ):
        error = value - (key.unsqueeze(-2) @ state).squeeze(-2)
        state = state + key.unsqueeze(-1) * (strength * error).unsqueeze(-2)
    o = scale * (q.to(dtype).unsqueeze(-2) @ state).squeeze(-2)
    return o.to(_out_dtype(q, k, v)), state


class _GatedDeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_gate: Tensor | None,
        initial_state: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        o, final_state, kept = rule_forward(q, k, v, beta, log_gate, initial_state, scale)
        ctx.save_for_backward(q, k, v, beta, log_gate, initial_state, kept)
        ctx.scale = scale
        return o, final_state

    @staticmethod
    def backward(ctx: Any, grad_o: Tensor, grad_final: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "gated_delta_rule can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        q, k, v, beta, log_gate, initial_state, kept = ctx.saved_tensors
        gradients = rule_backward(
            q, k, v, beta, log_gate, initial_state, kept, grad_o, grad_final, ctx.scale
        )
        inputs = q, k, v, beta, log_gate, initial_state
        # Neither the gate nor the initial state need be there.
        given = (None if x is None else g for x, g in zip(inputs, gradients, strict=True))
        return *given, None


def rule_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the rule without a gradient, from the arguments of `gated_delta_product`.

    Returns:
        o [B, L, H, V], the final state [B, H, K, V], and the states before the first segment and
        after each [segments + 1, B, H, K, V] in the final one's type: fresh tensors.
    """
    batch, length, heads, width = q.shape
    shape = (segments(length, k.shape[2]) + 1, batch, heads, width, v.shape[-1])
    dtype = torch.promote_types(_out_dtype(q, k, v), torch.float32)
    kept = torch.empty(shape, dtype=dtype, device=q.device)
    if initial_state is None:
        kept[0] = 0
    else:
        kept[0] = initial_state
    outputs = []
    with _without_autocast(q):
        for i, now in enumerate(_slices(length, k.shape[2])):
            x = _cut(q, k, v, beta, log_gate, now)
            states, v_new = _scan_states(x, kept[i])
            kept[i + 1] = states[-1].unflatten(0, (batch, heads))
            o = (x.q_start @ states[:-1]).add_((x.qk * x.causal) @ v_new).mul_(scale)
            outputs.append(_join(o, batch, length - now.start))
    return torch.cat(outputs, dim=1).to(_out_dtype(q, k, v)), kept[-1].clone(), kept


def rule_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gate: Tensor | None,
    initial_state: Tensor | None,
    kept: Tensor,
    grad_o: Tensor,
    grad_final: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of `rule_forward`'s arguments from those of its first two results.

    Nothing but the arguments and the states `kept` lie between the two: a segment's chunks and
    states are computed again.

    Returns:
        The gradients of q, k, v, beta, log_gate and the initial state, in their shapes and types.
        Where there is no log gate, its gradient has no elements; where there is no initial state,
        its gradient is that of a state of zeros.
    """
    batch, length, heads, _ = q.shape
    substeps = k.shape[2]
    grad_state = grad_final
    found: list[tuple[Tensor, ...]] = []
    with _without_autocast(q):
        for now, state in reversed(list(zip(_slices(length, substeps), kept[:-1], strict=True))):
            x = _cut(q, k, v, beta, log_gate, now)
            states, v_new = _scan_states(x, state)
            grad = _split(grad_o[:, now].to(states.dtype), x.q.shape[2]).mul(scale)
            grad_states, grad_v_new = _scan_grad_states(x, grad, grad_state)
            gradients = _gradients(
                x, states[:-1], grad_states[1:], v_new, grad, grad_v_new, substeps
            )
            rest = length - now.start
            rows = (rest, rest * substeps, rest * substeps, rest * substeps, rest)
            found.append(tuple(_join(g, batch, n) for g, n in zip(gradients, rows, strict=False)))
            grad_state = grad_states[0].unflatten(0, (batch, heads))

    given = (q, k, v, beta) if log_gate is None else (q, k, v, beta, log_gate)
    grad_q, grad_k, grad_v, grad_beta, *grad_gate = (
        torch.cat(parts[::-1], dim=1).view(like.shape).to(like.dtype)
        for like, *parts in zip(given, *found, strict=True)
    )
    if log_gate is None:
        grad_log_gate = beta.new_empty(0)
    else:
        grad_log_gate = grad_gate[0] * (log_gate >= LOG_GATE_FLOOR)
    dtype = grad_final.dtype if initial_state is None else initial_state.dtype
    return grad_q, grad_k, grad_v, grad_beta, grad_log_gate, grad_state.to(dtype, copy=True)


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Keep autocast off: it would take products in another type than what they are added to."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def segments(length: int, substeps: int) -> int:
    """Count the segments of a sequence."""
    tokens = SEGMENT * max(1, CHUNK // substeps)
    return (length + tokens - 1) // tokens


def _slices(length: int, substeps: int) -> list[slice]:
    """Find the tokens of each segment."""
    tokens = SEGMENT * max(1, CHUNK // substeps)
    return [slice(i, min(i + tokens, length)) for i in range(0, length, tokens)]


class _Chunks(NamedTuple):
    """The arguments of a segment in chunks, and what of them does not depend on the state.

    With N chunks of c tokens, C = c n sub-steps, and B * H sequences:
    """

    q: Tensor  # [N, B * H, c, K]
    k: Tensor  # [N, B * H, C, K]
    v: Tensor  # [N, B * H, C, V]
    beta: Tensor  # [N, B * H, C, 1]
    # The decay from the chunk's start, to its end [N, B * H, c, 1], and all of it [N, B * H, 1, 1].
    start: Tensor | None
    end: Tensor | None
    total: Tensor | None
    q_start: Tensor  # q, decayed from the chunk's start
    k_start: Tensor
    k_end: Tensor  # k, decayed to the chunk's end
    causal: Tensor  # Gamma of a token and the sub-steps up to its last [..., c, C]
    strict: Tensor  # Gamma of a sub-step and those before it [..., C, C]
    qk: Tensor  # q k' [N, B * H, c, C]
    kk: Tensor  # k k' [N, B * H, C, C]
    system: Tensor  # A [N, B * H, C, C]
    w: Tensor  # (I + A)^-1 beta e^G K [N, B * H, C, K]
    u: Tensor  # (I + A)^-1 beta V [N, B * H, C, V]


def _cut(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gate: Tensor | None, now: slice
) -> _Chunks:
    """Cut the tokens `now` into chunks."""
    dtype = torch.promote_types(_out_dtype(q, k, v), torch.float32)
    substeps = k.shape[2]
    q, k, v, beta = (x[:, now] for x in (q, k, v, beta))
    tokens = min(max(1, CHUNK // substeps), q.shape[1])
    q = _split(q.to(dtype), tokens)
    k, v, beta = (
        _split(x.to(dtype).flatten(1, 2), tokens * substeps) for x in (k, v, beta.unsqueeze(-1))
    )
    start = end = total = None
    q_start, k_start, k_end = q, k, k
    if log_gate is None:
        decay = q.new_ones(tokens, tokens).tril_()
    else:
        gates = _split(log_gate[:, now].to(dtype).clamp(min=LOG_GATE_FLOOR).unsqueeze(-1), tokens)
        # Column s, from row s + 1 on, sums the log gates after s.
        between = gates.expand(*gates.shape[:-1], tokens).tril(-1).cumsum(-2)
        decay = between.exp().tril_()
        start = gates.cumsum(-2).exp()
        end = decay[..., -1, :].unsqueeze(-1)
        total = start[..., -1:, :]
        q_start = q * start
        k_start, k_end = (_scaled(k, _repeated(x, substeps)) for x in (start, end))
    causal = decay if substeps == 1 else decay.repeat_interleave(substeps, -1)
    strict = (causal if substeps == 1 else causal.repeat_interleave(substeps, -2)).tril(-1)
    kk = k @ k.mT
    system = (kk * beta).mul_(strict)
    right = torch.cat([k_start, v], dim=-1).mul_(beta)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    w, u = solved.split([k.shape[-1], v.shape[-1]], dim=-1)
    return _Chunks(
        q, k, v, beta, start, end, total, q_start, k_start, k_end,
        causal, strict, q @ k.mT, kk, system, w, u,
    )  # fmt: skip


def _scan_states(x: _Chunks, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the state before each chunk and after the last [N + 1, B * H, K, V], and V'."""
    states = x.v.new_empty(len(x.v) + 1, *state.flatten(0, 1).shape)
    v_new = torch.empty_like(x.v)
    states[0] = state.flatten(0, 1)
    for i in range(len(v_new)):
        torch.baddbmm(x.u[i], x.w[i], states[i], alpha=-1, out=v_new[i])
        kept = states[i] if x.total is None else states[i] * x.total[i]
        torch.baddbmm(kept, x.k_end[i].mT, v_new[i], out=states[i + 1])
    return states, v_new


def _scan_grad_states(x: _Chunks, grad: Tensor, grad_final: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of what `_scan_states` returns, from the last chunk on.

    That of V' has two sources, the chunk's own outputs and the state that leaves it.
    """
    grad_v_new = (x.qk * x.causal).mT @ grad
    grad_states = x.v.new_empty(len(x.v) + 1, *grad_final.flatten(0, 1).shape)
    grad_states[-1] = grad_final.flatten(0, 1)
    torch.matmul(x.q_start.mT, grad, out=grad_states[:-1])
    for i in reversed(range(len(grad_v_new))):
        grad_v_new[i].baddbmm_(x.k_end[i], grad_states[i + 1])
        grad_states[i].baddbmm_(x.w[i].mT, grad_v_new[i], alpha=-1)
        if x.total is None:
            grad_states[i] += grad_states[i + 1]
        else:
            grad_states[i].addcmul_(x.total[i], grad_states[i + 1])
    return grad_states, grad_v_new


def _split(x: Tensor, rows: int) -> Tensor:
    """Cut x [B, T, H, D] into chunks [N, B * H, rows, D], the last one filled up with zeros.

    A sub-step of zeros (beta = 0, log gate 0) leaves the state as it is.
    """
    batch, length, heads, width = x.shape
    chunks = -(-length // rows)
    if chunks * rows > length:
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, chunks * rows - length))
    x = x.reshape(batch, chunks, rows, heads, width).permute(1, 0, 3, 2, 4)
    return x.reshape(chunks, batch * heads, rows, width)


def _join(x: Tensor, batch: int, length: int) -> Tensor:
    """Put chunks [N, B * H, rows, D] together again: [B, T, H, D], without the filling."""
    x = x.unflatten(1, (batch, -1)).permute(1, 0, 3, 2, 4)
    return x.flatten(1, 2)[:, :length].contiguous()


def _out_dtype(q: Tensor, k: Tensor, v: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)


def _gradients(
    x: _Chunks,
    entering: Tensor,
    grad_leaving: Tensor,
    v_new: Tensor,
    grad: Tensor,
    grad_v_new: Tensor,
    substeps: int,
) -> tuple[Tensor, ...]:
    """Compute the gradients of chunks' q, k, v, beta and, if there are any, log gates.

    With Y = (I + A)^-1' dV', the triangular system passes on beta Y to V - e^G K S, and -Y V'' to
    A, of which what lies below the diagonal counts.

    Args:
        x: the chunks.
        entering: the states before them.
        grad_leaving: the gradients of the states after them.
        v_new: V'.
        grad: the gradient of O, times the scale.
        grad_v_new: the gradient of V'.
        substeps: n.
    """
    # Through what a chunk reads of the state before it, and writes into the one after it.
    solved = torch.linalg.solve_triangular(x.system.mT, grad_v_new, upper=True, unitriangular=True)
    read = solved @ entering.mT
    grad_beta = torch.linalg.vecdot(solved, x.v) - torch.linalg.vecdot(read, x.k_start)
    read = read.mul_(x.beta).neg_()
    written = v_new @ grad_leaving.mT
    queried = grad @ entering.mT

    # Through the products of keys and of queries with keys within the chunk.
    grad_kk = (solved @ v_new.mT).neg_().mul_(x.strict)
    grad_beta += torch.linalg.vecdot(grad_kk, x.kk)
    grad_kk = grad_kk.mul_(x.beta)
    grad_qk = (grad @ v_new.mT).mul_(x.causal)
    grad_q = grad_qk @ x.k + _scaled(queried, x.start)
    grad_k = (grad_kk + grad_kk.mT) @ x.k
    grad_k += grad_qk.mT @ x.q
    grad_k += _scaled(read, _repeated(x.start, substeps))
    grad_k += _scaled(written, _repeated(x.end, substeps))
    grad_v = solved * x.beta
    if x.total is None:
        return grad_q, grad_k, grad_v, grad_beta.unsqueeze(-1)

    # By the logarithm of Gamma_ts, whose last row is also the decay of what is `written`.
    between = _by_token(grad_kk.mul_(x.kk), substeps, (-2, -1))
    between = between.add_(_by_token(grad_qk.mul_(x.qk), substeps, (-1,)))
    between[..., -1, :] += _by_token(torch.linalg.vecdot(written, x.k_end), substeps, (-1,))
    # By that of the decay from the chunk's start to t.
    before = torch.linalg.vecdot(queried, x.q_start)
    before += _by_token(torch.linalg.vecdot(read, x.k_start), substeps, (-1,))
    before[..., -1] += (entering * grad_leaving).sum((-2, -1)) * x.total[..., 0, 0]
    # The gate of token r is part of Gamma_ts where s < r <= t. These are summed alone: as a
    # difference of larger sums, the gradient of a strong gate would be rounding errors.
    later = between.new_ones(between.shape[-2:]).triu(1)
    grad_gate = (between @ later + before.unsqueeze(-1)).tril_().sum(-2)
    return grad_q, grad_k, grad_v, grad_beta.unsqueeze(-1), grad_gate.unsqueeze(-1)


def _scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


def _repeated(decay: Tensor | None, substeps: int) -> Tensor | None:
    """Give a token's decay to each of its sub-steps."""
    if decay is None or substeps == 1:
        return decay
    return decay.repeat_interleave(substeps, -2)


def _by_token(x: Tensor, substeps: int, dims: tuple[int, ...]) -> Tensor:
    """Sum over the sub-steps of each token."""
    for dim in dims if substeps > 1 else ():
        x = x.unflatten(dim, (-1, substeps)).sum(dim)
    return x
