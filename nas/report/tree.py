"""Trees to look at: an architecture or its derivation as text, as Graphviz source, as an image."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from nas.grammar.derivation import Derivation, Node, Term
from nas.grammar.edit import Path, places
from nas.grammar.reach import is_helper
from nas.grammar.rules import Alternative, Literal
from nas.grammar.space import Space
from nas.grammar.spelling import join

ROW, COLUMN, CHARACTER, MARGIN = 26, 28, 7.3, 12  # of the image, in pixels


@dataclass(frozen=True)
class Tree:
    """A label and what hangs below it."""

    label: str
    children: tuple["Tree", ...] = ()


def architecture_tree(term: Term) -> Tree:
    """The blocks of an architecture; parameters stand beside the block they belong to."""
    words: list[str] = []
    blocks: list[Tree] = []
    for argument in term.arguments:
        if isinstance(argument, str):
            words.append(argument)
        elif argument.arguments and all(isinstance(word, str) for word in argument.arguments):
            words.append(f"{argument.name}={' '.join(map(str, argument.arguments))}")
        else:
            blocks.append(architecture_tree(argument))
    return Tree(" ".join([term.name, *words]), tuple(blocks))


def derivation_tree(space: Space, derivation: Derivation) -> Tree:
    """Every choice that was made, with the probability that the space gives it.

    Raises:
        SpaceError: The derivation is not of this space.
    """
    probabilities = {
        place.choice.path: place.choice.probabilities[place.index]
        for place in places(space, derivation)
    }

    def tree(node: Node, path: Path) -> Tree:
        label = f"{node.rule}: {describe(node.alternative)}"
        if path in probabilities:
            label += f"  [{probabilities[path]:.3g}]"
        children = (tree(child, (*path, i)) for i, child in enumerate(node.children))
        return Tree(label, tuple(children))

    return tree(derivation.root, ())


def describe(alternative: Alternative) -> str:
    """An alternative as it is written in its file, without quotes: `attention(heads, window)`."""
    parts = []
    for symbol in alternative.symbols:
        if isinstance(symbol, Literal):
            parts.append(", " if symbol.text == "," else symbol.text)
        else:  # a rule that was imported carries the name of its file
            parts.append(symbol.rule if is_helper(symbol.rule) else symbol.rule.split("__")[-1])
    return join(parts) or "(nothing)"


def as_text(tree: Tree) -> str:
    """Indented lines, drawn with box characters."""
    return "\n".join(_lines(tree, "", ""))


def _lines(tree: Tree, first: str, rest: str) -> Iterator[str]:
    yield first + tree.label
    for i, child in enumerate(tree.children):
        last = i == len(tree.children) - 1
        stem, below = ("└── ", "    ") if last else ("├── ", "│   ")
        yield from _lines(child, rest + stem, rest + below)


def as_dot(tree: Tree) -> str:
    """Graphviz source: `dot -Tpdf` makes a page of it."""
    lines = ["digraph architecture {", '  node [shape=box, fontname="Helvetica"];']
    for number, (each, parent, _) in enumerate(_placed(tree)):
        # JSON's quoting is Graphviz's, as far as labels go.
        lines.append(f"  n{number} [label={json.dumps(each.label, ensure_ascii=False)}];")
        if parent is not None:
            lines.append(f"  n{parent} -> n{number};")
    return "\n".join([*lines, "}", ""])


def as_svg(tree: Tree) -> str:
    """An image: one row a node, indented by depth, as in `as_text`."""
    shapes: list[str] = []
    width = 0.0
    rows = list(_placed(tree))
    for row, (each, parent, depth) in enumerate(rows):
        x, y = MARGIN + depth * COLUMN, MARGIN + row * ROW
        box = 16 + CHARACTER * len(each.label)
        width = max(width, x + box)
        if parent is not None:
            trunk, top = x - COLUMN / 2, MARGIN + (parent + 1) * ROW - 6
            shapes.append(f'<path d="M{trunk:g} {top:g}V{y + 10:g}H{x:g}" class="edge"/>')
        shapes.append(f'<rect x="{x:g}" y="{y:g}" width="{box:g}" height="20" rx="4"/>')
        shapes.append(f'<text x="{x + 8:g}" y="{y + 14:g}">{escape(each.label)}</text>')
    size = f'width="{width + MARGIN:g}" height="{2 * MARGIN + len(rows) * ROW:g}"'
    style = (
        "rect{fill:#eef3fa;stroke:#5b7aa6}.edge{fill:none;stroke:#8a8f98}"
        "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1c2430}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
    return "\n".join([head, *shapes, "</svg>", ""])


def _placed(tree: Tree) -> Iterator[tuple[Tree, int | None, int]]:
    """Every node, from top to bottom, with the number of its parent and its depth."""
    stack: list[tuple[Tree, int | None, int]] = [(tree, None, 0)]
    number = 0
    while stack:
        each, parent, depth = stack.pop()
        yield each, parent, depth
        stack += [(child, number, depth + 1) for child in reversed(each.children)]
        number += 1
