"""Learned weights in a grammar: the probabilities that were learned, in the same language."""

import random
import re
from pathlib import Path

import pytest

from nas.grammar.edit import places
from nas.grammar.learning import learn
from nas.grammar.loader import load_grammar
from nas.grammar.normal import normalised
from nas.grammar.sharpening import sharpened
from nas.grammar.space import Space
from nas.grammar.writing import written
from nas.resources import find_architecture

CONTEXT = {"L": (64, 256), "D": 32, "causal": False}
GOOD = ("transformer", "hawk", "griffin", "llama", "mamba", "tcn")


@pytest.fixture(scope="module")
def hybrid():
    return Space.load("search_spaces/hybrid.lark", context=CONTEXT)


@pytest.fixture(scope="module")
def examples(hybrid):
    rng = random.Random(0)
    good = [hybrid.parse(find_architecture(name)) for name in GOOD]
    good += [d for d in (hybrid.sample(rng) for _ in range(300)) if "attention(" in d.text]
    return [(tuple(places(hybrid, derivation)), 1.0) for derivation in good]


@pytest.fixture(scope="module")
def factors(hybrid, examples):
    return learn(hybrid.grammar, examples)


@pytest.fixture(scope="module")
def sharper(hybrid, factors):
    return Space(sharpened(hybrid.grammar, factors), context=CONTEXT)


def without_weights(space):
    clauses = r"weight .*?(?=where|let|commut|assoc|identity|\n)"
    return re.sub(clauses, "", normalised(space.grammar))


def test_the_language_is_the_same_and_the_hash_another(hybrid, sharper):
    assert without_weights(sharper) == without_weights(hybrid)
    assert sharper.hash != hybrid.hash
    rng = random.Random(1)
    for one, other in ((hybrid, sharper), (sharper, hybrid)):
        for _ in range(30):
            derivation = one.sample(rng)
            assert other.log_probability(other.parse(derivation.text)) > -200 * derivation.size


def test_weights_give_the_probabilities_that_were_learned(hybrid, sharper, factors):
    rng = random.Random(2)
    for _ in range(60):
        derivation = hybrid.sample(rng)
        decided = tuple(places(hybrid, derivation))
        there = sharper.log_probability(sharper.parse(derivation.text))
        # Weights are written with four digits.
        assert there == pytest.approx(factors.log_probability(decided), abs=1e-3 * len(decided))


def test_every_alternative_keeps_a_part_of_its_probability(hybrid, sharper):
    rng = random.Random(3)
    for _ in range(30):
        derivation = hybrid.sample(rng)
        here = places(hybrid, derivation)
        there = places(sharper, sharper.parse(derivation.text))
        for one, other in zip(here, there, strict=True):
            pairs = zip(one.choice.probabilities, other.choice.probabilities, strict=True)
            assert all(after > 0.02 * before for before, after in pairs)


def test_it_is_written_and_read(hybrid, sharper, tmp_path):
    path = Path(tmp_path, "sharper.lark")
    path.write_text(written(sharper.grammar))
    assert Space.load(path, context=CONTEXT).hash == sharper.hash


def test_where_nothing_was_learned_nothing_changes(hybrid):
    assert normalised(sharpened(hybrid.grammar, learn(hybrid.grammar, []))) == normalised(
        hybrid.grammar
    )


def test_what_is_sharp_can_be_sharpened(sharper, hybrid, examples):
    texts = ["net(res(attention(4, 4, full, rope)))"] * 3
    again = [(tuple(places(sharper, sharper.parse(text))), 5.0) for text in texts if text]
    factors = learn(sharper.grammar, again)
    twice = Space(sharpened(sharper.grammar, factors), context=CONTEXT)
    derivation = twice.parse(texts[0])
    assert twice.log_probability(derivation) > sharper.log_probability(sharper.parse(texts[0]))


def test_a_repetition_goes_on_by_the_odds_that_were_learned(tmp_path):
    path = tmp_path / "a.lark"
    path.write_text(
        'start: "net" "(" list ")"\nlist: "x"+  //@ 1 repeat 1 / (1 + depth)\n'
        "%import common.WS\n%ignore WS\n"
    )
    space = Space(load_grammar(path))
    examples = [(tuple(places(space, space.parse("net(xxxxx)"))), 10.0)]
    factors = learn(space.grammar, examples, strength=4.0, floor=0.0)
    there = Space(sharpened(space.grammar, factors))
    choice = there.decide().current
    # 40 times on and 10 times not, and 4 imagined decisions with the probability 1/3 or so.
    before = space.decide().current.probabilities[1]
    assert choice.probabilities[1] == pytest.approx((40 + 4 * before) / 54, abs=1e-3)
