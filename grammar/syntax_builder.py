"""The grammar of Lark's own syntax, and what is built of a file while it is read.

The grammar of its syntax that Lark ships lacks `%extend`; these tokens and rules are those of the
reader that Lark uses itself.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer, v_args

from nas.grammar.syntax_tree import (
    Declare,
    Definition,
    Group,
    Ignore,
    Import,
    Instance,
    Item,
    Name,
    Option,
    Pattern,
    Quoted,
    Repeat,
)

MAX_NESTING = 30  # brackets in brackets

_SYNTAX = r"""
start: (_item | _NL)*
_item: rule | terminal | ignore | import_one | import_many | declare | override | extend

rule: modifiers RULE parameters priority COLON options _NL
terminal: TERMINAL priority COLON options _NL
modifiers: RULE_MODIFIERS |
parameters: _LBRACE RULE (_COMMA RULE)* _RBRACE |
priority: DOT NUMBER |
override: _OVERRIDE (rule | terminal)
extend: _EXTEND (rule | terminal)
ignore: IGNORE options _NL
declare: DECLARE (TERMINAL | RULE)+ _NL
import_one: IMPORT path alias _NL
import_many: IMPORT path LPAR _name (_COMMA _name)* RPAR _NL
path: DOT? _name (DOT _name)*
alias: _TO _name |
_name: RULE | TERMINAL

options: option ((OR | NL_OR) option)*
option: _expression* rename
rename: _TO RULE |
_expression: _atom | repeat
repeat: _atom OP | _atom TILDE NUMBER | _atom TILDE NUMBER _DOTDOT NUMBER
_atom: group | maybe | _value
group: LPAR options RPAR
maybe: LBRA options RBRA
_value: name | quoted | pattern | instance
name: RULE | TERMINAL
quoted: STRING
pattern: REGEXP | STRING _DOTDOT STRING
instance: RULE _LBRACE _value (_COMMA _value)* _RBRACE

