"""Caps: what can be derived under a cap is exactly what costs no more, and nothing ends dead."""

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nas.grammar.derivation import Derivation
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

CONTEXT = {"L": 4, "D": 4}
SPACE = """
start: "net" "(" block ")" -> net
?block: mixer                                    //@ 2
      | "seq" "(" block "," block ")" -> seq     //@ 1 * 0.9**depth
      | "down" "(" block ")" -> down             //@ 1 where L % 2 == 0 let L = L // 2
      | "wide" "(" block "," times ")" -> wide   //@ 0.5 where D < 16 let D = 2 * D
      | "norm" -> norm                           //@ 0.2
?mixer: "attention" "(" _sizes ")" -> attention  //@ 1
_sizes: heads "," window                         //@ 1
!heads: "1"                                      //@ 1
      | "2"                                      //@ 3 where D % 2 == 0
      | "4"                                      //@ 1 where D % 4 == 0 and L > 2
!window: "full"                                  //@ 1
       | "8"                                     //@ 2
!times: "2"                                      //@ 1
      | "3"                                      //@ 1
"""


def value(argument):
    """A parameter as a number: `heads(4)` is 4."""
    text = argument.arguments[0]
    return int(text) if text.isdigit() else len(text)


class Costs:
    """Parameters and FLOPs of SPACE; the parameters of attention depend on heads and window."""

    measures = ("parameters", "flops")

    def cost(self, name, arguments, context):
        L, D = context["L"], context["D"]
        match name:
            case "net" | "seq":
                return (0, 0), (1, 1)
            case "down":
                return (1, L), (1, 1)
            case "norm":
                return (D, L), (1, 1)
            case "wide":
                times = value(arguments[1])
                return (D * times, D), (times, 1)
            case "attention":
                heads, window = map(value, arguments)
                return (D * D // heads + 3 * heads * (window == 8), L * window), (1, 1)
        return None


@pytest.fixture(scope="module")
def space(oracle):
    return Space(oracle.build(SPACE, max_depth=4), context=CONTEXT, costs=Costs())


@pytest.fixture(scope="module")
def priced(oracle, space):
    """Every text of the space with its cost per measure."""
    given = frozenset(CONTEXT)
    return {
        Derivation(node).text: oracle.cost(node, CONTEXT, Costs(), given)[1]
        for node, _ in oracle.everything(space.grammar, CONTEXT)
    }


@pytest.mark.parametrize("measure", [0, 1])
def test_under_a_cap_everything_that_fits_can_be_derived_and_nothing_else(
    oracle, space, priced, measure
):
    name = Costs.measures[measure]
    values = sorted({cost[measure] for cost in priced.values()})
    for cap in [*values[:8], values[8] + 0.5, *values[9::12]]:
        capped = space.under(caps={name: cap})
        found = {d.text: p for d, p in oracle.finished(capped.decide())}
        assert found.keys() == {t for t, cost in priced.items() if cost[measure] <= cap}
        assert sum(found.values()) == pytest.approx(1)


def test_under_a_cap_log_probability_is_that_of_the_choices_met(oracle, space, priced):
    capped = space.under(caps={"parameters": 14})
    found = list(oracle.finished(capped.decide()))
    for derivation, probability in found:
        assert capped.log_probability(derivation) == pytest.approx(math.log(probability))
    dear = max(priced, key=lambda text: priced[text][0])
    assert capped.log_probability(space.parse(dear)) == -math.inf


@pytest.mark.parametrize("caps", [{"parameters": 9}, {"parameters": 14, "flops": 40}])
def test_sampling_under_caps_draws_what_decisions_say(oracle, space, caps):
    capped = space.under(caps=caps)
    expected = {d.text: p for d, p in oracle.finished(capped.decide())}
    rng = Random(1)
    count = 20_000
    seen = Counter(capped.sample(rng).text for _ in range(count))
    assert seen.keys() <= expected.keys()
    common = [text for text, p in expected.items() if p * count >= 5]
    rest = count - sum(seen[text] for text in common)
    left = 1 - sum(expected[text] for text in common)
    frequencies = [seen[text] for text in common] + ([rest] if left * count >= 5 else [])
    chances = [expected[text] for text in common] + ([left] if left * count >= 5 else [])
    scale = sum(frequencies) / sum(chances)
    assert chisquare(frequencies, [chance * scale for chance in chances]).pvalue > 1e-3


@pytest.mark.parametrize("caps", [(20, 20), (30, 16), (12, 100), (60, 12), (5, 1000)])
def test_under_several_caps_each_is_kept_and_no_way_ends_dead(oracle, space, priced, caps):
    capped = space.under(caps=dict(zip(Costs.measures, caps, strict=True)))
    fitting = {t for t, cost in priced.items() if cost[0] <= caps[0] and cost[1] <= caps[1]}
    found = {d.text: p for d, p in oracle.finished(capped.decide())}
    assert found
    assert found.keys() <= fitting
    assert sum(found.values()) == pytest.approx(1)


def test_a_cap_that_nothing_fits_says_how_small_the_smallest_is(space):
    with pytest.raises(SpaceError, match=r"at most 3 parameters here: the smallest has 4"):
        space.under(caps={"parameters": 3}).sample(Random(0))


def test_a_cap_on_what_is_not_measured_is_refused(space):
    with pytest.raises(SpaceError, match=r"no cap on `watts` .* costs are parameters, flops"):
        space.under(caps={"watts": 3}).sample(Random(0))


def test_caps_without_costs_are_refused(oracle):
    with pytest.raises(SpaceError, match="cost model"):
        Space(oracle.build(SPACE, max_depth=4), context=CONTEXT, caps={"parameters": 3})


def test_a_text_over_a_cap_is_refused(space):
    capped = space.under(caps={"parameters": 10})
    assert capped.parse("net(norm)").text == "net(norm)"
    with pytest.raises(SpaceError, match=r"12\.?0? parameters are more than the cap of 10"):
        capped.parse("net(seq(norm, seq(norm, norm)))")


def test_a_cap_of_zero_leaves_what_is_free(oracle):
    grammar = oracle.build('?start: "a" -> a\n | "b" "(" start "," start ")" -> b', max_depth=3)

    class Counts:
        measures = ("layers",)

        def cost(self, name, arguments, context):
            return ((1,) if name == "b" else (0,)), (1,)

    space = Space(grammar, context=CONTEXT, costs=Counts(), caps={"layers": 0})
    assert [d.text for d, _ in oracle.finished(space.decide())] == ["a"]


BLOCKS = st.sampled_from(
    [
        '"a" -> a',
        '"b" "(" size ")" -> b',
        '"c" "(" block "," size ")" -> c',
        '"d" "(" block "," block ")" -> d',
        '"e" "(" block ")" -> e //@ 2 where D < 8 let D = 2 * D',
        '"f" "(" size "," kind "," block ")" -> f //@ 1 where L > 1 let L = L // 2',
        '"g" "(" block __tail ")" -> g',
        '"h" "(" maybe ")" -> h',
        '"i" "(" pair ")"',
        'size "!" -> j //@ 1 where depth > 0',
    ]
)
REST = """
__tail: "," block "," kind
      | "+" block "+" block
maybe: "none"
     | "some" block -> some
_pair: block "&" block
pair: _pair "%" size
!size: "1"                                       //@ 1
     | "2"                                       //@ 1 where D % 4 == 0
     | "3"                                       //@ 2 where L % 2 == 0
!kind: "x"                                       //@ 1 where D % 8 == 0 or L > 1
     | "y"                                       //@ 1 where L < 4
"""


class Drawn:
    """Costs drawn at random, by name; `costed` terms are blocks, all others parameters."""

    measures = ("one", "two")

    def __init__(self, seed: int, costed: str) -> None:
        self.seed = seed
        self.costed = costed

    def cost(self, name, arguments, context):
        if name not in self.costed:
            return None
        rng = Random(f"{self.seed} {name} {arguments} {sorted(context.items())}")
        own = rng.choice([0, 1, 2, 5]), rng.choice([0, 1, 3])
        return own, (rng.choice([1, 1, 2, 3]), 1)


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(BLOCKS, min_size=1, max_size=4, unique=True),
    size=st.sampled_from([(4, 4), (8, 2), (2, 1), (1, 8)]),
    depth=st.integers(2, 4),
    seed=st.integers(0, 10**6),
    costed=st.sampled_from(["abcdefghij", "abhjdf", "abhjceg", "abhj"]),
)
def test_random_spaces_are_what_plain_recursion_says(oracle, blocks, size, depth, seed, costed):
    body = "\n".join(f"{'block:' if i == 0 else '     |'} {b}" for i, b in enumerate(blocks))
    grammar = oracle.build(f"start: block\n?{body}\n{REST}", max_depth=depth)
    context = dict(zip("DL", size, strict=True))
    assume(oracle.count(grammar, context) < 200)
    model = Drawn(seed, costed)
    space = Space(grammar, context=context, costs=model)
    everything = oracle.everything(grammar, context)
    if not everything:
        with pytest.raises(SpaceError, match="has no derivation"):
            space.sample(Random(0))
        return
    chances = {Derivation(node).text: chance for node, chance in everything}
    found = {d.text: p for d, p in oracle.finished(space.decide())}
    assert found == pytest.approx(chances)
    names = frozenset(context)
    priced = {Derivation(n).text: oracle.cost(n, context, model, names)[1] for n, _ in everything}
    values = sorted({price[0] for price in priced.values()})
    for cap in values[:: max(1, len(values) // 4)]:
        capped = space.under(caps={"one": cap})
        found = {d.text: p for d, p in oracle.finished(capped.decide())}
        assert found.keys() == {text for text, price in priced.items() if price[0] <= cap}
        assert sum(found.values()) == pytest.approx(1)
        tight = min(price[1] for price in priced.values() if price[0] <= cap)
        several = space.under(caps={"one": cap, "two": tight + 1})
        try:
            reached = [d.text for d, _ in oracle.finished(several.decide())]
        except SpaceError:  # several caps may leave nothing that is found
            continue
        assert all(priced[t][0] <= cap and priced[t][1] <= tight + 1 for t in reached)
        capped.sample(Random(seed))
        several.sample(Random(seed))
