"""What stands in a file of Lark's syntax, statement by statement, with lines."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Name:
    """A rule or a terminal by its name in the file it stands in."""

    text: str
    line: int
    end_line: int

    @property
    def is_terminal(self) -> bool:
        """Whether it is written in capitals."""
        return self.text.isupper()


@dataclass(frozen=True, slots=True)
class Quoted:
    """A string between quotes, as written."""

    text: str
    line: int
    end_line: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression or a range of characters, as written."""

    text: str
    line: int
    end_line: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A template with its arguments: `list{block, ","}`."""

    name: str
    arguments: tuple["Item", ...]
    line: int
    end_line: int
    nesting: int


@dataclass(frozen=True, slots=True)
class Group:
    """Alternatives between brackets; between `[` and `]` they are optional."""

    options: tuple["Option", ...]
    optional: bool
    line: int
    end_line: int
    nesting: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """`x?`, `x*`, `x+` or `x ~ low..high`."""

    item: "Item"
    operator: str
    low: int
    high: int
    line: int
    end_line: int


Item = Name | Quoted | Pattern | Instance | Group | Repeat


@dataclass(eq=False, slots=True)
class Option:
    """One alternative of a rule or group, from `line` to `end_line`."""

    items: tuple[Item, ...]
    alias: str | None
    line: int
    end_line: int


@dataclass(frozen=True, eq=False, slots=True)
class Definition:
    """A rule or terminal; `action` is `define`, `override` or `extend`."""

    name: str
    modifiers: str
    parameters: tuple[str, ...]
    priority: str | None
    options: tuple[Option, ...]
    line: int
    action: str = "define"


@dataclass(frozen=True, slots=True)
class Import:
    """Names from another file: (its name there, its name here)."""

    path: tuple[str, ...]
    relative: bool
    names: tuple[tuple[str, str], ...]
    line: int


@dataclass(frozen=True, slots=True)
class Ignore:
    """`%ignore` with what follows it."""

    options: tuple[Option, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Declare:
    """`%declare` with its names."""

    names: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment from its `//` or `#` on; `alone` when nothing else stands on its line."""

    text: str
    line: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A file of Lark's syntax."""

    file: str
    definitions: tuple[Definition, ...]
    imports: tuple[Import, ...]
    ignores: tuple[Ignore, ...]
    declares: tuple[Declare, ...]
    comments: tuple[Comment, ...]
