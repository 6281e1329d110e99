"""Rotary position embedding (Su et al. 2021, "RoFormer")."""

import torch
from torch import Tensor

from nas.layers.numerics import at_least_float32

BASE = 10000.0


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turns pairs of channels by angles that grow with the position.

    Channels 2i and 2i + 1 are turned by position * 10000^(-2i/d), so that the product of a query
    and a key depends on their distance alone.

    Args:
        x: Queries or keys, [B, L, H, d] with even d.
        positions: Of the tokens, [L].

    Returns:
        [B, L, H, d].
    """
    half = x.shape[-1] // 2
    pairs = at_least_float32(x).unflatten(-1, (half, 2))
    exponents = torch.arange(half, device=x.device, dtype=pairs.dtype) / half
    angles = (positions.to(pairs.dtype).unsqueeze(1) * BASE**-exponents).unsqueeze(1)
    # One product of complex numbers, a fifth of the time of its four real ones on a CPU.
    turned = torch.view_as_complex(pairs) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
