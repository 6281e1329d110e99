"""Rotary position embedding (Su et al. 2021, "RoFormer")."""

import torch
from torch import Tensor

from nas.layers.numerics import at_least_float32

BASE = 10000.0


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turns pairs of channels by angles that grow with the position.

    Channels i and i + d/2 are turned by position * 10000^(-2i/d), so that the product of a query
    and a key depends on their distance alone.

    Args:
        x: Queries or keys, [B, L, H, d] with even d.
        positions: Of the tokens, [L].

    Returns:
        [B, L, H, d].
    """
    half = x.shape[-1] // 2
    first, second = at_least_float32(x).split(half, dim=-1)
    exponents = torch.arange(half, device=x.device, dtype=first.dtype) / half
    angles = (positions.to(first.dtype).unsqueeze(1) * BASE**-exponents).unsqueeze(1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return turned.to(x.dtype)
