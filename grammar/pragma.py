"""What stands behind `//@`: weights, conditions and the like, for which Lark has no syntax.

At the end of an alternative's line, in this order or any other after the weight:

    //@ 0.2 * 0.9**depth where L % 2 == 0 let L = L // 2, D = 2 * D repeat 0.6 commutative

A weight comes first. Every other clause begins with its word and stands there once at most:

- `where CONDITION`: legal in this context;
- `let NAME = VALUE, ...`: what the parts below see, assigned from left to right;
- `int A..B` or `int A..B log2`: the numbers that the alternative's INT stands for, from A to B, or
  the powers of two among them;
- `repeat P`: for each `x*`, `x+`, `x?` and `[x]`: the probability of a (or another) x, 0.5 unless
  said. It is evaluated below the alternative: it sees the lets;
- `commutative`, `associative`, `identity`: see `Alternative`.

Several alternatives that end on one line all have what its pragma says. Alternatives in brackets
have no pragmas: a rule of their own has. On lines of their own stand
`//@ version 1` and `//@ max_depth N`.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lark import Lark, Token, UnexpectedInput, v_args

from nas.grammar.arithmetic import (
    EXPRESSION_GRAMMAR,
    RESERVED,
    Code,
    ExpressionCompiler,
    ExpressionSyntaxError,
    unexpected,
)
from nas.grammar.errors import Location, SpaceError
from nas.grammar.expression import MAX_SOURCE, Expression
from nas.grammar.syntax_tree import Comment, Option, Source

MARK = "//@"
VERSION = 1
MAX_VALUES = 4096  # of an `int` range
MAX_INTEGER = 2**53
FLAGS = ("commutative", "associative", "identity")

_PRAGMA_GRAMMAR = (
    r"""
pragma: [expression] clause*
?clause: "where" expression                         -> where
       | "let" NAME "=" expression ("," NAME "=" expression)*  -> let
       | "int" NUMBER ".." NUMBER [LOG2]            -> int_range
       | "repeat" expression                        -> repeat
       | flag
