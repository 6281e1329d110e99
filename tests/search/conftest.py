"""Studies without training: strategies on exact objectives that cost nothing."""

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.grammar.canonical import canonical_hash
from nas.grammar.derivation import Term
from nas.grammar.space import Space
from nas.search.base import Observation, random_stream

CHAIN = """
start: "net" "(" layer "," layer "," layer "," layer "," layer "," layer ")" -> net
layer: "conv" "(" width "," act ")" -> conv
     | "attention" "(" heads ")" -> attention
     | "mlp" "(" width "," act ")" -> mlp
     | "norm" -> norm
!width: "1" | "2" | "4" | "8"
!heads: "1" | "2" | "4" | "8"
!act: "relu" | "gelu" | "silu"
"""
"""Six layers side by side: 57**6 architectures, and each layer counts by itself."""


def tokens(term):
    """The layers of a chain, each as its words."""
    return [(layer.name, *(a.arguments[0] for a in layer.arguments)) for layer in term.arguments]


class Chain:
    """How many words of a planted chain are met, position by position; at most 1."""

    def __init__(self, planted, learning_rate):
        self.planted = tokens(planted.term)
        self.learning_rate = learning_rate

    def __call__(self, proposal):
        hits = total = 0
        for wanted, found in zip(self.planted, tokens(proposal.derivation.term), strict=True):
            total += len(wanted)
            if wanted[0] == found[0]:
                hits += sum(a == b for a, b in zip(wanted, found, strict=True))
        return hits / total - 0.05 * abs(math.log10(proposal.learning_rate / self.learning_rate))


def parts(term):
    """Which terms stand directly in which, and with which parameters."""
    found = Counter()
    stack = [term]
    while stack:
        top = stack.pop()
        for argument in top.arguments:
            inner = argument.arguments if isinstance(argument, Term) else ()
            if inner and all(isinstance(word, str) for word in inner):
                found[top.name, argument.name, inner] += 1
            elif isinstance(argument, Term):
                found[top.name, argument.name] += 1
                stack.append(argument)
    return found


class Similarity:
    """How much of the structure is that of a planted architecture, wherever it stands; at most 1.

    The Jaccard index of the two multisets of parts.
    """

    def __init__(self, planted, learning_rate):
        self.planted = parts(planted.term)
        self.learning_rate = learning_rate

    def __call__(self, proposal):
        found = parts(proposal.derivation.term)
        common, all_of = found & self.planted, found | self.planted
        distance = abs(math.log10(proposal.learning_rate / self.learning_rate))
        return common.total() / all_of.total() - 0.05 * distance


def observe(number, proposal, score, state="complete", rung=0):
    return Observation(
        number=number,
        state=state,
        text=proposal.derivation.text,
        hash=canonical_hash(proposal.derivation),
        learning_rate=proposal.learning_rate,
        score=score,
        rung=rung,
        origin=proposal.origin,
        parents=proposal.parents,
    )


def run(strategy, objective, trials, seed):
    """The history of a study in which every trial is measured at once."""
    history = []
    for number in range(trials):
        proposal = strategy.propose(history, random_stream(seed, number))
        history.append(observe(number, proposal, objective(proposal)))
    return history


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    path = Path(tmp_path_factory.mktemp("chain")) / "chain.lark"
    path.write_text(CHAIN + "%import common.WS\n%ignore WS\n")
    return Space.load(str(path))


@pytest.fixture(scope="session")
def hybrid():
    return Space.load("search_spaces/hybrid.lark", context={"L": 128, "D": 32, "causal": False})


@pytest.fixture(scope="session")
def instant():
    return SimpleNamespace(run=run, observe=observe, Chain=Chain, Similarity=Similarity)
