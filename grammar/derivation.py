"""A derivation: the choices that make one architecture, as an immutable tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from nas.grammar.rules import Alternative, Reference
from nas.grammar.spelling import fragments, join


@dataclass(frozen=True, slots=True)
class Term:
    """An architecture without its grammar: what the compiler reads.

    It has the shape of Lark's own parse tree: `attention(heads, window)` written as
    `attention(4, 64)` is `Term("attention", (Term("heads", ("4",)), Term("window", ("64",))))`.
    Punctuation is gone, rule names are those of the file that defines them.
    """

    name: str
    arguments: tuple["Term | str", ...] = ()

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.arguments))
        return f"{self.name}({inside})" if inside else self.name


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """An alternative and the nodes of its non-terminals, from left to right.

    Nodes may be shared, within a derivation and between them: where one stands is told by its path,
    not by the object.
    """

    alternative: Alternative
    children: tuple["Node", ...] = ()

    @property
    def rule(self) -> str:
        """The rule this node expands."""
        return self.alternative.rule

    def __iter__(self) -> Iterator["Node"]:
        """This node and all below it, in the order the choices were made (pre-order)."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))


class Derivation:
    """One architecture of a space: an immutable tree of choices.

    Two derivations are equal when their texts are: a text of a space has one derivation.

    Args:
        root: The node of the start rule.
    """

    def __init__(self, root: Node) -> None:
        self.root = root

    @cached_property
    def text(self) -> str:
        """The architecture as a person reads it; `Space.parse` gives the derivation back."""
        return join(_written(self.root))

    @cached_property
    def size(self) -> int:
        """Number of nodes (choices), those without an alternative to choose from included."""
        return sum(1 for _ in self.root)

    @cached_property
    def term(self) -> Term:
        """The architecture without its grammar: what the compiler reads."""
        (term,) = _terms(self.root)
        assert isinstance(term, Term)
        return term

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Derivation) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Derivation({self.text!r})"


def _written(root: Node) -> Iterator[str]:
    stack: list[Node | str] = [root]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
            continue
        texts = fragments(top.alternative)
        yield texts[0]
        for child, text in zip(reversed(top.children), reversed(texts[1:]), strict=True):
            stack += (text, child)


def _terms(root: Node) -> tuple["Term | str", ...]:
    """The node as arguments of its parent: one term, or several when Lark would inline it."""
    made: list[tuple[Term | str, ...]] = []  # of finished nodes, the leftmost on top
    for node in reversed(list(root)):
        arguments: list[Term | str] = []
        for symbol in node.alternative.symbols:
            if isinstance(symbol, Reference):
                arguments += made.pop()
            elif symbol.kept:
                arguments.append(symbol.text)
        name = node.alternative.name
        made.append(tuple(arguments) if name is None else (Term(name, tuple(arguments)),))
    return made.pop()
