import pytest
import torch

from nas.layers.base import Shape
from nas.layers.mlp import Linear
from nas.layers.resampling import Down

SHAPE = Shape(8, 6, False)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_agrees_with_a_loop_over_groups(compare, factor, length):
    def expected(x, w):
        rows = []
        for start in range(0, length, factor):
            group = [x[:, min(t, length - 1)] for t in range(start, start + factor)]
            mean = sum(group) / factor
            y = mean @ w["block.output.weight"].T + w["block.output.bias"]
            rows += [y] * min(factor, length - start)
        return torch.stack(rows, 1)

    compare(Down(SHAPE, Linear(SHAPE), factor=factor), expected, torch.randn(2, length, 6))


def test_the_block_sees_the_length_that_was_promised():
    seen = []

    class Probe(Linear):
        def forward(self, x):
            seen.append(x.shape[1])
            return x

    for length in (1, 2, 7, 12):
        shape = Shape(length, 6, False)
        Down(shape, Probe(shape))(torch.randn(2, length, 6))
        assert Down.block_shape(shape) == Shape(seen[-1], 6, False)


def test_causal_shapes_and_odd_factors_are_refused():
    causal = Shape(8, 6, True)
    with pytest.raises(ValueError, match="not causal"):
        Down(causal, Linear(causal))
    with pytest.raises(ValueError, match="not causal"):
        Down.cost(causal)
    with pytest.raises(ValueError, match="factor"):
        Down.cost(SHAPE, factor=0)
