"""Crossover: a part of one derivation in place of a part of another."""

from random import Random

from nas.grammar.derivation import Derivation
from nas.grammar.edit import complete, decided, replaced
from nas.grammar.mutation import mutate
from nas.grammar.space import Space

ATTEMPTS = 8
"""Exchanges tried before the first derivation is mutated instead."""


def crossover(space: Space, a: Derivation, b: Derivation, rng: Random) -> Derivation:
    """The first derivation with one part replaced by a part of the second, of the same rule.

    Only parts that consist of further parts are exchanged: single parameters are left to mutation.
    What is not legal where the part now stands is drawn again.

    Args:
        space: The space that the result is legal in.
        a: Gives the frame.
        b: Gives the part.
        rng: Source of chance.

    Returns:
        A derivation that differs from both; where none is found, a mutation of `a`.

    Raises:
        SpaceError: A derivation is not of this space, or the space has no other than `a`.
    """
    given = [place.node for place in decided(space, b) if place.node.children]
    rules = {node.rule for node in given}
    taken = [p for p in decided(space, a) if p.node.children and p.node.rule in rules]
    repaired = None
    for _ in range(ATTEMPTS if taken else 0):
        place = rng.choice(taken)
        part = rng.choice([node for node in given if node.rule == place.node.rule])
        child, repairs = complete(space, replaced(a.root, place.choice.path, part), rng)
        if child not in (a, b) and repairs == 0:
            return child
        if child not in (a, b):
            repaired = child
    return repaired or mutate(space, a, rng)
