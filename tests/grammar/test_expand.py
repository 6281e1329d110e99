"""The loader against Lark itself: every sampled text parses, into the same tree."""

import math
import random
from pathlib import Path

import pytest
from lark import Lark, Token, Tree

from nas.grammar.derivation import Term
from nas.grammar.expression import Value
from nas.grammar.loader import load_grammar
from nas.grammar.space import Space

HEAD = "%import common.WS\n%ignore WS\n"
CONTEXT: dict[str, Value] = {"L": (64, 128), "D": 32, "causal": False}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / next(iter(files))


def lark_term(tree: Tree | Token | None) -> Term | str | None:
    """Lark's tree as a term: without the names of files, templates by their own names."""
    if not isinstance(tree, Tree):
        return None if tree is None else str(tree)
    name = tree.data.value if isinstance(tree.data, Token) else str(tree.data)
    arguments = (lark_term(child) for child in tree.children)
    # A place holder for an absent `[x]` has no counterpart.
    return Term(name.rsplit("__", 1)[-1], tuple(a for a in arguments if a is not None))


SPACES: dict[str, dict[str, str]] = {
    "repetitions": {
        "a.lark": HEAD
        + """
start: "net" "(" many more maybe one times exact ")"
many: "m" ("," leaf)*              //@ repeat 0.6
more: "p" leaf+
maybe: "q" leaf?                   //@ 2 repeat 0.25
     | "r" ["(" leaf ")"]          //@ 1 repeat 1 / (1 + depth)
one: "o" (leaf | "x" leaf | "y")
times: "t" leaf~1..3
exact: "e" leaf~2 ("," leaf)~0..2
!leaf: "a" | "b"
"""
    },
    "kept tokens": {
        "a.lark": HEAD
        + """
start: "net" plain kept named _inlined ?
plain: "p" ("x" | "y")
!kept: "k" ("x" | "y")* "(" _DROPPED ONE ")"
named: "n" ONE _DROPPED
_inlined: "i" ONE named
ONE: "one"
_DROPPED: "dropped"
"""
    },
    "inlined with one child": {
        "a.lark": HEAD
        + """
?start: block
?block: layer ("," layer)*        //@ 1 repeat 0.4
      | "two" layer layer         //@ 1
      | "some" layer+ ";"         //@ 2
      | "perhaps" layer? ";"      //@ 1
      | "either" [layer] ";" -> either //@ 1
      | "none" "(" ")"            //@ 1
      | "named" layer -> name     //@ 1
?layer: leaf | "[" block "]" | _pair
_pair: leaf "&" leaf
!leaf: "a" | "b"
"""
    },
    "numbers": {
        "a.lark": HEAD
        + """
start: "net" "(" state "," mixed "," _hidden ")"
state: INT                         //@ int 4..64 log2
mixed: "k" SIZE "z"                //@ 2 int 1..9
     | "auto"                      //@ 1
_hidden: _INT                      //@ int 0..3
SIZE: DIGIT+
DIGIT: "0".."9"
%import common.INT
_INT: /[0-9]+/
"""
    },
    "templates": {
        "a.lark": HEAD
        + """
start: "net" "(" list{block, ","} ";" pair{leaf, "x"} kept{leaf, "y"} _sep{leaf, WORD} ")"
list{item, sign}: item (sign item)*            //@ repeat 0.4
pair{one, other}: one other                    //@ 1
                | "swap" other one             //@ 2
!kept{one, other}: one other
_sep{item, sign}: item (sign item)~1..2
block: "b" | "twice" "(" pair{leaf, leaf} ")"
!leaf: "a" | "c"
WORD: "word"
"""
    },
    "imports": {
        "a.lark": HEAD
        + """
%import .mixers (mixer, heads)
%import .mixers.shared -> other
%import .deep.er.channel (channel)
%import .deep.er.channel._both
start: "net" "(" mixer channel heads other _both ")"
""",
        "mixers.lark": """
mixer: "attention" "(" heads "," window _hidden ")"  -> attention
     | scale
%import common (INT, WS)
!heads: "1" | "2"
!window: "full" | "64"
_hidden: "h" heads
shared: "s" | SIGN
SIGN: "+"
scale: "scale" INT                //@ int 2..3
not_used: UNKNOWN
UNKNOWN: /[a-z]*x/
""",
        "deep/er/channel.lark": """
%import .sub (leaf)
channel: "mlp" leaf | "glu" inner
inner: leaf leaf
_both: leaf "&" inner
""",
        "deep/er/sub.lark": '!leaf: "x" | "y"\n',
    },
    "extended and overridden": {
        "a.lark": HEAD
        + """
%import .mixers (mixer, heads, window, list)
%extend mixer: "conv" "(" width ")" -> conv     //@ 3
%override heads: "eight" -> heads
%extend !window: "all"
%override SIZE: "size"
%import .mixers (SIZE)
!width: "3" | "5"
start: mixer "|" list{mixer}
""",
        "mixers.lark": """
mixer: "attention" "(" heads "," window SIZE ")"  -> attention  //@ 1
!heads: "1" | "2"
!window: "full"
list{x}: x x
SIZE: "z"
""",
    },
    "words and signs": {
        "a.lark": HEAD
        + r"""
%import common.CPP_COMMENT
%ignore CPP_COMMENT
start: "seq" block "=>" "done"
block: "add" block block | "neg" "-" block | number | "\"q\"" | "back\\slash" | "δ" | "-" "norm"
number: "norm" INT                //@ int 1..3
%import common.INT
"""
    },
    "conditions": {
        "a.lark": HEAD
        + """
//@ version 1
//@ max_depth 12
start: block                      //@ 1 let scale = 1
block: "leaf"                     //@ 1
     | "down" "(" block ")"       //@ 0.5 where L % 2 == 0 let L = L // 2, scale = 2 * scale
     | "grow" "(" block "," block ")" -> grow //@ 0.3 / scale let D = 2 * D commutative
"""
    },
}


