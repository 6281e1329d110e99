"""Cheapest completions: the least cost of all derivations, also where `max_depth` cuts them off."""

import pytest

from nas.grammar.cheapest import Cheapest
from nas.grammar.completion import Flattest
from nas.grammar.context import Contexts
from nas.grammar.frames import Frames
from nas.grammar.options import OptionTable
from nas.grammar.space import Space

# What is cheap here is deep: the deeper, the less is possible.
SPACE = """
start: "net" block -> net
?block: "dear" size -> dear
      | "cheap" deep -> cheap
      | "two" block block -> two
      | "half" block -> half                      //@ 1 where D > 1 let D = D // 2
?deep: "deeper" deeper -> deeper
?deeper: "x" -> x
!size: "9"
     | "7"                                        //@ 1 where D == 4
"""


class Costs:
    measures = ("parameters",)

    def cost(self, name, arguments, context):
        D = context["D"]
        if name == "dear":
            return (D * int(arguments[0].arguments[0]),), (1,)
        own = {"net": 0, "cheap": 1, "two": 0, "half": 3, "deeper": 1, "x": 1}.get(name)
        return None if own is None else ((own,), (2 if name == "half" else 1,))


@pytest.mark.parametrize("max_depth", range(2, 6))
def test_the_cheapest_completion_is_the_cheapest_of_all(oracle, max_depth):
    context = {"D": 4}
    grammar = oracle.build(SPACE, max_depth)
    contexts = Contexts(grammar, context, costly=True)
    flattest = Flattest(grammar, contexts)
    options = OptionTable(grammar, contexts, flattest)
    frames = Frames(grammar, contexts, options.legal, Costs(), ("parameters",))
    cheapest = Cheapest(contexts, flattest, frames, (100,))
    met = 0
    stack = [(grammar.start, contexts.root)]
    seen = set()
    while stack:
        rule, at = stack.pop()
        if (rule, at) in seen or contexts.too_deep(at):
            continue
        seen.add((rule, at))
        trees = oracle.derive(grammar, rule, at)
        prices = [oracle.cost(node, at, Costs(), frozenset(context))[1][0] for node, _ in trees]
        found = cheapest((rule, at))
        if not prices:
            assert found is None
            continue
        met += 1
        if rule != "size":  # a parameter has no cost by itself
            assert found.cost == (min(prices),)
        for alternative in grammar.rules[rule]:
            inside = [
                oracle.cost(node, at, Costs(), frozenset(context))[1][0]
                for node, _ in trees
                if node.alternative is alternative
            ]
            found = cheapest((alternative, at))
            if contexts.allows(alternative, at) and rule != "size":
                assert (found and found.cost) == ((min(inside),) if inside else None)
            stack += [(r, contexts.below(alternative, at)) for r in alternative.references]
    assert met >= 3


def test_a_cap_is_kept_where_widths_grow_without_end(oracle):
    text = """
    start: block
    ?block: "wide" "(" block ")" -> wide //@ 3 let D = 2 * D
          | "leaf" -> leaf               //@ 1
    """

    class Costs:
        measures = ("parameters",)

        def cost(self, name, arguments, context):
            return {"wide": ((context["D"],), (1,)), "leaf": ((5,), (1,))}.get(name)

    space = Space(oracle.build(text), context={"D": 1}, costs=Costs(), caps={"parameters": 2**30})
    texts = {d.text for d, _ in oracle.finished(space.decide())}
    assert len(texts) == 30  # 0 to 29 doublings: 2**29 - 1 + 5 fits, 2**30 - 1 + 5 does not
