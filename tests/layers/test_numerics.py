import pytest
import torch

from nas.layers.base import Primitive, Shape
from nas.layers.branches import Gated
from nas.layers.composition import Identity
from nas.layers.mlp import GLU
from nas.layers.norm import RMSNorm
from nas.layers.numerics import (
    LARGEST_ROOT_GRADIENT,
    LARGEST_TOKEN,
    at_least_float32,
    bounded,
    bounded_sqrt,
)
from nas.layers.scan import Scan


def test_the_root_is_exact_and_its_derivative_bounded():
    x = torch.tensor([0.0, 1e-12, 1e-7, 2.6e-7, 0.25, 4.0], dtype=torch.float64)
    x.requires_grad_()
    y = bounded_sqrt(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x.detach().sqrt())
    assert (gradient[:3] == LARGEST_ROOT_GRADIENT).all()
    assert torch.allclose(gradient[3:], 0.5 / x.detach()[3:].sqrt())


def test_short_types_become_float32_and_long_ones_stay():
    for dtype, wanted in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype == wanted


def test_only_tokens_beyond_the_bound_are_scaled():
    x = torch.randn(4, 8, 16)
    x[1] *= 500.0
    x[2] *= 1e6
    x[3] *= 1e15
    y = bounded(x)
    assert torch.equal(y[0], x[0])
    sizes = y.square().mean(-1).sqrt()
    assert (sizes < LARGEST_TOKEN * (1 + 1e-5)).all()
    assert torch.allclose(sizes[2:], torch.tensor(LARGEST_TOKEN))
    assert torch.allclose(
        torch.nn.functional.normalize(y, dim=-1), torch.nn.functional.normalize(x, dim=-1)
    )
    zero = torch.zeros(1, 1, 16, requires_grad=True)
    bounded(zero).sum().backward()
    assert torch.equal(zero.grad, torch.ones(1, 1, 16))


@pytest.mark.parametrize("kind", ["glu", "gated", "scan"])
def test_deep_chains_without_a_norm_stay_finite(kind):
    """Twelve squarings of 10 are 10^4096, sixty sums over 100 tokens 10^60 and more."""
    shape = Shape(100, 16, True)
    layers: list[Primitive]
    if kind == "glu":
        layers = [GLU(shape, expansion=2, activation="relu") for _ in range(12)]
    elif kind == "gated":
        layers = [Gated(shape, Identity(shape), expansion=1, activation="relu") for _ in range(12)]
    else:
        arguments = {"transition": "fixed", "update": "plain", "direction": "forward"}
        layers = [Scan(shape, **arguments) for _ in range(60)]
    x = (10 + torch.randn(2, 100, 16)).requires_grad_()
    y = x
    for layer in layers:
        y = layer(y)
    y = RMSNorm(shape)(y)
    y.sum().backward()
    assert y.isfinite().all()
    assert y.abs().max() > 0.1
    assert x.grad.isfinite().all()
    for layer in layers:
        assert all(p.grad.isfinite().all() for p in layer.parameters())
