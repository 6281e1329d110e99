"""Counting without drawing: exact numbers of derivations by size, and what is never legal.

Both depend on what is legal alone, so contexts that differ in names that no `where` looks at are
one and the same here.
"""

from collections.abc import Iterator
from functools import cache

from nas.grammar.context import Context
from nas.grammar.options import Options
from nas.grammar.rules import Alternative
from nas.grammar.space import Space

SEARCHED = 50_000  # contexts in which alternatives are looked for


def counts_by_size(space: Space, largest: int) -> tuple[int, ...]:
    """The number of derivations with n nodes, at position n, up to a largest size.

    Args:
        space: The space; caps must be left out.
        largest: The last n.
    """
    states = _States(space)

    @cache
    def trees(state: Options, size: int) -> int:
        return sum(forests(parts, size - 1) for parts in expansions(state))

    @cache
    def expansions(state: Options) -> tuple[tuple[Options, ...], ...]:
        return tuple(states.below(state))

    @cache
    def forests(parts: tuple[Options, ...], size: int) -> int:
        if not parts:
            return int(size == 0)
        first, rest = parts[0], parts[1:]
        if not rest:
            return trees(first, size) if size > 0 else 0
        return sum(
            trees(first, n) * forests(rest, size - n) for n in range(1, size - len(rest) + 1)
        )

    return (0, *(trees(states.start, size) for size in range(1, largest + 1)))


def legal_alternatives(space: Space) -> tuple[set[Alternative], bool]:
    """The alternatives that are legal in some context that can be reached from the start.

    Args:
        space: The space; caps must be left out.

    Returns:
        The alternatives, and whether that is certain: the search ends early when all are found, and
        is given up after 50,000 contexts.
    """
    states = _States(space)
    everything = {a for alternatives in space.grammar.rules.values() for a in alternatives}
    met: set[Alternative] = set()
    seen = {states.start}
    level = [states.start]
    while level and met != everything and len(seen) <= SEARCHED:
        found = []
        for state in level:
            met.update(state.alternatives)
            for parts in states.below(state):
                found += [part for part in parts if part not in seen]
                seen.update(parts)
        level = list(dict.fromkeys(found))
    return met, not level or met == everything


class _States:
    """Rules in contexts, where all that have the same derivations are one object."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._deep = space.grammar.max_depth is not None
        self._known: dict[tuple[str, Context], Options] = {}
        self.start = self._one(space.grammar.start, space.context)

    def _one(self, rule: str, context: Context) -> Options:
        options = self._space.options(rule, context)
        seen = options.context
        return self._known.setdefault((rule, seen.deep_core if self._deep else seen.core), options)

    def below(self, state: Options) -> Iterator[tuple[Options, ...]]:
        """The parts of every alternative of a state."""
        for alternative, context in zip(state.alternatives, state.contexts, strict=True):
            yield tuple(self._one(rule, context) for rule in alternative.references)
