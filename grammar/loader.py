"""Loads a space: a plain Lark grammar whose comments say how likely and where legal things are.

`Lark.open(path, parser="lalr")` alone loads the same file; what it accepts but a space cannot use
is refused here with file, line and what to write instead.
"""

import os
import re
from collections.abc import Collection

from lark import Lark

from nas.grammar.ambiguity import check_lark, check_rules, check_words
from nas.grammar.checks import check_endings, check_names, check_start
from nas.grammar.definitions import Definitions
from nas.grammar.errors import Location, SpaceError
from nas.grammar.expand import Expander
from nas.grammar.imports import PACKAGED, SpaceSource, load_files, read_text
from nas.grammar.rules import Grammar
from nas.grammar.terminals import BLANK, COMMENT

START = "start"
NAMES = ("L", "D", "causal")  # what every study gives

_KEPT = 8
_loaded: dict[tuple[str, frozenset[str]], Grammar] = {}
"""The grammars loaded last, the latest at the end: most commands load a space more than once."""


def load_grammar(path: str | os.PathLike[str], names: Collection[str] = NAMES) -> Grammar:
    """Read a space file and everything it imports; once, as long as none of the files changes.

    Args:
        path: The file.
        names: What the root context has; expressions may read these, `depth`, and what is assigned
            on the way.

    Raises:
        SpaceError: Anything that is wrong with the files, at its line.
    """
    key = os.fspath(path), frozenset(names)
    grammar = _loaded.pop(key, None)
    if grammar is None or not _as_read(grammar):
        grammar = _load(path, names)
    _loaded[key] = grammar
    while len(_loaded) > _KEPT:
        del _loaded[next(iter(_loaded))]
    return grammar


def _as_read(grammar: Grammar) -> bool:
    """Whether all files of a grammar hold what was read of them."""
    try:
        return all(read_text(path) == text for path, text in grammar.files.items())
    except SpaceError:
        return False


def _load(path: str | os.PathLike[str], names: Collection[str]) -> Grammar:
    source = load_files(path)
    definitions, root = source.definitions, source.root
    if START not in definitions.rules:
        message = f"there is no rule `{START}`, where every architecture begins: add `start: ...`"
        raise SpaceError(message, root.at(1))
    if definitions.rules[START].parameters:
        raise SpaceError(f"`{START}` cannot be a template", definitions.rules[START].location)
    if not any(terminal.kind == BLANK and terminal.text for terminal in source.ignored):
        message = "texts hold spaces: write `%import common.WS` and `%ignore WS`"
        raise SpaceError(message, root.at(1))
    expander = Expander(definitions)
    rules = expander.expand(START)
    _check_reached(source, expander.used)
    check_start(rules, START)
    check_endings(rules)
    check_names(rules, START, names)
    check_rules(rules, START)
    check_words(rules, [t.text for t in source.ignored if t.kind == COMMENT])
    lark = _open_by_lark(path, definitions, root.at(1))
    check_lark(lark, START, lambda name: _locate(name, definitions, root.at(1)))
    return Grammar(START, rules, root.pragmas.max_depth, root.pragmas.version, source.files)


def _check_reached(source: SpaceSource, used: frozenset[str]) -> None:
    """Every rule of the space file itself is used; the files it imports may hold more."""
    for name, rule in source.definitions.rules.items():
        if name in used:
            continue
        if name in source.imported:
            location = source.root.at(source.imported[name])
            message = f"`{name}` is imported but not used: use it in a rule, or drop it"
            raise SpaceError(message, location)
        if rule.scope is source.root:
            message = f"`{name}` cannot be reached from `{START}`: use it in a rule, or drop it"
            raise SpaceError(message, rule.location)


def _open_by_lark(
    path: str | os.PathLike[str], definitions: Definitions, default: Location
) -> Lark:
    try:
        return Lark.open(os.fspath(path), parser="lalr", start=START, import_paths=[_packaged])
    except Exception as error:  # whatever Lark and `re` make of a stranger's file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        named = re.search(r"[Rr]ule '?([_a-z0-9]+)", reason)
        location = _locate(named[1], definitions, default) if named else default
        raise SpaceError(f"Lark cannot load this: {reason}", location) from None


def _packaged(base_path: object, grammar_path: str) -> tuple[str, str]:
    """Where Lark finds an import without a dot; one with a dot has a base and stands beside."""
    if base_path is not None:
        raise FileNotFoundError(grammar_path)
    path = PACKAGED / grammar_path
    return str(path), path.read_text(encoding="utf-8")


def _locate(name: str, definitions: Definitions, default: Location) -> Location:
    """Where a rule stands, by Lark's name for it: `list{block,COMMA}`, `__list_star_0`."""
    name = name.split("{")[0]
    if helper := re.fullmatch(r"__(.+?)(\{.*)?_(star|plus|repeat)_.*", name):
        name = helper[1]
    rule = definitions.rules.get(name)
    return default if rule is None else rule.location
