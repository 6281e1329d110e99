"""What must be true of a space's rules: every rule ends, every name is known where it is read."""

from collections.abc import Collection, Iterator, Mapping

from nas.grammar.definitions import close_to
from nas.grammar.errors import SpaceError
from nas.grammar.expression import Expression
from nas.grammar.rules import Alternative, Literal, Reference

DEPTH = "depth"

Rules = Mapping[str, tuple[Alternative, ...]]


def check_endings(rules: Rules) -> None:
    """Refuse a rule none of whose derivations ends.

    Raises:
        SpaceError: Every alternative of a rule needs the rule again.
    """
    ending: set[str] = set()
    before = -1
    while before != len(ending):
        before = len(ending)
        for name, alternatives in rules.items():
            if any(ending.issuperset(alternative.references) for alternative in alternatives):
                ending.add(name)
    endless = [name for name in rules if name not in ending]
    for name in endless:
        if name in _reached(name, rules):
            message = f"rule `{name}` never ends: add an alternative that does not need it again"
            raise SpaceError(message, rules[name][0].location)


def _reached(name: str, rules: Rules) -> set[str]:
    """The rules that a rule leads to, itself only if it leads back to itself."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for alternative in rules[waiting.pop()]:
            waiting += set(alternative.references) - found
            found.update(alternative.references)
    return found


def check_start(rules: Rules, start: str) -> None:
    """Refuse a start rule that makes a bare word rather than a term.

    Raises:
        SpaceError: The start rule is inlined around a token.
    """
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        rule = waiting.pop()
        if rule in seen:
            continue
        seen.add(rule)
        for alternative in rules[rule]:
            if alternative.name is not None:
                continue
            if any(isinstance(s, Literal) and s.kept for s in alternative.symbols):
                message = f"`{start}` would make a bare word here: give it a name, `-> name`"
                raise SpaceError(message, alternative.location)
            waiting += alternative.references


def check_names(rules: Rules, start: str, given: Collection[str]) -> None:
    """Refuse expressions that read a name which is not there, and lets that nobody reads.

    A name is there if the study gives it, or if every way from the start rule assigns it.

    Args:
        rules: The rules.
        start: Where derivations begin.
        given: Names that the context of a study has.

    Raises:
        SpaceError: A name is unknown, known on some ways only, or assigned in vain.
    """
    known = _known_names(rules, start, frozenset(given) | {DEPTH})
    assigned = {name for a in _all(rules) for name, _ in a.lets}
    read: set[str] = set()
    for rule, alternatives in rules.items():
        for alternative in alternatives:
            names = set(known[rule])
            for expression in (alternative.weight, alternative.where):
                if expression is not None:
                    _check_read(expression, names, assigned, alternative)
                    read |= expression.names
            for name, expression in alternative.lets:
                _check_read(expression, names, assigned, alternative)
                read |= expression.names
                names.add(name)
    for alternative in _all(rules):
        for name, expression in alternative.lets:
            if name not in read and name not in given:
                message = f"`let {name}`: nothing reads `{name}`{close_to(name, {*read, *given})}"
                raise SpaceError(message, expression.location or alternative.location)


def _all(rules: Rules) -> Iterator[Alternative]:
    for alternatives in rules.values():
        yield from alternatives


def _known_names(rules: Rules, start: str, given: frozenset[str]) -> dict[str, frozenset[str]]:
    """The names that are there whenever a rule is reached: met over all ways to it."""
    known = {start: given}
    waiting = [start]
    while waiting:
        rule = waiting.pop()
        for alternative in rules[rule]:
            below = known[rule].union(name for name, _ in alternative.lets)
            for symbol in alternative.symbols:
                if isinstance(symbol, Reference):
                    before = known.get(symbol.rule)
                    after = below if before is None else before & below
                    if after != before:
                        known[symbol.rule] = after
                        waiting.append(symbol.rule)
    return known


def _check_read(
    expression: Expression, names: set[str], assigned: set[str], alternative: Alternative
) -> None:
    for name in sorted(expression.names - names):
        location = expression.location or alternative.location
        if name in assigned:
            message = (
                f"`{expression}` reads `{name}`, which not every way to `{alternative.rule}` "
                f"assigns: assign it first, as in `let {name} = 0` at the start rule"
            )
        else:
            message = (
                f"`{expression}` reads `{name}`, which is not known{close_to(name, names)}: "
                f"known here are {', '.join(sorted(names))}"
            )
        raise SpaceError(message, location)
