import pytest
import torch

from nas.compiler.build import build, build_on_meta
from nas.grammar.space import Space
from nas.layers.base import Shape
from nas.layers.repetition import Stack
from nas.resources import find_space

SHAPE = Shape(16, 32, False)


@pytest.fixture(scope="module")
def space():
    return Space.load(find_space("hybrid.lark"), context={"L": (16,), "D": 32, "causal": False})


def test_copies_in_a_stack_have_their_own_weights_and_those_in_a_repetition_share(space):
    stack = build(space.parse("net(stack(3, linear))").term, SHAPE)
    assert isinstance(stack, Stack)
    assert len({id(parameter) for parameter in stack.parameters()}) == 3 * 2
    repeat = build(space.parse("net(repeat(3, linear))").term, SHAPE)
    assert len(list(repeat.parameters())) == 2


def test_a_sequence_runs_from_left_to_right(space):
    torch.manual_seed(0)
    body = build(space.parse("net(seq(linear, relu))").term, SHAPE)
    x = torch.randn(2, 16, 32)
    (weight, bias) = body.parameters()
    torch.testing.assert_close(body(x), torch.relu(x @ weight.T + bias))


def test_the_same_seed_builds_the_same_weights(space):
    term = space.parse("net(gated(2, silu, scan(rglru, normalised, both)))").term
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build(term, SHAPE).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_on_the_meta_device_nothing_is_allocated(space):
    shape = Shape(16, 1 << 20, False)  # one matrix of this width would be 4 TB
    body = build_on_meta(space.parse("net(res(mlp(4, gelu)))").term, shape)
    assert {parameter.device.type for parameter in body.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in body.parameters()) > 8 * shape.width**2
    assert body(torch.empty(2, 3, shape.width, device="meta")).shape == (2, 3, shape.width)


def test_parameters_that_do_not_fit_the_width_are_refused(space):
    term = space.parse("net(attention(8, 8, full, rope))").term
    with pytest.raises(ValueError, match="8 heads do not divide a width of 20"):
        build(term, Shape(16, 20, False))
