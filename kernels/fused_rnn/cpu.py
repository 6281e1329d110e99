"""The nonlinear recurrences in plain torch: few launches a step, and a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses a
recurrence can carry these definitions with it. It runs on any device; on a CPU it is the default.

A nonlinear recurrence has to be walked step by step, so that all that can be saved is what is done
in a step. Going forward, a step is one matrix product and a few operations in place. Going back,
the states are known: all gates are computed anew at once, and with them the factor by which each
passes a gradient on, so that a step is again one matrix product and a few multiplications. The
gradient of the matrices is one product over all steps at the end.

Inside, tensors are time-major with the gates of a head side by side, [L, B, H, G, d]: a step is
contiguous, and so are the rows that a head's matrix meets, within a step and over all steps.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

States = tuple[Tensor, ...]

GATES = {"gru": 3, "lstm": 4, "slstm": 4}
"""Number of gates: r, z, n of gru (torch's order); i, f, g, o of lstm (torch's); i, f, z, o."""
STATES = {"gru": 1, "lstm": 2, "slstm": 4}
"""Number of states: h; h, c; h, c, n, m."""


def fused_rnn(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    initial_state: States | None = None,
) -> tuple[Tensor, States]:
    """Run a gru, lstm or slstm cell with a block-diagonal recurrent matrix over a sequence.

    Differentiable once in every tensor, through all results but the stabiliser m of slstm, which
    is a constant to the gradient.

    Args:
        cell: "gru", "lstm" or "slstm".
        gates: what the inputs contribute to each gate [B, L, G, H, d].
        recurrent: matrices from the state to each gate [H, G, d, d], its last dimension h's.
        bias: of what the state contributes [G, H, d].
        initial_state: the cell's states before the first step, each [B, H, d].

    Returns:
        h [B, L, H, d] in the type of `gates`, and the states after the last step, each [B, H, d],
        at least float32.
    """
    stacked = None if initial_state is None else torch.stack(initial_state)
    h, final_state, _ = _FusedRNN.apply(cell, gates, recurrent, bias, stacked)
    return h, final_state.unbind(0)


def fused_rnn_step(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    state: States | None = None,
) -> tuple[Tensor, States]:
    """Take one step of a recurrence.

    Args:
        cell: "gru", "lstm" or "slstm".
        gates: what this step's inputs contribute to each gate [B, G, H, d].
        recurrent: matrices from the state to each gate [H, G, d, d].
        bias: of what the state contributes [G, H, d].
        state: the cell's states after the step before, each [B, H, d]; None at the first step.

    Returns:
        h [B, H, d] in the type of `gates`, and the states of the next step, at least float32.
    """
    batch, _, heads, width = gates.shape
    dtype = torch.promote_types(gates.dtype, torch.float32)
    if state is None:
        state = initial_states(cell, gates.new_zeros(batch, heads, width, dtype=dtype))
    x = gates.to(dtype).transpose(1, 2).flatten(2)
    matrices = recurrent.to(dtype).flatten(1, 2).mT
    u = torch.bmm(state[0].to(dtype).transpose(0, 1), matrices).transpose(0, 1)
    if bias is not None:
        u = u + bias.to(dtype).transpose(0, 1).flatten(1)
    if cell == "gru":
        reset, update = (x + u)[..., : 2 * width].sigmoid().chunk(2, -1)
        new = torch.addcmul(x[..., 2 * width :], reset, u[..., 2 * width :]).tanh()
        h = torch.lerp(new, state[0].to(dtype), update)
        return h.to(gates.dtype), (h,)
    first, second, third, fourth = (x + u).chunk(4, -1)
    if cell == "lstm":
        c = second.sigmoid() * state[1] + first.sigmoid() * third.tanh()
        h = fourth.sigmoid() * c.tanh()
        return h.to(gates.dtype), (h, c)
    _, c, n, m = state
    kept = F.logsigmoid(second) + m.detach()
    m = torch.maximum(kept, first).detach()
    forget, take = torch.exp(kept - m), torch.exp(first - m)
    c = forget * c + take * third.tanh()
    n = torch.clamp(forget * n + take, min=1)
    h = fourth.sigmoid() * c / n
    return h.to(gates.dtype), (h, c, n, m)


def initial_states(cell: str, zero: Tensor) -> States:
    """Make the states before a sequence.

    Args:
        cell: "gru", "lstm" or "slstm".
        zero: zeros [B, H, d], at least float32.

    Returns:
        The cell's states [B, H, d]: zeros, but for the stabiliser m of slstm, which is minus
        infinity: the first input exceeds it.
    """
    zeros = (zero.clone() for _ in range(min(STATES[cell], 3)))
    if cell == "slstm":
        return *zeros, torch.full_like(zero, float("-inf"))
    return tuple(zeros)


class _FusedRNN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        gates: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        initial_state: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        h, final_state, trace = rnn_forward(cell, gates, recurrent, bias, initial_state)
        ctx.cell = cell
        ctx.save_for_backward(gates, recurrent, bias, initial_state, h, trace)
        ctx.mark_non_differentiable(trace)
        ctx.set_materialize_grads(False)
        ctx.final_shape = final_state.shape
        return h, final_state, trace

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_final: Tensor | None, _: None) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "fused_rnn can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        gates, recurrent, bias, initial_state, h, trace = ctx.saved_tensors
        grad_h = torch.zeros_like(h) if grad_h is None else grad_h
        grad_final = trace.new_zeros(ctx.final_shape) if grad_final is None else grad_final
        grads = rnn_backward(
            ctx.cell, gates, recurrent, bias, initial_state, h, trace, grad_h, grad_final
        )
        # As in the operator, what has no bias or no initial state has no gradient of it either.
        grad_bias = None if bias is None else grads[2].to(bias.dtype)
        grad_initial = None if initial_state is None else grads[3].to(initial_state.dtype)
        return None, grads[0], grads[1], grad_bias, grad_initial


def rnn_forward(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a cell without a gradient.

    Args:
        cell: "gru", "lstm" or "slstm".
        gates: [B, L, G, H, d].
        recurrent: [H, G, d, d].
        bias: [G, H, d].
        initial_state: the S states of the cell [S, B, H, d].

    Returns:
        h [B, L, H, d] in the type of `gates`, the final states [S, B, H, d] and, for the gradient,
        all states but h after every step [S - 1, L, B, H, d], both at least float32.
    """
    batch, length, _, heads, width = gates.shape
    dtype = torch.promote_types(gates.dtype, torch.float32)
    state = _start(cell, gates, initial_state)
    x = _time_major(gates, bias if cell != "gru" else None)
    h = torch.empty((length, batch, heads, width), dtype=dtype, device=gates.device)
    trace = torch.empty(
        (STATES[cell] - 1, length, batch, heads, width), dtype=dtype, device=gates.device
    )
    matrices = recurrent.to(dtype).flatten(1, 2).mT.contiguous()
    if cell == "gru":
        _gru_forward(x, h, state, matrices, bias)
    elif cell == "lstm":
        _lstm_forward(x, h, trace[0], state, matrices)
    else:
        _slstm_forward(x, h, trace, state, matrices)
    final_state = torch.cat([h[None, -1], trace[:, -1]])
    out = torch.empty((batch, length, heads, width), dtype=gates.dtype, device=gates.device)
    return out.copy_(h.transpose(0, 1)), final_state, trace


