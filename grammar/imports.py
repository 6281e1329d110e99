"""Brings the files of a space together: imports, `%extend`, `%override`, one name for each thing.

Names are qualified as Lark does it: rule `heads` of `mixers.lark` is `mixers__heads`, unless it was
imported by name.
"""

import os
from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nas.grammar.definitions import Definitions, Scope, close_to, define_all, terminal_of
from nas.grammar.errors import Location, SpaceError
from nas.grammar.lark_syntax import read_syntax
from nas.grammar.pragma import FilePragmas, attach_pragmas
from nas.grammar.syntax_tree import Import, Source
from nas.grammar.terminals import BLANK, COMMENT, COMMON, Terminal, classify

MAX_BYTES = 1_000_000  # of a file
MAX_IMPORTS = 200  # files read for one space, each time counted

PACKAGED = Path(__file__).resolve().parent.parent / "search_spaces"
"""Where `%import hybrid (...)`, without a dot, finds a file: Lark's `import_paths`."""


@dataclass(slots=True)
class SpaceSource:
    """A space before its rules are reduced.

    Args:
        definitions: Rules and terminals of all files.
        root: The space file itself.
        imported: What the space file imports by name, with the lines.
        ignored: What is skipped between words.
        files: Text of every file read, the space file first.
    """

    definitions: Definitions
    root: Scope
    imported: dict[str, int]
    ignored: list[Terminal]
    files: dict[str, str]


def load_files(path: str | os.PathLike[str]) -> SpaceSource:
    """Read a space file and all that it imports.

    Raises:
        SpaceError: A file is missing, too large, not UTF-8, imports itself, or is wrong.
    """
    return _Loader().space(os.fspath(path))


def _same(name: str) -> str:
    return name


class _Loader:
    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._read: dict[str, tuple[Source, FilePragmas]] = {}
        self._imports = 0

    def space(self, path: str) -> SpaceSource:
        definitions, scope, imported = self._load(path, _same, (), None)
        source, _ = self._read[path]
        ignored = []
        for ignore in source.ignores:
            location = scope.at(ignore.line)
            lookup = partial(terminal_of, definitions.terminals, scope, location)
            terminal = classify(ignore.options, location, lookup)
            if terminal.kind not in (BLANK, COMMENT):
                message = (
                    "only white space and comments can be ignored: write `%import common.WS` "
                    "and `%ignore WS`, or CPP_COMMENT, SH_COMMENT"
                )
                raise SpaceError(message, location)
            ignored.append(terminal)
        return SpaceSource(definitions, scope, imported, ignored, self._texts)

    def _load(
        self,
        path: str,
        qualify: Callable[[str], str],
        chain: tuple[str, ...],
        importer: Location | None,
    ) -> tuple[Definitions, Scope, dict[str, int]]:
        if path not in self._read:
            self._texts[path] = text = read_text(path, importer)
            source = read_syntax(text, path)
            self._read[path] = source, attach_pragmas(source)
        source, pragmas = self._read[path]
        scope = Scope(path, pragmas, qualify)
        found = Definitions()
        imported = self._import_all(source, scope, found, (*chain, os.path.realpath(path)))
        if source.declares:
            message = "`%declare` gives no text to write: define the terminal by a string"
            raise SpaceError(message, scope.at(source.declares[0].line))
        define_all(source, scope, found)
        return found, scope, imported

    def _import_all(
        self, source: Source, scope: Scope, found: Definitions, chain: tuple[str, ...]
    ) -> dict[str, int]:
        lines: dict[str, int] = {}
        paths: dict[tuple[str, ...], dict[str, str]] = {}
        first: dict[tuple[str, ...], Import] = {}
        for statement in source.imports:
            location = scope.at(statement.line)
            _check_import(statement, location)
            aliases = paths.setdefault(statement.path, {})
            first.setdefault(statement.path, statement)
            for there, here in statement.names:
                if there in aliases or here in lines:
                    raise SpaceError(f"`{there}` is imported twice", location)
                aliases[there] = here
                lines[here] = statement.line
        for path, aliases in paths.items():
            location = scope.at(first[path].line)
            if path == ("common",) and not first[path].relative:
                for there, here in aliases.items():
                    if there not in COMMON:
                        message = f"common.lark has no `{there}`{close_to(there, COMMON)}"
                        raise SpaceError(message, scope.at(lines[here]))
                    found.terminals[scope.qualify(here)] = COMMON[there]
                continue
            self._imports += 1
            if self._imports > MAX_IMPORTS:
                raise SpaceError(f"more than {MAX_IMPORTS} imports", location)
            folder = Path(scope.file).parent if first[path].relative else PACKAGED
            file = str(folder.joinpath(*path)) + ".lark"
            if os.path.realpath(file) in chain:
                raise SpaceError(f"{file} imports itself: move what both need to a third", location)
            qualify = _qualifier("__".join(path), aliases, scope.qualify)
            inner, _, _ = self._load(file, qualify, chain, location)
            for there, here in aliases.items():
                name = scope.qualify(here)
                if name not in inner.rules and name not in inner.terminals:
                    names = {rule.title for rule in inner.rules.values()}
                    message = f"{file} has no `{there}`{close_to(there, names)}"
                    raise SpaceError(message, scope.at(lines[here]))
                renamed = inner.rules.get(name)
                if renamed is not None and there != here and not renamed.parameters:
                    renamed.title = here  # as in Lark's tree, which calls templates by their own
            for name in (*inner.rules, *inner.terminals):
                if name in found.rules or name in found.terminals:
                    raise SpaceError(f"`{name}` is defined twice: rename one", location)
            found.rules |= inner.rules
            found.terminals |= inner.terminals
        return lines


