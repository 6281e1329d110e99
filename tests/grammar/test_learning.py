"""What is learned from derivations of a known grammar."""

import random

import pytest

from nas.grammar.derivation import Derivation
from nas.grammar.edit import places
from nas.grammar.learning import Bound, learn, repeats_of
from nas.grammar.loader import load_grammar
from nas.grammar.space import Space

SPACE = """
start: "net" "(" block ")"                  //@ 1 let inner = 0
?block: "a" -> a                            //@ {a} + 0 * inner
      | "b" -> b                            //@ {b}
      | "c" -> c                            //@ 0.2 where inner > 0
      | "in" "(" block ")" -> in            //@ 0.4 let inner = inner + 1
      | "list" "(" leaf ("," leaf)* (";" leaf)* ")" -> list //@ 0.3 repeat {p}
!leaf: "x"                                  //@ {x}
     | "y"                                  //@ 1
%import common.WS
%ignore WS
"""
PRESENT = {"a": "1", "b": "1", "p": "0.5", "x": "1"}
TRUTH = {"a": "3", "b": "0.5 + 4 * (inner > 0)", "p": "0.2", "x": "4"}


def space_of(folder, **values):
    path = folder / "space.lark"
    path.write_text(SPACE.format(**values))
    return Space(load_grammar(path))


def derivation_text(decided):
    """The text of a derivation whose first decision is at `block`, in `net(...)`."""
    return f"net({Derivation(decided[0].node).text})"


def examples_of(space, source, count, seed=0):
    rng = random.Random(seed)
    texts = [source.sample(rng).text for _ in range(count)]
    return [(tuple(places(space, space.parse(text))), 1.0) for text in texts]


@pytest.fixture(scope="module")
def present(tmp_path_factory):
    return space_of(tmp_path_factory.mktemp("present"), **PRESENT)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return space_of(tmp_path_factory.mktemp("truth"), **TRUTH)


def test_the_probabilities_of_the_source_are_found(present, truth):
    factors = learn(present.grammar, examples_of(present, truth, 4000), strength=1.0, floor=0.0)
    fresh = examples_of(present, truth, 300, seed=1)
    expected = examples_of(truth, truth, 300, seed=1)
    for (here, _), (there, _) in zip(fresh, expected, strict=True):
        for mine, real in zip(here, there, strict=True):
            found = factors.probabilities(mine.choice)
            assert found == pytest.approx(real.choice.probabilities, abs=0.05)
            assert sum(found) == pytest.approx(1)


def test_contexts_are_told_apart_where_that_is_worth_it_and_only_there(present, truth):
    factors = learn(present.grammar, examples_of(present, truth, 1000))
    bounds = [cell.bounds for cell in factors.cells("block")]
    assert bounds[0] == (Bound("inner", 0),)
    assert all(bound[0] == Bound("inner", 0, above=True) for bound in bounds[1:])
    assert [cell.bounds for cell in factors.cells("leaf")] == [()]
    same = learn(present.grammar, examples_of(present, present, 1000))
    assert [cell.bounds for cell in same.cells("block")] == [()]


def test_what_was_left_out_becomes_more_likely_nearly_as_at_the_source(present, truth):
    fresh = examples_of(present, truth, 500, seed=1)
    before = learn(present.grammar, [])
    at_source = sum(
        truth.log_probability(truth.parse(derivation_text(decided))) for decided, _ in fresh
    )
    told = sum(before.log_probability(decided) for decided, _ in fresh)
    gains = []
    for count in (10, 50, 250):
        factors = learn(present.grammar, examples_of(present, truth, count))
        after = sum(factors.log_probability(decided) for decided, _ in fresh)
        gains.append((after - told) / (at_source - told))
    assert 0 < gains[0] < gains[1] < gains[2] < 1
    assert gains[2] > 0.8


def test_the_fewer_decisions_the_less_changes(present, truth):
    (example,) = examples_of(present, truth, 1)
    choice = present.decide().current
    for strength, most in ((1e6, 1e-5), (100, 0.02)):
        factors = learn(present.grammar, [example], strength=strength)
        assert factors.probabilities(choice) == pytest.approx(choice.probabilities, abs=most)


def test_examples_count_by_their_weights(present, truth):
    examples = examples_of(present, truth, 40)
    twice = learn(present.grammar, [(decided, 2.0) for decided, _ in examples[:20]])
    copies = learn(present.grammar, [*examples[:20], *examples[:20]])
    choice = present.decide().current
    assert twice.probabilities(choice) == pytest.approx(copies.probabilities(choice))


def test_the_floor_holds_for_what_is_never_chosen(present):
    only = [(tuple(places(present, present.parse("net(a)"))), 1000.0)]
    choice = present.decide().current
    factors = learn(present.grammar, only, strength=0.1, floor=0.2)
    for before, after in zip(choice.probabilities, factors.probabilities(choice), strict=True):
        assert after >= 0.2 * before * (1 - 1e-4)
    assert factors.probabilities(choice)[0] > 0.8


def test_all_repetitions_of_an_alternative_go_on_alike(present):
    repeats = repeats_of(present.grammar)
    assert len(repeats) == 2
    assert len(set(repeats.values())) == 1
    examples = [(tuple(places(present, present.parse("net(list(x, x, x, x))"))), 20.0)]
    factors = learn(present.grammar, examples)
    star, other = repeats
    assert factors.cells(star) == factors.cells(other) != ()


class Costs:
    """Every term costs 1."""

    measures = ("parameters",)

    def cost(self, name, arguments, context):
        return (1,), (1,)


def test_what_caps_forbid_was_no_choice(tmp_path):
    """Under a cap a source is found as it is without, from decisions between what fits."""
    rules = """
start: "net" "(" block ")"
?block: "a" -> a                             //@ 1
      | "b" -> b                             //@ {b}
      | "in" "(" block ")" -> in             //@ {more}
      | "pair" "(" block "," block ")" -> pair //@ 1
%import common.WS
%ignore WS
"""
    spaces = []
    for name, values in (("here", {"b": 1, "more": 1}), ("there", {"b": 2, "more": 4})):
        (tmp_path / name).write_text(rules.format(**values))
        spaces.append(Space.load(tmp_path / name, costs=Costs(), caps={"parameters": 6}))
    here, there = spaces
    examples = examples_of(here, there, 3000)
    widths = {len(place.choice.alternatives) for decided, _ in examples for place in decided}
    assert widths == {2, 3, 4}
    factors = learn(here.grammar, examples, strength=1.0, floor=0.0)
    found = factors.probabilities(here.decide().current)
    assert found == pytest.approx((1 / 8, 2 / 8, 4 / 8, 1 / 8), abs=0.03)


@pytest.mark.parametrize(("strength", "floor"), [(0, 0.1), (-1, 0.1), (10, 1.0), (10, -0.1)])
def test_numbers_that_mean_nothing_are_refused(present, strength, floor):
    with pytest.raises(ValueError, match="strength"):
        learn(present.grammar, [], strength=strength, floor=floor)
