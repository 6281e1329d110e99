"""What the loader accepts has one reading: random grammars, their short texts, Lark as judge."""

import tempfile
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lark import Lark, Token, Tree

from nas.grammar.derivation import Derivation, Node, Term
from nas.grammar.errors import SpaceError
from nas.grammar.loader import load_grammar
from nas.grammar.rules import Grammar

# Words that are prefixes of one another, that join to others, and that numbers can be taken for.
WORDS = ["a", "b", "ab", "*", "**", "(", ")", "-", "->", ",", "1", "12", "2", "x1", "//"]
RULES = ["one", "two", "_in", "three"]


def items(rules: list[str]) -> st.SearchStrategy[str]:
    """One part of an alternative, which may use the given rules."""
    words = st.sampled_from(WORDS).map(lambda word: f'"{word}"')
    names = st.sampled_from([*rules, "WORD", "_QUIET", "n", "pair{n, n}", '"[" one "]"'])
    plain = st.one_of(words, words, names)
    group = st.tuples(
        st.lists(st.lists(plain, min_size=1, max_size=2).map(" ".join), min_size=1, max_size=2),
        st.sampled_from(["", "?", "*", "+", "~1..2", "~2"]),
    ).map(lambda drawn: f"({' | '.join(drawn[0])}){drawn[1]}")
    return st.one_of(plain, plain, group)


@st.composite
def grammars(draw: st.DrawFn) -> str:
    lines = ["%import common (WS, INT, CPP_COMMENT)", "%ignore WS"]
    if draw(st.booleans()):
        lines.append("%ignore CPP_COMMENT")
    signs = [draw(st.sampled_from(['";"', '"*"', '"-"', '"a"', ""])) for _ in RULES]
    parts = [f"{rule} {sign}" for rule, sign in zip(RULES, signs, strict=True)]
    lines.append('start: "s" ' + " ".join(parts) + ' "." n _QUIET WORD pair{n, n}')
    for i, rule in enumerate(RULES):
        head = "" if rule.startswith("_") else draw(st.sampled_from(["", "", "!", "?"]))
        options = []
        for k in range(draw(st.integers(1, 3))):
            body = draw(st.lists(items(RULES[i + 1 :]), min_size=1, max_size=3))
            keyword = draw(st.sampled_from([f'"k{i}{k}"', f'"k{i}{k}"', ""]))
            options.append(" ".join([keyword, *body]))
        lines.append(f"{head}{rule}: {' | '.join(options)}" + draw(st.sampled_from(["", " |"])))
    lines += ['WORD: "word"', '_QUIET: "quiet"', "n: INT  //@ int 1..12 log2"]
    lines.append("pair{x, y}: x y")
    return "\n".join(lines) + "\n"


def derivations(grammar: Grammar, rule: str, depth: int, limit: int) -> Iterator[Node]:
    """Some derivations of a rule, all of those no deeper than `depth` if they are few."""
    if depth == 0:
        return
    for alternative in grammar.rules[rule]:
        below = [
            list(islice(derivations(grammar, name, depth - 1, limit), limit))
            for name in alternative.references
        ]
        for children in islice(product(*below), limit):
            yield Node(alternative, tuple(children))


def lark_term(tree: Tree | Token) -> Term | str:
    if not isinstance(tree, Tree):
        return str(tree)
    data = tree.data.value if isinstance(tree.data, Token) else str(tree.data)
    return Term(data, tuple(lark_term(child) for child in tree.children))


def accepted_grammar(path: Path) -> Grammar | None:
    """The grammar, or None when it is refused by name."""
    try:
        return load_grammar(path)
    except SpaceError as error:
        message, line = str(error), error.line
    assert line is not None
    assert "\n" not in message
    assert "Lark cannot load" not in message
    return None


def check(text: str) -> bool:
    """Whether the grammar is accepted, in which case its texts must keep the promise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.lark"
        path.write_text(text)
        grammar = accepted_grammar(path)
        if grammar is None:
            return False
        lark = Lark.open(str(path), parser="lalr")
    made = [Derivation(node) for node in islice(derivations(grammar, "start", 7, 8), 200)]
    texts = {derivation.text for derivation in made}
    assert len(texts) == len(made)
    for derivation in made:
        assert lark_term(lark.parse(derivation.text)) == derivation.term, derivation.text
    return True


def test_accepted_grammars_have_one_reading_for_every_text() -> None:
    accepted: list[bool] = []

    @settings(
        max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(grammars())
    def run(text: str) -> None:
        accepted.append(check(text))

    run()
    assert sum(accepted) > 10
