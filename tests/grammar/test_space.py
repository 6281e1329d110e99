"""Spaces: probabilities, legality, texts and hashes, compared with plain recursion."""

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from scipy.stats import chisquare

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


CHOICE = """
start: "f" "(" a "," a ")"
a: "x"                                            //@ 1
 | "y"                                            //@ 2 * D
 | "z" b                                          //@ L
!b: "1"                                           //@ 1
  | "2"                                           //@ 3
  | "3"                                           //@ 5 where D > 9
"""


def test_alternatives_are_sampled_as_often_as_their_weights_say(oracle):
    space = Space(oracle.build(CHOICE), context={"D": 2, "L": (1, 3)})
    rng = Random(5)
    seen = Counter(space.sample(rng).text for _ in range(30_000))
    one = {"x": 1 / 7, "y": 4 / 7, "z 1": 2 / 7 / 4, "z 2": 2 / 7 * 3 / 4}
    expected = {
        f"f({a}, {b})".replace(" 1", "1").replace(" 2", "2"): p * q * 30_000
        for a, p in one.items()
        for b, q in one.items()
    }
    seen = Counter({text.replace(" 1", "1").replace(" 2", "2"): n for text, n in seen.items()})
    assert seen.keys() == expected.keys()
    assert chisquare([seen[t] for t in expected], list(expected.values())).pvalue > 1e-3


def test_options_are_the_legal_alternatives_with_probabilities_and_contexts(oracle):
    text, context, _ = TIGHT["lanes"]
    space = Space(oracle.build(text), context=context)
    options = space.options("start", space.context)
    assert [a.symbols[0].text for a in options.alternatives] == ["even", "down", "odd"]
    assert options.probabilities == pytest.approx([48 / 60, 10 / 60, 2 / 60])
    assert [c["L"] for c in options.contexts] == [(32, 64), (8, 16), (32, 64)]
    twice = space.options("start", options.contexts[1])
    assert twice.contexts[1]["L"] == (2, 4)
    again = space.options("start", twice.contexts[1])  # 2 is not divided by 4: no `down`
    assert [a.symbols[0].text for a in again.alternatives] == ["even", "odd"]
    assert space.options("start", space.context) is options


def test_a_space_without_architectures_says_which_rule_and_where(oracle):
    grammar = oracle.build('start: "a" b\nb: "b" //@ 1 where L > 8')
    with pytest.raises(SpaceError, match=r"space.lark:1: `start` has no derivation where L = 4"):
        Space(grammar, context={"L": 4}).sample(Random(0))
    assert Space(grammar, context={"L": 9}).sample(Random(0)).text == "a b"


def test_a_weight_of_zero_is_refused_where_it_is_met(oracle):
    space = Space(oracle.build('start: "a" //@ L - 4\n | "b" //@ 1'), context={"L": 4})
    with pytest.raises(SpaceError, match=r"space.lark:1: the weight .* is 0 where L = 4"):
        space.sample(Random(0))


def test_a_name_that_nobody_gives_is_refused(oracle):
    space = Space(oracle.build('start: "a" //@ 1 where W > 4'), context={"L": 4})
    with pytest.raises(SpaceError, match="W"):
        space.sample(Random(0))


def test_depth_can_neither_be_given_nor_assigned(oracle):
    with pytest.raises(SpaceError, match="counted by the grammar"):
        Space(oracle.build('start: "a"'), context={"depth": 4})


def test_widths_that_grow_without_end_are_no_obstacle(oracle):
    text = """
    start: "wide" start                           //@ 1 where D % 2 == 0 let D = 2 * D
         | "leaf"                                 //@ 1
    """
    space = Space(oracle.build(text), context={"D": 2})
    rng = Random(0)
    assert max(space.sample(rng).size for _ in range(500)) > 6


def test_contexts_that_go_on_for_ever_without_a_leaf_are_refused(oracle):
    text = 'start: "a" start //@ 1 let D = D + 1\n | "b" //@ 1 where D < 0'
    with pytest.raises(SpaceError, match=r"do not end .* `//@ max_depth N`"):
        Space(oracle.build(text), context={"D": 0}).sample(Random(0))


def test_derivations_of_any_depth_are_no_obstacle(oracle):
    text = 'start: "(" start ")" //@ 1 where n > 0 let n = n - 1\n | "x" //@ 1 where n == 0'
    depth = 4 * sys.getrecursionlimit()
    space = Space(oracle.build(text), context={"n": depth})
    derivation = space.sample(Random(0))
    assert derivation.text == "(" * depth + "x" + ")" * depth
    assert Derivation(derivation.root).text == derivation.text
    assert space.parse(derivation.text) == derivation
    assert space.decide().derivation == derivation
    assert space.log_probability(derivation) == 0
    assert derivation.term.name == "start"


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


def test_the_same_seed_gives_the_same_texts_in_every_process(hybrid):
    script = (
        "from random import Random\n"
        "from nas.grammar.canonical import canonical_hash\n"
        "from nas.grammar.space import Space\n"
        f"space = Space.load({str(HYBRID)!r}, context={STUDY!r})\n"
        "rng = Random(7)\n"
        "print(space.hash, *(canonical_hash(space.sample(rng)) for _ in range(20)))"
    )
    outputs = set()
    for seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(result.stdout)
    assert len(outputs) == 1
    assert outputs.pop().split()[0] == hybrid.hash


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "net(sqe(",
            r"column 5: `sqe` where `narrow` or `norm` or `seq` must stand .*mean `seq`",
        ),
        ("net(seq(narrow(1),\n narrow(3)))", r"line 2, column 9: `3` where `1` or `2` must stand"),
        ("net(narrow(1)", r"line 1, column 14: the end of the text where `\)` must stand"),
        ("net(narrow(1)) net", r"line 1, column 16: `net` where the end of the text must stand"),
        ("", r"line 1, column 1: the end of the text where `net` must stand"),
        ("net(ä)", r"line 1, column 5: `ä` where"),
        (
            "net(\n seq(narrow(1), seq(seq(seq(seq(narrow(1), norm), norm), norm), norm)))",
            r"line 2, column 40: `size` lies deeper than max_depth 6 allows",
        ),
    ],
)
def test_what_is_wrong_with_a_text_is_said_with_its_place(tmp_path, text, message):
    with pytest.raises(SpaceError, match=message):
        loaded(tmp_path, SPACE, D=4).parse(text)


def test_a_where_that_forbids_a_text_is_named_with_its_context(tmp_path):
    space = loaded(tmp_path, SPACE, D=6)
    message = (
        r"zoo/old.arch:3: column 1: `narrow` is legal only where D % 4 == 0 \(.*space.lark:5\), "
        r"and here D = 6"
    )
    with pytest.raises(SpaceError, match=message):
        space.parse("// a comment\nnet(\nnarrow(1))", file="zoo/old.arch")


def test_texts_may_be_laid_out_and_commented(tmp_path):
    space = loaded(tmp_path, SPACE, D=4)
    text = "// published\nnet( seq(narrow(1), // first\n\t narrow ( 2 )) )\n"
    assert space.parse(text).text == "net(seq(narrow(1), narrow(2)))"


def test_check_says_what_a_derivation_of_another_context_breaks(oracle, hybrid):
    derivation = hybrid.parse("net(res(scan(fixed, convex, backward)))")
    hybrid.check(derivation)
    causal = hybrid.under(context={**STUDY, "causal": True})
    with pytest.raises(SpaceError, match="legal only where not causal"):
        causal.check(derivation)
    assert causal.log_probability(derivation) == -math.inf
