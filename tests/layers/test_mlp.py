import pytest
import torch

from nas.layers.base import Shape
from nas.layers.mlp import GLU, MLP, Linear

D = 6

FORMULAS = {
    "relu": lambda u: torch.where(u > 0, u, torch.zeros_like(u)),
    "gelu": lambda u: u * (1 + torch.erf(u / 2**0.5)) / 2,
    "silu": lambda u: u / (1 + torch.exp(-u)),
}


def test_linear(compare):
    def expected(x, w):
        return torch.einsum("bli,oi->blo", x, w["output.weight"]) + w["output.bias"]

    compare(Linear(Shape(8, D, True)), expected, torch.randn(2, 7, D))


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize("expansion", [1, 4])
def test_mlp(compare, expansion, activation):
    act = FORMULAS[activation]

    def expected(x, w):
        hidden = act(x @ w["hidden.weight"].T + w["hidden.bias"])
        return hidden @ w["output.weight"].T + w["output.bias"]

    layer = MLP(Shape(8, D, True), expansion=expansion, activation=activation)
    assert layer.hidden.weight.shape == (D * expansion, D)
    compare(layer, expected, torch.randn(2, 7, D))


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize("expansion", [1, 2])
def test_glu(compare, expansion, activation):
    act = FORMULAS[activation]

    def expected(x, w):
        hidden = act(x @ w["gate.weight"].T) * (x @ w["value.weight"].T)
        return hidden @ w["output.weight"].T

    layer = GLU(Shape(8, D, True), expansion=expansion, activation=activation)
    compare(layer, expected, torch.randn(2, 7, D))
