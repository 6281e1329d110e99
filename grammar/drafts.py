"""Alternatives while a space is being reduced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.grammar.arithmetic import constant
from nas.grammar.definitions import Scope
from nas.grammar.errors import Location, SpaceError
from nas.grammar.expression import Expression, parse_expression
from nas.grammar.pragma import IntRange
from nas.grammar.rules import Alternative, Literal, Symbol
from nas.grammar.syntax_tree import Option

REPEAT = 0.5  # probability of going on, where no `repeat` says another


@dataclass(frozen=True, slots=True)
class Number:
    """A terminal that stands for a number, until `int A..B` says which."""

    kept: bool


Part = Symbol | Number


@dataclass(frozen=True, slots=True)
class Place:
    """Where items stand: what their names mean, and what their alternative says.

    Args:
        rule: The rule, by its name in the space.
        scope: The file.
        keeps_tokens: The rule has `!`.
        bindings: What the parameters of a template stand for.
        repeat: Probability of going on, or None.
    """

    rule: str
    scope: Scope
    keeps_tokens: bool
    bindings: Mapping[str, Part]
    repeat: Expression | None = None

    def odds(self, location: Location) -> tuple[Expression, Expression]:
        """Weights of stopping and of going on."""
        p = self.repeat or fixed(REPEAT, location)
        return parse_expression(f"1 - ({p})", p.location), p


@dataclass(eq=False, slots=True)
class Draft:
    """An alternative that may still turn out to be inlined.

    Args:
        alternative: As reduced so far.
        option: As written.
        place: Where it stands.
        inlines_one: Lark inlines it when it has one child.
    """

    alternative: Alternative
    option: Option
    place: Place
    inlines_one: bool = False


def fixed(value: float, location: Location) -> Expression:
    """A constant."""
    return Expression(constant(value), location)


def times(weight: Expression, factor: str | None) -> Expression:
    """A weight times a factor; None is 1."""
    if factor is None:
        return weight
    return parse_expression(f"({weight}) * ({factor})", weight.location)


def without_numbers(parts: Sequence[Part], location: Location) -> tuple[Symbol, ...]:
    """The parts, none of which may be an INT without a range.

    Raises:
        SpaceError: There is one.
    """
    symbols = tuple(part for part in parts if not isinstance(part, Number))
    if len(symbols) != len(parts):
        message = "INT inside brackets: write a rule of its own, as in `n: INT  //@ int 1..8`"
        raise SpaceError(message, location)
    return symbols


def with_numbers(
    parts: Sequence[Part], numbers: IntRange | None, location: Location
) -> list[tuple[Symbol, ...]]:
    """The alternative once for each number that its INT stands for; once if it has no INT.

    Raises:
        SpaceError: There is an INT without a range, a range without an INT, or two INT.
    """
    kept = [(i, part.kept) for i, part in enumerate(parts) if isinstance(part, Number)]
    if not kept:
        if numbers is not None:
            raise SpaceError("`int` belongs to an alternative with an INT: drop it", location)
        return [without_numbers(parts, location)]
    if numbers is None:
        message = "nothing says which numbers INT stands for: write `//@ int A..B` behind it"
        raise SpaceError(message, location)
    if len(kept) > 1:
        message = "two INT in one alternative: write a rule for each, as in `n: INT  //@ int 1..8`"
        raise SpaceError(message, location)
    ((place, keeps),) = kept
    before = without_numbers(parts[:place], location)
    after = without_numbers(parts[place + 1 :], location)
    return [(*before, Literal(str(value), keeps), *after) for value in numbers.values]


def check_flags(alternative: Alternative, location: Location) -> None:
    """Refuse a word of a pragma that means nothing on its alternative.

    Raises:
        SpaceError: There are no parts to order, or the alternative is inlined.
    """
    if alternative.name is None and (
        alternative.commutative or alternative.associative or alternative.identity
    ):
        raise SpaceError("what is inlined has no order of its own: drop the word", location)
    blocks = len(alternative.references)
    for word in ("commutative", "associative"):
        if getattr(alternative, word) and blocks < 2:
            raise SpaceError(f"`{word}` needs two parts to put in order: drop it", location)
    if alternative.identity and blocks:
        raise SpaceError("`identity` computes nothing, so it has no parts: drop it", location)
