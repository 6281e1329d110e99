"""Small numerical guards that several layers share."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST_ROOT_GRADIENT = 1000.0


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32 if its type is shorter (gates and norms lose too much in bfloat16)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def bounded_sqrt(x: Tensor) -> Tensor:
    """The square root, with a derivative of at most `LARGEST_ROOT_GRADIENT`.

    The root of 1 - a^2 has an infinite derivative at a = 1, where a gate that forgets nothing
    stands. The value is exact, only the derivative is capped (De et al. 2024, "Griffin", app. A).

    Args:
        x: Any shape, not negative.

    Returns:
        The roots.
    """
    return _BoundedSqrt.apply(x)


class _BoundedSqrt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        root = torch.sqrt(x)
        ctx.save_for_backward(root)
        return root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return gradient / (2.0 * root).clamp(min=1.0 / LARGEST_ROOT_GRADIENT)
