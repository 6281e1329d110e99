"""The canonical text: equal for the same architecture written differently, and only then."""

import itertools
from random import Random

import pytest

from nas.grammar.canonical import canonical_hash, canonical_text
from nas.grammar.space import Space

CALLS = """
start: "net" "(" block ")"
?block: "seq" "(" block "," block ")" -> seq      //@ 2 associative
      | "add" "(" block "," branch ")" -> add     //@ 2 commutative
      | "sum" "(" block "," block ")" -> sum      //@ 1 commutative associative
      | "gate" "(" block "," block ")" -> gate    //@ 1
      | "mix" "(" size "," block "," block ")" -> mix //@ 1 commutative
      | "norm" -> norm                            //@ 1
      | "linear" "(" size ")" -> linear           //@ 1
      | "skip" -> skip                            //@ 1 identity
?branch: block                                    //@ 4
       | "same" -> same                           //@ 1 identity
!size: "1"                                        //@ 1
     | "2"                                        //@ 1
"""
FLAT = """
start: "net" "(" body ")"
?body: "seq" "(" item __more ")" -> series        //@ 1 associative
     | item                                       //@ 1
__more: "," item                                  //@ 1
      | "," item __more                           //@ 1
?item: "norm" -> normalise                        //@ 1
     | "linear" "(" width ")" -> dense            //@ 1
!width: "1"                                       //@ 1
      | "2"                                       //@ 1
"""
INFIX = """
start: sum
?sum: product                                     //@ 2
    | sum "+" product -> add                      //@ 1 commutative associative
    | sum "-" product -> subtract                 //@ 1
?product: atom                                    //@ 2
        | product "*" atom -> times               //@ 1 associative
?atom: "a" -> a                                   //@ 1
     | "b" -> b                                   //@ 1
     | "(" sum ")"                                //@ 1
"""


@pytest.fixture(scope="module")
def canonical(oracle):
    spaces = {
        "calls": Space(oracle.build(CALLS, max_depth=8)),
        "flat": Space(oracle.build(FLAT, max_depth=8)),
        "infix": Space(oracle.build(INFIX, max_depth=12)),
    }
    return lambda space, text: canonical_text(spaces[space].parse(text))


@pytest.mark.parametrize(
    ("space", "text", "expected"),
    [
        ("calls", "net(seq(seq(norm, linear(1)), norm))", "net(seq(norm, linear(1), norm))"),
        ("calls", "net(seq(norm, seq(linear(1), norm)))", "net(seq(norm, linear(1), norm))"),
        ("calls", "net(seq(skip, seq(norm, skip)))", "net(norm)"),
        ("calls", "net(seq(skip, seq(skip, skip)))", "net(skip)"),
        ("calls", "net(add(norm, linear(2)))", "net(add(linear(2), norm))"),
        ("calls", "net(add(norm, same))", "net(add(norm, same))"),
        ("calls", "net(sum(sum(norm, linear(2)), skip))", "net(sum(linear(2), norm, skip))"),
        ("calls", "net(gate(norm, linear(2)))", "net(gate(norm, linear(2)))"),
        ("calls", "net(mix(2, norm, linear(1)))", "net(mix(2, linear(1), norm))"),
        (
            "calls",
            "net(add(seq(skip, norm), gate(norm, norm)))",
            "net(add(gate(norm, norm), norm))",
        ),
        ("flat", "net(seq(norm, linear(1), norm))", "net(seq(norm, linear(1), norm))"),
        ("infix", "b + (a + b)", "{a + b + b}"),
        ("infix", "b + a - a * (b * a)", "{{a + b} - {a * b * a}}"),
        ("infix", "(a) + ((b))", "{a + b}"),
    ],
)
def test_what_does_not_matter_is_put_in_order(canonical, space, text, expected):
    assert canonical(space, text) == expected.replace(" + ", "+").replace(" - ", "-").replace(
        " * ", "*"
    )


def test_rule_names_helpers_and_aliases_leave_no_trace(canonical):
    nested = canonical("calls", "net(seq(seq(norm, linear(2)), seq(norm, norm)))")
    assert nested == canonical("flat", "net(seq(norm, linear(2), norm, norm))")


def rewritten(node, rng):
    """The same architecture written differently, straight from the meaning of the pragmas."""
    alternative, children = node.alternative, tuple(rewritten(c, rng) for c in node.children)
    node = type(node)(alternative, children)
    if alternative.name in {"sum", "mix"} and rng.random() < 0.5:
        children = (*children[:-2], children[-1], children[-2])
    elif alternative.name in {"seq", "sum"} and rng.random() < 0.5:
        left, right = children
        if left.alternative is alternative:
            inner, middle = left.children
            children = (inner, type(node)(alternative, (middle, right)))
    return type(node)(alternative, children)


def meaning(node):
    """What an architecture computes, by the pragmas' meaning, as nested tuples."""
    name = node.alternative.name
    if name is None:
        return meaning(node.children[0])
    inside = [meaning(child) for child in node.children]
    if name in {"seq", "sum"}:
        flat = [x for part in inside for x in (part[1:] if part[0] == name else [part])]
        if name == "seq":
            flat = [x for x in flat if x not in (("skip",), ("same",))] or [("skip",)]
            return flat[0] if len(flat) == 1 else ("seq", *flat)
        return ("sum", *sorted(flat, key=repr))
    if name == "add":
        return ("add", *sorted(inside, key=repr))
    if name == "mix":
        return ("mix", inside[0], *sorted(inside[1:], key=repr))
    if name == "size":
        return (node.alternative.symbols[0].text,)
    return (name, *inside)


def test_canonical_texts_are_equal_exactly_when_meanings_are(oracle):
    space = Space(oracle.build(CALLS, max_depth=5))
    rng = Random(4)
    sampled = [space.sample(rng) for _ in range(1500)]
    changed = [type(d)(rewritten(d.root, rng)) for d in sampled]
    by_text: dict = {}
    by_meaning: dict = {}
    for derivation in itertools.chain(sampled, changed):
        text, sense = canonical_text(derivation), meaning(derivation.root)
        assert by_text.setdefault(text, sense) == sense
        assert by_meaning.setdefault(sense, text) == text
    assert sum(a.text != b.text for a, b in zip(sampled, changed, strict=True)) > 100
    assert all(
        canonical_hash(a) == canonical_hash(b) for a, b in zip(sampled, changed, strict=True)
    )


def test_infix_texts_with_equal_canonical_texts_have_equal_values(oracle):
    space = Space(oracle.build(INFIX, max_depth=10))
    rng = Random(4)
    seen: dict[str, int] = {}
    for _ in range(2000):
        derivation = space.sample(rng)
        value = eval(derivation.text, {"a": 7919, "b": 104729})
        assert seen.setdefault(canonical_text(derivation), value) == value


def test_the_hash_is_sha256_of_the_text(oracle):
    derivation = Space(oracle.build(CALLS, max_depth=8)).parse("net(seq(skip, norm))")
    assert canonical_hash(derivation) == (
        "ac7e54b7979ec7b60c00161744b32d0a953647eba7a4f59b56f696061a22eaba"
    )
