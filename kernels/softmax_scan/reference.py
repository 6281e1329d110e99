"""Softmax attention of one query to every prefix, as its definition reads: the oracle.

The recurrence is that of Feng et al. 2024, "Attention as an RNN" (Aaren), section 3.1.
"""

import torch
from torch import Tensor

State = tuple[Tensor, Tensor, Tensor]
"""Maximum m [B, H], denominator u [B, H] and numerator w [B, H, D]."""


def softmax_scan(
    scores: Tensor, values: Tensor, initial_state: State | None = None
) -> tuple[Tensor, State]:
    """Compute o_t = sum_{s<=t} exp(s_s) v_s / sum_{s<=t} exp(s_s) by a loop over time.

    Gradients come from autograd alone. The maximum that a step finds is a constant to it: what
    stands for the prefix is the pair e^m u, e^m w, which does not depend on m.

    Args:
        scores: [B, L, H], finite or -inf (a masked token).
        values: [B, L, H, D].
        initial_state: m, u and w of the tokens before; None means that there are none: -inf, 0, 0.

    Returns:
        o [B, L, H, D] in the type of `values`, 0 where there is no token yet that is not masked,
        and the state of all tokens, at least float32. Everything is accumulated in that type.
    """
    dtype = torch.promote_types(scores.dtype, values.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    if initial_state is None:
        u = torch.zeros_like(scores[:, 0], dtype=dtype)
        m = torch.full_like(u, float("-inf"))
        w = torch.zeros_like(values[:, 0], dtype=dtype)
    else:
        m, u, w = (x.to(dtype) for x in initial_state)
    outputs = []
    steps = zip(scores.to(dtype).unbind(1), values.to(dtype).unbind(1), strict=True)
    for score, value in steps:
        larger = torch.maximum(m, score).detach()
        # -inf - -inf is not a number: with nothing but masked tokens, measure from 0.
        anchor = larger.masked_fill(larger == float("-inf"), 0)
        kept, added = torch.exp(m - anchor), torch.exp(score - anchor)
        u = kept * u + added
        w = kept[..., None] * w + added[..., None] * value
        none = u == 0
        mean = w / u.masked_fill(none, 1)[..., None]
        outputs.append(mean.masked_fill(none[..., None], 0))
        m = larger
    return torch.stack(outputs, 1).to(values.dtype), (m, u, w)
