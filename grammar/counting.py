"""Counting without drawing: exact numbers of derivations by size, and what is never legal.

Both depend on what is legal alone, so contexts that differ in names that no `where` looks at are
one and the same here.
"""

from collections.abc import Callable
from functools import cache

from nas.grammar.context import Context
from nas.grammar.rules import Alternative, Grammar
from nas.grammar.space import Space

Key = tuple[object, ...]

SEARCHED = 50_000  # contexts in which alternatives are looked for


def counts_by_size(space: Space, largest: int) -> tuple[int, ...]:
    """The number of derivations with n nodes, at position n, up to a largest size.

    Args:
        space: The space; caps must be left out.
        largest: The last n.
    """
    key = _legality(space)
    contexts: dict[Key, tuple[str, Context]] = {}

    def known(rule: str, context: Context) -> Key:
        found = key(rule, context)
        contexts.setdefault(found, (rule, context))
        return found

    @cache
    def expansions(state: Key) -> tuple[tuple[Key, ...], ...]:
        options = space.options(*contexts[state])
        return tuple(
            tuple(known(rule, below) for rule in alternative.references)
            for alternative, below in zip(options.alternatives, options.contexts, strict=True)
        )

    @cache
    def trees(state: Key, size: int) -> int:
        return sum(forests(parts, size - 1) for parts in expansions(state))

    @cache
    def forests(parts: tuple[Key, ...], size: int) -> int:
        if not parts:
            return int(size == 0)
        first, rest = parts[0], parts[1:]
        if not rest:
            return trees(first, size) if size > 0 else 0
        return sum(
            trees(first, n) * forests(rest, size - n) for n in range(1, size - len(rest) + 1)
        )

    start = known(space.grammar.start, space.context)
    return (0, *(trees(start, size) for size in range(1, largest + 1)))


def legal_alternatives(space: Space) -> tuple[set[Alternative], bool]:
    """The alternatives that are legal in some context that can be reached from the start.

    Args:
        space: The space; caps must be left out.

    Returns:
        The alternatives, and whether every context was searched. The search ends before that when
        all alternatives are found, or after 50,000 contexts.
    """
    key = _legality(space)
    everything = {a for alternatives in space.grammar.rules.values() for a in alternatives}
    met: set[Alternative] = set()
    level = [(space.grammar.start, space.context)]
    seen = {key(*level[0])}
    while level and met != everything and len(seen) <= SEARCHED:
        below: list[tuple[str, Context]] = []
        for state in level:
            options = space.options(*state)
            met.update(options.alternatives)
            for alternative, context in zip(options.alternatives, options.contexts, strict=True):
                for rule in alternative.references:
                    if key(rule, context) not in seen:
                        seen.add(key(rule, context))
                        below.append((rule, context))
        level = below
    return met, not level or met == everything


def _legality(space: Space) -> Callable[[str, Context], Key]:
    """What decides about the legality of all that a rule in a context can become."""
    names = _deciding_names(space.grammar)

    def key(rule: str, context: Context) -> Key:
        return (rule, *(context.get(name) for name in names))

    return key


def _deciding_names(grammar: Grammar) -> tuple[str, ...]:
    """The names that a `where` looks at, or that are assigned to one of them."""
    every = [alternative for rule in grammar.rules.values() for alternative in rule]
    names = {name for a in every if a.where is not None for name in a.where.names}
    if grammar.max_depth is not None:
        names.add("depth")
    before = -1
    while before != len(names):
        before = len(names)
        for alternative in every:
            for name, expression in alternative.lets:
                if name in names:
                    names |= expression.names
    return tuple(sorted(names))
