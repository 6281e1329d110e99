"""The arithmetic that weights, conditions and assignments of a space are written in.

A small language of our own, read by Lark and compiled to closures; Python never evaluates it:

    + - * / // % **    < <= > >= == != (chained, as in `2 <= L < 64`)    and or not
    min(a, b, ...) max(a, b, ...) abs(a) floor(a) ceil(a) log2(a) sqrt(a)
    numbers, true, false, parentheses, names of the context

Operators bind and round as in Python; `and`, `or` and `not` always give true or false; true and
false count as 1 and 0 in arithmetic, so that `0.3 * causal` is a weight.

A context value may be a tuple, its **lanes**: the lengths of a suite of tasks. `evaluate` works on
plain numbers; `lanes`, `holds` and `mean` work on a context with tuples, lane by lane.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lark import UnexpectedInput

from nas.grammar.arithmetic import (
    Code,
    ExpressionSyntaxError,
    Number,
    checked,
    expression_parser,
    unexpected,
)
from nas.grammar.errors import Location, SpaceError

Value = Number | tuple[Number, ...]
Context = Mapping[str, Value]

MAX_SOURCE = 1_000  # characters
MAX_RESULT = 2**53  # integers up to here survive arithmetic in floats


class Expression:
    """An expression of a space, compiled.

    Args:
        code: The compiled expression.
        location: Where it stands, for messages.
    """

    __slots__ = ("_code", "_order", "location")

    def __init__(self, code: Code, location: Location | None = None) -> None:
        self._code = code
        self._order = tuple(sorted(code.names))
        self.location = location

    @property
    def names(self) -> frozenset[str]:
        """The names of the context it reads."""
        return self._code.names

    @property
    def text(self) -> str:
        """The expression in normal form: equal texts mean equal expressions."""
        return self._code.text

    @property
    def kind(self) -> str:
        """`"number"`, `"truth"`, or `"any"` when only the context tells."""
        return self._code.kind

    @property
    def constant(self) -> Number | None:
        """Its value when it reads no name, else None."""
        return self._code.constant

    def __str__(self) -> str:
        return self._code.text

    def __repr__(self) -> str:
        return f"Expression({self._code.text!r})"

    def evaluate(self, context: Mapping[str, Number]) -> Number:
        """Its value, where every name it reads is one number.

        Raises:
            SpaceError: A division by zero, an overflow, a missing name.
        """
        code = self._code
        if code.constant is not None:
            return code.constant
        try:
            value = code.run(context)
            if math.isfinite(value):
                return value
        except (ArithmeticError, ValueError, KeyError, TypeError):
            pass  # told once more, slowly, with a message
        inputs = {name: context[name] for name in self._order if name in context}
        try:
            return checked(code.run, inputs, code.text)
        except ExpressionSyntaxError as error:
            raise SpaceError(str(error), self.location) from None

    def _each(self, context: Context) -> Iterator[Number]:
        inputs: dict[str, Any] = {}
        count = 0
        for name in self._order:
            value = context.get(name)
            if value is not None:
                inputs[name] = value
            if isinstance(value, tuple):
                if count not in (0, len(value)):
                    message = f"`{self}` mixes names of {count} and of {len(value)} lanes"
                    raise SpaceError(message, self.location)
                count = len(value)
        if not count:
            yield self.evaluate(inputs)
            return
        varying = [(name, value) for name, value in inputs.items() if isinstance(value, tuple)]
        for lane in range(count):
            for name, value in varying:
                inputs[name] = value[lane]
            yield self.evaluate(inputs)

    def lanes(self, context: Context) -> Value:
        """Its value for `let`: a tuple when a name it reads has lanes, else one number.

        Whole results are ints (`L / 2` of 64 is 32), so that they can be lengths and widths.

        Raises:
            SpaceError: As `evaluate`, and for numbers beyond 2**53.
        """
        values = tuple(self._whole(value) for value in self._each(context))
        if any(isinstance(context.get(name), tuple) for name in self._order):
            return values
        return values[0]

    def _whole(self, value: Number) -> Number:
        if isinstance(value, bool):
            return value
        if abs(value) > MAX_RESULT:
            raise SpaceError(f"`{self}` is {value:g}, beyond 2**53", self.location)
        return int(value) if value == int(value) else value

    def holds(self, context: Context) -> bool:
        """Whether it is true, in every lane.

        Raises:
            SpaceError: As `evaluate`, and for a number instead of a truth value.
        """
        for value in self._each(context):
            if value is False:
                return False
            if value is not True:
                message = f"`{self}` is the number {value}: write a condition, as in `{self} > 0`"
                raise SpaceError(message, self.location)
        return True

    def mean(self, context: Context) -> float:
        """Its value as a weight: the mean over the lanes.

        Raises:
            SpaceError: As `evaluate`, and for a negative weight.
        """
        values = list(self._each(context))
        for value in values:
            if value < 0:
                raise SpaceError(f"the weight `{self}` is negative: {value}", self.location)
        return float(sum(values)) / len(values)


def parse_expression(source: str, location: Location | None = None) -> Expression:
    """Compile one expression.

    Args:
        source: Its text, as it stands in a pragma.
        location: Where it stands, for messages.

    Raises:
        SpaceError: It is no expression, or its constant parts have no value (`1 / 0`).
    """
    if len(source) > MAX_SOURCE:
        raise SpaceError(f"an expression of more than {MAX_SOURCE} characters", location)
    try:
        code: Any = expression_parser().parse(source)
    except UnexpectedInput as error:
        raise SpaceError(unexpected(source, error), location) from None
    except ExpressionSyntaxError as error:
        raise SpaceError(str(error), location) from None
    return Expression(code, location)
