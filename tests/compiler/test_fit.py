import random

import pytest
import torch

from nas.compiler import fit
from nas.compiler.fit import covering, refuse_misfits
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space
from nas.layers.base import PRIMITIVES, Cost, Primitive
from nas.resources import find_space

CONTEXT = {"L": (24, 40), "D": 32, "causal": False}


@pytest.fixture(params=["on numbers", "without memory"])
def tried(request, monkeypatch):
    """Layers are tried out as small ones are, then as large ones are."""
    monkeypatch.setattr(fit, "SMALL", fit.SMALL if request.param == "on numbers" else 0)


@pytest.mark.parametrize("causal", [False, True])
def test_the_packaged_space_fits(causal, tried):
    before = torch.random.get_rng_state()
    refuse_misfits(Space.load(find_space("hybrid"), context=CONTEXT | {"causal": causal}))
    assert torch.equal(torch.random.get_rng_state(), before)


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


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("undeclared", "has 34 parameters .* it declares 32"),
        ("narrower", r"makes \[1, 40, 16\] of \[1, 40, 32\]"),
        ("wider weight", "cannot be built: .*33"),
    ],
)
def test_a_layer_of_ones_own_that_does_not_do_what_it_declares(
    tmp_path, monkeypatch, tried, fault, said
):
    class Scale(Primitive):
        def __init__(self, shape):
            super().__init__(shape)
            self.weight = torch.nn.Parameter(torch.ones(shape.width + (fault == "wider weight")))
            if fault == "undeclared":
                self.more = torch.nn.Parameter(torch.ones(2))

        def forward(self, x):
            return (x * self.weight)[..., : x.shape[-1] // (1 + (fault == "narrower"))]

        @classmethod
        def cost(cls, shape):
            return Cost(parameters=shape.width + (fault == "wider weight"))

    monkeypatch.setitem(PRIMITIVES, "scale", Scale)
    path = tmp_path / "own.lark"
    path.write_text(
        'start: "net" "(" block ")" -> net\n'
        '?block: "relu" -> relu //@ 1\n'
        '      | "scale" -> scale //@ 0.01\n'
        "%import common.WS\n%ignore WS\n"
    )
    with pytest.raises(SpaceError, match=said) as refused:
        refuse_misfits(Space.load(path, context=CONTEXT))
    assert refused.value.line == 3
