"""Architectures as vectors: what a surrogate sees of them."""

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nas.compiler.architecture import Architecture
from nas.grammar.derivation import Derivation, Term
from nas.layers.base import Shape

HASHED = 512
"""Places that labels are hashed to."""

COSTS = ("parameters", "flops", "activations", "state", "size")
"""What else is told: logarithms of the body's costs, and of the nodes of the derivation."""

SIZE = HASHED + len(COSTS)

ROUNDS = 2
"""Of Weisfeiler and Lehman's relabelling: a label tells of what is so many steps away."""

_MASK = 2**63 - 1


class Features:
    """Vectors of architectures, each computed once.

    A vector holds how often each label occurs (the square root, hashed to a place, the whole of
    length 1) and, behind that, the costs. Labels are of the tree of the text (a term with its
    parameters, alone and below its parents, and beside its neighbour in a sequence) and of the
    graph that it computes (a layer with its parameters, and with what is around it).

    Ru et al., "Interpretable Neural Architecture Search via Bayesian Optimisation with
    Weisfeiler-Lehman Kernels", 2021 (labels of the graph); White et al., "BANANAS", 2021 (paths).

    Args:
        shape: What architectures are built for; None where a space's terms are no layers: its
            vectors then tell of the text alone.
    """

    def __init__(self, shape: Shape | None) -> None:
        self._shape = shape
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, derivation: Derivation) -> NDArray[np.float32]:
        """The vector `[SIZE]` of an architecture."""
        found = self._known.get(derivation.text)
        if found is None:
            found = self._known[derivation.text] = self._vector(derivation)
        return found

    def _vector(self, derivation: Derivation) -> NDArray[np.float32]:
        labels = [zlib.crc32(label.encode()) for label in tree_labels(derivation.term)]
        costs = [0] * (len(COSTS) - 1)
        if self._shape is not None:
            made = Architecture.from_term(derivation.term, self._shape)
            labels += graph_labels(made)
            costs = [made.parameters, made.flops, made.activations, made.state]
        found, counts = np.unique(np.array(labels, dtype=np.uint64), return_counts=True)
        hashed = np.bincount(found % HASHED, np.sqrt(counts), minlength=HASHED)
        vector = np.append(
            hashed / np.linalg.norm(hashed), np.log10(np.add([*costs, derivation.size], 1.0))
        )
        return vector.astype(np.float32)


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


def graph_labels(architecture: Architecture) -> list[int]:
    """Weisfeiler-Lehman labels of an architecture's graph, of the rounds 0 to `ROUNDS`."""
    before, after = architecture.graph.pred, architecture.graph.succ
    here = {
        node: zlib.crc32(b"" if layer is None else f"{layer} {layer.role}".encode())
        for node, layer in architecture.graph.nodes(data="layer")
    }
    found = list(here.values())
    for _ in range(ROUNDS):
        # Hashes of tuples of integers are the same in every process.
        here = {
            node: hash((label, *sorted([here[n] for n in before[node]]), -1,
                        *sorted([here[n] for n in after[node]]))) & _MASK
            for node, label in here.items()
        }  # fmt: skip
        found += here.values()
    return found


def _is_parameter(term: Term) -> bool:
    return bool(term.arguments) and all(isinstance(word, str) for word in term.arguments)


def _word(argument: Term | str) -> str:
    if isinstance(argument, str):
        return argument
    if _is_parameter(argument):
        return f"{argument.name}={'/'.join(map(str, argument.arguments))}"
    return argument.name if not argument.arguments else "*"
