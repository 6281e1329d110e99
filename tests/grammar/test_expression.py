"""The arithmetic language against Python's own."""

import ast
import contextlib
import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nas.grammar.errors import Location, SpaceError
from nas.grammar.expression import Expression, Value, parse_expression

HERE = Location("a.lark", 7)
NAMES = ["L", "D", "causal", "E_2"]
ORACLE = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "log2": math.log2,
    "sqrt": math.sqrt,
    "true": True,
    "false": False,
}

numbers = st.one_of(
    st.integers(0, 300).map(str),
    st.floats(0, 1e6, allow_nan=False).map(repr),
    st.sampled_from([".5", "1e3", "2.50", "007e-1", "true", "false", *NAMES, *NAMES]),
)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arithmetic = ["+", "-", "*", "/", "//", "%", "**"]
    comparisons = ["<", "<=", ">", ">=", "==", "!="]
    return st.one_of(
        st.tuples(inner, st.sampled_from(arithmetic), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(arithmetic), inner).map("".join),
        st.tuples(inner, st.sampled_from(comparisons), inner).map(" ".join),
        st.tuples(
            inner, st.sampled_from(comparisons), inner, st.sampled_from(comparisons), inner
        ).map(" ".join),
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join),
        inner.map(lambda x: f"not {x}"),
        inner.map(lambda x: f"-{x}"),
        inner.map(lambda x: f"({x})"),
        st.tuples(st.sampled_from(["floor", "ceil", "abs", "sqrt", "log2"]), inner).map(
            lambda x: f"{x[0]}({x[1]})"
        ),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            lambda x: f"{x[0]}({x[1]}, {x[2]})"
        ),
    )


sources = st.recursive(numbers, larger, max_leaves=8)
contexts = st.fixed_dictionaries(
    {
        "L": st.integers(0, 4096),
        "D": st.floats(-100, 100, allow_nan=False),
        "causal": st.booleans(),
        "E_2": st.integers(-3, 3),
    }
)


class _Truth(ast.NodeTransformer):
    """`and` and `or` give true or false, as they do in a space."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        node.values = [self.visit(value) for value in node.values]
        return ast.Call(ast.Name("bool", ast.Load()), [node], [])


def python_value(source: str, context: dict[str, float]) -> object:
    """Python's own value; an exception where it has none."""
    tree = ast.parse(re.sub(r"\b007e-1\b", "0.7", source), mode="eval")
    code = compile(ast.fix_missing_locations(_Truth().visit(tree)), "oracle", "eval")
    value = eval(code, {"__builtins__": {}, "bool": bool, **ORACLE, **context})
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError
    return value


@given(sources, contexts)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_value_is_pythons(source: str, context: dict[str, float]) -> None:
    assume(source.count("**") < 2 or not re.search(r"\d{2}", source))  # Python would not end
    expected, value, problem = None, None, ""
    with contextlib.suppress(SyntaxError, ArithmeticError, ValueError, TypeError):
        expected = python_value(source, context)
    try:
        value = parse_expression(source).evaluate(context)
    except SpaceError as error:
        problem = str(error)
    if problem and expected is not None:
        # What is constant is computed although Python skips it; a number is no condition; a float
        # beyond its range is refused where Python goes on with infinity.
        known = ("divides by zero", "no real value", "too large", "not a finite", "is a number")
        assert any(words in problem for words in known), problem
        skipped = re.search(r"\b(and|or|not)\b|[<>=]", source)
        assert skipped or "not a finite" in problem or "too large" in problem, problem
        return
    assert type(value) is type(expected)
    assert value == expected


