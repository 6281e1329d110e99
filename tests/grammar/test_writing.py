"""A grammar written as one file is the same grammar."""

import random
from pathlib import Path

import pytest
from lark import Lark

from nas.grammar.errors import SpaceError
from nas.grammar.loader import load_grammar
from nas.grammar.normal import normalised
from nas.grammar.space import Space
from nas.grammar.writing import written
from nas.resources import packaged_architectures
from tests.grammar.test_expand import CONTEXT, HEAD, SPACES, lark_term, write

PACKAGED = ("hybrid.lark", "einspace.lark", "examples/leaky.lark")


def rewritten(path: Path, folder: Path) -> Path:
    there = folder / "rewritten.lark"
    there.write_text(written(load_grammar(path), ["of", "", path.name]))
    return there


@pytest.mark.parametrize("name", SPACES)
def test_every_notation_comes_back(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, SPACES[name])
    there = rewritten(path, tmp_path)
    assert normalised(load_grammar(there)) == normalised(load_grammar(path))
    space = Space.load(path, context=CONTEXT)
    lark = Lark.open(str(there), parser="lalr")
    rng = random.Random(0)
    for _ in range(100):
        derivation = space.sample(rng)
        assert lark_term(lark.parse(derivation.text)) == derivation.term


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_spaces_keep_their_hash_in_one_file(name: str, tmp_path: Path) -> None:
    path = Path("search_spaces", name)
    there = rewritten(path, tmp_path)
    assert Space.load(there).hash == Space.load(path).hash
    text = there.read_text()
    assert "%import ." not in text
    assert text.startswith("// of\n//\n// " + path.name)
    # Written again nothing changes but the name of the file that rules come from.
    again = rewritten(there, tmp_path).read_text().splitlines()
    assert {line for line in again if "//@" in line} == {
        line for line in text.splitlines() if "//@" in line
    }


def test_the_zoo_is_read_by_the_one_file(tmp_path: Path) -> None:
    context = {"L": (64,), "D": 64, "causal": False}
    there = Space.load(rewritten(Path("search_spaces/hybrid.lark"), tmp_path), context=context)
    here = Space.load("search_spaces/hybrid.lark", context=context)
    paths = packaged_architectures()[::20]
    for path in paths:
        text = path.read_text()
        assert there.parse(text).term == here.parse(text).term
        assert there.log_probability(there.parse(text)) == pytest.approx(
            here.log_probability(here.parse(text))
        )


def test_a_group_that_stands_twice_keeps_its_texts_and_probabilities(tmp_path: Path) -> None:
    """`~2` of a group is written as two: other rules, the same language."""
    rules = """
start: "net" "(" pairs ")"
!pairs: ("a" | "b")~2 (("c")* "d")~1..3       //@ 1 repeat 0.3
"""
    path = write(tmp_path, {"a.lark": HEAD + rules})
    here, there = Space.load(path), Space.load(rewritten(path, tmp_path))
    rng = random.Random(0)
    for one, other in ((here, there), (there, here)):
        for _ in range(50):
            derivation = one.sample(rng)
            same = other.parse(derivation.text)
            assert same.term == derivation.term
            assert other.log_probability(same) == pytest.approx(one.log_probability(derivation))


def test_a_number_beside_a_repetition_is_refused(tmp_path: Path) -> None:
    rules = 'start: "net" x\nx: ("a")* INT  //@ int 1..2\n%import common.INT\n'
    path = write(tmp_path, {"a.lark": HEAD + rules})
    with pytest.raises(SpaceError, match=r"a.lark:4: INT beside .*: write a rule of its own"):
        rewritten(path, tmp_path)


def test_names_that_would_meet_are_told_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "a.lark": HEAD
            + "%import .one (x)\n%import .two (y)\nstart: x y size\n"
            + '!size: "1" | "2"\n',
            "one.lark": 'x: "x" size\n!size: "3"\n',
            "two.lark": 'y: "y" size _hidden\n!size: "4"\n_hidden: "h" size\n',
        },
    )
    there = rewritten(path, tmp_path)
    assert normalised(load_grammar(there)) == normalised(load_grammar(path))
