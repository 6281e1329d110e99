"""Contexts: what a derivation knows at one place, such as its length, width and depth.

Contexts are interned: equal contexts are one object, so that whatever is computed for a rule in a
context is found again by identity, however often a derivation comes by.
"""

from collections.abc import Iterable, Iterator, Mapping

from nas.grammar.errors import SpaceError
from nas.grammar.expression import Value
from nas.grammar.reach import DEPTH, deciding_names, heights_below, levels, names_below
from nas.grammar.rules import Alternative, Grammar


class Context(Mapping[str, Value]):
    """Names and values at one place of a derivation; compared by identity.

    Attributes:
        depth: Number of rules above, or 0 when the space does not look at it.
        core: The same context with only those names that decide what is legal and what it costs.
        deep_core: The core and `depth`.
        given: The same context with only those names that a study gives.
        partial: Whether this is such a part of a context rather than a whole one.
    """

    __slots__ = ("_values", "core", "deep_core", "depth", "given", "partial")

    core: "Context"
    deep_core: "Context"
    given: "Context"

    def __init__(self, values: Mapping[str, Value], partial: bool) -> None:
        self._values = dict(values)
        self.partial = partial
        self.depth = int(self._values.get(DEPTH, 0))  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Context({self})"

    def __str__(self) -> str:
        return ", ".join(f"{name} = {_shown(value)}" for name, value in self._values.items())


def _shown(value: Value) -> str:
    if isinstance(value, tuple):
        return " | ".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else f"{value}"


class Contexts:
    """All contexts of a space: interned, and how an alternative leads from one to the next.

    Args:
        grammar: The rules. Depth is part of a context only if some rule looks at it.
        given: What a study gives.
        costly: Whether costs matter, which depend on what is given.

    Attributes:
        root: The context of the start rule.
        depth_decides: Whether some `where` depends on depth.
        max_depth: The grammar's.
    """

    def __init__(self, grammar: Grammar, given: Mapping[str, Value], costly: bool) -> None:
        if DEPTH in given:
            raise SpaceError("`depth` is counted by the grammar: it cannot be given")
        self.max_depth = grammar.max_depth
        self._given = frozenset(given)
        self._deciding = deciding_names(grammar, self._given if costly else frozenset())
        self.depth_decides = DEPTH in self._deciding
        self._names = names_below(grammar)
        self._heights = heights_below(grammar)
        self._interned: dict[object, Context] = {}
        self._below: dict[tuple[Alternative, Context], Context] = {}
        self._allowed: dict[tuple[Alternative, Context], bool] = {}
        self._views: dict[tuple[str, Context], Context] = {}
        tracked = DEPTH in self._names[grammar.start] or grammar.max_depth is not None
        self.root = self._intern({**given, DEPTH: 0} if tracked else given, partial=False)

    def view(self, rule: str, context: Context) -> Context:
        """The context as far as a rule, or one that it can contain, looks at it.

        What a study gives is always in view; `depth` is unless no rule below reads it and
        `max_depth` is out of reach.
        """
        key = (rule, context)
        found = self._views.get(key)
        if found is None:
            names = self._names[rule] | self._given
            deepest = context.depth + self._heights[rule]
            if self.max_depth is not None and deepest > self.max_depth:
                names |= {DEPTH}
            values = {name: value for name, value in context.items() if name in names}
            found = self._views[key] = self._intern(values, context.partial)
        return found

    def _intern(self, values: Mapping[str, Value], partial: bool) -> Context:
        # 1, 1.0 and True are equal but not written alike: the type is part of the key.
        key = (partial, tuple((name, type(v), v) for name, v in sorted(values.items())))
        context = self._interned.get(key)
        if context is None:
            context = self._interned[key] = Context(values, partial)
            context.core = self.part(context, self._deciding)
            context.deep_core = self.part(context, self._deciding | {DEPTH})
            context.given = self.part(context, self._given)
        return context

    def part(self, context: Context, names: frozenset[str]) -> Context:
        """The same context with only some names."""
        if context.partial and context.keys() <= names:
            return context
        values = {name: value for name, value in context.items() if name in names}
        return self._intern(values, partial=True)

    def names_seen(self, alternative: Alternative, rules: Iterable[str]) -> frozenset[str]:
        """What is given, and the names that some rules in an alternative look at or are made of."""
        names = frozenset[str]().union(*(self._names[rule] for rule in rules))
        if any(name in names for name, _ in alternative.lets):
            names = names.union(*(expression.names for _, expression in alternative.lets))
        return names | self._given | ({DEPTH} if self.depth_decides else frozenset())

    def below(self, alternative: Alternative, context: Context) -> Context:
        """The context of the parts of an alternative that is chosen in a context."""
        key = (alternative, context)
        found = self._below.get(key)
        if found is None:
            found = self._below[key] = self._make_below(alternative, context)
        return found

    def _make_below(self, alternative: Alternative, context: Context) -> Context:
        deeper = levels(alternative) if DEPTH in context else 0
        if not alternative.lets and not deeper:
            return context
        values = dict(context)
        for name, expression in alternative.lets:
            if name == DEPTH:
                message = "`depth` is counted by the grammar: assign another name"
                raise SpaceError(message, alternative.location)
            if not context.partial or name in self._deciding:
                values[name] = expression.lanes(values)
        if deeper:
            values[DEPTH] = context.depth + deeper
        return self._intern(values, context.partial)

    def allows(self, alternative: Alternative, context: Context) -> bool:
        """Whether the alternative's own `where` holds in the context."""
        if alternative.where is None:
            return True
        key = (alternative, context)
        found = self._allowed.get(key)
        if found is None:
            found = self._allowed[key] = alternative.where.holds(context)
        return found

    def too_deep(self, context: Context) -> bool:
        """Whether a rule in this context lies deeper than the space's `max_depth`."""
        return self.max_depth is not None and context.depth > self.max_depth