@given(sources, contexts)
def test_normal_form_means_the_same(source: str, context: dict[str, float]) -> None:
    try:
        expression = parse_expression(source)
        value = expression.evaluate(context)
    except SpaceError:
        return
    again = parse_expression(expression.text)
    assert again.text == expression.text
    assert again.names == expression.names
    assert again.evaluate(context) == value


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("0.20*0.9 ** depth", "0.2 * 0.9**depth"),
        ("(1 + 2) * L", "3 * L"),
        ("((L))", "L"),
        ("(L - 2) - 1", "L - 2 - 1"),
        ("L - (2 - D)", "L - (2 - D)"),
        ("-(L ** 2)", "-L**2"),
        ("(-L) ** 2", "(-L)**2"),
        ("2 ** (L ** D)", "2**L**D"),
        ("not (L > 2 and D > 2)", "not (L > 2 and D > 2)"),
        ("(2 <= L) < D", "(2 <= L) < D"),
    ],
)
def test_normal_form_has_the_parentheses_it_needs(source: str, text: str) -> None:
    assert parse_expression(source).text == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "`1 / 0` divides by zero"),
        ("L // (D - D)", "`L // (D - D)` divides by zero where D = 3, L = 2"),
        ("9**9**9", "`9**387420489` is too large"),
        ("L**100000", "is too large where L = 2"),
        ("2.5**100000", "is too large"),
        ("log2(L - 2)", "has no real value where L = 2"),
        ("sqrt(-1)", "has no real value"),
        ("(1 - D)**0.5", "has no real value where D = 3"),
        ("1e308 * 10 * L", "is not a finite number"),
        ("missing", "reads `missing`, which this context does not have"),
        ("exp(1)", "`exp` is no function: there are min, max, abs, floor, ceil, log2, sqrt"),
        ("min(L)", "`min` takes two arguments or more, here are 1"),
        ("abs(1, 2)", "`abs` takes one argument, here are 2"),
        ("min", "`min` is a function: write `min(...)`"),
        ("L and 2 * D", "`2 * D` is a number where a condition belongs"),
        ("not L + 1", "compare it, as in `L + 1 != 0`"),
        ("L +", "something is missing at its end"),
        ("", "something is missing at its end"),
        ("L %% 2", "`% 2` is not expected here"),
        ("1 if L else 2", "`if L else 2` is not expected here"),
        ("L.real", "`.real` is not expected here"),
        ("'a'", "`'a'` is not expected here"),
        ("[1][0]", "`[1][0]` is not expected here"),
        ("lambda: 1", "`: 1` is not expected here"),
        ("-" * 100 + "L", "more than 60 operators deep"),
        ("L + " * 100 + "L", "more than 60 operators deep"),
        ("(" * 600 + "L" + ")" * 600, "more than 1000 characters"),
        ("1" * 999, "too large"),
    ],
)
def test_refused_at_its_line(source: str, message: str) -> None:
    with pytest.raises(SpaceError, match=re.escape(message)) as caught:
        parse_expression(source, HERE).evaluate({"L": 2, "D": 3})
    assert (caught.value.file, caught.value.line) == ("a.lark", 7)
    assert str(caught.value).startswith("a.lark:7: ")


def test_brackets_may_nest_as_deep_as_the_text_is_long() -> None:
    assert parse_expression("(" * 490 + "L" + ")" * 490).evaluate({"L": 3}) == 3


def test_later_parts_run_only_where_they_matter() -> None:
    guarded = parse_expression("L > 0 and 8 / L > 1")
    assert guarded.evaluate({"L": 0}) is False
    assert parse_expression("L == 0 or 8 / L > 1").evaluate({"L": 0}) is True
    assert parse_expression("0 < L < 8 / L").evaluate({"L": 0}) is False


def test_lanes() -> None:
    context: dict[str, Value] = {"L": (64, 96), "D": 32, "E": (1, 3)}
    assert parse_expression("L // 2").lanes(context) == (32, 48)
    assert parse_expression("L * E").lanes(context) == (64, 288)
    assert parse_expression("D * 2").lanes(context) == 64
    assert parse_expression("3").lanes(context) == 3
    assert parse_expression("L % 64 == 0").lanes(context) == (True, False)
    assert parse_expression("L / 2").lanes(context) == (32, 48)
    assert all(type(x) is int for x in parse_expression("L / 2").lanes(context))  # type: ignore[union-attr]
    assert parse_expression("L % 32 == 0").holds(context)
    assert not parse_expression("L % 64 == 0").holds(context)
    assert parse_expression("L").mean(context) == 80
    assert parse_expression("L % 64 == 0").mean(context) == 0.5
    assert parse_expression("D").mean(context) == 32


def test_lanes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpaceError, match="lanes"):
        parse_expression("L + E", HERE).lanes({"L": (1, 2), "E": (1, 2, 3)})
    with pytest.raises(SpaceError, match=r"beyond 2\*\*53"):
        parse_expression("L**6", HERE).lanes({"L": 1024})
    with pytest.raises(SpaceError, match="`L` is the number 3: write a condition"):
        parse_expression("L", HERE).holds({"L": 3})
    with pytest.raises(SpaceError, match="the weight `L - 3` is negative: -1"):
        parse_expression("L - 3", HERE).mean({"L": (4, 2)})


def test_what_is_known_of_an_expression() -> None:
    expression = parse_expression("0.2 * 0.9**depth", HERE)
    assert isinstance(expression, Expression)
    assert expression.names == {"depth"}
    assert (expression.kind, expression.constant) == ("number", None)
    assert str(expression) == expression.text
    assert parse_expression("L > 2 and causal").kind == "truth"
    assert parse_expression("causal").kind == "any"
    assert parse_expression("2 + 3").constant == 5
