"""Compiles arithmetic to closures: the inner part of `nas.grammar.expression`."""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken, v_args

Number = int | float | bool

MAX_NESTING = 60  # operators around an operand: closures nest as deep
MAX_BITS = 1_024  # of an integer power: as far as floats go

FUNCTIONS: dict[str, tuple[Callable[..., Number], int | None]] = {  # with their arity, None: 2 up
    "min": (min, None),
    "max": (max, None),
    "abs": (abs, 1),
    "floor": (math.floor, 1),
    "ceil": (math.ceil, 1),
    "log2": (math.log2, 1),
    "sqrt": (math.sqrt, 1),
}
WORDS = frozenset({"and", "or", "not", "true", "false", *FUNCTIONS})
CLAUSES = frozenset({"where", "let", "int", "repeat", "commutative", "associative", "identity"})
RESERVED = WORDS | CLAUSES | {"depth"}  # no names to assign

EXPRESSION_GRAMMAR = r"""
?expression: disjunction
?disjunction: conjunction | disjunction "or" conjunction    -> or_
?conjunction: negation | conjunction "and" negation         -> and_
?negation: comparison | "not" negation                      -> not_
?comparison: sum | sum (COMPARE sum)+                       -> compare
?sum: product | sum ADD product                             -> binary
?product: unary | product MULTIPLY unary                    -> binary
?unary: power | ADD unary                                   -> sign
?power: atom | atom POWER unary                             -> binary
?atom: "(" expression ")"
     | NUMBER                                               -> number
     | "true"                                               -> true
     | "false"                                              -> false
     | NAME                                                 -> name
     | NAME "(" expression ("," expression)* ")"            -> call
COMPARE: "<=" | ">=" | "==" | "!=" | "<" | ">"
ADD: "+" | "-"
MULTIPLY: "*" | "//" | "/" | "%"
POWER.1: "**"
NUMBER: /(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?/
NAME: /[A-Za-z_][A-Za-z0-9_]*/
%ignore /[ \t]+/
"""


class ExpressionSyntaxError(ValueError):
    """The text is no expression; the message does not say where it stands."""


@dataclass(frozen=True, slots=True)
class Code:
    """A compiled expression.

    Args:
        run: Its value in a context of plain numbers.
        text: The expression with as few parentheses as it needs, the same for the same meaning.
        names: The names it reads.
        kind: "number", "truth", or "any" when only the context tells.
        binding: How strongly its outermost operator binds (higher is tighter).
        nesting: Depth of the closures.
        constant: Its value when it reads no name, else None.
    """

    run: Callable[[Mapping[str, Any]], Number]
    text: str
    names: frozenset[str]
    kind: str
    binding: int
    nesting: int
    constant: Number | None = None


_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(9)