OP: /[+*]|[?](?![a-z_])/
TILDE: "~"
RULE_MODIFIERS: /(!|![?]?|[?]!?)(?=[_a-z])/
RULE: /_?[a-z][_a-z0-9]*/
TERMINAL: /_?[A-Z][_A-Z0-9]*/
STRING: /"(\\["]|\\\\|[^"\n])*?"i?/
REGEXP: /\/(?!\/)(\\\/|\\\\|[^\/])*?\/[imslux]*/
_NL: /(\r?\n)+\s*/
NL_OR: /(\r?\n)+\s*\|/
WS: /[ \t]+/
COMMENT: /\s*\/\/[^\n]*|\s*#[^\n]*/
BACKSLASH: /\\[ ]*\n/
NUMBER: /[+-]?\d+/
IGNORE: "%ignore"
DECLARE: "%declare"
IMPORT: "%import"
_OVERRIDE: "%override"
_EXTEND: "%extend"
_LBRACE: "{"
_RBRACE: "}"
COLON: ":"
_COMMA: ","
OR: "|"
DOT: /\.(?!\.)/
_DOTDOT: ".."
_TO: "->"
LPAR: "("
RPAR: ")"
LBRA: "["
RBRA: "]"
%ignore WS
%ignore COMMENT
%ignore BACKSLASH
"""


class TooDeepError(Exception):
    """Brackets in brackets, beyond what anybody writes."""

    def __init__(self, line: int) -> None:
        self.line = line


@v_args(inline=True)
class _Builder(Transformer[Token, Any]):
    """Builds the classes above while Lark reads: no recursion, however deep a text nests."""

    def start(self, *statements: Any) -> list[Any]:
        return list(statements)

    def rule(
        self,
        modifiers: str,
        name: Token,
        parameters: tuple[str, ...],
        priority: str | None,
        colon: Token,
        options: list[Any],
    ) -> Definition:
        found = _options(colon, options)
        return Definition(str(name), modifiers, parameters, priority, found, _line(name))

    def terminal(
        self, name: Token, priority: str | None, colon: Token, options: list[Any]
    ) -> Definition:
        return Definition(str(name), "", (), priority, _options(colon, options), _line(name))

    def modifiers(self, token: str = "") -> str:
        return str(token)

    def parameters(self, *names: Token) -> tuple[str, ...]:
        return tuple(map(str, names))

    def priority(self, dot: Token | None = None, number: Token | None = None) -> str | None:
        return None if number is None else f".{number}"

    def override(self, definition: Definition) -> Definition:
        return replace(definition, action="override")

    def extend(self, definition: Definition) -> Definition:
        return replace(definition, action="extend")

    def ignore(self, keyword: Token, options: list[Any]) -> Ignore:
        return Ignore(_options(keyword, options), _line(keyword))

    def declare(self, keyword: Token, *names: Token) -> Declare:
        return Declare(tuple(map(str, names)), _line(keyword))

    def import_one(
        self, keyword: Token, path: tuple[bool, tuple[str, ...]], alias: Token | None
    ) -> Import:
        relative, names = path
        there = names[-1]
        pairs = ((there, str(alias or there)),)
        return Import(names[:-1], relative, pairs, _line(keyword))

    def import_many(
        self, keyword: Token, path: tuple[bool, tuple[str, ...]], _open: Token, *names: Token
    ) -> Import:
        relative, parts = path
        pairs = tuple((str(name), str(name)) for name in names[:-1])
        return Import(parts, relative, pairs, _line(keyword))

    def path(self, *tokens: Token) -> tuple[bool, tuple[str, ...]]:
        names = tuple(str(token) for token in tokens if token.type != "DOT")
        return tokens[0].type == "DOT", names

    def alias(self, name: Token | None = None) -> Token | None:
        return name

    def rename(self, name: Token | None = None) -> Token | None:
        return name

    def options(self, *parts: Any) -> list[Any]:
        return list(parts)

    def option(self, *parts: Any) -> Option:
        *items, alias = parts
        # An empty alternative gets its line from the sign before it, in `_options`.
        line = items[0].line if items else 0
        end_line = alias.end_line if alias is not None else items[-1].end_line if items else 0
        return Option(tuple(items), None if alias is None else str(alias), line, end_line)

    def repeat(self, item: Item, operator: Token, *bounds: Token) -> Repeat:
        low, high = (int(bounds[0]), int(bounds[-1])) if bounds else (0, 0)
        last = bounds[-1] if bounds else operator
        return Repeat(item, str(operator), low, high, item.line, _end(last))

    def group(self, opening: Token, options: list[Any], closing: Token) -> Group:
        return _group(opening, options, closing, optional=False)

    def maybe(self, opening: Token, options: list[Any], closing: Token) -> Group:
        return _group(opening, options, closing, optional=True)

    def name(self, token: Token) -> Name:
        return Name(str(token), _line(token), _end(token))

    def quoted(self, token: Token) -> Quoted:
        return Quoted(str(token), _line(token), _end(token))

    def pattern(self, *tokens: Token) -> Pattern:
        return Pattern("..".join(tokens), _line(tokens[0]), _end(tokens[-1]))

    def instance(self, name: Token, *arguments: Item) -> Instance:
        nesting = _deeper(arguments, _line(name))
        return Instance(str(name), arguments, _line(name), arguments[-1].end_line, nesting)


def _line(token: Token) -> int:
    assert token.line is not None
    return token.line


def _end(token: Token) -> int:
    assert token.end_line is not None
    return token.end_line


def _options(before: Token, parts: list[Any]) -> tuple[Option, ...]:
    """The alternatives, without the signs between them; `before` is the sign before the first."""
    found = []
    sign = before
    for part in parts:
        if isinstance(part, Token):
            sign = part
            continue
        if not part.items:
            part.line = _end(sign)
            part.end_line = part.end_line or part.line
        found.append(part)
    return tuple(found)


def _group(opening: Token, parts: list[Any], closing: Token, optional: bool) -> Group:
    options = _options(opening, parts)
    line = _line(opening)
    nesting = _deeper([item for option in options for item in option.items], line)
    return Group(options, optional, line, _end(closing), nesting)


def _deeper(items: Iterable[Item], line: int) -> int:
    """Nesting of what holds the items."""
    nesting = 1
    for item in items:
        inner = item.item if isinstance(item, Repeat) else item
        if isinstance(inner, Group | Instance):
            nesting = max(nesting, inner.nesting + 1)
    if nesting > MAX_NESTING:
        raise TooDeepError(line)
    return nesting


@cache
def syntax_reader() -> Lark:
    """The parser of Lark's syntax; it returns the list of statements.

    Raises:
        TooDeepError: When it parses more than `MAX_NESTING` brackets in brackets.
    """
    return Lark(_SYNTAX, parser="lalr", lexer="basic", transformer=_Builder())
