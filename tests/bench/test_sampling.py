"""The sampling benchmark: its figures are what they are called."""

from pathlib import Path
from random import Random

import pytest

from nas.bench.sampling import CONTEXT, run
from nas.compiler.architecture import Architecture
from nas.compiler.costs import PrimitiveCosts, shape_of
from nas.grammar.space import Space
from nas.resources import find_space

HYBRID = find_space("hybrid.lark")


@pytest.mark.parametrize("max_params", [None, 200_000])
def test_what_is_sampled_is_of_a_good_size_and_distinct(max_params):
    row = run(HYBRID, count=5_000, seed=0, max_params=max_params)
    assert row["mean_nodes"] >= 20
    assert row["distinct_share"] >= 0.95


def test_figures_of_a_space_that_can_be_counted(tmp_path: Path):
    path = tmp_path / "coin.lark"
    blanks = "%import common.WS\n%ignore WS\n"
    path.write_text(f'{blanks}start: "net" "(" side ")"\nside: "heads" | "tails"\n')
    row = run(path, count=400, seed=1)
    assert row["space"] == "coin.lark"
    assert row["distinct_share"] == 2 / 400
    assert row["mean_nodes"] == row["max_nodes"] == 2
    assert row["mean_characters"] == len("net(heads)")
    assert row["mean_log_probability"] == pytest.approx(-0.6931471805599453)


def test_the_cost_of_a_sample_is_that_of_its_architecture():
    space = Space.load(
        str(HYBRID), context=CONTEXT, costs=PrimitiveCosts(), caps={"parameters": 30_000}
    )
    rng = Random(3)
    for _ in range(150):
        derivation = space.sample(rng)
        architecture = Architecture.from_term(derivation.term, shape_of(space.context))
        cost = space.cost(derivation)
        assert cost["parameters"] == architecture.parameters <= 30_000
        assert cost["flops"] == architecture.flops
