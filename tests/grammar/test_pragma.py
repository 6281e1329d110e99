"""Which pragma belongs to which alternative, and what it says."""

import pytest

from nas.grammar.errors import Location
from nas.grammar.lark_syntax import read_syntax
from nas.grammar.pragma import attach_pragmas, parse_pragma

HERE = Location("a.lark", 3)


def test_all_clauses_in_any_order() -> None:
    pragma = parse_pragma(
        "0.2*depth repeat 0.3 commutative let L = L // 2, D = 2 * D where L > 2 associative", HERE
    )
    assert str(pragma.weight) == "0.2 * depth"
    assert str(pragma.where) == "L > 2"
    assert [(name, str(value)) for name, value in pragma.lets] == [("L", "L // 2"), ("D", "2 * D")]
    assert str(pragma.repeat) == "0.3"
    assert pragma.flags == {"commutative", "associative"}
    assert pragma.location == HERE


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("int 1..4", (1, 2, 3, 4)),
        ("int 4..64 log2", (4, 8, 16, 32, 64)),
        ("int 3..20 log2", (4, 8, 16)),
        ("int 0..1 log2", (1,)),
        ("int 7..7", (7,)),
        ("2 int 1..4503599627370496 log2 where L > 2", tuple(2**k for k in range(53))),
    ],
)
def test_ranges(text: str, values: tuple[int, ...]) -> None:
    numbers = parse_pragma(text, HERE).int_range
    assert numbers is not None
    assert numbers.values == values


def test_every_alternative_that_ends_on_the_line() -> None:
    source = read_syntax(
        """//@ version 1
//@ max_depth 7
a: "x" | "y"    //@ 1
 | ("p"
 | "q") "z"     //@ 4
b: (a | "c")    //@ 5
""",
        "f.lark",
    )
    found = attach_pragmas(source)
    assert (found.version, found.max_depth) == (1, 7)
    weights = [[str(found.of[o].weight) for o in d.options] for d in source.definitions]
    assert weights == [["1", "1", "4"], ["5"]]
    assert len(found.of) == 4
