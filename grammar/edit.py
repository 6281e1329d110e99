"""Changing a derivation: cut out parts, put others in, and let the grammar fill what is missing.

A **sketch** is a tree of nodes that may have holes and may be illegal here and there: a part that
was moved sees another context than before. `complete` turns it into a derivation: the decisions
are taken as the sketch says wherever that is legal, and drawn from the grammar elsewhere. So
whatever is done to a sketch, the result is legal, under every `where`, `max_depth` and cap.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random

from nas.grammar.arithmetic import constant
from nas.grammar.decisions import Choice
from nas.grammar.derivation import Derivation, Node
from nas.grammar.errors import Location, SpaceError
from nas.grammar.expression import Expression
from nas.grammar.rules import Alternative
from nas.grammar.space import Space

Path = tuple[int, ...]
"""Where a node stands: indices of children, from the root down."""


HOLE = Node(
    Alternative("", 0, (), None, Expression(constant(1)), None, (), Location("", 0)),
)
"""A part that is left to the grammar: its alternative is legal nowhere."""


@dataclass(frozen=True, slots=True)
class Place:
    """A decision of a derivation.

    Args:
        choice: What could be chosen, where, and in which context.
        index: What was chosen: a position in `choice.alternatives`.
        node: The node that follows from it.
    """

    choice: Choice
    index: int
    node: Node


def node_at(root: Node, path: Path) -> Node | None:
    """The node at a path, or None where the tree has none."""
    node = root
    for index in path:
        if index >= len(node.children):
            return None
        node = node.children[index]
    return node


def replaced(root: Node, path: Path, part: Node) -> Node:
    """The tree with another part at a path that it has."""
    spine = [root]
    for index in path:
        spine.append(spine[-1].children[index])
    node = part
    for parent, index in zip(reversed(spine[:-1]), reversed(path), strict=True):
        children = (*parent.children[:index], node, *parent.children[index + 1 :])
        node = Node(parent.alternative, children)
    return node


def places(space: Space, derivation: Derivation, *, coarse: bool = False) -> Iterator[Place]:
    """The decisions that lead to a derivation, in the order of `Space.decide`.

    Args:
        space: Its space.
        derivation: The derivation.
        coarse: See `Space.decide`.

    Raises:
        SpaceError: The derivation is not legal in this space.
    """
    decisions = space.decide(coarse=coarse)
    while (choice := decisions.current) is not None:
        node = node_at(derivation.root, choice.path)
        if node is None or node.alternative not in choice.alternatives:
            break
        index = choice.alternatives.index(node.alternative)
        yield Place(choice, index, node)
        decisions.choose(index)
    if decisions.current is not None or decisions.derivation != derivation:
        raise SpaceError(f"not an architecture of this space: {derivation.text}")


@lru_cache(maxsize=1024)
def decided(space: Space, derivation: Derivation) -> tuple[Place, ...]:
    """The same, remembered: a good architecture is changed again and again.

    Raises:
        SpaceError: The derivation is not legal in this space.
    """
    return tuple(places(space, derivation))


def complete(
    space: Space, sketch: Node, rng: Random, *, flat: bool = False
) -> tuple[Derivation, int]:
    """The derivation that a sketch becomes.

    Args:
        space: Says what is legal, and fills the holes by its probabilities.
        sketch: A tree of nodes of this space's rules.
        rng: Source of chance.
        flat: Fill holes with as few levels as there can be, not by the space's probabilities.

    Returns:
        A legal derivation, and how many parts of the sketch, holes not counted, are not in it.

    Raises:
        SpaceError: The space is empty.
    """
    decisions = space.decide()
    while (choice := decisions.current) is not None:
        node = node_at(sketch, choice.path)
        if node is not None and node.alternative in choice.alternatives:
            decisions.choose(choice.alternatives.index(node.alternative))
        elif flat:
            heights = [space.height(each, choice.context) for each in choice.alternatives]
            decisions.choose(heights.index(min(heights)))
        else:
            decisions.choose(draw(choice.probabilities, rng))
    derivation = decisions.derivation
    return derivation, _missing(sketch, derivation.root)


def _missing(sketch: Node, root: Node) -> int:
    missing = 0
    stack = [(sketch, root)]
    while stack:
        wanted, found = stack.pop()
        if wanted.alternative is found.alternative:
            stack += zip(wanted.children, found.children, strict=True)
        else:
            missing += wanted is not HOLE
    return missing


def draw(weights: Sequence[float], rng: Random) -> int:
    """A position, with a probability proportional to its weight."""
    cumulative = list(accumulate(weights))
    return min(bisect_right(cumulative, rng.random() * cumulative[-1]), len(cumulative) - 1)
