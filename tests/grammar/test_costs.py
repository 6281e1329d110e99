"""The cost of a derivation, added up from its terms by hand."""

import pytest

from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

SPACE = """
start: "net" "(" block ")" -> net
?block: "leaf" -> leaf
      | "copies" "(" number "," block ")" -> copies
      | "add" "(" block "," block ")" -> add
      | "wide" "(" block ")" -> wide              //@ 1 let D = 2 * D
      | "in" "(" group ")" -> into
group: "[" block "]"
!number: "2"
       | "3"
"""


class Costs:
    measures = ("parameters", "flops")

    def cost(self, name, arguments, context):
        D = context["D"]
        if name == "copies":
            assert arguments[1] is None
            number = int(arguments[0].arguments[0])
            if number == 3 and D > 8:
                raise ValueError("three are too many")
            return (0, 1), (number, 2 * number)
        costs = {"net": (0, 0), "leaf": (D, 10 * D), "add": (1, 0), "wide": (2 * D * D, 7)}
        if name == "into":
            assert arguments == (None,)  # the group holds a block
            return (0, 0), (1, 1)
        return None if name not in costs else (costs[name], (1, 1))


@pytest.fixture(scope="module")
def space(oracle):
    return Space(oracle.build(SPACE, max_depth=8), context={"D": 4}, costs=Costs())


@pytest.mark.parametrize(
    ("text", "parameters", "flops"),
    [
        ("net(leaf)", 4, 40),
        ("net(add(leaf, leaf))", 9, 80),
        ("net(copies(3, leaf))", 12, 1 + 6 * 40),
        ("net(wide(leaf))", 32 + 8, 7 + 80),
        ("net(copies(2, wide(add(leaf, leaf))))", 2 * (32 + 17), 1 + 4 * (7 + 160)),
        ("net(in([leaf]))", 4, 40),
    ],
)
def test_costs_add_up(space, text, parameters, flops):
    assert space.cost(space.parse(text)) == {"parameters": parameters, "flops": flops}


def test_what_cannot_be_built_is_named(space):
    derivation = space.parse("net(wide(wide(copies(3, leaf))))")
    with pytest.raises(SpaceError, match="no cost for `copies` where D = 16: three are too many"):
        space.cost(derivation)


def test_a_space_without_a_cost_model_has_no_costs(oracle):
    space = Space(oracle.build(SPACE, max_depth=8), context={"D": 4})
    with pytest.raises(ValueError, match="no cost model"):
        space.cost(space.parse("net(leaf)"))
