"""Contexts: what a derivation knows at one place, such as its length, width and depth.

Contexts are interned: equal contexts are one object, so that whatever is computed for a rule in a
context is found again by identity, however often a derivation comes by.
"""

from collections.abc import Iterator, Mapping

from nas.grammar.errors import SpaceError
from nas.grammar.expression import Value
from nas.grammar.rules import Alternative, Grammar

DEPTH = "depth"


class Context(Mapping[str, Value]):
    """Names and values at one place of a derivation; compared by identity.

    Attributes:
        depth: Number of rules above, or 0 when the space does not look at it.
        without_depth: The same context without the name `depth`.
    """

    __slots__ = ("_values", "depth", "without_depth")

    def __init__(self, values: Mapping[str, Value], without_depth: "Context | None") -> None:
        self._values = dict(values)
        self.depth = int(self._values.get(DEPTH, 0))  # type: ignore[arg-type]
        self.without_depth = self if without_depth is None else without_depth

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

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
    """

    def __init__(self, grammar: Grammar) -> None:
        where_or_let: set[str] = set()
        weights: set[str] = set()
        for alternatives in grammar.rules.values():
            for alternative in alternatives:
                weights |= alternative.weight.names
                if alternative.where is not None:
                    where_or_let |= alternative.where.names
                for name, expression in alternative.lets:
                    if name == DEPTH:
                        message = "`depth` is counted by the grammar: assign another name"
                        raise SpaceError(message, alternative.location)
                    where_or_let |= expression.names
        self.depth_decides = DEPTH in where_or_let
        self.max_depth = grammar.max_depth
        self._tracks_depth = self.depth_decides or DEPTH in weights or grammar.max_depth is not None
        self._interned: dict[tuple[tuple[str, type, Value], ...], Context] = {}
        self._below: dict[tuple[Alternative, Context], Context] = {}
        self._allowed: dict[tuple[Alternative, Context], bool] = {}

    def root(self, values: Mapping[str, Value] | None) -> Context:
        """The context of the start rule, where `values` are given by a study."""
        given = dict(values or {})
        if DEPTH in given:
            raise SpaceError("`depth` is counted by the grammar: it cannot be given")
        if self._tracks_depth:
            given[DEPTH] = 0
        return self._intern(given)

    def _intern(self, values: Mapping[str, Value]) -> Context:
        # 1, 1.0 and True are equal but not written alike: the type is part of the key.
        key = tuple((name, type(value), value) for name, value in sorted(values.items()))
        context = self._interned.get(key)
        if context is None:
            shallow = None
            if DEPTH in values:
                shallow = self._intern({n: v for n, v in values.items() if n != DEPTH})
            context = self._interned[key] = Context(values, shallow)
        return context

    def below(self, alternative: Alternative, context: Context) -> Context:
        """The context of the parts of an alternative that is chosen in a context."""
        key = (alternative, context)
        found = self._below.get(key)
        if found is None:
            found = self._below[key] = self._make_below(alternative, context)
        return found

    def _make_below(self, alternative: Alternative, context: Context) -> Context:
        deeper = DEPTH in context and not is_helper(alternative.rule)
        if not alternative.lets and not deeper:
            return context
        values = dict(context)
        for name, expression in alternative.lets:
            values[name] = expression.lanes(values)
        if deeper:
            values[DEPTH] = context.depth + 1
        return self._intern(values)

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


def is_helper(rule: str) -> bool:
    """Whether a rule stands for a group or a repetition: it adds no depth of its own."""
    return rule.startswith("__")
