"""The softmax scan in plain torch: chunks of matrix products, and a gradient written by hand.

Everything here needs torch alone and nothing of this package, so that a model which uses the scan
can carry these definitions with it. It runs on any device; on a CPU it is the default.

With the maxima m_t of all prefixes known, the recurrence is linear. Over a chunk of C tokens that a
state enters and another leaves it is one matrix of C + 1 rows and C + 1 columns,

    | o_1   |   | e^(m_in - m_1) / u_1    e^(s_1 - m_1) / u_1                         | | w_in |
    | ...   | = | ...                     ...                  (lower triangle)       | | v_1  |
    | o_C   |   | e^(m_in - m_C) / u_C    ...             ...  e^(s_C - m_C) / u_C    | | ...  |
    | w_out |   | e^(m_in - m_C)          e^(s_1 - m_C)   ...  e^(s_C - m_C)          | | v_C  |

and its transpose takes the gradients of what is on the left to those of what is on the right: what
enters a chunk from behind is the gradient of w_out. No exponent is positive, and u_t is never less
than 1 once a token is not masked. The exponentials are constants to m: a score's gradient is
e^(s_s) times that of its exponential, which is v_s . dv_s less the same sum for the denominators,
sum_{t>=s} e^(s_s - m_t) / u_t (do_t . o_t).
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 16
SEGMENT = 2**17
"""Numbers of the values that are worked on at a time."""

State = tuple[Tensor, Tensor, Tensor]
"""Maximum m [B, H], denominator u [B, H] and numerator w [B, H, D]."""


def softmax_scan(
    scores: Tensor, values: Tensor, initial_state: State | None = None
) -> tuple[Tensor, State]:
    """Compute o_t = sum_{s<=t} exp(s_s) v_s / sum_{s<=t} exp(s_s) for every t.

    Differentiable once in every argument, through o, u and w; m is a constant.

    Args:
        scores: [B, L, H], finite or -inf (a masked token).
        values: [B, L, H, D].
        initial_state: m [B, H], u [B, H] and w [B, H, D] of the tokens before; None means that
            there are none: -inf, 0, 0.

    Returns:
        o [B, L, H, D] in the type of `values`, 0 where there is no token yet that is not masked,
        and the state of all tokens, at least float32.
    """
    initial = (None, None, None) if initial_state is None else initial_state
    o, m, u, w = _SoftmaxScan.apply(scores, values, *initial)
    return o, (m, u, w)


def softmax_scan_step(score: Tensor, value: Tensor, state: State) -> tuple[Tensor, State]:
    """Take one step of the scan.

    Args:
        score: of this token [B, H].
        value: of this token [B, H, D].
        state: m, u, w of the tokens before, float32 at least.

    Returns:
        o [B, H, D] in the type of `value`, and the state of the next step.
    """
    m, u, w = state
    score = score.to(m.dtype)
    larger = torch.maximum(m, score)
    anchor = finite(larger)
    kept, added = torch.exp(m - anchor), torch.exp(score - anchor)
    u = torch.addcmul(added, kept, u)
    w = torch.addcmul(kept[..., None] * w, added[..., None], value.to(w.dtype))
    return (w * inverse(u)[..., None]).to(value.dtype), (larger, u, w)


class _SoftmaxScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, values: Tensor, m: Tensor | None, u: Tensor | None, w: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        o, m_last, u_last, w_last = scan_forward(scores, values, m, u, w)
        ctx.save_for_backward(scores, values, m, u, w, o)
        ctx.mark_non_differentiable(m_last)
        return o, m_last, u_last, w_last

    @staticmethod
    def backward(ctx: Any, grad_o: Tensor, _: Any, grad_u: Tensor, grad_w: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "softmax_scan can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        scores, values, m, u, w, o = ctx.saved_tensors
        gradients = scan_backward(scores, values, m, u, w, o, grad_o, grad_u, grad_w)
        if m is None:
            return *gradients[:2], None, None, None
        found = zip(gradients[2:], (m, u, w), strict=True)
        return *gradients[:2], *(g.to(x.dtype) for g, x in found)


def scan_forward(
    scores: Tensor, values: Tensor, m: Tensor | None, u: Tensor | None, w: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute o and the state m, u, w of all tokens, fresh tensors, without a gradient."""
    m, u, w = _state(scores, values, m, u, w)
    own, before_m, before_u = _chunks(scores, m, u)
    o = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    for chunks, tokens in _segments(values.shape):
        matrix = _matrices(own[:, chunks], before_m[:, chunks], before_u[:, chunks])
        places = _with_places(values[:, tokens], w.dtype, behind=False)
        entering = places[..., 0, :].unbind(1)
        added = (matrix[..., -1:, 1:] @ places[..., 1:, :]).squeeze(-2).unbind(1)
        kept = matrix[..., -1, :1].unbind(1)
        for i, place in enumerate(entering):
            place.copy_(w)
            w = torch.addcmul(added[i], kept[i], w)
        _without_chunks(matrix[..., :-1, :] @ places, o[:, tokens])
    return o, before_m[:, -1].clone(), before_u[:, -1].clone(), w


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
    """Compute the gradients of `scan_forward`'s arguments from its o and those of o, u and w.

    Returns:
        The gradients of the scores and the values in their types, and those of m, u and w in the
        type of the state.
    """
    m, u, w = _state(scores, values, m, u, w)
    own, before_m, before_u = _chunks(scores, m, u)
    # What a w of value 1 would get where a mean's gradient is -do . o: minus that of the u.
    grad_v = -grad_u[..., None]
    grad_scores = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    grad_values = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    for chunks, tokens in reversed(_segments(values.shape)):
        matrix = _matrices(own[:, chunks], before_m[:, chunks], before_u[:, chunks])
        grads = grad_o[:, tokens].to(w.dtype)
        places = _with_places(grads, w.dtype, behind=True)
        means = (grads * o[:, tokens]).sum(-1, keepdim=True)
        mean_places = _with_places(means, w.dtype, behind=True)
        grad_w = _carry_back(matrix, places, grad_w)
        grad_v = _carry_back(matrix, mean_places, grad_v)

        weights = matrix[..., 1:].mT
        found = torch.empty(grads.shape, dtype=w.dtype, device=values.device)
        _without_chunks(weights @ places, found)
        _without_chunks(weights @ mean_places, means)
        grad_scores[:, tokens] = (found * values[:, tokens]).sum(-1) - means[..., 0]
        grad_values[:, tokens] = found
    grad_u = -grad_v[..., 0]
    grad_m = u * grad_u + (w * grad_w).sum(-1)
    return grad_scores, grad_values, grad_m, grad_u, grad_w


