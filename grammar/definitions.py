"""What the files of a space define: rules as they are written, and terminals."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nas.grammar.errors import Location, SpaceError
from nas.grammar.pragma import FilePragmas
from nas.grammar.syntax_tree import Definition, Option, Source
from nas.grammar.terminals import Terminal, classify


@dataclass(frozen=True, eq=False, slots=True)
class Scope:
    """One file as one importer sees it.

    Args:
        file: Its path.
        pragmas: Its pragmas.
        qualify: From a name in the file to the name in the space.
    """

    file: str
    pragmas: FilePragmas
    qualify: Callable[[str], str]

    def at(self, line: int) -> Location:
        """A line of the file."""
        return Location(self.file, line)


@dataclass(eq=False, slots=True)
class RuleSource:
    """A rule as it is written, before it is reduced to plain alternatives.

    Args:
        name: Its name in the space.
        title: Its name in the file that defines it.
        keeps_tokens: It has `!`.
        inlines_one: It has `?`.
        parameters: Of a template.
        options: Its alternatives, each with the file it stands in.
        scope: The file that defines it.
        line: The line that defines it.
    """

    name: str
    title: str
    keeps_tokens: bool
    inlines_one: bool
    parameters: tuple[str, ...]
    options: list[tuple[Option, Scope]]
    scope: Scope
    line: int

    @property
    def location(self) -> Location:
        """Where it stands."""
        return self.scope.at(self.line)


@dataclass(slots=True)
class Definitions:
    """Everything that the files of a space define, by qualified name."""

    rules: dict[str, RuleSource] = field(default_factory=dict)
    terminals: dict[str, Terminal] = field(default_factory=dict)


def close_to(name: str, names: Iterable[str]) -> str:
    """` (did you mean ...?)` when a name looks like one of the names, else nothing."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean `{found[0]}`?)" if found else ""


def define_all(source: Source, scope: Scope, found: Definitions) -> None:
    """Add what a file defines, extends and overrides to what it imports.

    Raises:
        SpaceError: A name is defined twice, or not there to extend; a terminal cannot be read.
    """
    terminals: dict[str, Definition] = {}
    for definition in source.definitions:
        location = scope.at(definition.line)
        name = scope.qualify(definition.name)
        if name.startswith("__"):
            message = f"`{name}`: names that begin with `__` are Lark's own: choose another"
            raise SpaceError(message, location)
        if definition.priority is not None:
            message = f"`{definition.priority}`: a space has no priorities, weights stand in `//@`"
            raise SpaceError(message, location)
        known = name in found.rules or name in found.terminals or name in terminals
        if known and definition.action == "define":
            message = f"`{definition.name}` is defined twice: write `%override` or `%extend`"
            raise SpaceError(message, location)
        if not known and definition.action != "define":
            names = (*found.rules, *found.terminals, *terminals)
            message = (
                f"`%{definition.action} {definition.name}`: there is nothing of that name yet: "
                f"import it by name{close_to(name, names)}"
            )
            raise SpaceError(message, location)
        if definition.name.isupper():
            if definition.action == "extend":
                raise SpaceError("a terminal cannot be extended: write `%override`", location)
            terminals[name] = definition
            found.terminals.pop(name, None)
        elif definition.action == "extend":
            _extend(found.rules[name], definition, scope)
        else:
            title = found.rules[name].title if known else definition.name
            found.rules[name] = _rule(name, title, definition, scope)
    _resolve(terminals, scope, found)


def _rule(name: str, title: str, definition: Definition, scope: Scope) -> RuleSource:
    modifiers, parameters = definition.modifiers, definition.parameters
    location = scope.at(definition.line)
    if "?" in modifiers and definition.name.startswith("_"):
        raise SpaceError(f"`?{definition.name}`: `_` inlines already, drop the `?`", location)
    if len(set(parameters)) != len(parameters):
        raise SpaceError(f"template `{definition.name}` names a parameter twice", location)
    options = [(option, scope) for option in definition.options]
    return RuleSource(
        name, title, "!" in modifiers, "?" in modifiers, parameters, options, scope, definition.line
    )


def _extend(rule: RuleSource, definition: Definition, scope: Scope) -> None:
    if rule.parameters and rule.scope is not scope:
        message = f"Lark cannot extend the imported template `{definition.name}`: `%override` it"
        raise SpaceError(message, scope.at(definition.line))
    if definition.parameters != rule.parameters:
        message = f"`%extend {definition.name}`: it takes the parameters {rule.parameters}"
        raise SpaceError(message, scope.at(definition.line))
    rule.options += [(option, scope) for option in definition.options]


def _resolve(terminals: dict[str, Definition], scope: Scope, found: Definitions) -> None:
    pending: set[str] = set()

    def lookup(local: str, location: Location) -> Terminal:
        name = scope.qualify(local)
        if name in pending:
            raise SpaceError(f"terminal `{local}` refers to itself", location)
        if name in terminals and name not in found.terminals:
            pending.add(name)
            definition = terminals[name]
            at = scope.at(definition.line)
            found.terminals[name] = classify(definition.options, at, lambda n: lookup(n, at))
            pending.discard(name)
        return terminal_of(found.terminals, scope, location, local)

    for definition in terminals.values():
        lookup(definition.name, scope.at(definition.line))


def terminal_of(
    terminals: dict[str, Terminal], scope: Scope, location: Location, local: str
) -> Terminal:
    """The terminal of a name in a file.

    Raises:
        SpaceError: There is none.
    """
    found = terminals.get(scope.qualify(local))
    if found is None:
        message = f"terminal `{local}` is not defined{close_to(local, terminals)}"
        raise SpaceError(message, location)
    return found
