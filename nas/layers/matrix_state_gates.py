"""Decays of a matrix state: log gates of at most 0, one per head or one per key channel."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.layers.base import Cost, sets_dynamics
from nas.layers.numerics import at_least_float32
from nas.layers.projection import Projection, projection_cost

# What GLA's gates are the 16th root of: they begin close to 1.
GLA_ROOT = 16.0
# Inner channels of GLA's gate.
GLA_RANK = 16
# Of the mLSTM's forget gates, from the first head to the last.
FORGET_BIASES = (3.0, 6.0)
# The largest 1 - alpha in float32 whose logarithm is finite.
MOST_FORGOTTEN = 1.0 - 2.0**-24


class FixedHeadDecay(nn.Module):
    """alpha = 1 - 2^(-5-h) for head h = 0, 1, ..., not learned (Sun et al. 2023, "RetNet").

    Args:
        heads: Number of heads H.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """log(alpha), [B, L, H], of tokens [B, L, D]."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        head = torch.arange(self.heads, device=x.device, dtype=dtype)
        return torch.log1p(-torch.exp2(-5.0 - head)).expand(*x.shape[:-1], -1)


class HeadDecay(nn.Module):
    """log(alpha) = -exp(A) softplus(W x + b) per head: Mamba-2's, and of Gated DeltaNet.

    exp(A) starts uniform in [1, 16], softplus(b) log-uniform in [0.001, 0.1] (Dao & Gu 2024,
    "Transformers are SSMs"; Yang et al. 2025, "Gated Delta Networks").

    Args:
        width: Number of channels D.
        heads: Number of heads H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.decay = sets_dynamics(nn.Parameter(torch.empty(heads).uniform_(1.0, 16.0).log()))
        self.projection = Projection(width, heads, bias=True)
        step = torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        with torch.no_grad():  # the inverse of softplus
            self.projection.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor) -> Tensor:
        """log(alpha), [B, L, H], of tokens [B, L, D]."""
        step = F.softplus(at_least_float32(self.projection(x)))
        return -torch.exp(at_least_float32(self.decay)) * step


