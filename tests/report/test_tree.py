"""Trees: the same nodes in every form, and forms that other programs read."""

import re
from random import Random
from xml.etree import ElementTree

import pytest

from nas.grammar.space import Space
from nas.report.tree import (
    Tree,
    architecture_tree,
    as_dot,
    as_svg,
    as_text,
    derivation_tree,
    describe,
)

TEXT = "net(seq(res(attention(4, 1, 64, rope)), add(relu, glu(2, gelu))))"


@pytest.fixture(scope="module")
def space():
    return Space.load("search_spaces/hybrid.lark", context={"L": 64, "D": 32, "causal": False})


def labels(tree):
    yield tree.label
    for child in tree.children:
        yield from labels(child)


def test_blocks_stand_below_and_parameters_beside(space):
    drawn = as_text(architecture_tree(space.parse(TEXT).term))
    assert drawn == (
        "net\n"
        "└── seq\n"
        "    ├── res\n"
        "    │   └── attention heads=4 kv=1 window=64 position=rope\n"
        "    └── add\n"
        "        ├── relu\n"
        "        └── glu expansion=2 activation=gelu"
    )


def test_a_derivation_shows_every_choice_and_its_probability(space):
    derivation = space.sample(Random(3))
    drawn = list(labels(derivation_tree(space, derivation)))
    assert len(drawn) == derivation.size
    product = 1.0
    for label in drawn:
        found = re.search(r"\[([\d.e-]+)\]$", label)
        product *= float(found[1]) if found else 1.0
    # Three digits a choice.
    expected = 2.718281828 ** space.log_probability(derivation)
    assert product == pytest.approx(expected, rel=0.2)


def test_alternatives_are_described_as_they_are_written(space):
    found = {describe(a) for rule in space.grammar.rules.values() for a in rule}
    assert {"net(block)", "res(block)", "add(block, branch)", "centred", "layer"} <= found
    assert "attention(heads, window, position)" in found
    assert all("__" not in text or "_plus_" in text for text in found)


def test_graphviz_source_has_every_node_and_edge():
    tree = Tree("a", (Tree('b "quoted" \\', (Tree("c"),)), Tree("d")))
    source = as_dot(tree)
    assert re.findall(r"n(\d+) -> n(\d+);", source) == [("0", "1"), ("1", "2"), ("0", "3")]
    assert '[label="b \\"quoted\\" \\\\"]' in source


def test_the_image_is_well_formed_and_has_every_label(space):
    tree = Tree("a < b & c", (architecture_tree(space.parse(TEXT).term),))
    root = ElementTree.fromstring(as_svg(tree))
    name = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in root.iter(f"{name}text")] == list(labels(tree))
    right = max(float(r.get("x")) + float(r.get("width")) for r in root.iter(f"{name}rect"))
    bottom = max(float(r.get("y")) + float(r.get("height")) for r in root.iter(f"{name}rect"))
    assert right <= float(root.get("width"))
    assert bottom <= float(root.get("height"))
    assert len(list(root.iter(f"{name}path"))) == len(list(labels(tree))) - 1
