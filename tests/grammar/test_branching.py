"""Expected sizes and growth, against closed forms, enumeration and sampling."""

import math
from collections import Counter
from random import Random

import numpy as np
import pytest

from nas.grammar import branching
from nas.grammar.branching import expected_uses, spectral_radius, without_max_depth
from nas.grammar.derivation import Derivation
from nas.grammar.space import Space

TREE = """
start: "net" "(" block ")" -> net            //@ 1 {lets}
?block: "s" "(" block "," block ")" -> s     //@ {p} {lets}
      | "u" "(" block ")" -> u               //@ {q} {lets}
      | "a" -> a                             //@ 1 - ({p}) - ({q})
"""
FINITE = """
start: "net" "(" block ")" -> net
?block: "s" "(" block "," block ")" -> s     //@ 1 * 0.7**depth
      | "u" "(" block ")" -> u               //@ 1 where L % 2 == 0 let L = L // 2
      | "p" "(" size ")" -> p                //@ L
!size: "1"                                   //@ 1
     | "2"                                   //@ 3 where L > 2
"""


def tree(oracle, p, q=0.0001, max_depth=None, start="", below=""):
    text = TREE.replace("{lets}", start, 1)
    return Space(oracle.build(text.format(p=p, q=q, lets=below), max_depth=max_depth))


@pytest.fixture(scope="module")
def finite(oracle):
    return Space(oracle.build(FINITE, max_depth=4), context={"L": 4})


@pytest.fixture(params=["matrix", "levels"])
def way(request, monkeypatch):
    """Both ways of computing: the matrix of few states, and following many of them."""
    if request.param == "levels":
        monkeypatch.setattr(branching, "FEW", 0)
    return request.param


@pytest.mark.parametrize(
    ("p", "q"), [(0.1, 0.3), (0.3, 0.2), (0.45, 0.05), (0.5, 0.1), (0.9, 0.05)]
)
def test_the_radius_of_a_branching_process_is_its_mean_number_of_children(oracle, way, p, q):
    space = tree(oracle, p, q, max_depth=9)
    radius, exact = spectral_radius(space)
    assert exact == (way == "matrix")
    assert radius == pytest.approx(2 * p + q, rel=1e-9)


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.3), (0.3, 0.2), (0.45, 0.05)])
def test_the_expected_size_of_a_branching_process(oracle, way, p, q):
    uses, neglected = expected_uses(tree(oracle, p, q))
    blocks = 1 / (1 - 2 * p - q)
    assert sum(uses.values()) == pytest.approx(1 + blocks, rel=1e-4)
    assert neglected < 1e-5
    by_name = {alternative.name: times for alternative, times in uses.items()}
    expected = {"net": 1, "s": p * blocks, "u": q * blocks, "a": (1 - p - q) * blocks}
    assert by_name == pytest.approx(expected, rel=1e-4)


def test_rules_that_never_contain_themselves_have_radius_zero(oracle, way):
    space = Space(oracle.build('start: x x -> net\nx: y\ny: "a"\n| "b"'))
    assert spectral_radius(space) == (0.0, way == "matrix")
    assert sum(expected_uses(space)[0].values()) == pytest.approx(5)


def test_radius_of_several_rules_is_the_largest_eigenvalue(oracle, way):
    rng = np.random.default_rng(0)
    for _ in range(5):
        weights = rng.uniform(0.1, 1, (3, 4))
        lines = ["start: r0 -> net"]
        for i, row in enumerate(weights):
            head = f"r{i}:"
            for j, weight in enumerate(row):
                body = f'"x{i}{j}" r{j % 3} r{(i + j) % 3}' if j < 3 else f'"x{i}"'
                lines.append(f"{head if j == 0 else '|'} {body} //@ {weight}")
        share = weights / weights.sum(1, keepdims=True)
        matrix = np.zeros((3, 3))
        for i in range(3):
            for j in range(3):
                matrix[i, j % 3] += share[i, j]
                matrix[i, (i + j) % 3] += share[i, j]
        space = Space(oracle.build("\n".join(lines)))
        assert spectral_radius(space)[0] == pytest.approx(max(abs(np.linalg.eigvals(matrix))))


def test_a_counter_in_the_context_does_not_hide_growth(oracle):
    space = tree(oracle, 0.55, 0.1, max_depth=6, start="let n = 0", below="let n = n + 1")
    radius, exact = spectral_radius(space)
    assert not exact
    assert radius == pytest.approx(1.2, rel=1e-6)


def test_weights_that_fall_with_depth_end_by_themselves(oracle):
    space = tree(oracle, "0.6 * 0.9**depth")
    radius, exact = spectral_radius(space)
    assert not exact
    assert radius < 0.1
    size = sum(expected_uses(space)[0].values())
    sizes = [space.sample(Random(seed)).size for seed in range(8000)]
    assert abs(np.mean(sizes) - size) < 4 * np.std(sizes) / math.sqrt(len(sizes))


def test_expectations_agree_with_all_derivations(oracle, finite, way):
    uses = Counter()
    for node, probability in oracle.everything(finite.grammar, {"L": 4}):
        for each in node:
            uses[each.alternative] += probability
    found, _ = expected_uses(finite)
    assert found == pytest.approx(dict(uses), rel=1e-6)


def test_hybrid_has_the_size_that_is_sampled():
    space = Space.load("search_spaces/hybrid.lark", context={"L": 128, "D": 32, "causal": True})
    uses, neglected = expected_uses(space)
    size = sum(uses.values())
    rng = Random(0)
    sizes = [space.sample(rng).size for _ in range(8000)]
    assert neglected < 0.01
    assert abs(np.mean(sizes) - size) < 4 * np.std(sizes) / math.sqrt(len(sizes))
    assert 0 < spectral_radius(space)[0] < 0.9


def test_without_max_depth_everything_else_stays(finite):
    free = without_max_depth(finite)
    assert free.grammar.max_depth is None
    assert dict(free.context) == {"L": 4, "depth": 0}
    assert Derivation(free.sample(Random(0)).root).text
