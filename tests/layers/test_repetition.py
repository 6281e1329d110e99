import pytest
import torch

from nas.layers.base import Cost, Shape
from nas.layers.mlp import Linear
from nas.layers.repetition import Repeat, Stack
from nas.layers.scan import Scan

SHAPE = Shape(8, 6, True)


def test_repeat_applies_the_same_weights(compare):
    def expected(x, w):
        for _ in range(3):
            x = x @ w["block.output.weight"].T + w["block.output.bias"]
        return x

    compare(Repeat(SHAPE, Linear(SHAPE), times=3), expected, torch.randn(2, 7, 6))
    assert Repeat.multipliers(times=3) == Cost(1, 3, 3, 3)


def test_each_application_of_a_repeated_scan_has_its_own_state(stream, error):
    scan = Scan(SHAPE, transition="sigmoid", update="convex", direction="forward")
    layer = Repeat(SHAPE, scan, times=3)
    x = torch.randn(2, 20, 6)
    assert error(layer(x), scan(scan(scan(x)))) == 0
    assert error(stream(layer, x), layer(x)) < 1e-5


def test_stack_applies_its_own_weights_each_time():
    blocks = [Linear(SHAPE) for _ in range(3)]
    x = torch.randn(2, 7, 6)
    assert torch.equal(Stack(SHAPE, *blocks, copies=3)(x), blocks[2](blocks[1](blocks[0](x))))
    assert Stack.copies(copies=3) == 3
    assert Stack.multipliers(copies=3) == Cost(3, 3, 3, 3)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="3 takes 3 blocks, not 1"):
        Stack(SHAPE, Linear(SHAPE), copies=3)
    with pytest.raises(ValueError, match="copies must be"):
        Stack.cost(SHAPE, copies=0)
    with pytest.raises(ValueError, match="times must be"):
        Repeat(SHAPE, Linear(SHAPE), times=0)
    with pytest.raises(ValueError, match="times must be"):
        Repeat.cost(SHAPE, times=1.5)
