"""The multi-dimensional damped moving average: real states that are the same at every token."""

import math

import torch
from torch import Tensor, nn

from nas.layers.base import sets_dynamics, without_decay
from nas.layers.numerics import at_least_float32

RATE_SPREAD = 0.2
INPUT_SPREAD = 0.02


class EMASpace(nn.Module):
    """a = 1 - alpha delta, B = alpha beta, y = sum_n eta_n h_n / sqrt(N), in each channel.

    alpha = sigmoid(input_rates) in the mean of old and new, delta = sigmoid(damping_rates) damps
    what it forgets; beta spreads a channel over its N averages, eta gathers them. Starts with the
    logits of alpha and delta normal of deviation 0.2, beta close to 1, -1, 1, ..., eta normal;
    weight decay leaves alpha and delta alone (Ma et al. 2022, "Mega: Moving Average Equipped Gated
    Attention", section 3.1; start and 1 / sqrt(N) as in the authors' code).

    Args:
        width: Number of channels D.
        states: N.
    """

    real = True

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.input_rates = without_decay(nn.Parameter(RATE_SPREAD * torch.randn(width, states)))
        self.damping_rates = sets_dynamics(nn.Parameter(RATE_SPREAD * torch.randn(width, states)))
        signs = 1.0 - 2.0 * (torch.arange(states) % 2)
        self.spread = nn.Parameter(signs + INPUT_SPREAD * torch.randn(width, states))
        self.readout = nn.Parameter(torch.randn(width, states))

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates a [D * N], and B x [..., D * N] of tokens [..., D]."""
        alpha = torch.sigmoid(at_least_float32(self.input_rates))
        a = 1 - alpha * torch.sigmoid(at_least_float32(self.damping_rates))
        b = at_least_float32(x).unsqueeze(-1) * (alpha * at_least_float32(self.spread))
        return a.flatten(), b.flatten(-2)

    def leave(self, h: Tensor) -> Tensor:
        """sum_n eta_n h_n / sqrt(N) [..., D] of states [..., D * N]."""
        weight = at_least_float32(self.readout) / math.sqrt(self.readout.shape[1])
        return (h.unflatten(-1, weight.shape) * weight).sum(-1)
