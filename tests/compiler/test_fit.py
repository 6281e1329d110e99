import random

import pytest

from nas.compiler.fit import covering, refuse_misfits
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space
from nas.resources import find_space

CONTEXT = {"L": (24, 40), "D": 32, "causal": False}


@pytest.mark.parametrize("causal", [False, True])
def test_the_packaged_space_fits(causal):
    refuse_misfits(Space.load(find_space("hybrid"), context=CONTEXT | {"causal": causal}))


def test_every_alternative_that_is_legal_is_used():
    space = Space.load(find_space("hybrid"), context=CONTEXT)
    used = {
        node.alternative
        for derivation, _ in covering(space, random.Random(0))
        for node in derivation.root
    }
    drawn = {
        node.alternative
        for rng in [random.Random(1)]
        for _ in range(3000)
        for node in space.sample(rng).root
    }
    assert len(drawn) > 60
    assert drawn <= used


def test_a_rare_alternative_is_tried_and_located(tmp_path):
    path = tmp_path / "rare.lark"
    path.write_text(
        'start: "net" "(" block ")" -> net\n'
        '?block: "relu" -> relu //@ 1\n'
        '      | "nothing" -> nothing //@ 0.000001\n'
        "%import common.WS\n%ignore WS\n"
    )
    with pytest.raises(SpaceError, match="no layer is called 'nothing'") as refused:
        refuse_misfits(Space.load(path, context=CONTEXT))
    assert refused.value.line == 3
