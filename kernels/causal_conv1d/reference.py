"""The causal depthwise convolution as its definition reads: the oracle of the others."""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    dilation: int = 1,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute y_t = act(bias + sum_j weight_j x_{t - (k-1-j) dilation}) by a loop over time.

    Gradients come from autograd alone.

    Args:
        x: inputs [B, L, D].
        weight: taps [D, k]; the last one is the token's own.
        bias: [D]; None means zero.
        initial_state: the inputs before the first [B, (k-1) * dilation, D], oldest first; None
            means zeros.
        dilation: distance of the taps in tokens.
        activation: "silu", or None for none.

    Returns:
        y [B, L, D] and the last (k-1) * dilation inputs, both in x's type. Everything is
        accumulated in the promoted type of x, weight and float32.
    """
    number = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    reach = (weight.shape[1] - 1) * dilation
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], reach, x.shape[2])
    known = torch.cat([initial_state.to(x.dtype), x], dim=1)
    tokens, taps = known.to(number).unbind(1), weight.to(number).unbind(1)
    # Converted once: a gradient of a half type would be rounded at every step.
    start = tokens[0].new_zeros(x.shape[2]) if bias is None else bias.to(number)
    outputs = []
    for t in range(x.shape[1]):
        y = start.expand_as(tokens[t])
        for j, tap in enumerate(taps):
            y = y + tap * tokens[t + j * dilation]
        outputs.append(F.silu(y) if activation == "silu" else y)
    return torch.stack(outputs, dim=1).to(x.dtype), known[:, x.shape[1] :].clone()
