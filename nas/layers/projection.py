"""Linear maps of the channels, with the initialisation that all layers share."""

import math

import torch
from torch import Tensor, nn

from nas.layers.base import Cost, without_decay


class Projection(nn.Linear):
    """A linear map of the channels, [..., inputs] -> [..., outputs].

    Weights start normal with variance 1 / inputs, which keeps the size of what passes (LeCun et
    al. 1998, "Efficient BackProp"); biases start at zero.

    Args:
        inputs: Number of channels in.
        outputs: Number of channels out.
        bias: Whether a learned vector is added.
    """

    weight: nn.Parameter

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, bias=bias)
        if bias:
            without_decay(self.bias)

    def reset_parameters(self) -> None:
        """Draws the weights anew (called by the constructor of `nn.Linear`)."""
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_features))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BlockDiagonalProjection(nn.Module):
    """A linear map within each of several groups of channels, [..., D] -> [..., D], with bias.

    The gates of the RG-LRU (De et al. 2024, "Griffin", section 2.4). Weights start normal with
    variance 1 / (D / blocks).

    Args:
        width: Number of channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks = diagonal_blocks(width)
        block_width = width // blocks
        self.weight = nn.Parameter(torch.empty(blocks, block_width, block_width))
        self.bias = without_decay(nn.Parameter(torch.zeros(width)))
        nn.init.normal_(self.weight, std=1 / math.sqrt(block_width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., D] to [..., D]."""
        blocks = x.unflatten(-1, self.weight.shape[:2])
        mixed = torch.einsum("...hi,hio->...ho", blocks, self.weight)
        return mixed.flatten(-2) + self.bias


def diagonal_blocks(width: int) -> int:
    """How many blocks a block-diagonal matrix has: at most 8, of at least 16 channels each."""
    for blocks in (8, 4, 2):
        if width % blocks == 0 and width // blocks >= 16:
            return blocks
    return 1


def projection_cost(tokens: int, inputs: int, outputs: int, *, bias: bool) -> Cost:
    """Parameters and flops of a `Projection`; what it keeps is the caller's to count."""
    return Cost(
        parameters=inputs * outputs + (outputs if bias else 0),
        flops=2 * tokens * inputs * outputs,
    )


def block_diagonal_cost(tokens: int, width: int) -> Cost:
    """Parameters and flops of a `BlockDiagonalProjection`."""
    products = width * width // diagonal_blocks(width)
    return Cost(parameters=products + width, flops=2 * tokens * products)
