"""What terminals stand for: fixed text, numbers, or what is skipped between words."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from nas.grammar.errors import Location, SpaceError
from nas.grammar.syntax_tree import Group, Instance, Item, Name, Option, Pattern, Quoted, Repeat

MAX_LITERAL = 100  # characters

TEXT, DIGIT, NUMBER, BLANK, COMMENT, OTHER = "text", "digit", "number", "blank", "comment", "other"


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a terminal stands for.

    Args:
        kind: `TEXT`, `DIGIT` (one), `NUMBER` (digits), `BLANK` (white space), `COMMENT`, `OTHER`.
        text: The fixed text; what a comment begins with; " " for white space with spaces in it.
    """

    kind: str
    text: str = ""


COMMON = {  # the file `common.lark` that comes with Lark
    "DIGIT": Terminal(DIGIT),
    "INT": Terminal(NUMBER),
    "WS": Terminal(BLANK, " "),
    "WS_INLINE": Terminal(BLANK, " "),
    "CR": Terminal(BLANK),
    "LF": Terminal(BLANK),
    "NEWLINE": Terminal(BLANK),
    "CPP_COMMENT": Terminal(COMMENT, "//"),
    "SH_COMMENT": Terminal(COMMENT, "#"),
    "SQL_COMMENT": Terminal(COMMENT, "--"),
    "C_COMMENT": Terminal(COMMENT, "/*"),
}
_UNSUPPORTED = """
    HEXDIGIT SIGNED_INT DECIMAL FLOAT SIGNED_FLOAT NUMBER SIGNED_NUMBER ESCAPED_STRING
    LCASE_LETTER UCASE_LETTER LETTER WORD CNAME
"""
COMMON |= dict.fromkeys(_UNSUPPORTED.split(), Terminal(OTHER))

_DIGIT = {'"0".."9"', "/[0-9]/", r"/\d/"}
_NUMBER = {"/[0-9]+/", r"/\d+/"}
_BLANK = re.compile(r"/(\\s|\[( |\\[tnrf])+\]| |\\[tnrf])\+?/")
_COMMENT = re.compile(r"/(?P<start>(\\/|#|-){1,2})(\[\^\\n\]|\.)\*/")


def unquote(quoted: Quoted, location: Location) -> str:
    """The text that a string in quotes stands for.

    Raises:
        SpaceError: It is empty, holds white space, ignores case, or has an unknown escape.
    """
    raw = quoted.text
    if raw.endswith("i"):
        message = f"{raw} ignores case, but an architecture is written in one way: drop the `i`"
        raise SpaceError(message, location)
    inner = raw[1:-1]
    if re.search(r'\\(?!["\\])', re.sub(r"\\\\", "", inner)):
        raise SpaceError(f'{raw}: only \\" and \\\\ may follow a backslash', location)
    text = re.sub(r"\\(.)", r"\1", inner)
    if not text:
        raise SpaceError('"" is empty: leave it out', location)
    if not text.isprintable() or any(c.isspace() for c in text):
        message = f'{raw} holds white space: write one string for each word, as in "a" "b"'
        raise SpaceError(message, location)
    if len(text) > MAX_LITERAL:
        raise SpaceError(f"a string of more than {MAX_LITERAL} characters", location)
    return text


def classify(
    options: tuple[Option, ...], location: Location, lookup: Callable[[str], Terminal]
) -> Terminal:
    """What a terminal stands for.

    Args:
        options: The right side of its definition.
        location: Where it stands.
        lookup: What another terminal stands for.

    Raises:
        SpaceError: It holds a rule, a terminal that is not there, or a string that is refused.
    """
    for item in _all_items(options):
        if isinstance(item, Instance) or (isinstance(item, Name) and not item.is_terminal):
            raise SpaceError("a terminal cannot hold a rule: write a rule instead", location)
        if isinstance(item, Name):
            lookup(item.text)
    if len(options) != 1 or len(options[0].items) != 1:
        return Terminal(OTHER)
    (item,) = options[0].items
    if isinstance(item, Name) and item.is_terminal:
        return lookup(item.text)
    if isinstance(item, Quoted):
        if item.text == '" "':
            return Terminal(BLANK, " ")
        return Terminal(TEXT, unquote(item, location))
    if isinstance(item, Pattern):
        return _pattern(item.text)
    if isinstance(item, Repeat) and item.operator == "+":
        inner = classify((Option((item.item,), None, item.line, item.line),), location, lookup)
        return {DIGIT: Terminal(NUMBER), BLANK: inner}.get(inner.kind, Terminal(OTHER))
    return Terminal(OTHER)


def _all_items(options: Iterable[Option]) -> Iterator[Item]:
    for option in options:
        waiting = list(option.items)
        while waiting:
            item = waiting.pop()
            yield item
            if isinstance(item, Repeat):
                waiting.append(item.item)
            elif isinstance(item, Group):
                yield from _all_items(item.options)


def _pattern(text: str) -> Terminal:
    if text in _DIGIT:
        return Terminal(DIGIT)
    if text in _NUMBER:
        return Terminal(NUMBER)
    if _BLANK.fullmatch(text):
        return Terminal(BLANK, " " if " " in text or r"\s" in text else "")
    if match := _COMMENT.fullmatch(text):
        return Terminal(COMMENT, match["start"].replace("\\", ""))
    return Terminal(OTHER)
