"""What a diagonal recurrence h_t = a_t h_{t-1} + b_t is made of: its gates a and its inputs b.

A gate comes with 1 - a, computed so that it keeps its digits where a is close to 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.layers.base import sets_dynamics
from nas.layers.numerics import at_least_float32, bounded_sqrt
from nas.layers.projection import BlockDiagonalProjection, Projection

# The power that the decay rates of the RG-LRU are raised to.
RGLRU_POWER = 8.0


class SigmoidGate(nn.Module):
    """a = sigmoid(W x + b) (Feng et al. 2024, "Were RNNs All We Needed?").

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = Projection(width, width, bias=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates [..., D] of tokens [..., D], and 1 - gates."""
        logits = at_least_float32(self.projection(x))
        return torch.sigmoid(logits), torch.sigmoid(-logits)


class RatioGate(nn.Module):
    """a = f / (f + i), f = sigmoid(W_f x + b_f), i = sigmoid(W_i x + b_i), so 1 - a = i / (f + i).

    The minLSTM's: two gates that sum to one (Feng et al. 2024, "Were RNNs All We Needed?").

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = Projection(width, 2 * width, bias=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates [..., D] of tokens [..., D], and 1 - gates."""
        forget, insert = F.logsigmoid(at_least_float32(self.projection(x))).chunk(2, dim=-1)
        # Of the logarithms, as f + i may be 0 in float32: a = sigmoid(log f - log i).
        logits = forget - insert
        return torch.sigmoid(logits), torch.sigmoid(-logits)


class BoundedGate(nn.Module):
    """a = c + (1 - c) sigmoid(W x + b), c = sigmoid(decay), a lower bound for each channel: HGRN's.

    Qin et al. 2023, "Hierarchically Gated Recurrent Neural Network for Sequence Modeling", section
    3.2. There c rises with the layers of a network; here each layer learns its own, and its
    channels start with c uniform in [0.05, 0.95], the range that the layers of a deep network begin
    with.

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decay = sets_dynamics(nn.Parameter(torch.empty(width).uniform_(0.05, 0.95).logit()))
        self.projection = Projection(width, width, bias=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates [..., D] of tokens [..., D], and 1 - gates."""
        forgotten = torch.sigmoid(-at_least_float32(self.projection(x)))
        rest = torch.sigmoid(-at_least_float32(self.decay)) * forgotten
        return 1 - rest, rest


class FixedGate(nn.Module):
    """a = sigmoid(Lambda)^8, learned and the same for all tokens; starts as `RecurrenceGate`.

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decay = sets_dynamics(nn.Parameter(initial_decay(width)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates [D], and 1 - gates."""
        log_a = -RGLRU_POWER * F.softplus(-at_least_float32(self.decay))
        return torch.exp(log_a), -torch.expm1(log_a)


class RecurrenceGate(nn.Module):
    """a = sigmoid(Lambda)^(8 r), r = sigmoid(W x + b), W block-diagonal: the RG-LRU's gate.

    Lambda starts so that sigmoid(Lambda)^8 is uniform in [0.9, 0.999] (De et al. 2024, "Griffin",
    section 2.4).

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decay = sets_dynamics(nn.Parameter(initial_decay(width)))
        self.projection = BlockDiagonalProjection(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates [..., D] of tokens [..., D], and 1 - gates."""
        r = torch.sigmoid(at_least_float32(self.projection(x)))
        log_a = -RGLRU_POWER * F.softplus(-at_least_float32(self.decay)) * r
        return torch.exp(log_a), -torch.expm1(log_a)


def initial_decay(width: int) -> Tensor:
    """Lambda [D] such that sigmoid(Lambda)^8 is uniform in [0.9, 0.999]."""
    log_a = torch.empty(width).uniform_(0.9, 0.999).log() / RGLRU_POWER
    return log_a - torch.log(-torch.expm1(log_a))


class ConvexUpdate(nn.Module):
    """b = (1 - a) g(W x + c), g(u) = u + 0.5 for u >= 0, sigmoid(u) below: minGRU's.

    g is positive (Feng et al. 2024, "Were RNNs All We Needed?", appendix B).

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = Projection(width, width, bias=True)

    def forward(self, x: Tensor, a: Tensor, rest: Tensor) -> Tensor:
        """The inputs [..., D] of tokens [..., D], gates and 1 - gates."""
        u = at_least_float32(self.projection(x))
        # g(u) = max(u, 0) + sigmoid(min(u, 0)), at a third of the time of a `where` on a CPU.
        positive = F.relu(u)
        return rest * (positive + torch.sigmoid(u - positive))


class SiluUpdate(nn.Module):
    """b = (1 - a) silu(W x + c): HGRN's (Qin et al. 2023, section 3.1).

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = Projection(width, width, bias=True)

    def forward(self, x: Tensor, a: Tensor, rest: Tensor) -> Tensor:
        """The inputs [..., D] of tokens [..., D], gates and 1 - gates."""
        return rest * F.silu(at_least_float32(self.projection(x)))


class NormalisedUpdate(nn.Module):
    """b = sqrt(1 - a^2) i x, i = sigmoid(W x + c), W block-diagonal: the RG-LRU's.

    Keeps the size of h whatever a is (De et al. 2024, "Griffin", section 2.4).

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = BlockDiagonalProjection(width)

    def forward(self, x: Tensor, a: Tensor, rest: Tensor) -> Tensor:
        """The inputs [..., D] of tokens [..., D], gates and 1 - gates."""
        i = torch.sigmoid(at_least_float32(self.projection(x)))
        # 1 - a^2 from 1 - a, which keeps its digits where a is close to 1.
        return bounded_sqrt(rest * (1.0 + a)) * (i * x)


class PlainUpdate(nn.Module):
    """b = x."""

    def forward(self, x: Tensor, a: Tensor, rest: Tensor) -> Tensor:
        """The inputs [..., D] of tokens [..., D]."""
        return at_least_float32(x)