def constant(value: Number) -> Code:
    """An expression that is always `value`."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    negative = text.startswith("-")
    return Code(
        lambda context: value,
        text,
        frozenset(),
        "truth" if isinstance(value, bool) else "number",
        _SIGN if negative else _ATOM,
        0,
        value,
    )


def _power(base: Any, exponent: Any) -> Number:
    if (
        isinstance(base, int)
        and isinstance(exponent, int)
        and exponent > 0
        and abs(base) > 1
        and base.bit_length() * exponent > MAX_BITS
    ):
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError
    return result


_BINARY: dict[str, tuple[Callable[[Any, Any], Number], int]] = {
    "+": (operator.add, _SUM),
    "-": (operator.sub, _SUM),
    "*": (operator.mul, _PRODUCT),
    "/": (operator.truediv, _PRODUCT),
    "//": (operator.floordiv, _PRODUCT),
    "%": (operator.mod, _PRODUCT),
    "**": (_power, _POWER),
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def _wrapped(code: Code, binding: int) -> str:
    return code.text if code.binding >= binding else f"({code.text})"


def _condition(code: Code) -> Code:
    if code.kind == "number":
        raise ExpressionSyntaxError(
            f"`{code.text}` is a number where a condition belongs: compare it, "
            f"as in `{_wrapped(code, _SUM)} != 0`"
        )
    return code


def _make(
    run: Callable[[Mapping[str, Any]], Number],
    text: str,
    kind: str,
    binding: int,
    *parts: Code,
) -> Code:
    nesting = 1 + max(part.nesting for part in parts)
    if nesting > MAX_NESTING:
        raise ExpressionSyntaxError(f"more than {MAX_NESTING} operators deep: split it with `let`")
    names = frozenset().union(*(part.names for part in parts))
    if not names:
        return constant(checked(run, {}, text))
    return Code(run, text, names, kind, binding, nesting)


def checked(
    run: Callable[[Mapping[str, Any]], Number], context: Mapping[str, Any], text: str
) -> Number:
    """The value of an expression, which is a finite number or a truth value.

    Raises:
        ExpressionSyntaxError: The arithmetic has no such value; the message says why.
    """
    try:
        value = run(context)
        if math.isfinite(value):
            return value
        problem = "is not a finite number"
    except ZeroDivisionError:
        problem = "divides by zero"
    except OverflowError:
        problem = "is too large"
    except ValueError:
        problem = "has no real value"
    except KeyError as error:
        problem = f"reads `{error.args[0]}`, which this context does not have"
    except TypeError:
        problem = "reads a name that is no number"
    inputs = ", ".join(f"{name} = {value}" for name, value in sorted(context.items()))
    raise ExpressionSyntaxError(f"`{text}` {problem}" + (f" where {inputs}" if inputs else ""))


@v_args(inline=True)
class ExpressionCompiler(Transformer[Token, Code]):
    """Builds closures while Lark reads: no tree is made, so no text can nest too deep for it."""

    def number(self, token: Token) -> Code:
        """A literal."""
        value = int(token) if token.isdigit() else float(token)
        return constant(checked(lambda context: value, {}, token))

    def true(self) -> Code:
        """The literal."""
        return constant(True)

    def false(self) -> Code:
        """The literal."""
        return constant(False)

    def name(self, token: Token) -> Code:
        """A name of the context."""
        name = str(token)
        if name in FUNCTIONS:
            raise ExpressionSyntaxError(f"`{name}` is a function: write `{name}(...)`")
        if name in CLAUSES:
            raise ExpressionSyntaxError(f"a value is missing before `{name}`")
        return Code(operator.itemgetter(name), name, frozenset({name}), "any", _ATOM, 0)

    def binary(self, left: Code, token: Token, right: Code) -> Code:
        """An arithmetic operator."""
        apply, binding = _BINARY[token]
        a, b = left.run, right.run
        if token == "**":
            text = f"{_wrapped(left, _ATOM)}**{_wrapped(right, _SIGN)}"
        else:
            text = f"{_wrapped(left, binding)} {token} {_wrapped(right, binding + 1)}"
        if right.constant is not None and left.constant is None:
            c = right.constant
            return _make(lambda x: apply(a(x), c), text, "number", binding, left, right)
        return _make(lambda x: apply(a(x), b(x)), text, "number", binding, left, right)

    def sign(self, token: Token, code: Code) -> Code:
        """A sign before a value."""
        run, text = code.run, _wrapped(code, _SIGN)
        if token == "+":
            return _make(lambda x: +run(x), f"+{text}", "number", _SIGN, code)
        return _make(lambda x: -run(x), f"-{text}", "number", _SIGN, code)

    def compare(self, first: Code, *rest: Any) -> Code:
        """A comparison or a chain of them; later parts run only while it holds."""
        tests = [(_COMPARISONS[rest[i]], rest[i + 1].run) for i in range(0, len(rest), 2)]
        text = _wrapped(first, _SUM) + "".join(
            f" {rest[i]} {_wrapped(rest[i + 1], _SUM)}" for i in range(0, len(rest), 2)
        )
        a = first.run
        if len(tests) == 1:
            ((test, b),) = tests
            return _make(lambda x: test(a(x), b(x)), text, "truth", _COMPARE, first, rest[1])

        def chain(x: Mapping[str, Any]) -> bool:
            left = a(x)
            for test, b in tests:
                right = b(x)
                if not test(left, right):
                    return False
                left = right
            return True

        return _make(chain, text, "truth", _COMPARE, first, *rest[1::2])

    def and_(self, left: Code, right: Code) -> Code:
        """Both; the right one runs only when it matters."""
        a, b = _condition(left).run, _condition(right).run
        text = f"{_wrapped(left, _AND)} and {_wrapped(right, _NOT)}"
        return _make(lambda x: bool(a(x) and b(x)), text, "truth", _AND, left, right)

    def or_(self, left: Code, right: Code) -> Code:
        """Either; the right one runs only when it matters."""
        a, b = _condition(left).run, _condition(right).run
        text = f"{_wrapped(left, _OR)} or {_wrapped(right, _AND)}"
        return _make(lambda x: bool(a(x) or b(x)), text, "truth", _OR, left, right)

    def not_(self, code: Code) -> Code:
        """The opposite."""
        run = _condition(code).run
        text = f"not {_wrapped(code, _NOT)}"
        return _make(lambda x: not run(x), text, "truth", _NOT, code)

    def call(self, token: Token, *arguments: Code) -> Code:
        """A function of the list above."""
        if token not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            raise ExpressionSyntaxError(f"`{token}` is no function: there are {known}")
        apply, arity = FUNCTIONS[token]
        if len(arguments) != arity and (arity is not None or len(arguments) < 2):
            wanted = "one argument" if arity == 1 else "two arguments or more"
            raise ExpressionSyntaxError(f"`{token}` takes {wanted}, here are {len(arguments)}")
        text = f"{token}({', '.join(argument.text for argument in arguments)})"
        if arity == 1:
            (a,) = (argument.run for argument in arguments)
            return _make(lambda x: apply(a(x)), text, "number", _ATOM, *arguments)
        runs = [argument.run for argument in arguments]
        return _make(lambda x: apply(*[r(x) for r in runs]), text, "any", _ATOM, *arguments)


@cache
def expression_parser() -> Lark:
    """The parser of a single expression; it returns `Code`."""
    return Lark(
        EXPRESSION_GRAMMAR, start="expression", parser="lalr", transformer=ExpressionCompiler()
    )


def unexpected(source: str, error: UnexpectedInput) -> str:
    """What Lark could not read, in one line: `cannot read "L %% 2": "% 2" is not expected here`."""
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    if at_end or error.pos_in_stream is None:
        return f"cannot read `{source}`: something is missing at its end"
    rest = source[error.pos_in_stream :].strip()
    return f"cannot read `{source}`: `{rest}` is not expected here"
