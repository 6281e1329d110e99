"""The zoo: every published system parses, compiles, runs and streams, causal or not."""

import math
import re

import pytest

from nas.compiler.architecture import Architecture
from nas.compiler.check import find_problems
from nas.grammar.space import Space
from nas.layers.base import Shape
from nas.resources import find_space, packaged_architectures

ZOO = packaged_architectures()


def test_the_zoo_is_complete():
    wanted = {"transformer", "mingru", "hawk", "griffin", "tcn", "moe_transformer"}
    assert wanted <= {path.stem for path in ZOO}


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_it_works(path, causal):
    shape = Shape(40, 32, causal)
    context = {"L": (shape.length,), "D": shape.width, "causal": causal}
    space = Space.load(find_space("hybrid.lark"), context=context)
    derivation = space.parse(path.read_text(encoding="utf-8"))
    assert find_problems(derivation.term, shape) == []
    assert math.isfinite(space.log_probability(derivation))


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
@pytest.mark.parametrize("lengths", [(16,), (64, 1024, 4096)], ids=str)
@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_it_is_legal_at_every_width_and_length(path, lengths, width):
    context = {"L": lengths, "D": width, "causal": False}
    space = Space.load(find_space("hybrid.lark"), context=context)
    space.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
def test_it_is_of_about_the_size_of_the_others(path):
    """Parameters that a token meets, at width 64: within a factor of 1.5 of the transformer's."""
    space = Space.load(find_space("hybrid.lark"), context={"L": (128,), "D": 64, "causal": True})
    term = space.parse(path.read_text(encoding="utf-8")).term
    architecture = Architecture.from_term(term, Shape(128, 64, True))
    assert 99_200 / 1.5 <= architecture.active_parameters <= 99_200 * 1.5


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
def test_it_names_its_source(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"// [A-Z]\w+ (et al\.|and [A-Z]\w+) \d{4}, \".+\"", first)
