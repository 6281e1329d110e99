import pytest
import torch

from nas.layers import PRIMITIVES
from nas.layers.base import Cost, Primitive, Shape, parse_argument, primitive, without_decay


def test_costs_add_and_multiply_measure_by_measure():
    a, b = Cost(1, 2, 3, 4), Cost(10, 20, 30, 40)
    assert a + b == Cost(11, 22, 33, 44)
    assert a * 3 == 3 * a == Cost(3, 6, 9, 12)
    assert a * b == Cost(10, 40, 90, 160)
    assert a + Cost() == a


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("-3", -3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e-3", 1e-3),
        ("2.", 2.0),
        ("full", "full"),
        ("4x", "4x"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("", ""),
    ],
)
def test_arguments_are_numbers_where_they_look_like_numbers(text, value):
    read = parse_argument(text)
    assert read == value
    assert type(read) is type(value)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="attention"):
        primitive("attention")(Primitive)
    assert PRIMITIVES["attention"].__name__ == "Attention"


def test_without_decay_marks_and_returns():
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert without_decay(parameter) is parameter
    assert parameter.no_weight_decay


def test_defaults_of_a_primitive():
    shape = Shape(4, 8, True)
    assert Primitive.block_shape(shape, a=1) is shape
    assert Primitive.copies() == 1
    assert Primitive.multipliers() == Cost(1, 1, 1, 1)
    layer = Primitive(shape)
    assert layer.output_weights() == []
    assert layer.take_auxiliary_loss() is None
    with pytest.raises(NotImplementedError):
        layer(torch.zeros(1, 4, 8))
    with pytest.raises(RuntimeError, match="not causal"):
        layer.init_state(1, "cpu", torch.float32)