def read_text(path: str, importer: Location | None = None) -> str:
    """The text of a space file.

    Args:
        path: The file.
        importer: Where it is imported, for messages.

    Raises:
        SpaceError: It is missing, too large or not UTF-8.
    """

    def refuse(problem: str) -> SpaceError:
        return SpaceError(
            f"{path}: {problem}" if importer is None else f"{problem}: {path}", importer
        )

    file = Path(path)
    try:
        if not file.is_file():
            raise refuse("is a folder" if file.is_dir() else "no such file")
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, SpaceError):
            raise
        reason = error.strerror if isinstance(error, OSError) else "no such file"
        raise refuse(f"cannot be read ({reason})") from None
    if len(content) > MAX_BYTES:
        raise refuse(f"larger than {MAX_BYTES} bytes")
    if content.startswith(BOM_UTF8):
        problem = "begins with a byte order mark, which Lark does not read: save it without"
        raise SpaceError(problem, Location(path, 1))
    try:
        # As Python's text files, which Lark reads: every kind of line end is one.
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpaceError("is not UTF-8 text", Location(path, line)) from None


def _check_import(statement: Import, location: Location) -> None:
    path = ".".join(statement.path)
    if not statement.path:
        dot = "." if statement.relative else ""
        name = statement.names[0][0]
        message = f"nothing is imported: write `%import {dot}{name} (name, ...)`"
        raise SpaceError(message, location)
    packaged = PACKAGED.joinpath(*statement.path).with_suffix(".lark")
    if not statement.relative and statement.path != ("common",) and not packaged.is_file():
        names = ", ".join(there for there, _ in statement.names)
        message = (
            f"`{path}` comes neither with Lark nor with this package: for a file beside this one "
            f"write `%import .{path} ({names})`"
        )
        raise SpaceError(message, location)
    for there, here in statement.names:
        if there.isupper() != here.isupper():
            message = f"`{there}` cannot become `{here}`: rules are lower, terminals upper case"
            raise SpaceError(message, location)


def _qualifier(
    prefix: str, aliases: dict[str, str], outer: Callable[[str], str]
) -> Callable[[str], str]:
    """How Lark names what stands in an imported file."""

    def qualify(name: str) -> str:
        if name in aliases:
            return outer(aliases[name])
        if name.startswith("_"):
            return outer(f"_{prefix}__{name[1:]}")
        return outer(f"{prefix}__{name}")

    return qualify
