"""Spaces: probabilities, legality, texts and hashes, compared with plain recursion."""

import math
from pathlib import Path
from random import Random

import pytest

from nas.grammar.derivation import Derivation
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

ROOT = Path(__file__).resolve().parents[2]
HYBRID = ROOT / "search_spaces" / "hybrid.lark"
STUDY = {"L": (256, 1024), "D": 64, "causal": False}

# Every space below has ways that end dead unless what lies below a choice is looked at first.
TIGHT = {
    "where holds on one branch only": (
        """
        start: a                                  //@ 9
             | b                                  //@ 1
        a: "a" a                                  //@ 1 where n < 3 let n = n + 1
         | "end"                                  //@ 1 where n > 9
        b: "b" c
        c: "c"                                    //@ 1 where n == 0
        """,
        {"n": 0},
        None,
    ),
    "max_depth leaves one way": (
        """
        start: "(" start "," start ")"            //@ 5
             | "[" start "]"                      //@ 5
             | long                               //@ 1
        long: "l" longer
        longer: "x"
              | "y" start                         //@ 7
        """,
        {},
        3,
    ),
    "depth decides": (
        """
        start: "s" start                          //@ 1 where depth < 4
             | "t" odd                            //@ 2 where depth % 2 == 1
             | "u" end                            //@ 1 where depth > 1
        odd: "o"                                  //@ 1 where depth == 2 or depth == 4
        end: "e"                                  //@ 1
           | "f" start                            //@ 1 where depth < 3
        """,
        {},
        None,
    ),
    "a let makes what is below illegal": (
        """
        start: "half" start                       //@ 3 let L = L // 2
             | "use" leaf                         //@ 1
        leaf: "even"                              //@ 1 where L % 2 == 0 and L > 4
            | "four"                              //@ 1 where L == 4
        """,
        {"L": 64},
        9,
    ),
    "a rule that is dead here": (
        """
        start: "x" dead                           //@ 100
             | "y" alive                          //@ 1
        dead: "d" dead
        alive: dead                               //@ 3
             | "a"                                //@ 1
        """,
        {},
        5,
    ),
    "an empty alternative": (
        """
        start: "x" tail
        tail: "y" tail                            //@ 2 * 0.5**depth
            |                                     //@ 1
        """,
        {},
        4,
    ),
    "lanes": (
        """
        start: "even"                             //@ L where L % 2 == 0
             | "down" start                       //@ 10 where L % 4 == 0 let L = L // 4
             | "odd"                              //@ 2 where L < 100
        """,
        {"L": (32, 64)},
        None,
    ),
}


@pytest.mark.parametrize("name", TIGHT)
def test_a_space_is_exactly_what_plain_recursion_says(oracle, name):
    text, context, max_depth = TIGHT[name]
    grammar = oracle.build(text, max_depth)
    space = Space(grammar, context=context)
    expected = {Derivation(n).text: p for n, p in oracle.everything(grammar, context)}
    found = list(oracle.finished(space.decide()))
    assert {d.text: p for d, p in found} == pytest.approx(expected)
    assert math.fsum(math.exp(space.log_probability(d)) for d, _ in found) == pytest.approx(1)
    for derivation, probability in found:
        assert space.log_probability(derivation) == pytest.approx(math.log(probability))
        parsed = space.parse(derivation.text)
        assert oracle.alternatives(parsed.root) == oracle.alternatives(derivation.root)
    rng = Random(0)
    assert {space.sample(rng).text for _ in range(200)} <= expected.keys()


@pytest.fixture(scope="module")
def hybrid():
    return Space.load(str(HYBRID), context=STUDY)


def test_every_sampled_text_parses_to_the_derivation_it_came_from(oracle, hybrid):
    rng = Random(11)
    for _ in range(1500):
        derivation = hybrid.sample(rng)
        assert Derivation(derivation.root).text == derivation.text
        parsed = hybrid.parse(derivation.text)
        assert oracle.alternatives(parsed.root) == oracle.alternatives(derivation.root)


def test_sampling_is_what_deciding_by_the_probabilities_is(hybrid):
    by_text = Random(3)
    for _ in range(100):
        derivation = hybrid.sample(by_text)
        decisions = hybrid.decide()
        total = 0.0
        nodes = {}
        stack = [((), derivation.root)]
        while stack:
            path, node = stack.pop()
            nodes[path] = node
            stack += [((*path, i), child) for i, child in enumerate(node.children)]
        while (choice := decisions.current) is not None:
            index = choice.alternatives.index(nodes[choice.path].alternative)
            total += math.log(choice.probabilities[index])
            decisions.choose(index)
        assert decisions.derivation == derivation
        assert hybrid.log_probability(derivation) == pytest.approx(total)


def test_another_context_has_other_architectures(hybrid):
    causal = hybrid.under(context={**STUDY, "causal": True})
    rng = Random(2)
    texts = [causal.sample(rng).text for _ in range(300)]
    assert not any("backward" in text or "down" in text for text in texts)
    assert causal.hash == hybrid.hash
    assert causal.grammar is hybrid.grammar


SPACE = """
//@ max_depth 6
start: "net" "(" block ")"
block: "seq" "(" block "," block ")" -> seq       //@ 1
     | "narrow" "(" size ")" -> narrow            //@ 2 where D % 4 == 0
     | "norm" -> norm                             //@ 1
!size: "1" | "2"
%import common.WS
%ignore WS
"""


def loaded(folder, text, **context):
    path = folder / "space.lark"
    path.write_text(text)
    return Space.load(str(path), context=context)


def test_the_hash_is_of_the_rules_and_not_of_their_layout(tmp_path):
    space = loaded(tmp_path, SPACE, D=4)
    same = SPACE.replace("//@ 2 where D % 4 == 0", "//@ 2   where (D%4) == 0")
    same = same.replace('!size: "1" | "2"', '// sizes\n!size: "1"\n     | "2"\n')
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    assert loaded(folder, same, D=4).hash == space.hash
    for old, new in [
        ("//@ 1", "//@ 3"),
        ("D % 4", "D % 8"),
        ('"2"', '"3"'),
        ("max_depth 6", "max_depth 7"),
        ("-> seq  ", "-> then"),
        ("!size", "size"),
    ]:
        changed = SPACE.replace(old, new)
        assert changed != SPACE
        assert loaded(folder, changed, D=4).hash != space.hash


def test_check_says_what_a_derivation_of_another_context_breaks(oracle, hybrid):
    derivation = hybrid.parse("net(res(scan(fixed, convex, backward)))")
    hybrid.check(derivation)
    causal = hybrid.under(context={**STUDY, "causal": True})
    with pytest.raises(SpaceError, match="legal only where not causal"):
        causal.check(derivation)
    assert causal.log_probability(derivation) == -math.inf