@pytest.mark.parametrize("name", SPACES)
def test_every_text_parses_to_larks_own_tree(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, SPACES[name])
    space = Space.load(str(path), context=CONTEXT)
    lark = Lark.open(str(path), parser="lalr")
    rng = random.Random(0)
    used: set[tuple[str, int]] = set()
    for _ in range(300):
        derivation = space.sample(rng)
        used |= {(node.rule, node.alternative.index) for node in derivation.root}
        assert lark_term(lark.parse(derivation.text)) == derivation.term, derivation.text
        assert space.parse(derivation.text) == derivation
    alternatives = {(a.rule, a.index) for rule in space.grammar.rules.values() for a in rule}
    assert used == alternatives


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_all_systems(end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.lark"
    text = HEAD + 'start: "a"  //@ 1\n     | "b"  //@ 3\n'
    path.write_bytes(text.replace("\n", end).encode())
    grammar = load_grammar(path)
    assert [a.weight.constant for a in grammar.rules["start"]] == [1, 3]
    assert [a.location.line for a in grammar.rules["start"]] == [3, 4]


def probabilities(tmp_path: Path, rules: str, texts: list[str]) -> list[float]:
    path = write(tmp_path, {"a.lark": HEAD + rules})
    space = Space.load(str(path), context=CONTEXT)
    return [math.exp(space.log_probability(space.parse(text))) for text in texts]


def test_repetitions_are_as_likely_as_said(tmp_path: Path) -> None:
    rules = """
start: star ";" plus ";" maybe ";" times
star: "a"*          //@ repeat 0.3
plus: "a"+          //@ repeat 0.2
maybe: ["a"]
times: "a"~1..4
"""
    texts = [";a;;a", "aa;a;;a", ";aaa;;a", ";a;a;a", ";a;;aaa"]
    expected = [
        0.7 * 0.8 * 0.5 * 0.25,
        0.3**2 * 0.7 * 0.8 * 0.5 * 0.25,
        0.7 * 0.2**2 * 0.8 * 0.5 * 0.25,
        0.7 * 0.8 * 0.5 * 0.25,
        0.7 * 0.8 * 0.5 * 0.25,
    ]
    assert probabilities(tmp_path, rules, texts) == pytest.approx(expected)


def test_an_inlined_rule_keeps_its_probabilities(tmp_path: Path) -> None:
    """`?rule` is split by its number of children; each text is as likely as without the `?`."""
    rules = """
start: "(" block ")"
{}block: layer ("," layer)* [";"]     //@ 3 repeat 0.3
      | "k" layer+                     //@ 1 repeat 0.1
!layer: "a" | "b"
"""
    texts = ["(a)", "(a, b)", "(a, b, a)", "(a;)", "(a, b;)", "(k a)", "(k a b)"]
    plain = probabilities(tmp_path, rules.format("").replace('[";"]', '(";")?'), texts)
    inlined = probabilities(tmp_path, rules.format("?").replace('[";"]', '(";")?'), texts)
    assert inlined == pytest.approx(plain)
    assert plain[0] == pytest.approx(0.75 * 0.7 * 0.7 / 2)


def test_numbers_share_the_weight_of_their_alternative(tmp_path: Path) -> None:
    rules = """
start: state
state: INT          //@ 3 int 1..16 log2
     | "auto"       //@ 1
%import common.INT
"""
    assert probabilities(tmp_path, rules, ["8", "auto"]) == pytest.approx([0.75 / 5, 0.25])


def test_alternatives_on_one_line_have_equal_weights(tmp_path: Path) -> None:
    rules = """
start: one ";" two ";" (three | four)
!one: "a" | "b"
!two: "a" | "b"     //@ 2 where causal or L > 2
    | "c"           //@ 1
!three: "c"
!four: "d"
"""
    assert probabilities(tmp_path, rules, ["a;a;c", "b;c;d"]) == pytest.approx([0.1, 0.05])
