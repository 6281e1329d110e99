"""Architectures as vectors: what a surrogate sees of them."""

import math
import zlib
from collections import Counter
from collections.abc import Iterator

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from nas.compiler.architecture import Architecture
from nas.grammar.derivation import Derivation, Term
from nas.layers.base import Shape

HASHED = 512
"""Places that labels are hashed to."""

COSTS = ("parameters", "flops", "activations", "state", "depth", "size")
"""What else is told: logarithms of the body's costs, its longest path, its number of nodes."""

SIZE = HASHED + len(COSTS)

ROUNDS = 2
"""Of Weisfeiler and Lehman's relabelling: a label tells of what is so many steps away."""


class Features:
    """Vectors of architectures, each computed once.

    A vector holds how often each label occurs (the square root, hashed to a place, the whole of
    length 1) and, behind that, the costs. Labels are of the tree of the text (a term with its
    parameters, alone and below its parents, and beside its neighbour in a sequence) and of the
    graph that it computes (a layer with its parameters, and with what is around it).

    Ru et al., "Interpretable Neural Architecture Search via Bayesian Optimisation with
    Weisfeiler-Lehman Kernels", 2021 (labels of the graph); White et al., "BANANAS", 2021 (paths).

    Args:
        shape: What architectures are built for, to count costs.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, derivation: Derivation) -> NDArray[np.float32]:
        """The vector `[SIZE]` of an architecture."""
        found = self._known.get(derivation.text)
        if found is None:
            found = self._known[derivation.text] = self._vector(derivation)
        return found

    def _vector(self, derivation: Derivation) -> NDArray[np.float32]:
        architecture = Architecture.from_term(derivation.term, self._shape)
        counts = Counter(tree_labels(derivation.term))
        counts.update(graph_labels(architecture))
        vector = np.zeros(SIZE, dtype=np.float32)
        for label, count in counts.items():
            vector[zlib.crc32(label.encode()) % HASHED] += math.sqrt(count)
        vector[:HASHED] /= max(1e-9, float(np.linalg.norm(vector[:HASHED])))
        vector[HASHED:] = (
            math.log10(1 + architecture.parameters),
            math.log10(1 + architecture.flops),
            math.log10(1 + architecture.activations),
            math.log10(1 + architecture.state),
            math.log10(nx.dag_longest_path_length(architecture.graph)),
            math.log10(derivation.size),
        )
        return vector


def tree_labels(term: Term) -> Iterator[str]:
    """Labels of an architecture's text: terms, alone and with up to two above, and neighbours."""
    stack: list[tuple[Term, tuple[str, ...]]] = [(term, ())]
    while stack:
        top, above = stack.pop()
        words = ",".join(_word(argument) for argument in top.arguments)
        yield f"{top.name}({words})"
        chain = (*above, top.name)
        for start in range(len(chain)):
            yield ">".join(chain[start:])
        before = ""
        for argument in top.arguments:
            if isinstance(argument, str) or _is_parameter(argument):
                yield f"{top.name}:{_word(argument)}"
                continue
            if before:
                yield f"{top.name}[{before},{argument.name}]"
            before = argument.name
            stack.append((argument, chain[-2:]))


def graph_labels(architecture: Architecture) -> Iterator[str]:
    """Weisfeiler-Lehman labels of an architecture's graph, of the rounds 0 to `ROUNDS`."""
    graph = architecture.graph
    labels: dict[object, str] = {
        node: "io" if layer is None else f"{layer}{layer.role[0]}"
        for node, layer in graph.nodes(data="layer")
    }
    for number in range(ROUNDS + 1):
        yield from (f"{number}/{label}" for label in labels.values())
        if number < ROUNDS:
            labels = {
                node: f"{zlib.crc32(_around(graph, labels, node).encode()):x}" for node in graph
            }


def _around(graph: "nx.DiGraph[object]", labels: dict[object, str], node: object) -> str:
    before = ",".join(sorted(labels[other] for other in graph.pred[node]))
    after = ",".join(sorted(labels[other] for other in graph.succ[node]))
    return f"{before}|{labels[node]}|{after}"


def _is_parameter(term: Term) -> bool:
    return bool(term.arguments) and all(isinstance(word, str) for word in term.arguments)


def _word(argument: Term | str) -> str:
    if isinstance(argument, str):
        return argument
    if _is_parameter(argument):
        return f"{argument.name}={'/'.join(map(str, argument.arguments))}"
    return argument.name if not argument.arguments else "*"
