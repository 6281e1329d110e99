import networkx as nx
import pytest

from nas.compiler.architecture import Architecture
from nas.compiler.build import build
from nas.errors import UsageError
from nas.grammar.derivation import Term
from nas.grammar.space import Space
from nas.layers.base import Shape
from nas.resources import find_space


@pytest.fixture(scope="module")
def space():
    return Space.load(find_space("hybrid.lark"), context={"L": (24,), "D": 32, "causal": False})


SHAPE = Shape(24, 32, False)


def layers(space, text):
    graph = Architecture.from_term(space.parse(text).term, SHAPE).graph
    names = {
        node: str(node) if layer is None else f"{layer.name}.{layer.role}"
        for node, layer in graph.nodes(data="layer")
    }
    return sorted((names[a], names[b]) for a, b in graph.edges), graph


def test_a_sequence_is_edges_only(space):
    edges, _ = layers(space, "net(seq(norm, relu, linear))")
    assert edges == [
        ("input", "norm.leaf"),
        ("linear.leaf", "output"),
        ("norm.leaf", "relu.leaf"),
        ("relu.leaf", "linear.leaf"),
    ]


def test_branches_fork_and_join(space):
    edges, _ = layers(space, "net(add(linear, seq(norm, relu)))")
    assert edges == [
        ("add.fork", "linear.leaf"),
        ("add.fork", "norm.leaf"),
        ("add.join", "output"),
        ("input", "add.fork"),
        ("linear.leaf", "add.join"),
        ("norm.leaf", "relu.leaf"),
        ("relu.leaf", "add.join"),
    ]


def test_a_residual_join_sees_its_input_too(space):
    edges, _ = layers(space, "net(res(linear))")
    assert ("res.fork", "res.join") in edges
    edges, _ = layers(space, "net(down(linear))")
    assert ("down.fork", "down.join") not in edges


def test_stacks_and_repetitions_are_unrolled(space):
    _, graph = layers(space, "net(stack(3, repeat(2, seq(linear, relu))))")
    assert graph.number_of_nodes() == 2 + 3 * 2 * 2
    assert nx.is_directed_acyclic_graph(graph)
    architecture = Architecture.from_term(
        space.parse("net(stack(3, repeat(2, linear)))").term, SHAPE
    )
    # Own weights for every copy, the same weights for every repetition.
    assert [layer.cost.parameters > 0 for layer in architecture.layers] == [True, False] * 3


def test_totals_are_the_sums_of_the_cost_table(space):
    term = space.parse(
        "net(seq(stack(2, res(moe(4, 2, 2, gelu))), gated(2, silu, scan(rglru, plain, both))))"
    ).term
    architecture = Architecture.from_term(term, SHAPE)
    table = architecture.cost_table()
    assert [row["layer"] for row in table] == [
        *["moe(4, 2, 2, gelu)", "res"] * 2,
        "scan(rglru, plain, both)",
        "gated(2, silu)",
    ]
    for measure in ("parameters", "active_parameters", "flops", "activations", "state"):
        assert sum(row[measure] for row in table) == getattr(architecture, measure)
    # Two of four experts: a token meets all parameters but two experts a layer, 2 * 2 * D * 2D each
    assert architecture.parameters - architecture.active_parameters == 2 * 2 * (4 * 32 * 32)


def test_the_shapes_of_layers_are_the_contexts_of_the_grammar(space):
    """`gated(2, ...)` sees twice the width and `down` half the length, in both worlds."""
    text = "net(gated(2, silu, down(seq(linear, down(gated(1, relu, scan(fixed, plain, both)))))))"
    derivation = space.parse(text)
    architecture = Architecture.from_term(derivation.term, SHAPE)
    shapes = {layer.name: layer.shape for layer in architecture.layers if layer.role != "fork"}
    assert (shapes["linear"].length, shapes["linear"].width) == (12, 64)
    assert (shapes["scan"].length, shapes["scan"].width) == (6, 64)

    found = {}
    stack = [(derivation.root, space.context)]
    while stack:
        node, context = stack.pop()
        found[node.alternative.name] = (context["L"], context["D"])
        below = space.below(node, context)
        stack += [(child, below) for child in node.children]
    assert found["linear"] == ((12,), 64)
    assert found["scan"] == ((6,), 64)


def test_state_is_that_of_causal_architectures_only(space):
    term = space.parse("net(scan(sigmoid, convex, forward))").term
    assert Architecture.from_term(term, Shape(24, 32, True)).state == 32
    assert Architecture.from_term(term, Shape(24, 32, False)).state == 0


def test_a_term_that_names_no_layer_is_refused():
    with pytest.raises(UsageError, match="no layer is called 'lstm'"):
        Architecture.from_term(Term("net", (Term("lstm"),)), SHAPE)
    with pytest.raises(UsageError, match="no layer is called 'lstm'"):
        build(Term("net", (Term("lstm"),)), SHAPE)
