"""The figures of a space as a whole, and what is said about them."""

import math

import pytest

from nas.grammar.analysis import analyse
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

TREE = """
start: "net" "(" block ")" -> net
?block: "s" "(" block "," block ")" -> s     //@ {p}
      | "a" -> a                             //@ 1 - {p}
      | "never" -> never                     //@ 1 where D > 8
"""


def tree(oracle, p, max_depth=None):
    return Space(oracle.build(TREE.format(p=p), max_depth=max_depth), context={"D": 8})


def test_a_space_that_ends_by_itself(oracle):
    found = analyse(tree(oracle, 0.25), largest=8)
    assert found.ends
    assert found.warning is None
    assert found.exact
    assert found.spectral_radius == pytest.approx(0.5)
    assert found.expected_size == pytest.approx(3)
    assert found.counts_by_size == (0, 0, 1, 0, 1, 0, 2, 0, 5)
    assert [a.name for a in found.unreachable] == ["never"]
    assert found.exhaustive
    assert {a.name: uses for a, uses in found.uses.items()} == pytest.approx(
        {"net": 1, "s": 0.5, "a": 1.5}
    )


def test_close_to_critical_is_warned_about(oracle):
    found = analyse(tree(oracle, 0.46))
    assert found.ends
    assert found.warning.startswith("spectral radius 0.920, close to 1: sizes vary widely")


@pytest.mark.parametrize("p", [0.5, 0.7])
def test_at_one_or_more_nothing_but_max_depth_ends_it(oracle, p):
    endless = analyse(tree(oracle, p))
    assert not endless.ends
    assert endless.expected_size == math.inf
    assert "may never end, and there is no max_depth" in endless.warning
    ended = analyse(tree(oracle, p, max_depth=6))
    assert ended.ends
    assert ended.spectral_radius == pytest.approx(2 * p)
    assert "nothing but max_depth 6 ends a derivation" in ended.warning
    levels = [1.0, *((2 * p) ** n for n in range(6))]  # of nodes above the deepest level
    assert ended.expected_size == pytest.approx(sum(levels))


def test_caps_are_left_out(oracle):
    class Costs:
        measures = ("parameters",)

        def cost(self, name, arguments, context):
            return (1,), (1,)

    space = tree(oracle, 0.25)
    capped = space.under(costs=Costs(), caps={"parameters": 2})
    assert analyse(capped) == analyse(space)


def test_an_empty_space_is_refused(oracle):
    space = Space(oracle.build('start: "a" -> a //@ 1 where D > 8'), context={"D": 8})
    with pytest.raises(SpaceError, match="has no derivation"):
        analyse(space)
