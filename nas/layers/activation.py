"""Element-wise non-linearities."""

import torch.nn.functional as F
from torch import Tensor

from nas.layers.base import Cost, Shape, TokenWise, primitive

ACTIVATIONS = ("relu", "gelu", "silu")


def activate(x: Tensor, name: str) -> Tensor:
    """Applies a non-linearity to every element.

    Args:
        x: Any shape.
        name: `relu`; `gelu`, exact (Hendrycks & Gimpel 2016); or `silu`, x * sigmoid(x).

    Returns:
        A tensor of the same shape.

    Raises:
        ValueError: The name is none of these.
    """
    if name == "relu":
        return F.relu(x)
    if name == "gelu":
        return F.gelu(x)
    if name == "silu":
        return F.silu(x)
    raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")


@primitive("relu")
class ReLU(TokenWise):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        return activate(x, "relu")

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """Keeps its output."""
        return Cost(activations=shape.length * shape.width)


@primitive("gelu")
class GELU(TokenWise):
    """x * Phi(x), Phi the standard normal distribution function."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        return activate(x, "gelu")

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """Keeps its input."""
        return Cost(activations=shape.length * shape.width)


@primitive("silu")
class SiLU(TokenWise):
    """x * sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        return activate(x, "silu")

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """Keeps its input."""
        return Cost(activations=shape.length * shape.width)