def finite(m: Tensor) -> Tensor:
    """Measure from 0 where no token has a score: -inf less -inf is not a number."""
    return m.masked_fill(m == float("-inf"), 0)


def inverse(u: Tensor) -> Tensor:
    """Invert denominators, and let a mean of nothing be 0."""
    return u.reciprocal().masked_fill(u == 0, 0)


def _state(
    scores: Tensor, values: Tensor, m: Tensor | None, u: Tensor | None, w: Tensor | None
) -> State:
    """Take the initial state in the accumulators' type, by default that of no token."""
    dtype = torch.promote_types(torch.promote_types(scores.dtype, values.dtype), torch.float32)
    if m is not None and u is not None and w is not None:
        return m.to(dtype), u.to(dtype), w.to(dtype)
    batch, _, heads, width = values.shape
    nothing = values.new_zeros(batch, heads, dtype=dtype)
    return nothing - float("inf"), nothing, values.new_zeros(batch, heads, width, dtype=dtype)


def _chunks(scores: Tensor, m: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the scores into chunks, and find the m and u that enter each of them.

    What does not fill the last chunk counts as masked: it changes neither maximum nor sum.

    Returns:
        Scores [B, n, H, C], and m and u [B, n + 1, H], the last those of all tokens.
    """
    length = scores.shape[1]
    n = -(-length // CHUNK)
    own = torch.nn.functional.pad(
        scores.to(m.dtype), (0, 0, 0, n * CHUNK - length), value=float("-inf")
    )
    own = own.unflatten(1, (n, CHUNK)).transpose(2, 3).contiguous()
    before_m = torch.cat([m[:, None], own.amax(-1)], 1).cummax(1).values
    anchors = finite(before_m[:, 1:])
    added = (own - anchors[..., None]).exp().sum(-1).unbind(1)
    kept = (before_m[:, :-1] - anchors).exp().unbind(1)
    sums = [u]
    for i in range(n):
        sums.append(torch.addcmul(added[i], kept[i], sums[i]))
    return own, before_m, torch.stack(sums, 1)


def _segments(shape: torch.Size) -> list[tuple[slice, slice]]:
    """Cut a sequence of values into parts that fit into a cache: slices of chunks, and of tokens.

    Memory that is asked for again and again in large pieces costs more than what is done with it.
    """
    batch, length, heads, width = shape
    step = max(1, SEGMENT // max(1, batch * heads * CHUNK * width))
    n = -(-length // CHUNK)
    ends = [(i, min(i + step, n)) for i in range(0, n, step)]
    return [(slice(i, j), slice(i * CHUNK, j * CHUNK)) for i, j in ends]


def _matrices(own: Tensor, m: Tensor, u: Tensor) -> Tensor:
    """Compute the matrix [B, n, H, C + 1, C + 1] of n chunks [B, n, H, C] that m and u enter."""
    batch, n, heads, size = own.shape
    matrix = torch.empty((batch, n, heads, size + 1, size + 1), dtype=m.dtype, device=m.device)
    rows = matrix[..., :-1, :]
    m = m[..., None]
    anchors = finite(torch.maximum(own.cummax(-1).values, m))
    torch.sub(torch.cat([m, own], -1)[..., None, :], anchors[..., None], out=rows)
    later = torch.ones(size, size + 1, dtype=torch.bool, device=m.device).triu(2)
    rows.masked_fill_(later, float("-inf")).exp_()
    matrix[..., -1, :] = rows[..., -1, :]
    sums = torch.addcmul(rows[..., 1:].sum(-1), rows[..., 0], u[..., None])
    rows *= inverse(sums)[..., None]
    return matrix


def _carry_back(matrix: Tensor, places: Tensor, last: Tensor) -> Tensor:
    """Write what leaves each chunk [B, H, D] behind its gradients; return what enters the first."""
    leaving = places[..., -1, :].unbind(1)
    # Side by side in memory: numbers a row apart would be multiplied chunk by chunk.
    column = matrix[..., None, :-1, 0].contiguous()
    added = (column @ places[..., :-1, :]).squeeze(-2).unbind(1)
    kept = matrix[..., -1, :1].unbind(1)
    for i in reversed(range(len(leaving))):
        leaving[i].copy_(last)
        last = torch.addcmul(added[i], kept[i], last)
    return last


def _with_places(tokens: Tensor, dtype: torch.dtype, *, behind: bool) -> Tensor:
    """Cut [B, L, H, D] into [B, chunks, H, C + 1, D], with a place before or behind each chunk."""
    batch, length, heads, width = tokens.shape
    full, left = divmod(length, CHUNK)
    shape = (batch, full + (left > 0), heads, CHUNK + 1, width)
    places = torch.empty(shape, dtype=dtype, device=tokens.device)
    inside = places[..., :-1, :] if behind else places[..., 1:, :]
    if full > 0:
        whole = tokens[:, : full * CHUNK].unflatten(1, (full, CHUNK))
        inside[:, :full] = whole.transpose(2, 3)
    if left > 0:
        inside[:, full, :, :left] = tokens[:, full * CHUNK :].transpose(1, 2)
        inside[:, full, :, left:] = 0
    return places


def _without_chunks(chunked: Tensor, out: Tensor) -> None:
    """Put [B, n, H, C, D] together to [B, L, H, D]."""
    full, left = divmod(out.shape[1], CHUNK)
    if full > 0:
        whole = out[:, : full * CHUNK].unflatten(1, (full, CHUNK))
        whole.transpose(2, 3).copy_(chunked[:, :full])
    if left > 0:
        out[:, full * CHUNK :].transpose(1, 2).copy_(chunked[:, full, :, :left])