class ChannelDecay(nn.Module):
    """alpha = sigmoid(W2 W1 x + b)^(1/16) per key channel, W1 to 16 channels.

    Yang et al. 2024, "Gated Linear Attention Transformers", section 4.4.

    Args:
        width: Number of channels D.
        keys: Number of key channels of all heads.
    """

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.down = Projection(width, GLA_RANK, bias=False)
        self.up = Projection(GLA_RANK, keys, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """log(alpha), [B, L, keys], of tokens [B, L, D]."""
        return F.logsigmoid(at_least_float32(self.up(self.down(x)))) / GLA_ROOT


class BoundedDecay(nn.Module):
    """alpha = c + (1 - c) sigmoid(W x) per key channel, c = sigmoid(decay): HGRN2's.

    Qin et al. 2024, "HGRN2: Gated Linear RNNs with State Expansion". There c rises with the layers
    of a network; here each layer learns its own, and its channels start with c uniform in
    [0.05, 0.95], the range that the layers of a deep network begin with.

    Args:
        width: Number of channels D.
        keys: Number of key channels of all heads.
    """

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.decay = sets_dynamics(nn.Parameter(torch.empty(keys).uniform_(0.05, 0.95).logit()))
        self.projection = Projection(width, keys, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """log(alpha), [B, L, keys], of tokens [B, L, D]."""
        logits = at_least_float32(self.projection(x))
        # 1 - alpha = (1 - c) (1 - sigmoid): it keeps its digits where alpha is close to 1.
        forgotten = torch.sigmoid(-at_least_float32(self.decay)) * torch.sigmoid(-logits)
        return torch.log1p(-forgotten.clamp(max=MOST_FORGOTTEN))


class ForgetDecay(nn.Module):
    """alpha = sigmoid(W x + b) per head: the mLSTM's forget gate.

    W starts at 0, b from 3 to 6 over the heads, which remember 20 to 400 tokens (Beck et al. 2024,
    "xLSTM: Extended Long Short-Term Memory", as published).

    Args:
        width: Number of channels D.
        heads: Number of heads H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.projection = Projection(width, heads, bias=True)
        nn.init.zeros_(self.projection.weight)
        with torch.no_grad():
            self.projection.bias.copy_(torch.linspace(*FORGET_BIASES, heads))

    def forward(self, x: Tensor) -> Tensor:
        """log(alpha), [B, L, H], of tokens [B, L, D]."""
        return F.logsigmoid(at_least_float32(self.projection(x)))


class AdditiveDecay(nn.Module):
    """alpha_t = exp(z_{t-1} - z_t), z_t = log(exp(k_1) + ... + exp(k_t)), k = W x, per key channel.

    Qin et al. 2024, "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with
    LightNet". 1 - alpha_t = exp(k_t - z_t): where it is the key, too, a channel of the state is an
    average of the values by a softmax over time.

    Args:
        width: Number of channels D.
        keys: Number of key channels of all heads.
    """

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.projection = Projection(width, keys, bias=False)

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Of tokens [B, L, D] after the sum z `before` them [B, keys]: log(alpha), 1 - alpha, z."""
        logits = at_least_float32(self.projection(x))
        sums = torch.logcumsumexp(logits, dim=1)
        if before is not None:
            sums = torch.logaddexp(sums, before.unsqueeze(1))
        written = torch.exp(logits - sums)
        return torch.log1p(-written.clamp(max=MOST_FORGOTTEN)), written, sums[:, -1]


class ComplexDecay(nn.Module):
    """alpha = sigmoid(W x + b) exp(i (U x + c)) per key channel: GateLoop's.

    Katsch 2023, "GateLoop: Fully Data-Controlled Linear Recurrence for Sequence Modeling".

    Args:
        width: Number of channels D.
        keys: Number of key channels of all heads.
    """

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.projection = Projection(width, 2 * keys, bias=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of its size and its angle, both [B, L, keys], of tokens [B, L, D]."""
        size, angle = at_least_float32(self.projection(x)).chunk(2, dim=-1)
        return F.logsigmoid(size), angle


def make_decay(name: str, width: int, heads: int, keys: int) -> nn.Module | None:
    """The decay of that name; None: none.

    Args:
        name: Such as `head`.
        width: Number of channels D of the tokens.
        heads: Number of heads.
        keys: Number of key channels of all heads.
    """
    if name == "fixed":
        return FixedHeadDecay(heads)
    if name == "head":
        return HeadDecay(width, heads)
    if name == "channel":
        return ChannelDecay(width, keys)
    if name == "bounded":
        return BoundedDecay(width, keys)
    if name == "forget":
        return ForgetDecay(width, heads)
    if name == "additive":
        return AdditiveDecay(width, keys)
    return None


def decay_cost(name: str, tokens: int, width: int, heads: int, keys: int) -> Cost:
    """Parameters, flops and kept elements of a decay of that name; x is the caller's to count."""
    if name == "head":
        # The logits, their softplus, the log gates
        kept = Cost(parameters=heads, activations=3 * tokens * heads)
        return projection_cost(tokens, width, heads, bias=True) + kept
    if name == "channel":
        # The inner channels; the logits, what logsigmoid keeps of them, the log gates
        return (
            projection_cost(tokens, width, GLA_RANK, bias=False)
            + projection_cost(tokens, GLA_RANK, keys, bias=True)
            + Cost(activations=tokens * (GLA_RANK + 3 * keys))
        )
    if name == "bounded":
        # The sigmoid, its product with 1 - c, that when clamped, the log gates
        kept = Cost(parameters=keys, activations=4 * tokens * keys)
        return projection_cost(tokens, width, keys, bias=False) + kept
    if name == "forget":
        # The logits, what logsigmoid keeps of them, the log gates
        kept = Cost(activations=3 * tokens * heads)
        return projection_cost(tokens, width, heads, bias=True) + kept
    if name == "additive":
        # The logits, their sums, what is written, that when clamped, the log gates
        kept = Cost(activations=5 * tokens * keys)
        return projection_cost(tokens, width, keys, bias=False) + kept
    if name == "complex":
        # The logits and angles, what logsigmoid keeps of them, the log gates
        kept = Cost(activations=4 * tokens * keys)
        return projection_cost(tokens, width, 2 * keys, bias=True) + kept
    return Cost()
