"""Our reader of Lark's syntax against Lark's own, on the grammars that come with Lark."""

import re
from pathlib import Path

import lark
import pytest
from lark.load_grammar import GrammarBuilder

from nas.grammar.lark_syntax import read_syntax
from nas.grammar.syntax_tree import Group, Instance, Repeat

SHIPPED = sorted((Path(lark.__file__).parent / "grammars").glob("*.lark"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_reads_every_definition_of_larks_grammars(path: Path) -> None:
    text = path.read_text()
    source = read_syntax(text, path.name)
    builder = GrammarBuilder()
    builder.load_grammar(text, str(path))
    imported = {here for statement in source.imports for _, here in statement.names}
    defined = {definition.name for definition in source.definitions}
    declared = {name for statement in source.declares for name in statement.names}
    assert defined | declared | imported == {n for n in builder._definitions if "__" not in n}
    lines = text.split("\n")
    for definition in source.definitions:
        assert re.match(rf"[?!]*{definition.name}\b", lines[definition.line - 1])
    assert len(source.comments) == len(re.findall(r"(?m)^\s*(?://|#)|\s(?://|#)\s", text))


def test_lines_and_comments() -> None:
    source = read_syntax(
        """// first
a: "x"      // one //@ not a pragma
 // between
 | ("y"     //@ 1
 | b) -> c  //@ 2
 | \\
 b? t{a, "//@"} ["z"] // last


# hash
""",
        "f.lark",
    )
    (definition,) = source.definitions
    assert [(o.line, o.end_line, o.alias) for o in definition.options] == [
        (2, 2, None),
        (4, 5, "c"),
        (7, 7, None),
    ]
    group = definition.options[1].items[0]
    assert isinstance(group, Group)
    assert [(o.line, o.end_line) for o in group.options] == [(4, 4), (5, 5)]
    repeat, instance, maybe = definition.options[2].items
    assert isinstance(repeat, Repeat)
    assert isinstance(instance, Instance)
    assert isinstance(maybe, Group)
    assert maybe.optional
    assert [(c.line, c.alone) for c in source.comments] == [
        (1, True),
        (2, False),
        (3, True),
        (4, False),
        (5, False),
        (7, False),
        (10, True),
    ]


def test_windows_line_ends() -> None:
    source = read_syntax('a: "x"  //@ 1\r\n | "y"  //@ 2\r\n\r\nb: a\r\n', "f.lark")
    assert [c.text for c in source.comments] == ["//@ 1", "//@ 2"]
    assert [d.line for d in source.definitions] == [1, 4]
