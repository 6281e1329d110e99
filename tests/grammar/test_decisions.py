"""Decisions: one at a time, copied freely, each with the place that it decides."""

from random import Random

import pytest

from nas.grammar.space import Space

SPACE = """
start: "net" "(" block ")"
?block: "leaf" -> leaf                            //@ 2
      | "wide" "(" block "," size "," kind ")" -> wide //@ 1 where D < 8 let D = 2 * D
      | "pair" "(" size "," block "," block ")" -> pair //@ 1
!size: "1"                                        //@ 1
     | "2"                                        //@ 1 where D > 1
!kind: "x"
"""


class Costs:
    """Sizes multiply what is inside."""

    measures = ("parameters",)

    def cost(self, name, arguments, context):
        if name not in {"start", "wide", "pair", "leaf"}:
            return None
        sizes = [a.arguments[0] for a in arguments if a is not None and a.name == "size"]
        return (1,), (int(sizes[0]) if sizes else 1,)


@pytest.fixture(scope="module", params=[None, 9])
def space(request, oracle):
    caps = {"parameters": request.param} if request.param else {}
    return Space(oracle.build(SPACE, max_depth=4), context={"D": 1}, costs=Costs(), caps=caps)


def node_at(root, path):
    for index in path:
        root = root.children[index]
    return root


def test_a_choice_says_where_its_node_stands(space):
    rng = Random(0)
    for _ in range(200):
        decisions = space.decide()
        chosen = []
        while (choice := decisions.current) is not None:
            index = rng.randrange(len(choice.alternatives))
            chosen.append((choice.path, choice.alternatives[index], choice.context["D"]))
            assert all(a.rule == choice.rule for a in choice.alternatives)
            decisions.choose(index)
        root = decisions.derivation.root
        assert len({path for path, _, _ in chosen}) == len(chosen)
        for path, alternative, width in chosen:
            assert node_at(root, path).alternative is alternative
            above = [node_at(root, path[:i]) for i in range(len(path))]
            assert width == 2 ** sum(bool(node.alternative.lets) for node in above)


def test_a_copy_goes_its_own_way(oracle, space):
    decisions = space.decide()
    copy = decisions.copy()
    first = decisions.current
    decisions.choose(1)
    assert copy.current is first
    copy.choose(0)
    assert copy.current is None
    assert copy.derivation.text == "net(leaf)"
    assert decisions.current is not None
    rest = [d.text for d, _ in oracle.finished(decisions)]
    assert rest
    assert all(text.startswith("net(wide(") for text in rest)


def test_every_derivation_is_reached_in_one_way(oracle, space):
    texts = [derivation.text for derivation, _ in oracle.finished(space.decide())]
    assert len(texts) == len(set(texts)) > 50


def test_wrong_calls_are_refused(space):
    decisions = space.decide()
    with pytest.raises(ValueError, match="`block` is to be decided"):
        _ = decisions.derivation
    with pytest.raises(IndexError, match="7 is not one of 3"):
        decisions.choose(7)
    with pytest.raises(IndexError):
        decisions.choose(-1)
    decisions.choose(0)
    with pytest.raises(IndexError, match="no decision left"):
        decisions.choose(0)
