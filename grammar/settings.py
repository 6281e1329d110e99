"""The settings of a term's parameters, as a tree in the order in which they are chosen."""

from collections.abc import Iterator
from dataclasses import dataclass

from nas.grammar.rules import Alternative

Route = tuple[int, ...]
"""Where a node of a frame stands: indices of children, from the frame's own node down."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An alternative of a frame: its own, or one of its parameters'.

    Args:
        alternative: The alternative.
        scope: Under which earlier one it stands: an index into `Leaf.chosen`; -1 for the first.
        route: Where it stands.
        level: How many levels below the frame.
    """

    alternative: Alternative
    scope: int
    route: Route
    level: int


@dataclass(frozen=True, slots=True)
class Part:
    """A block that a frame leaves to be derived.

    Args:
        what: Its rule, or its alternative where that was chosen among parameters already.
        scope: Under which of the frame's alternatives it stands: an index into `Leaf.chosen`.
        route: Where it stands.
        level: How many levels below the frame.
    """

    what: str | Alternative
    scope: int
    route: Route
    level: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting of all parameters of a frame.

    Args:
        chosen: Its alternatives, the frame's own first. Where the cost does not see a parameter's
            value, the first stands for all.
        parts: Its blocks, from left to right.
        own: What the term itself costs, per capped measure.
        scale: What the cost of its blocks is multiplied with.
    """

    chosen: tuple[Chosen, ...]
    parts: tuple[Part, ...]
    own: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of a frame that is to be chosen, after those before it.

    Args:
        rule: The parameter's rule.
        scope: Under which of the alternatives chosen so far it stands.
        route: Where it stands.
        branches: Its legal alternatives and what follows from each: the same object where that is
            the same.
    """

    rule: str
    scope: int
    route: Route
    branches: tuple[tuple[Alternative, "Setting | Leaf"], ...]


def leaves(tree: Setting | Leaf) -> Iterator[Leaf]:
    """All settings of a frame that differ, in the order of their choices."""
    if isinstance(tree, Leaf):
        yield tree
    else:
        for branch in {id(branch): branch for _, branch in tree.branches}.values():
            yield from leaves(branch)