!flag: "commutative" | "associative" | "identity"
LOG2: "log2"
"""
    + EXPRESSION_GRAMMAR
)


@dataclass(frozen=True, slots=True)
class IntRange:
    """The values of `int low..high [log2]`."""

    low: int
    high: int
    log2: bool

    @property
    def values(self) -> tuple[int, ...]:
        """All of them, ascending."""
        if not self.log2:
            return tuple(range(self.low, self.high + 1))
        powers = (1 << exponent for exponent in range(self.high.bit_length()))
        return tuple(power for power in powers if self.low <= power <= self.high)


@dataclass(frozen=True, slots=True)
class Pragma:
    """What one alternative says behind `//@`.

    Args:
        location: Where it stands.
        weight: Its weight, or None.
        where: Its condition, or None.
        lets: Names and values, in order.
        int_range: What its INT stands for, or None.
        repeat: Probability of going on, or None.
        flags: Those of `FLAGS` that it has.
    """

    location: Location
    weight: Expression | None = None
    where: Expression | None = None
    lets: tuple[tuple[str, Expression], ...] = ()
    int_range: IntRange | None = None
    repeat: Expression | None = None
    flags: frozenset[str] = frozenset()


@dataclass(slots=True)
class FilePragmas:
    """What stands behind `//@` in one file.

    Args:
        version: The version of the notation.
        max_depth: Deepest derivation allowed, or None.
        of: The pragma of each alternative that has one.
    """

    version: int = VERSION
    max_depth: int | None = None
    of: dict[Option, Pragma] = field(default_factory=dict)


@v_args(inline=True)
class _PragmaCompiler(ExpressionCompiler):
    """Collects the clauses of one pragma as (clause, value)."""

    def pragma(self, weight: Code | None, *clauses: tuple[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"flags": set()}
        if weight is not None:
            found["weight"] = weight
        for name, value in clauses:
            if name in FLAGS:
                found["flags"].add(name)
            elif name in found:
                hint = {"where": "join them with `and`", "lets": "separate by commas"}
                raise ExpressionSyntaxError(
                    f"`{name.removesuffix('s')}` stands there twice: "
                    + hint.get(name, "keep one of them")
                )
            else:
                found[name] = value
        return found

    def where(self, code: Code) -> tuple[str, Code]:
        return "where", code

    def let(self, *parts: Any) -> tuple[str, list[tuple[str, Code]]]:
        return "lets", [(str(parts[i]), parts[i + 1]) for i in range(0, len(parts), 2)]

    def int_range(self, low: Token, high: Token, log2: Token | None) -> tuple[str, IntRange]:
        if not (low.isdigit() and high.isdigit()) or int(high) > MAX_INTEGER:
            raise ExpressionSyntaxError(f"`int {low}..{high}`: the bounds are whole numbers")
        return "int_range", IntRange(int(low), int(high), log2 is not None)

    def repeat(self, code: Code) -> tuple[str, Code]:
        return "repeat", code

    def flag(self, token: Token) -> tuple[str, str]:
        return str(token), ""


@cache
def _parser() -> Lark:
    return Lark(_PRAGMA_GRAMMAR, start="pragma", parser="lalr", transformer=_PragmaCompiler())


def parse_pragma(source: str, location: Location) -> Pragma:
    """Read what stands behind `//@` at the end of an alternative's line.

    Raises:
        SpaceError: It is no pragma; says what to write instead.
    """
    if len(source) > MAX_SOURCE:
        raise SpaceError(f"a pragma of more than {MAX_SOURCE} characters", location)
    if not source:
        raise SpaceError("nothing stands behind `//@`", location)
    try:
        found: Any = _parser().parse(source)
    except UnexpectedInput as error:
        raise SpaceError(f"{unexpected(source, error)}{_hint(source)}", location) from None
    except ExpressionSyntaxError as error:
        raise SpaceError(str(error), location) from None

    def expression(name: str) -> Expression | None:
        return Expression(found[name], location) if name in found else None

    pragma = Pragma(
        location,
        expression("weight"),
        expression("where"),
        tuple((name, Expression(code, location)) for name, code in found.get("lets", ())),
        found.get("int_range"),
        expression("repeat"),
        frozenset(found["flags"]),
    )
    _check(pragma)
    return pragma


def _hint(source: str) -> str:
    if re.match(r"(version|max_depth)\b", source):
        return ": it stands on a line of its own"
    return ": write WEIGHT where CONDITION let NAME = VALUE int A..B repeat P"


def _check(pragma: Pragma) -> None:
    location = pragma.location
    weight, where, numbers = pragma.weight, pragma.where, pragma.int_range
    if weight is not None:
        if weight.kind == "truth":
            raise SpaceError(f"a condition as weight: write `where {weight}`", location)
        if weight.constant is not None:
            weight.mean({})
    if where is not None and where.kind == "number":
        raise SpaceError(f"`where {where}` is a number: write a condition", location)
    for name, _ in pragma.lets:
        if name in RESERVED:
            raise SpaceError(f"`{name}` is no name to assign: choose another", location)
    if numbers is not None:
        written = f"int {numbers.low}..{numbers.high}" + " log2" * numbers.log2
        if not numbers.low <= numbers.high:
            raise SpaceError(f"`{written}` has no values: the lower bound comes first", location)
        if not numbers.log2 and numbers.high - numbers.low >= MAX_VALUES:
            message = f"`{written}` has more than {MAX_VALUES} values: add `log2`, or narrow it"
            raise SpaceError(message, location)
        if not numbers.values:
            raise SpaceError(f"`{written}`: no power of two lies between them", location)
    if pragma.repeat is not None:
        p = pragma.repeat.constant
        if pragma.repeat.kind == "truth" or (p is not None and not 0 < p < 1):
            message = f"`repeat {pragma.repeat}`: write a probability between 0 and 1"
            raise SpaceError(message, location)


def attach_pragmas(source: Source) -> FilePragmas:
    """Find out to which alternative each pragma of a file belongs.

    Raises:
        SpaceError: A pragma is no pragma, or belongs to nothing.
    """
    found = FilePragmas()
    seen: set[str] = set()
    for comment in source.comments:
        location = Location(source.file, comment.line)
        text = _pragma_text(comment, location)
        if text is None:
            continue
        rules = [
            (definition, option)
            for definition in source.definitions
            for option in definition.options
        ]
        owners = [(d, option) for d, option in rules if option.end_line == comment.line]
        if comment.alone:
            _file_pragma(found, text, location, seen)
        elif any(option.line <= comment.line < option.end_line for _, option in rules):
            raise SpaceError("a pragma inside brackets: write a rule of its own", location)
        elif not owners:
            message = "this pragma belongs to nothing: write it behind an alternative of a rule"
            raise SpaceError(message, location)
        elif any(definition.name.isupper() for definition, _ in owners):
            message = "a terminal takes no pragma: write it behind the rule that uses the terminal"
            raise SpaceError(message, location)
        else:
            pragma = parse_pragma(text, location)
            found.of.update({option: pragma for _, option in owners})
    return found


def _pragma_text(comment: Comment, location: Location) -> str | None:
    if comment.text.startswith(MARK):
        return comment.text.removeprefix(MARK).strip()
    if re.match(r"(//|#)\s*@", comment.text):
        raise SpaceError(f"a pragma begins with `//@`, not `{comment.text[:4]}`", location)
    return None


def _file_pragma(found: FilePragmas, text: str, location: Location, seen: set[str]) -> None:
    match = re.fullmatch(r"(version|max_depth)\s+(\d{1,9})", text)
    if match is None and (word := text.partition(" ")[0]) in ("version", "max_depth"):
        raise SpaceError(f"`{word}` is followed by a whole number from 1 to 999999999", location)
    if match is None:
        message = (
            f"`{text}` belongs to nothing: a line of its own holds `version N` or `max_depth N`; "
            "everything else stands at the end of an alternative's line"
        )
        raise SpaceError(message, location)
    word, number = match[1], int(match[2])
    if word in seen:
        raise SpaceError(f"`{word}` stands there twice", location)
    seen.add(word)
    if word == "max_depth":
        if number < 1:
            raise SpaceError("`max_depth` is at least 1", location)
        found.max_depth = number
    elif number != VERSION:
        message = f"version {number} of the notation is unknown here: write `version {VERSION}`"
        raise SpaceError(message, location)
