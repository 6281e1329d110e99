"""What stands between the words of a text, and when nobody has to look."""

import pytest

from nas.grammar.derivation import Derivation
from nas.grammar.space import Space
from nas.grammar.spelling import fragments, join, words_can_meet


def test_join_keeps_words_apart_and_nothing_else():
    assert join(["net", "(", "a", "", "1", ")", "é", "_b", "+", "c"]) == "net(a 1)é _b+c"


def test_fragments_stand_around_the_parts(oracle):
    (alternative,) = oracle.build('start: "f" "x" "(" start "," start ")"').rules["start"]
    assert fragments(alternative) == ("f x(", ", ", ")")


@pytest.mark.parametrize(
    ("text", "meet"),
    [
        ('start: "f" "(" a ")"\na: "x"', False),
        ('start: "f" a\na: "x"', True),
        ('start: a a\na: "x" "(" ")"', False),
        ('start: a a\na: "(" "x"', False),
        ('start: a a\na: "x" "+" "x"', True),
        ('start: a b "y"\na: "x"\nb: "+"\n |', True),
        ('start: a b "y"\na: "x"\nb: "+"', False),
        ('start: "x" b\nb: c "y"\nc: "(" c ")"\n |', True),
        ('start: start "+" a\n | a\na: "x" "9"', False),
    ],
)
def test_where_words_can_meet_is_known_beforehand(oracle, text, meet):
    grammar = oracle.build(text, max_depth=4)
    assert words_can_meet(grammar) is meet
    space = Space(grammar)
    for derivation, _ in oracle.finished(space.decide()):
        assert Derivation(derivation.root).text == derivation.text
        assert oracle.alternatives(space.parse(derivation.text).root) == oracle.alternatives(
            derivation.root
        )
