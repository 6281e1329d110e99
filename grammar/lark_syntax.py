"""Reads the syntax of Lark grammars, keeping what Lark throws away: lines and comments.

Lark loads a space by itself, but drops the comments that carry our pragmas.
"""

from collections.abc import Iterator
from typing import Any

from lark import (
    Lark,
    UnexpectedCharacters,
    UnexpectedInput,
    UnexpectedToken,
)

from nas.grammar.errors import Location, SpaceError
from nas.grammar.syntax_builder import MAX_NESTING, TooDeepError, syntax_reader
from nas.grammar.syntax_tree import Comment, Declare, Definition, Ignore, Import, Source

MAX_SHOWN = 80  # characters of a broken line

_EXAMPLES = {  # after Lark's own messages
    "a colon is missing, as in `rule: ...`": ["a\n", "A\n", 'a "b"\n', "a b\n"],
    "a bracket is not closed": ["a: (\n", "a: [\n", "a: (b\n", 'a: "x" (b\n'],
    "a bracket closes that was never opened": ["a: )\n", "a: b )\n", "a: b ]\n", "a: ]\n"],
    "a name is all lower case (a rule) or all upper case (a terminal)": ["Aa:\n"],
    "an alias is a name in lower case: `-> name`": ['a: -> "a"\n', "a: b -> A\n", "a: b ->\n"],
    "one rule a line": ["a::\n", "a: b:\n", "a: B:\n"],
    "`?`, `*` and `+` follow what they repeat": ["a: b??", "a: b(?)", "a:+\n", "a:?\n", "a:*\n"],
    "a line begins with `rule:`, `TERMINAL:`, `|` or `%`": ['"a"\n', "a: b\n()\n", "(\n"],
    "write `%import .file (name, ...)`": ['%import "a"\n', "%import\n", "%import .\n"],
}


def read_syntax(text: str, file: str) -> Source:
    """Read a grammar file.

    Args:
        text: What stands in the file.
        file: Its path, for messages.

    Raises:
        SpaceError: It is not Lark's syntax.
    """
    reader = syntax_reader()
    try:
        statements: Any = reader.parse(text + "\n")
    except UnexpectedInput as error:
        raise _syntax_error(reader, error, text, file) from None
    except TooDeepError as error:
        message = f"more than {MAX_NESTING} brackets in brackets: write rules of their own"
        raise SpaceError(message, Location(file, error.line)) from None

    def those(kind: type[Any]) -> tuple[Any, ...]:
        return tuple(s for s in statements if isinstance(s, kind))

    return Source(
        file,
        those(Definition),
        those(Import),
        those(Ignore),
        those(Declare),
        tuple(_comments(reader, text)),
    )


def _syntax_error(reader: Lark, error: UnexpectedInput, text: str, file: str) -> SpaceError:
    lines = text.split("\n")
    line = error.line if isinstance(error.line, int) and error.line > 0 else len(lines)
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        line = len(lines)
    shown = lines[min(line, len(lines)) - 1].strip()
    if len(shown) > MAX_SHOWN:
        shown = shown[:MAX_SHOWN] + "..."
    if not isinstance(error, UnexpectedCharacters):
        # The parser's state tells a first statement from a later one.
        examples = {hint: [*e, *("a: b\n" + text for text in e)] for hint, e in _EXAMPLES.items()}
        hint = error.match_examples(
            reader.parse, examples, token_type_match_fallback=True, use_accepts=False
        )
        hint = hint or "this is not Lark's syntax"
    elif error.char == '"':
        hint = "the text in quotes does not end on its line"
    else:
        hint = f"`{error.char}` means nothing here"
    return SpaceError(f"cannot read `{shown}`: {hint}", Location(file, line))


def _comments(reader: Lark, text: str) -> Iterator[Comment]:
    for token in reader.lex(text + "\n", dont_ignore=True):
        if token.type != "COMMENT":
            continue
        comment = token.lstrip()
        blank = token[: len(token) - len(comment)]
        start = (token.start_pos or 0) + len(blank)
        before = text[text.rfind("\n", 0, start) + 1 : start]
        line = (token.line or 0) + blank.count("\n")
        yield Comment(comment.rstrip(), line, not before.strip())
