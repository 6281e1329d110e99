"""Reading an architecture's text back into its derivation.

The rules are handed to Lark as an LALR(1) grammar of their own in which every alternative has a
name, helper rules included, so that Lark's tree is the derivation itself. Whether the derivation is
legal in a context is not asked here.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lark import (
    Lark,
    ParseTree,
    UnexpectedCharacters,
    UnexpectedEOF,
    UnexpectedInput,
    UnexpectedToken,
)
from lark.tree import Meta

from nas.grammar.derivation import Node
from nas.grammar.errors import Location, SpaceError
from nas.grammar.rules import Alternative, Grammar, Literal

MAX_EXPECTED = 8  # words listed in a message
END = "the end of the text"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A derivation read from a text.

    Args:
        root: Its root.
        metas: Where its nodes stand in the text, in pre-order.
        file: Where the text comes from.
    """

    root: Node
    metas: Sequence[Meta]
    file: str | None

    def error(self, message: str, index: int) -> SpaceError:
        """An error at the node of that index in pre-order (a node without text: at the next)."""
        for meta in self.metas[index:]:
            if not meta.empty:
                return _located(f"column {meta.column}: {message}", meta.line, self.file)
        return SpaceError(message)


class TextParser:
    """Parses the texts of a space.

    Args:
        grammar: The rules.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._alternatives: dict[str, Alternative] = {}
        self._terminals: dict[str, str] = {}  # literal -> terminal

    @cached_property
    def _lark(self) -> Lark:
        names = {rule: f"r{i}" for i, rule in enumerate(self._grammar.rules)}
        lines: list[str] = []
        for rule, alternatives in self._grammar.rules.items():
            bodies = []
            for alternative in alternatives:
                label = f"{names[rule]}_{alternative.index}"
                self._alternatives[label] = alternative
                symbols = (
                    self._terminal(s.text) if isinstance(s, Literal) else names[s.rule]
                    for s in alternative.symbols
                )
                bodies.append(f"{' '.join(symbols)} -> {label}")
            lines.append(f"{names[rule]}: " + "\n    | ".join(bodies))
        lines += [f"{name}: {json.dumps(text)}" for text, name in self._terminals.items()]
        lines += [r"_SPACE: /\s+/", "%ignore _SPACE"]
        if not any("//" in text for text in self._terminals):
            lines += [r"_COMMENT: /\/\/[^\n]*/", "%ignore _COMMENT"]
        return Lark(
            "\n".join(lines),
            parser="lalr",
            start=names[self._grammar.start],
            propagate_positions=True,
            maybe_placeholders=False,
        )

    def _terminal(self, text: str) -> str:
        return self._terminals.setdefault(text, f"_T{len(self._terminals)}")

    def parse(self, text: str, file: str | None = None) -> "Parsed":
        """The derivation of a text, legal in its context or not.

        Args:
            text: An architecture.
            file: Where the text comes from, for messages.

        Raises:
            SpaceError: The text is not in the language; says where and what was expected.
        """
        try:
            tree = self._lark.parse(text)
        except UnexpectedInput as error:
            raise self._unexpected(text, error, file) from None
        order: list[ParseTree] = []
        stack = [tree]
        while stack:
            top = stack.pop()
            order.append(top)
            stack.extend(reversed(top.children))  # type: ignore[arg-type]
        nodes: list[Node] = []
        for part in reversed(order):
            children = tuple([nodes.pop() for _ in part.children])
            nodes.append(Node(self._alternatives[part.data], children))
        return Parsed(nodes.pop(), [part.meta for part in order], file)

    def _unexpected(self, text: str, error: UnexpectedInput, file: str | None) -> SpaceError:
        words = {name: literal for literal, name in self._terminals.items()}
        expected: set[str] = set()
        found = END
        line, column = _end(text)
        if isinstance(error, UnexpectedCharacters):
            expected = set(error.allowed or ())
            line, column = error.line, error.column
            rest = text[error.pos_in_stream :]
            word = re.match(r"\w+|.", rest)
            found = f"`{word.group() if word else rest[:1]}`"
        elif isinstance(error, UnexpectedToken) and error.token.type != "$END":
            expected = set(error.accepts or error.expected)
            line, column = error.line, error.column
            found = f"`{error.token}`"
        elif isinstance(error, UnexpectedToken):
            expected = set(error.accepts or error.expected)
        elif isinstance(error, UnexpectedEOF):
            expected = set(error.expected)
        choices = sorted(words[name] for name in expected if name in words)
        if "$END" in expected:
            choices.append(END)
        message = f"column {column}: {found} where {_one_of(choices)} must stand"
        close = difflib.get_close_matches(found.strip("`"), choices, n=1)
        if close:
            message += f" (did you mean `{close[0]}`?)"
        return _located(message, line, file)


def _end(text: str) -> tuple[int, int]:
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1


def _one_of(choices: list[str]) -> str:
    shown = [word if word == END else f"`{word}`" for word in choices[:MAX_EXPECTED]]
    if len(choices) > MAX_EXPECTED:
        shown.append(f"one of {len(choices) - MAX_EXPECTED} others")
    return " or ".join(shown) or END


def _located(message: str, line: int, file: str | None) -> SpaceError:
    if file is not None:
        return SpaceError(message, Location(file, line))
    return SpaceError(f"line {line}, {message}")
