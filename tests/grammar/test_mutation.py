"""Mutations stay in the space, change something, and together lead everywhere."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.grammar.errors import SpaceError
from nas.grammar.mutation import KINDS, mutate
from nas.grammar.space import Space

SPACE = """
start: "net" "(" block ")" -> net
?block: "seq" "(" layer "," __more ")" -> seq    //@ 1
      | layer                                    //@ 1
__more: layer                                    //@ 2
      | layer "," __more                         //@ 1
?layer: "res" "(" block ")" -> res               //@ 0.5
      | "down" "(" block ")" -> down             //@ 0.5 where L % 2 == 0 let L = L // 2
      | "wide" "(" block "," times ")" -> wide   //@ 0.3 let D = 2 * D
      | "pool" "(" size ")" -> pool              //@ 1
      | "norm" -> norm                           //@ 1
!size: "2"                                       //@ 1
     | "4"                                       //@ 2 where L >= 4
     | "8"                                       //@ 1 where L >= 8 and D < 64
!times: "2"                                      //@ 1
      | "3"                                      //@ 1
"""
CONTEXT = {"L": 8, "D": 16}


class Costs:
    measures = ("parameters",)

    def cost(self, name, arguments, context):
        match name:
            case "net" | "seq" | "res" | "down":
                return (0,), (1,)
            case "wide":
                return (context["D"],), (int(arguments[1].arguments[0]),)
            case "pool":
                return (int(arguments[0].arguments[0]) * context["D"],), (1,)
            case "norm":
                return (1,), (1,)
        return None


@pytest.fixture(scope="module")
def space(oracle):
    return Space(oracle.build(SPACE, max_depth=9), context=CONTEXT)


@pytest.fixture(scope="module")
def capped(oracle):
    grammar = oracle.build(SPACE, max_depth=9)
    return Space(grammar, context=CONTEXT, costs=Costs(), caps={"parameters": 300})


@pytest.fixture(scope="module")
def hybrid():
    context = {"L": (256, 512), "D": 32, "causal": False}
    return Space.load("search_spaces/hybrid.lark", context=context)


def nodes(derivation):
    return Counter(node.alternative for node in derivation.root)


@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("name", ["space", "capped"])
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_result_is_legal_and_another(request, name, kind, seed):
    space = request.getfixturevalue(name)
    rng = Random(seed)
    parent = space.sample(rng)
    text = parent.text
    child = mutate(space, parent, rng, kind)
    assert child.text != text == parent.text
    assert space.parse(child.text) == child
    assert space.log_probability(child) > float("-inf")


def test_the_same_stream_gives_the_same_mutation(space):
    parent = space.sample(Random(0))
    assert len({mutate(space, parent, Random(7)).text for _ in range(5)}) == 1
    assert len({mutate(space, parent, Random(seed)).text for seed in range(50)}) > 10


def test_thousands_of_mutations_of_the_hybrid_space_are_legal(hybrid):
    rng = Random(0)
    derivation = hybrid.sample(rng)
    for i in range(2000):
        child = mutate(hybrid, derivation, rng)
        assert child != derivation
        hybrid.check(child)
        if i % 10 == 0:
            assert hybrid.parse(child.text) == child
        # A walk, brought back before it drifts to where trees are huge.
        derivation = child if child.size < 150 else hybrid.sample(rng)


def test_parameter_changes_one_choice_and_nothing_else(space):
    parent = space.parse("net(seq(res(pool(4)), norm, wide(pool(8), 2)))")
    for seed in range(100):
        child = mutate(space, parent, Random(seed), "parameter")
        changed = [
            (a, b)
            for a, b in zip(parent.root, child.root, strict=True)
            if a.alternative is not b.alternative
        ]
        assert len(changed) == 1
        assert changed[0][0].rule in ("size", "times")


def test_insert_keeps_everything_and_adds(space):
    parent = space.parse("net(res(pool(2)))")
    keeping = 0
    for seed in range(100):
        child = mutate(space, parent, Random(seed), "insert")
        assert child.size > parent.size - 1
        keeping += "pool(2)" in child.text
    assert keeping == 100  # whatever is put around it
    texts = {mutate(space, parent, Random(seed), "insert").text for seed in range(300)}
    assert {"net(res(res(pool(2))))", "net(seq(res(pool(2)), norm))"} <= texts


def test_insert_prolongs_sequences(space):
    parent = space.parse("net(seq(norm, pool(2)))")
    texts = {mutate(space, parent, Random(seed), "insert").text for seed in range(400)}
    assert "net(seq(norm, norm, pool(2)))" in texts
    assert "net(seq(norm, pool(2), norm))" in texts


def test_hoist_only_takes_away(space):
    rng = Random(0)
    for _ in range(200):
        parent = space.sample(rng)
        if len(list(parent.root)) < 12:
            continue
        child = mutate(space, parent, rng, "hoist")
        assert child.size < parent.size
        # Only what tells a sequence from its single layer may be new.
        added = nodes(child) - nodes(parent)
        assert all(a.rule in ("block", "__more") and a.name is None for a in added)


def test_hoist_takes_single_layers_out(space):
    parent = space.parse("net(seq(norm, res(pool(2)), pool(4)))")
    texts = {mutate(space, parent, Random(seed), "hoist").text for seed in range(300)}
    assert texts == {
        "net(norm)",
        "net(res(pool(2)))",
        "net(pool(4))",
        "net(seq(norm, pool(4)))",
        "net(seq(norm, res(pool(2))))",
        "net(seq(norm, pool(2), pool(4)))",
    }


def test_regrow_leads_everywhere(oracle):
    small = Space(oracle.build(SPACE, max_depth=5), context={"L": 4, "D": 16})
    rng = Random(0)
    samples = Counter(small.sample(rng).text for _ in range(4000))
    derivation = small.parse("net(norm)")
    seen = set()
    for _ in range(4000):
        derivation = mutate(small, derivation, rng, "regrow")
        seen.add(derivation.text)
    likely = {text for text, times in samples.items() if times > 8}
    assert len(likely) > 20
    assert likely <= seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_cannot_apply_leaves_its_place_to_others(oracle, kind):
    flat = Space(oracle.build('start: "net" "(" size ")" -> net\n!size: "1"\n| "2"'))
    assert mutate(flat, flat.parse("net(1)"), Random(0), kind).text == "net(2)"


def test_a_space_of_one_architecture_has_no_mutation(oracle):
    alone = Space(oracle.build('start: "net" -> net'))
    with pytest.raises(SpaceError, match="no other architecture than net was found"):
        mutate(alone, alone.parse("net"), Random(0))


def test_an_unknown_kind_is_refused_by_name(space):
    with pytest.raises(ValueError, match="no mutation 'grow': choose one of regrow, parameter"):
        mutate(space, space.sample(Random(0)), Random(0), "grow")


def test_what_is_not_of_the_space_is_refused(space):
    with pytest.raises(SpaceError, match="not an architecture of this space"):
        mutate(space.under(context={"L": 3, "D": 16}), space.parse("net(pool(8))"), Random(0))
