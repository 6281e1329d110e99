"""Terms with a cost: every setting of their parameters is priced, whatever their shape."""

from random import Random

import pytest

from nas.grammar.derivation import Derivation
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

REPEATED = """
start: "net" "(" block ")" -> net
?block: "leaf" -> leaf
      | "cat" "(" block __more ")" -> cat
__more: "," block                                //@ 2
      | "," block __more                         //@ 1 where more > 0 let more = more - 1
"""


@pytest.mark.parametrize("counted", [False, True])
def test_the_number_of_blocks_may_decide_what_a_term_costs(oracle, counted):
    class Costs:
        measures = ("parameters",)

        def cost(self, name, arguments, context):
            own = len(arguments) ** 2 if counted else 3
            return ((own if name == "cat" else 1 if name == "leaf" else 0),), (1,)

    context = {"more": 3}
    grammar = oracle.build(REPEATED, max_depth=3)
    free = Space(grammar, context=context, costs=Costs())
    priced = {d.text: free.cost(d)["parameters"] for d, _ in oracle.finished(free.decide())}
    for cap in sorted(set(priced.values()))[::5]:
        found = {d.text for d, _ in oracle.finished(free.under(caps={"parameters": cap}).decide())}
        assert found == {text for text, price in priced.items() if price <= cap}


def test_a_cap_on_endless_repetition_needs_a_cost_that_does_not_count(oracle):
    endless = REPEATED.replace("where more > 0 let more = more - 1", "")

    class Costs:
        measures = ("parameters",)
        counted = False

        def cost(self, name, arguments, context):
            own = 1 + len(arguments) * self.counted
            return (own,), (1,)

    space = Space(oracle.build(endless), costs=Costs(), caps={"parameters": 12})
    rng = Random(0)
    sampled = [space.sample(rng) for _ in range(2000)]
    assert max(space.cost(d)["parameters"] for d in sampled) == 12
    counted = Costs()
    counted.counted = True
    with pytest.raises(SpaceError, match=r"space.lark:3: `cat` has too many settings .*`~ 2..8`"):
        Space(oracle.build(endless), costs=counted, caps={"parameters": 12}).sample(rng)


@pytest.mark.parametrize(("own", "scale"), [(1, 0.5), (-1, 1)])
def test_costs_that_shrink_are_refused(oracle, own, scale):
    class Costs:
        measures = ("flops",)

        def cost(self, name, arguments, context):
            return {"half": ((own,), (scale,)), "leaf": ((16,), (1,))}.get(name)

    grammar = oracle.build('start: "half" start -> half\n | "leaf" -> leaf', max_depth=9)
    with pytest.raises(SpaceError, match=r"space.lark:1: a cap on `flops` cannot be kept: `half`"):
        Space(grammar, costs=Costs(), caps={"flops": 20}).sample(Random(0))


def test_a_term_that_cannot_be_built_is_named(oracle):
    class Costs:
        measures = ("parameters",)

        def cost(self, name, arguments, context):
            if name == "attention" and arguments and arguments[0].arguments[0] == "4":
                raise ValueError("2 channels do not make 4 heads")
            return ((1,), (1,)) if name == "attention" else None

    grammar = oracle.build('start: "attention" heads -> attention\n!heads: "2"\n | "4"')
    with pytest.raises(
        SpaceError, match=r"space.lark:1: no cost for attention\(heads\(4\)\).*2 ch"
    ):
        Space(grammar, context={"D": 2}, costs=Costs(), caps={"parameters": 3}).sample(Random(0))


ALIKE = """
start: "net" "(" block ")" -> net                //@ 1 let n = 0, far = 0
?block: "leaf" -> leaf
      | "layer" "(" kind "," size "," block ")" -> layer  //@ 1 where n < 3 let far = n, n = n + 1
!kind: "plain"                                   //@ 1
     | "odd"                                     //@ 3 where far > 0
     | "dear"                                    //@ 1
!size: "1"                                       //@ 2
     | "2"                                       //@ 1
"""


@pytest.mark.parametrize("cap", [6, 8, 11, 14, 30])
def test_values_that_cost_the_same_are_all_drawn(oracle, cap):
    class Costs:
        """`plain` and `odd` cost the same; `kind` looks at a context that the term makes."""

        measures = ("parameters",)

        def cost(self, name, arguments, context):
            if name in ("kind", "size"):
                return None
            sizes = {a.name: a.arguments[0] for a in arguments if a is not None}
            own = 2 + int(sizes["size"]) + 3 * (sizes["kind"] == "dear") if sizes else 1
            return (own if name == "layer" else 1,), (1,)

        def indifferent(self, name, measures):
            return {"kind": frozenset({"plain", "odd"})} if name == "layer" else {}

    grammar = oracle.build(ALIKE)
    priced = {
        Derivation(node).text: oracle.cost(node, {}, Costs(), frozenset())[1][0]
        for node, _ in oracle.everything(grammar, {})
    }
    capped = Space(grammar, costs=Costs(), caps={"parameters": cap})
    found = {d.text: p for d, p in oracle.finished(capped.decide())}
    assert found.keys() == {text for text, price in priced.items() if price <= cap}
    assert sum(found.values()) == pytest.approx(1)
