"""Broken space files: each is refused at its line, with what to write instead."""

import os
import re
import time
from pathlib import Path

import pytest

from nas.grammar.errors import SpaceError
from nas.grammar.loader import load_grammar

HEAD = "%import common (WS, INT, FLOAT)\n%ignore WS\n"  # two lines
GOOD = 'start: "net" "(" block ")"\n'  # line 3
BLOCK = '!block: "a" | "b"\n'

BROKEN = {
    # pragmas
    "pragma without owner": (GOOD + BLOCK + "%import common.CR  //@ 3\n", 5, "belongs to nothing"),
    "pragma on its own line": (GOOD + "//@ 0.5\n" + BLOCK, 4, "`0.5` belongs to nothing"),
    "pragma on a terminal": (GOOD + 'block: A\nA: "a"  //@ 1\n', 5, "a terminal takes no pragma"),
    "pragma with a space": (GOOD + '!block: "a"  // @ 2\n', 4, "begins with `//@`"),
    "pragma by a hash": (GOOD + '!block: "a"  #@ 2\n', 4, "begins with `//@`"),
    "pragma in brackets": (GOOD + 'block: ("a"  //@ 2\n | "b") "c"\n', 4, "a rule of its own"),
    "empty pragma": (GOOD + '!block: "a"  //@\n', 4, "nothing stands behind"),
    "unknown clause": (GOOD + '!block: "a"  //@ 1 whre L > 2\n', 4, "`whre L > 2` is not expected"),
    "clause twice": (
        GOOD + '!block: "a"  //@ where L > 2 where D > 2\n',
        4,
        "join them with `and`",
    ),
    "let twice": (GOOD + '!block: "a"  //@ let L = 2 let D = 2\n', 4, "separate by commas"),
    "unknown version": ("//@ version 2\n" + GOOD + BLOCK, 3, "write `version 1`"),
    "version twice": ("//@ version 1\n//@ version 1\n" + GOOD + BLOCK, 4, "twice"),
    "max_depth 0": ("//@ max_depth 0\n" + GOOD + BLOCK, 3, "at least 1"),
    "max_depth behind a rule": (GOOD + '!block: "a"  //@ max_depth 3\n', 4, "a line of its own"),
    "some weights": (
        GOOD + '!block: "a"  //@ 1\n      | "b"\n      | "c" //@ 2\n',
        5,
        "the other alternatives have a weight",
    ),
    "negative weight": (GOOD + '!block: "a"  //@ 1 - 3\n', 4, "the weight `-2` is negative"),
    "condition as weight": (GOOD + '!block: "a"  //@ L > 3\n', 4, "write `where L > 3`"),
    "number as condition": (GOOD + '!block: "a"  //@ where L // 2\n', 4, "write a condition"),
    "number and condition": (GOOD + '!block: "a"  //@ where 2 * L and causal\n', 4, "!= 0"),
    "division by zero": (GOOD + '!block: "a"  //@ 1 / 0\n', 4, "`1 / 0` divides by zero"),
    "huge power": (GOOD + '!block: "a"  //@ 9**9**9\n', 4, "too large"),
    "function": (GOOD + '!block: "a"  //@ exp(L)\n', 4, "`exp` is no function: there are min"),
    "arity": (GOOD + '!block: "a"  //@ sqrt(1, 2)\n', 4, "`sqrt` takes one argument"),
    "too long": (GOOD + '!block: "a"  //@ ' + "1 + " * 300 + "1\n", 4, "more than 1000 characters"),
    "too deep": (GOOD + '!block: "a"  //@ ' + "-" * 200 + "L\n", 4, "operators deep"),
    "unknown name": (GOOD + '!block: "a"  //@ lenght\n', 4, "reads `lenght`, which is not known"),
    "unknown name, close": (GOOD + '!block: "a"  //@ where causl\n', 4, "did you mean `causal`?"),
    "python": (GOOD + '!block: "a"  //@ __import__("os")\n', 4, "is not expected here"),
    "let depth": (GOOD + '!block: "a"  //@ let depth = 3\n', 4, "no name to assign"),
    "let unread": (GOOD + '!block: "a"  //@ let width = D\n', 4, "nothing reads `width`"),
    "let on some ways": (
        'start: one | two\none: "1" block  //@ let E = 2\ntwo: "2" block\n!block: "a"  //@ E\n',
        6,
        "not every way to `block` assigns",
    ),
    "let read too early": (GOOD + 'block: leaf  //@ E let E = 2\n!leaf: "a"  //@ E\n', 4, "`E`"),
    "repeat of nothing": (GOOD + '!block: "a"  //@ repeat 0.5\n', 4, "`repeat` belongs to"),
    "repeat of everything": (GOOD + '!block: "a"+  //@ repeat 1\n', 4, "between 0 and 1"),
    "word on an inlined rule": (
        GOOD + 'block: _two\n_two: x x  //@ commutative\n!x: "x"\n',
        5,
        "drop the word",
    ),
    "commutative leaf": (GOOD + '!block: "a"  //@ commutative\n', 4, "needs two parts"),
    "identity with a part": (GOOD + 'block: x  //@ identity\n!x: "x"\n', 4, "no parts"),
    # numbers
    "INT without range": (GOOD + "block: INT\n", 4, "write `//@ int A..B`"),
    "range without INT": (
        GOOD + '!block: "a"  //@ int 1..4\n',
        4,
        "belongs to an alternative with",
    ),
    "two INT": (GOOD + 'block: INT "x" INT  //@ int 1..4\n', 4, "two INT"),
    "INT in brackets": (GOOD + 'block: (INT ",")+  //@ int 1..4\n', 4, "a rule of its own"),
    "range upside down": (GOOD + "block: INT  //@ int 4..1\n", 4, "lower bound comes first"),
    "range too wide": (GOOD + "block: INT  //@ int 0..4096\n", 4, "more than 4096 values"),
    "no power of two": (GOOD + "block: INT  //@ int 5..7 log2\n", 4, "no power of two"),
    "range of fractions": (GOOD + "block: INT  //@ int 0.5..2\n", 4, "whole numbers"),
    "float": (GOOD + "block: FLOAT\n", 4, "nothing says which text `FLOAT` stands for"),
    # terminals
    "regular expression": (GOOD + "block: /[a-z]+/\n", 4, "which text `/[a-z]+/` stands for"),
    "range of letters": (GOOD + 'block: "a".."c"\n', 4, '`"a".."c"`'),
    "terminal of two": (GOOD + 'block: A\nA: "a" | "b"\n', 4, "which text `A` stands for"),
    "unknown terminal": (GOOD + "block: INTT\n", 4, "`INTT` is not defined (did you mean `INT`?)"),
    "terminal in itself": (GOOD + "block: A\nA: B\nB: A\n", 6, "refers to itself"),
    "terminal of a rule": (GOOD + BLOCK + 'A: ("a" | block)+\n', 5, "cannot hold a rule"),
    "terminal of nothing": (GOOD + BLOCK + 'A: "a" | BB\n', 5, "`BB` is not defined"),
    "declared": (GOOD + "block: A\n%declare A\n", 5, "`%declare` gives no text"),
    "any case": (GOOD + '!block: "a"i\n', 4, "drop the `i`"),
    "white space": (GOOD + '!block: "a b"\n', 4, "write one string for each word"),
    "escape": (GOOD + '!block: "a\\n"\n', 4, "may follow a backslash"),
    "empty string": (GOOD + '!block: ""\n', 4, "leave it out"),
    "ignored words": (GOOD + BLOCK + '%ignore "x"\n', 5, "only white space and comments"),
    "ignored pattern": (GOOD + BLOCK + "%ignore /(a+)+x/\n", 5, "only white space and comments"),
    # rules
    "unknown rule": (
        GOOD + 'block: blok\n!blocks: "x"\n',
        4,
        "`blok` is not defined (did you mean",
    ),
    "rule twice": (GOOD + BLOCK + BLOCK, 5, "`block` is defined twice"),
    "unreachable rule": (GOOD + BLOCK + '!other: "x"\n', 5, "`other` cannot be reached"),
    "unreachable circle": (GOOD + BLOCK + '!other: "x" other | "y"\n', 5, "cannot be reached"),
    "never ends": (GOOD + 'block: "a" block | "b" block\n', 4, "`block` never ends"),
    "never ends together": (GOOD + 'block: "a" x\nx: "b" y | block\ny: x "c"\n', 4, "never ends"),
    "priority of a rule": (GOOD + 'block.2: "a"\n', 4, "no priorities"),
    "priority of a terminal": (GOOD + 'block: A\nA.2: "a"\n', 5, "no priorities"),
    "alias of an inlined rule": (GOOD + 'block: _x\n_x: "a" -> b\n', 5, "drop the `->`"),
    "alias in brackets": (GOOD + 'block: ("a" -> b)\n', 4, "inside brackets"),
    "inlined twice": (GOOD + 'block: _x\n?_x: "a"\n', 5, "drop the `?`"),
    "absent child": (GOOD + '?block: x ["," x]\n!x: "a"\n', 4, "write `(x)?`"),
    "child or not": (
        GOOD + '?block: _x\n_x: y | y "," y\n!y: "a"\n',
        4,
        "write it without `?`",
    ),
    "repeat too often": (GOOD + '!block: "a"~3..100\n', 4, "from 0 to 64"),
    "repeat backwards": (GOOD + '!block: "a"~3..2\n', 4, "the smaller one first"),
    "repeat never": (GOOD + '!block: "a"~0\n', 4, "from 0 to 64"),
    "multiplied out": (GOOD + "block: " + '("a"|"b")' * 12 + "\n", 4, "alternatives: split it"),
    "brackets in brackets": (GOOD + "block: " + "(" * 40 + '"a"' + ")" * 40, 4, "30 brackets"),
    "underscores": (GOOD + 'block: __x\n__x: "a"\n', 4, "`_` means nothing here"),
    "template bare": (GOOD + "block: t\nt{x}: x\n", 4, "write `t{...}`"),
    "template without arguments": (GOOD + 'block: b{x}\nb: "b"\n!x: "x"\n', 4, "is no template"),
    "template with too few": (GOOD + 'block: t{x}\nt{a, b}: a b\n!x: "x"\n', 4, "{a, b}"),
    "template unknown": (GOOD + 'block: t{x}\n!x: "x"\n', 4, "template `t` is not defined"),
    "template unused": (GOOD + BLOCK + "t{x}: x x\n", 5, "cannot be reached"),
    "template for ever": (
        GOOD + 'block: t{x}\nt{a}: a | "(" t{t{a}} ")"\n!x: "x"\n',
        5,
        "too many ways",
    ),
    "template kept and not": (
        GOOD + 'block: t{"x"} k\n!k: "k" t{"x"}\nt{a}: "t" a\n',
        5,
        "Lark mixes them",
    ),
    "start is a template": ('start{x}: x\nblock: start{block} | "a"\n', 3, "cannot be a template"),
    "start is a word": ('!?start: "a" | "b"\n', 3, "a bare word"),
    # statements
    "no start": (BLOCK, 1, "there is no rule `start`"),
    "extend nothing": (GOOD + BLOCK + '%extend blck: "x"\n', 5, "did you mean `block`?"),
    "override nothing": (GOOD + BLOCK + '%override foo: "x"\n', 5, "nothing of that name yet"),
    "extend a terminal": (GOOD + 'block: A\nA: "a"\n%extend A: "b"\n', 6, "write `%override`"),
    "library": (GOOD + BLOCK + "%import python.name\n", 5, "write `%import .python (name)`"),
    "library whole": (GOOD + BLOCK + "%import common\n", 5, "nothing is imported"),
    "library name": (GOOD + BLOCK + "%import common.WSS\n", 5, "did you mean `WS`?"),
    "imported twice": (GOOD + BLOCK + "%import common.WS\n", 5, "imported twice"),
    "import case": (GOOD + BLOCK + "%import .x.foo -> FOO\n", 5, "`foo` cannot become `FOO`"),
    "import missing": (GOOD + BLOCK + "%import .missing (x)\n", 5, "no such file"),
    "syntax": (GOOD + "block: (\n", 4, "a bracket is not closed"),
    "colon": (GOOD + 'block "a"\n', 4, "a colon is missing"),
    "sign": (GOOD + "block: $\n", 4, "`$` means nothing here"),
    "quote": (GOOD + 'block: "a\n', 4, "does not end on its line"),
    "pattern of nobody": (GOOD + BLOCK + 'X: /(/ | "b"\n', 1, "Lark cannot load this"),
    "pattern too large": (GOOD + BLOCK + 'X: /a{99999999999}/ | "b"\n', 1, "Lark cannot load this"),
    # ambiguity
    "same alternative": (GOOD + '!block: "a"\n      | "b"\n      | "a"\n', 6, "the same words"),
    "same text in two rules": (GOOD + 'block: x | y\n!x: "a"\n!y: "b" | "a"\n', 6, "ambiguous"),
    "operator without brackets": (GOOD + 'block: block "+" block | "a"\n', 4, "ambiguous"),
    "dangling repetition": (GOOD + 'block: "a" ("b")* | "c" block "b"\n', 4, "ambiguous"),
    "repetition of repetition": (GOOD + 'block: ("a"+)+\n', 4, "ambiguous"),
    "numbers overlap": (
        GOOD + "block: x | y\nx: INT  //@ int 1..4\ny: INT  //@ int 3..8\n",
        6,
        "ambiguous",
    ),
    "number and word": (
        GOOD + 'block: x "x" | "12" "y"\nx: INT  //@ int 1..4\n',
        4,
        "Lark takes one for the other",
    ),
    "two names of a word": (
        GOOD + 'block: x "x" | B "y"\nx: A\nA: "a"\nB: "a"\n',
        4,
        "Lark takes one for the other",
    ),
    "signs run together": (GOOD + 'block: "*" y | "**"\n!y: "*"\n', 4, "would be read as `**`"),
    "comment": (
        GOOD + '!block: "//x"\n%import common.CPP_COMMENT\n%ignore CPP_COMMENT\n',
        4,
        "comment",
    ),
    "comment by two": (
        GOOD + 'block: "/" y\n!y: "/"\n%import common.CPP_COMMENT\n%ignore CPP_COMMENT\n',
        4,
        "would be read as `//`",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    text, line, message = BROKEN[name]
    path = tmp_path / "broken.lark"
    path.write_text(HEAD + text)
    with pytest.raises(SpaceError, match=re.escape(message)) as caught:
        load_grammar(path)
    assert (caught.value.file, caught.value.line) == (str(path), line), str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_white_space_must_be_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.lark"
    path.write_text('start: "a" "b"\n')
    with pytest.raises(SpaceError, match=r"a\.lark:1: .*%import common\.WS"):
        load_grammar(path)


IMPORTS = {
    "itself": ({"a.lark": "%import .a (x)\n"}, "a.lark", 3, "imports itself"),
    "a circle": (
        {"a.lark": "%import .b (x)\n", "b.lark": "\n%import .a (x)\n"},
        "b.lark",
        2,
        "imports itself",
    ),
    "a name that is not there": (
        {"a.lark": "%import .b (mixr)\nstart: mixr\n", "b.lark": '!mixer: "a"\n'},
        "a.lark",
        3,
        "has no `mixr` (did you mean `mixer`?)",
    ),
    "a name that is not used": (
        {"a.lark": "%import .b (x, y)\nstart: x\n", "b.lark": '!x: "a"\n!y: "b"\n'},
        "a.lark",
        3,
        "`y` is imported but not used",
    ),
    "a name twice": (
        {"a.lark": "%import .b (x)\n%import .c (x)\nstart: x\n"},
        "a.lark",
        4,
        "imported twice",
    ),
    "a name defined here too": (
        {"a.lark": '%import .b (x)\nstart: x\n!x: "a"\n', "b.lark": '!x: "a"\n'},
        "a.lark",
        5,
        "write `%override` or `%extend`",
    ),
    "an error in another file": (
        {"a.lark": "%import .b (x)\nstart: x\n", "b.lark": '\n!x: "a" //@ sizes\n'},
        "b.lark",
        2,
        "`sizes`",
    ),
    "syntax in another file": (
        {"a.lark": "%import .b (x)\nstart: x\n", "b.lark": "\nx\n"},
        "b.lark",
        2,
        "a colon is missing",
    ),
    "a template extended": (
        {
            "a.lark": '%import .b (t)\nstart: t{y}\n%extend t{x}: "a"\n!y: "y"\n',
            "b.lark": "t{x}: x\n",
        },
        "a.lark",
        5,
        "`%override` it",
    ),
    "a weight is missing": (
        {"a.lark": '%import .b (x)\nstart: x\n%extend !x: "c"\n', "b.lark": '!x: "a"  //@ 2\n'},
        "a.lark",
        5,
        "write one here too",
    ),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_broken_imports_are_refused_in_their_file(name: str, tmp_path: Path) -> None:
    files, file, line, message = IMPORTS[name]
    for other, text in files.items():
        (tmp_path / other).write_text(HEAD + text if other == "a.lark" else text)
    with pytest.raises(SpaceError, match=re.escape(message)) as caught:
        load_grammar(tmp_path / "a.lark")
    assert (caught.value.file, caught.value.line) == (str(tmp_path / file), line), str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"missing\.lark: no such file"):
        load_grammar(tmp_path / "missing.lark")
    with pytest.raises(SpaceError, match="is a folder"):
        load_grammar(tmp_path)
    binary = tmp_path / "binary.lark"
    binary.write_bytes(b'start: "a"\n\xff\n')
    with pytest.raises(SpaceError, match=r"binary\.lark:2: is not UTF-8"):
        load_grammar(binary)
    large = tmp_path / "large.lark"
    large.write_text('start: "a"\n' + "// " + "x" * 1_000_000)
    with pytest.raises(SpaceError, match="larger than 1000000 bytes"):
        load_grammar(large)
    os.mkfifo(tmp_path / "pipe.lark")
    with pytest.raises(SpaceError, match="no such file"):
        load_grammar(tmp_path / "pipe.lark")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 30_000,
        "start: " + '("a"|"b")' * 5_000,
        "start: " + '"a" ' * 20_000,
        "start: " + '(("a"~64)~64)~64',
        "start: " + "(" * 25 + '"a"' + ")~64" * 25,
        "start: " + " ".join("abcdef") + "".join(f"\n{x}: INT //@ int 1..4096" for x in "abcdef"),
        'start: "a" //@ ' + "(" * 900,
        "//@ version 1\n" * 70_000,
    ],
)
def test_hostile_files_are_refused_in_time(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.lark"
    path.write_text(HEAD + text)
    before = time.process_time()
    with pytest.raises(SpaceError):
        load_grammar(path)
    assert time.process_time() - before < 30


def test_a_space_is_read_again_once_one_of_its_files_has_changed(tmp_path):
    path, other = tmp_path / "space.lark", tmp_path / "other.lark"
    path.write_text(HEAD + "%import .other (block)\n" + GOOD)
    other.write_text('!block: "a"\n')
    grammar = load_grammar(path)
    assert load_grammar(path) is grammar
    assert load_grammar(path, {"L", "D", "causal", "more"}) is not grammar
    other.write_text('!block: "b"\n')
    changed = load_grammar(path)
    assert [a.symbols[0].text for a in changed.rules["block"]] == ["b"]
    other.unlink()
    with pytest.raises(SpaceError, match="no such file"):
        load_grammar(path)
    other.write_text('!block: "a"\n')
    assert [a.symbols[0].text for a in load_grammar(path).rules["block"]] == ["a"]
    path.write_text(path.read_text() + "%ignore\n")
    with pytest.raises(SpaceError):
        load_grammar(path)
