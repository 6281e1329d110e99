import torch

from nas.layers.base import Shape
from nas.layers.composition import Identity, Sequence
from nas.layers.convolution import Convolution
from nas.layers.mlp import MLP, Linear

SHAPE = Shape(8, 6, True)


def test_identity_returns_what_it_gets():
    x = torch.randn(2, 7, 6)
    assert Identity(SHAPE)(x) is x


def test_a_sequence_runs_from_left_to_right(stream, error):
    first = Linear(SHAPE)
    second = Convolution(SHAPE, kind="dense", width=3, dilation=2, direction="causal")
    third = MLP(SHAPE, expansion=2, activation="relu")
    layer = Sequence(SHAPE, first, second, third)
    x = torch.randn(2, 20, 6)
    assert torch.equal(layer(x), third(second(first(x))))
    assert error(stream(layer, x), layer(x)) < 1e-5
    assert layer.output_weights() == [third.output.weight]
