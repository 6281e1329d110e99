"""Vectors of architectures: the same everywhere, near where architectures are alike."""

import random
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

from nas.compiler.architecture import Architecture
from nas.compiler.costs import shape_of
from nas.grammar.mutation import mutate
from nas.search.features import HASHED, SIZE, Features, graph_labels, tree_labels


@pytest.fixture(scope="module")
def features(hybrid):
    return Features(shape_of(dict(hybrid.context.items())))


def test_a_changed_architecture_is_nearer_than_another(hybrid, features):
    rng = random.Random(0)
    nearer = 0
    for _ in range(40):
        one, other = hybrid.sample(rng), hybrid.sample(rng)
        child = mutate(hybrid, one, rng, "parameter")
        labels = [features(d)[:HASHED] for d in (one, child, other)]
        nearer += np.linalg.norm(labels[0] - labels[1]) < np.linalg.norm(labels[0] - labels[2])
    assert nearer >= 37


def test_a_vector_has_length_one_and_the_costs(hybrid, features):
    derivation = hybrid.parse("net(res(mlp(4, gelu)))")
    vector = features(derivation)
    assert vector.shape == (SIZE,)
    assert np.linalg.norm(vector[:HASHED]) == pytest.approx(1, abs=1e-6)
    made = Architecture.from_term(derivation.term, shape_of(dict(hybrid.context.items())))
    assert vector[HASHED] == pytest.approx(np.log10(1 + made.parameters))
    assert vector[HASHED + 1] == pytest.approx(np.log10(1 + made.flops))


def test_labels_of_the_tree_as_written_by_hand(hybrid):
    term = hybrid.parse("net(seq(res(relu), norm))").term
    assert sorted(tree_labels(term)) == sorted(
        ["net(*)", "net", "seq(*,norm)", "net>seq", "seq", "seq[res,norm]",
         "res(relu)", "net>seq>res", "seq>res", "res", "relu()", "seq>res>relu", "res>relu", "relu",
         "norm()", "net>seq>norm", "seq>norm", "norm"]
    )  # fmt: skip


def test_labels_of_the_graph_tell_what_networkx_tells(hybrid):
    """Graphs with the same labels are the same to networkx's own hash, and the other way round."""
    rng = random.Random(1)
    shape = shape_of(dict(hybrid.context.items()))
    ours, theirs = {}, {}
    for number in range(60):
        derivation = hybrid.sample(rng) if number % 3 else mutate(hybrid, hybrid.sample(rng), rng)
        made = Architecture.from_term(derivation.term, shape)
        graph = nx.DiGraph(made.graph.edges)
        for node, layer in made.graph.nodes(data="layer"):
            graph.nodes[node]["label"] = "" if layer is None else f"{layer} {layer.role}"
        both = [nx.weisfeiler_lehman_graph_hash(g, node_attr="label", iterations=2)
                for g in (graph, graph.reverse())]  # fmt: skip
        ours.setdefault(tuple(sorted(graph_labels(made))), set()).add(number)
        theirs.setdefault(tuple(both), set()).add(number)
    assert sorted(map(sorted, ours.values())) == sorted(map(sorted, theirs.values()))


def test_they_are_the_same_in_every_process(hybrid, features):
    text = "net(seq(res(attention(4, 4, full, rope)), res(mlp(4, gelu))))"
    code = (
        "from nas.grammar.space import Space\n"
        "from nas.compiler.costs import shape_of\n"
        "from nas.search.features import Features\n"
        f"space = Space.load('search_spaces/hybrid.lark', context={dict(hybrid._given)!r})\n"
        "vector = Features(shape_of(dict(space.context.items())))(space.parse("
        f"{text!r}))\n"
        "print(vector.tobytes().hex())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ".", "PATH": ""},
    )  # fmt: skip
    assert found.stdout.strip() == features(hybrid.parse(text)).tobytes().hex()