def rnn_backward(
    cell: str,
    gates: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    h: Tensor,
    trace: Tensor,
    grad_h: Tensor,
    grad_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of `rnn_forward`'s arguments from those of its results.

    Returns:
        The gradients of gates and of recurrent in their types, of the bias [G, H, d] and of the
        initial states [S, B, H, d] at least in float32.
    """
    dtype = trace.dtype
    state = _start(cell, gates, initial_state)
    before = _shifted(h.transpose(0, 1), state[0])
    matrices = recurrent.to(dtype).flatten(1, 2)
    grads = torch.empty(before.shape, dtype=dtype, device=gates.device)
    grads.copy_(grad_h.transpose(0, 1))
    grads[-1].add_(grad_final[0])

    x = _time_major(gates, bias if cell != "gru" else None)
    if cell == "gru":
        carried = torch.empty(x.shape, dtype=dtype, device=gates.device)
        carried.copy_(_bias_rows(bias, x))
        _over_all_steps(carried).baddbmm_(_over_all_steps(before), matrices.mT)
        grad_new, grad_initial = _gru_backward(x, carried, before, grads, matrices)
    else:
        _over_all_steps(x).baddbmm_(_over_all_steps(before), matrices.mT)
        if cell == "lstm":
            grad_initial = _lstm_backward(x, trace[0], state, grads, grad_final, matrices)
        else:
            grad_initial = _slstm_backward(x, trace, state, grads, grad_final, matrices)

    # Now x has the gradients of what the state contributed to each gate.
    grad_recurrent = torch.bmm(_over_all_steps(x).mT, _over_all_steps(before))
    grad_bias = x.sum((0, 1)).transpose(0, 1).contiguous()
    if cell == "gru":
        x[..., 2, :] = grad_new
    grad_gates = torch.empty(gates.shape, dtype=gates.dtype, device=gates.device)
    grad_gates.copy_(x.permute(1, 0, 3, 2, 4))
    grad_recurrent = grad_recurrent.to(recurrent.dtype).unflatten(1, recurrent.shape[1:3])
    return grad_gates, grad_recurrent, grad_bias, grad_initial


# -- GRU: r = sigma(x_r + u_r), z = sigma(x_z + u_z), n = tanh(x_n + r u_n), h' = n + z (h - n) ----


def _gru_forward(
    x: Tensor, h: Tensor, state: Tensor, matrices: Tensor, bias: Tensor | None
) -> None:
    last, rows = state[0], state[0].transpose(0, 1)
    _, batch, heads, _, width = x.shape
    u = torch.empty((batch, heads, 3, width), dtype=x.dtype, device=x.device)
    u_rows, u_open, u_new = u.flatten(2).transpose(0, 1), u[:, :, :2], u[:, :, 2]
    offset = _bias_rows(bias, x)[0].transpose(0, 1).flatten(2)
    steps = zip(x[..., :2, :], x[..., 2, :], h, h.transpose(1, 2), strict=True)
    for open_, new, out, out_rows in steps:
        torch.baddbmm(offset, rows, matrices, out=u_rows)
        open_.add_(u_open).sigmoid_()
        new.addcmul_(open_[:, :, 0], u_new).tanh_()
        torch.lerp(new, last, open_[:, :, 1], out=out)
        last, rows = out, out_rows


def _gru_backward(
    x: Tensor, u: Tensor, before: Tensor, grads: Tensor, matrices: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn x into the gradients of u; return those of x_n and of the initial state."""
    x[..., :2, :].add_(u[..., :2, :]).sigmoid_()
    reset, update, raw = x.unbind(3)
    new = torch.addcmul(raw, reset, u[..., 2, :]).tanh_()
    kept = update.clone()
    # What reaches x_n of a gradient of h', and with it x_r and u_n; then what reaches x_z.
    through = (1 - kept) * (1 - new * new)
    torch.mul(through, reset, out=raw)
    reset.mul_(1 - reset).mul_(through).mul_(u[..., 2, :])
    update.mul_(1 - kept).mul_(before - new)

    rows, grad_rows = _rows(x), grads.transpose(1, 2)
    grad, behind = grads[-1], None
    for t in range(len(x) - 1, -1, -1):
        if behind is not None:
            torch.addcmul(grads[t], grad, kept[t + 1], out=grads[t])
            grad_rows[t].baddbmm_(behind, matrices)
            grad = grads[t]
        x[t].mul_(grad.unsqueeze(2))
        behind = rows[t]
    first = torch.baddbmm((grad * kept[0]).transpose(0, 1), rows[0], matrices)
    return through.mul_(grads), first.transpose(0, 1)[None].contiguous()


# -- LSTM: i, f, o = sigma(.), g = tanh(.), c' = f c + i g, h' = o tanh(c') -----------------------


def _lstm_forward(x: Tensor, h: Tensor, c: Tensor, state: Tensor, matrices: Tensor) -> None:
    rows, last = state[0].transpose(0, 1), state[1]
    outputs = zip(h, h.transpose(1, 2), c, strict=True)
    for raw, raw_rows, (out, out_rows, cell) in zip(x, _rows(x), outputs, strict=True):
        raw_rows.baddbmm_(rows, matrices)
        take, forget = raw[:, :, :2].sigmoid_().unbind(2)
        new, shown = raw[:, :, 2].tanh_(), raw[:, :, 3].sigmoid_()
        torch.mul(forget, last, out=cell).addcmul_(take, new)
        torch.tanh(cell, out=out).mul_(shown)
        last, rows = cell, out_rows


def _lstm_backward(
    x: Tensor, c: Tensor, state: Tensor, grads: Tensor, grad_final: Tensor, matrices: Tensor
) -> Tensor:
    """Turn x into its own gradients; return those of the initial states."""
    x[..., :2, :].sigmoid_()
    x[..., 3, :].sigmoid_()
    take, forget, new, shown = x.unbind(3)
    new.tanh_()
    kept, squashed = forget.clone(), torch.tanh(c)
    through = (1 - squashed * squashed).mul_(shown)
    old_take = take.clone()
    take.mul_(1 - take).mul_(new)
    forget.mul_(1 - forget).mul_(_shifted(c, state[1]))
    torch.mul(1 - new * new, old_take, out=new)
    shown.mul_(1 - shown).mul_(squashed)

    rows, grad_rows = _rows(x), grads.transpose(1, 2)
    grad_c = grad_final[1].to(x.dtype, copy=True)
    for t in range(len(x) - 1, -1, -1):
        grad, factors = grads[t], x[t]
        if t + 1 < len(x):
            grad_rows[t].baddbmm_(rows[t + 1], matrices)
        grad_c.addcmul_(grad, through[t])
        factors[:, :, :3].mul_(grad_c.unsqueeze(2))
        factors[:, :, 3].mul_(grad)
        grad_c.mul_(kept[t])
    return torch.stack([torch.bmm(rows[0], matrices).transpose(0, 1), grad_c])


# -- sLSTM: m' = max(log sigma(f) + m, i), f' = exp(log sigma(f) + m - m'), i' = exp(i - m'),
# --        c' = f' c + i' tanh(z), n' = max(f' n + i', 1), h' = sigma(o) c' / n' ------------------


def _slstm_forward(x: Tensor, h: Tensor, trace: Tensor, state: Tensor, matrices: Tensor) -> None:
    rows, pair, m = state[0].transpose(0, 1), state[1:3], state[3]
    outputs = zip(h, h.transpose(1, 2), trace[:2].unbind(1), trace[2], strict=True)
    for raw, raw_rows, (out, out_rows, pair_out, m_out) in zip(x, _rows(x), outputs, strict=True):
        raw_rows.baddbmm_(rows, matrices)
        take, forget, new, shown = raw.unbind(2)
        torch.add(F.logsigmoid(forget), m, out=forget)
        torch.maximum(forget, take, out=m_out)
        raw[:, :, :2].sub_(m_out.unsqueeze(2)).exp_()
        c, n = torch.mul(pair, forget, out=pair_out).unbind(0)
        c.addcmul_(take, new.tanh_())
        n.add_(take).clamp_(min=1)
        torch.div(c, n, out=out).mul_(shown.sigmoid_())
        rows, pair, m = out_rows, pair_out, m_out


def _slstm_backward(
    x: Tensor, trace: Tensor, state: Tensor, grads: Tensor, grad_final: Tensor, matrices: Tensor
) -> Tensor:
    """Turn x into its own gradients; return those of the initial states, zero for m."""
    c, n, _ = trace
    raw_take, raw_forget, new, shown = x.unbind(3)
    kept = F.logsigmoid(raw_forget).add_(_shifted(trace[2], state[3]))
    # Not the m that was saved: in half types this one differs, and only with its own is one of the
    # two weights exactly 1, so that a normaliser is below 1 only where it was.
    m = torch.maximum(kept, raw_take)
    forget, take = kept.sub_(m).exp_(), (raw_take - m).exp_()
    before_c, before_n = _shifted(c, state[1]), _shifted(n, state[2])
    free = torch.addcmul(take, forget, before_n) >= 1
    slope = forget * torch.sigmoid(-raw_forget)
    new.tanh_()
    shown.sigmoid_()

    # From h to (c, n); from (c, n) to those before; from n to the raw i and f; from c to i, f, z.
    through = torch.stack([shown / n, -shown * c / (n * n) * free])
    passed = torch.stack([forget, forget])
    passed[1, 1:].mul_(free[:-1])
    from_n = torch.stack([take, slope * before_n], dim=3)
    torch.mul(take, new, out=raw_take)
    torch.mul(slope, before_c, out=raw_forget)
    torch.mul(1 - new * new, take, out=new)
    shown.mul_(1 - shown).mul_(c / n)

    rows, grad_rows = _rows(x), grads.transpose(1, 2)
    pair = grad_final[1:3].to(x.dtype, copy=True)
    pair[1].mul_(free[-1])
    grad_c, grad_n = pair[0].unsqueeze(2), pair[1].unsqueeze(2)
    for t in range(len(x) - 1, -1, -1):
        grad, factors = grads[t], x[t]
        if t + 1 < len(x):
            grad_rows[t].baddbmm_(rows[t + 1], matrices)
        pair.addcmul_(through[:, t], grad)
        factors[:, :, :3].mul_(grad_c)
        factors[:, :, :2].addcmul_(from_n[t], grad_n)
        factors[:, :, 3].mul_(grad)
        pair.mul_(passed[:, t])
    first = torch.bmm(rows[0], matrices).transpose(0, 1)
    return torch.stack([first, *pair, torch.zeros_like(first)])


# -- layouts -----------------------------------------------------------------------------------


def _start(cell: str, gates: Tensor, initial_state: Tensor | None) -> Tensor:
    """The states [S, B, H, d] before the first step, at least float32."""
    dtype = torch.promote_types(gates.dtype, torch.float32)
    if initial_state is not None:
        return initial_state.to(dtype)
    batch, _, _, heads, width = gates.shape
    return torch.stack(initial_states(cell, gates.new_zeros(batch, heads, width, dtype=dtype)))


def _time_major(gates: Tensor, bias: Tensor | None) -> Tensor:
    """Copy gates [B, L, G, H, d] to [L, B, H, G, d], at least float32, and add the bias."""
    batch, length, count, heads, width = gates.shape
    dtype = torch.promote_types(gates.dtype, torch.float32)
    x = torch.empty((length, batch, heads, count, width), dtype=dtype, device=gates.device)
    x.copy_(gates.permute(1, 0, 3, 2, 4))
    return x if bias is None else x.add_(bias.to(dtype).transpose(0, 1))


def _bias_rows(bias: Tensor | None, x: Tensor) -> Tensor:
    """The bias [1, 1, H, G, d] of x [L, B, H, G, d]; zeros if there is none."""
    _, _, heads, count, width = x.shape
    if bias is None:
        return x.new_zeros(1, 1, heads, count, width)
    return bias.to(x.dtype).transpose(0, 1)[None, None]


def _shifted(states: Tensor, first: Tensor) -> Tensor:
    """The states [L, B, H, d] before each step, from those after each and the initial one."""
    out = torch.empty(states.shape, dtype=first.dtype, device=states.device)
    out[0] = first
    out[1:] = states[:-1]
    return out


def _rows(x: Tensor) -> Tensor:
    """View x [L, B, H, G, d] as the rows that the heads' matrices make at each step."""
    return x.flatten(3).transpose(1, 2)


def _over_all_steps(x: Tensor) -> Tensor:
    """View x [L, B, H, ...] as the rows of each head over all steps [H, L * B, ...]."""
    return x.flatten(0, 1).flatten(2).transpose(0, 1)
